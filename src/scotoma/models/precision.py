"""Automatic precision: bfloat16 where the processor computes in it."""

from __future__ import annotations

import torch

SMALLEST_IN_BFLOAT16 = 32  # pixels, on a CPU


def automatic_precision(image_size: int) -> str:
    """``bf16-mixed`` where the processor multiplies bfloat16 matrices itself, else ``32-true``.

    On a CPU small images get ``32-true``, too: some convolutional networks shrink them to a map of one cell before the last
    stage, over which a step in bfloat16 reads memory that nobody wrote, and gives NaN where that held one (torch 2.15).
    """
    if torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "32-true"
    capable = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16-mixed" if capable and image_size >= SMALLEST_IN_BFLOAT16 else "32-true"
