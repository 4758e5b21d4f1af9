"""Precision: of training, bfloat16 where the processor computes in it; of finished models always float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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


@contextmanager
def full_precision() -> Iterator[None]:
    """Everything within is computed in float32: what a finished model gives depends on no processor's shorter numbers.

    On a GPU convolutions and matrix products would otherwise round their factors to TF32 (10 bits).
    """
    matrices, convolutions = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matrices, convolutions
