"""What a masked method hides: patches at random, in blocks, by what they show, or those that an agent found hard to guess."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scotoma.distributed import collectives
from scotoma.errors import UsageError
from scotoma.methods.parts.inputs import Inputs
from scotoma.models.encoders import class_attention, is_vit
from scotoma.models.inpainting_decoders import group_normed
from scotoma.rng import KeyedRNG
from scotoma.transforms.masking import (
    BLOCKS,
    block_scores,
    patch_entropy,
    patch_gradient,
    random_order,
    visible_count,
    weighted_scores,
)

KINDS = ("random", "block", "fixed", "attention", "agent", "entropy", "saliency")


class MaskStrategy(nn.Module):
    """Chooses patches to hide. Every kind hides equally many, so that kinds can be compared on one budget.

    - ``random``: uniformly, anew each time the image comes (MAE, arXiv 2111.06377, section 3).
    - ``fixed``: uniformly, once for each image: alike in every epoch.
    - ``block``: whole rectangles of random size and shape (BEiT, arXiv 2106.08254, section 2.3).
    - ``attention``: in proportion to the class token's attention in the encoder's last block, without replacement (after MSMAE,
      arXiv 2305.05871). It costs a second pass of the whole view, without gradient.
    - ``entropy``: in proportion to the entropy of the patch's grey levels, without replacement.
    - ``saliency``: in proportion to the patch's gradient energy, without replacement. Where entropy is nearly flat (chest X-rays),
      this is not: the largest weight of 144 patches is 1.8 times the mean there, here 6.5 times.
    - ``agent``: those that a small network expects to be reconstructed worst (intelligent masking, arXiv 2203.13865).

    Args:
        kind: one of ``KINDS``.
        ratio: share of the patches to hide, above 0 and below 1.
        grid: patches along a side of the view; they may be coarser than the encoder's.
        inputs: what the images are.
        encoder: to refuse at once one that a kind cannot ask; None leaves that to the first step.

    Raises:
        UsageError: no such kind or ratio, nothing to choose from, or an encoder without class token for ``attention``.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, kind: str, ratio: float, grid: int, inputs: Inputs, encoder: nn.Module | None = None) -> None:
        super().__init__()
        if kind not in KINDS:
            raise UsageError(f"--method.masking {kind}: one of {', '.join(KINDS)}")
        if not 0 < ratio < 1:
            raise UsageError(f"--method.mask_ratio {ratio}: must be above 0 and below 1")
        if grid < 2:
            raise UsageError(f"{inputs.image_size} pixels are one patch, of which nothing can be hidden: choose smaller patches")
        if kind == "attention" and encoder is not None:
            _check_attends(encoder)
        self.kind, self.ratio, self.grid, self.count = kind, ratio, grid, grid**2
        self.patch = inputs.image_size // grid
        self.hidden = self.count - visible_count(self.count, ratio)
        self.agent = _OneStepAgent(inputs.in_chans, self.patch, grid) if kind == "agent" else None
        self.register_buffer("mean", torch.tensor(inputs.mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(inputs.std).view(-1, 1, 1), persistent=False)

    def draw(self, rng: KeyedRNG) -> Tensor:
        """The random numbers of a batch that ``scores`` needs, (B, M), keyed by image: to be drawn in a method's ``views``."""
        noise = (rng.still() if self.kind == "fixed" else rng).uniform("mask", self.count)
        more = {"block": 4 * BLOCKS, "agent": self.hidden}.get(self.kind, 0)
        return torch.cat([noise, rng.uniform("mask choices", more)], 1) if more else noise

    @torch.no_grad()
    def scores(self, view: Tensor, noise: Tensor, encoder: nn.Module) -> Tensor:
        """One score per patch: the smallest are kept, the largest hidden.

        Args:
            view: (B, C, H, W), normalised.
            noise: (B, M) of ``draw``.
            encoder: the network that is trained.

        Returns:
            (B, N).
        """
        noise, more = noise[:, : self.count], noise[:, self.count :]
        if self.kind == "block":
            return block_scores(noise, more.unflatten(1, (BLOCKS, 4)), self.ratio)
        if self.agent is not None:
            return self.agent.scores(view, noise, more)
        if self.kind in ("random", "fixed"):
            return noise
        return weighted_scores(self.weights(view, encoder), noise)

    def weights(self, view: Tensor, encoder: nn.Module) -> Tensor:
        """(B, N) how much there is to hide in each patch: attention, entropy or gradient energy."""
        if self.kind == "attention":
            _check_attends(encoder)
            attention = class_attention(encoder, view)
            side = math.isqrt(attention.shape[1])
            return F.adaptive_avg_pool2d(attention.view(-1, 1, side, side), self.grid).flatten(1)
        measure = patch_entropy if self.kind == "entropy" else patch_gradient
        return measure(view * self.std + self.mean, self.patch)

    def order(self, view: Tensor, noise: Tensor, encoder: nn.Module) -> tuple[Tensor, Tensor, Tensor]:
        """``keep``, ``restore`` and ``mask`` of ``random_order``, by this kind's scores."""
        return random_order(self.scores(view, noise, encoder), self.ratio)

    def loss(self, view: Tensor, errors: Tensor, mask: Tensor) -> Tensor:
        """The agent's loss, to be added to the method's; 0 for the other kinds. No gradient goes back into the errors.

        Args:
            view: (B, C, H, W), that the patches were chosen in.
            errors: (B, N) error with which each patch was reconstructed.
            mask: (B, N), 1 where it was hidden.
        """
        return errors.new_zeros(()) if self.agent is None else self.agent(view, errors.detach().float(), mask)

    def after_step(self, progress: float) -> None:
        """Called after each step: the agent relies more and more on what it knows."""
        if self.agent is not None:
            self.agent.epsilon.fill_(1 - progress)


def _check_attends(encoder: nn.Module) -> None:
    vit: Any = encoder
    if not is_vit(encoder) or vit.cls_token is None:
        raise UsageError(
            "--method.masking attention needs a vision transformer with a class token: --encoder vit_tiny_patch8, for example"
        )


class _OneStepAgent(nn.Module):
    """Deep Q-learning in one step (arXiv 2203.13865): the state is the view, an action hides a patch, the reward is its error.

    Episodes of one step have no discounted future: Q is the expected reward, and its temporal difference the error of a regression.
    Rewards are standardised by their running mean and variance: they shrink as the reconstruction gets better.

    Args:
        channels: of the view.
        patch: side of a patch, pixels.
        grid: patches along a side.
    """

    epsilon: Tensor
    mean: Tensor
    variance: Tensor
    steps: Tensor

    def __init__(self, channels: int, patch: int, grid: int) -> None:
        super().__init__()
        halvings = max(1, patch.bit_length() - 1)
        widths = [channels, *(min(16 * 2**i, 64) for i in range(halvings))]
        self.grid = grid
        self.look = nn.Sequential(*(group_normed(a, b, 2) for a, b in pairwise(widths)))
        self.compare = nn.Sequential(group_normed(widths[-1], 64), group_normed(64, 64))
        self.value = nn.Conv2d(64, 1, 1)
        self.register_buffer("epsilon", torch.tensor(1.0))
        self.register_buffer("mean", torch.tensor(0.0))
        self.register_buffer("variance", torch.tensor(0.0))
        self.register_buffer("steps", torch.tensor(0.0))

    def q(self, view: Tensor) -> Tensor:
        """(B, N) float32, the standardised error to be expected of each patch."""
        x = self.compare(F.adaptive_avg_pool2d(self.look(view), self.grid))
        with torch.autocast(x.device.type, enabled=False):  # bfloat16 would make ties of patches that differ
            return self.value(x.float()).flatten(1)

    def scores(self, view: Tensor, noise: Tensor, decisions: Tensor) -> Tensor:
        """Epsilon-greedy: of each image's decisions (B, hidden), those below epsilon are random, the others the highest Q."""
        greedy = (decisions >= self.epsilon).sum(1, keepdim=True)
        rank = (-self.q(view)).argsort(1).argsort(1)
        return noise + (rank < greedy)  # noise is below 1: first the greedy choices, then random ones of the rest

    def forward(self, view: Tensor, errors: Tensor, mask: Tensor) -> Tensor:
        """Squared temporal difference of the hidden patches."""
        if self.training:
            self._follow(errors, mask)
        reward = (errors - self.mean) / (self.variance + 1e-12).sqrt()
        return ((self.q(view) - reward).square() * mask).sum() / mask.sum()

    @torch.no_grad()
    def _follow(self, errors: Tensor, mask: Tensor) -> None:
        """Move mean and variance by a hundredth towards this batch's; over the first hundred steps they are plain averages."""
        mean = collectives.all_reduce_mean((errors * mask).sum() / mask.sum())  # every image has as many hidden patches
        variance = collectives.all_reduce_mean(((errors - mean).square() * mask).sum() / mask.sum())
        self.steps += 1
        rate = self.steps.reciprocal().clamp(min=0.01)
        self.mean.lerp_(mean, rate)
        self.variance.lerp_(variance, rate)
