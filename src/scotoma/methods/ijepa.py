"""I-JEPA: predict the features of hidden blocks from those of what is visible (Assran et al. 2023, arXiv 2301.08243)."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scotoma.errors import UsageError
from scotoma.methods.base import Batch, Method, Views
from scotoma.methods.parts.inputs import Inputs
from scotoma.models.encoders import forward_visible, is_vit
from scotoma.models.heads import follow, sincos_positions, transformer
from scotoma.rng import KeyedRNG
from scotoma.transforms.masking import paint

WIDEST = 1.5  # section 3, "Targets": aspect ratio in (0.75, 1.5)
TOLERANCE = 0.0251  # about the middle of section 3's scale in (0.15, 0.2); table 8: smaller and larger targets both cost much
MOST_HIDDEN = 0.8  # four blocks of the largest scale; table 6: a quarter of the image is left as context on average


class IJEPA(Method):
    """Features of four blocks of an image are predicted from its visible patches, by place. Exports the target (EMA) network.

    Args:
        targets: blocks to predict, which may overlap (section 3, "Targets": 4).
        target_scale: area of a block, as a fraction of the image's (section 3: 0.15 to 0.2); all blocks have one number of patches.
        context_scale: smallest area of the block of visible patches, as a fraction of the image's, before the target blocks are
            cut out of it (section 3, "Context": 0.85).
        predictor_dim: width of the predictor (table 14: 384 beats 1,024 beside an encoder of 1,024).
        predictor_depth: blocks of the predictor (appendix A.1: 6 for ViT-B, 12 for larger ones).
        predictor_heads: attention heads of the predictor (appendix A.1: as many as the encoder has).
        momentum: EMA momentum of the target network at the start; rises evenly to 1 (appendix A.1: 0.996).
        min_scale: smallest crop, as a fraction of the image area (published code: 0.3; no other change of the pixels).

    The loss is the published code's: smooth L1 on features that are layer-normalised without weights. Below a difference of 1 it is
    half the paper's squared distance; beyond, a few odd features do not rule a small batch. The number of visible patches is the
    largest that every image has, the blocks being side by side; where there are more, chance keeps so many (the published code
    cuts their list, so that the foot of the image is seldom seen, and never puts a block at the lower and right edges). The paper
    has no class token and reads out the mean of the patches (appendix A.1), as the default network does; where the encoder has one,
    the predictor reads it like a visible patch without a place.

    Small data: patches of 8 pixels make a grid of 12 x 12 of 96 pixels, near the paper's 14 x 14, where patches of 16 would leave
    targets of 2 x 3. As two thirds of the tokens are dropped, a step costs three times that with patches of 16, and one to two
    times SimCLR's with resnet18. The target network's memory is 50 steps: at 0.996 a run of 500 steps would export a network that
    is still a third its random start. Weight decay stays as it is (table 13: better for fine-tuning on few labels than the paper's
    rise from 0.04 to 0.4).
    """

    default_encoder = "vit_tiny_patch{patch}_avg"
    needs_vit = True
    batch_size = 64
    learning_rate = 5e-4
    weight_decay = 0.05
    warmup = 0.1
    reference: ClassVar[dict[str, Any]] = {
        "encoder": "vit_base_patch16_avg",
        "size": 224,
        "batch_size": 2048,
        "learning_rate": 1e-3,
        "scaling": "sqrt",
        "warmup": 0.067,  # 40 epochs of 600
        "final_learning_rate": 1e-6,
        "weight_decay": 0.04,
        "epochs": 600,
        "method_args": {"predictor_dim": 384, "predictor_depth": 6, "predictor_heads": 12, "momentum": 0.996},
    }

    def __init__(self, encoder: nn.Module, inputs: Inputs, *, targets: int = 4, target_scale: float = 0.175,
                 context_scale: float = 0.85, predictor_dim: int = 96, predictor_depth: int = 3, predictor_heads: int = 3,
                 momentum: float = 0.98, min_scale: float = 0.3) -> None:  # fmt: skip
        super().__init__(encoder, inputs)
        if not is_vit(encoder):
            raise UsageError("ijepa needs a vision transformer: --encoder vit_tiny_patch8_avg, for example")
        if targets < 1 or not 0 < context_scale <= 1:
            raise UsageError("--method.targets must be at least 1, and --method.context_scale above 0 and at most 1")
        if predictor_dim % 4 or predictor_dim % predictor_heads:
            raise UsageError(f"--method.predictor_dim {predictor_dim}: must be a multiple of 4 and of --method.predictor_heads")
        vit: Any = encoder
        self.patch = int(vit.patch_embed.patch_size[0])
        self.grid = inputs.image_size // self.patch
        self.prefix = int(vit.num_prefix_tokens)
        self.targets, self.context_scale, self.momentum = targets, context_scale, momentum
        self.shape = block_shape(self.grid, target_scale, targets)
        self.visible = self.grid**2 - targets * self.shape[0] * self.shape[1]
        if not inputs.trained:  # published code: sine-cosine positions, in encoder and predictor
            vit.pos_embed.data.copy_(sincos_positions(vit.embed_dim, self.grid, vit.pos_embed.shape[1] - self.grid**2))
        vit.pos_embed.requires_grad_(False)
        # appendix A.1: "target-encoder weights are identical to the context-encoder weights at initialization"
        self.online = copy.deepcopy(encoder)
        encoder.requires_grad_(False)
        self.predictor = _Predictor(int(vit.embed_dim), self.grid, self.prefix, predictor_dim, predictor_depth, predictor_heads)
        self.augment = inputs.augmentation(scale=(min_scale, 1.0), jitter=0.0)

    def views(self, images: Tensor, rng: KeyedRNG) -> Views:
        """One cropped view; where its target blocks lie, and its visible patches."""
        targets = target_blocks(rng.uniform("targets", self.targets, 3), self.grid, self.shape)
        hidden = torch.zeros(len(images), self.grid**2, device=images.device).scatter_(1, targets.flatten(1), 1.0)
        block = context_block(rng.uniform("block", 3), self.grid, self.context_scale)
        context = context_patches(rng.uniform("context", self.grid**2), 1 - block, hidden, self.visible)
        return {"view": self.augment(images, rng), "targets": targets, "context": context}

    def loss(self, views: Views, batch: Batch) -> dict[str, Tensor]:
        """Equation 1: the mean distance of predicted to true features over the patches of all target blocks."""
        view, targets = views["view"], views["targets"]
        with torch.no_grad():  # section 3: targets come by masking "the output of the target-encoder, not the input"
            features = forward_visible(self.encoder, view)[:, self.prefix :].float()
            wanted = pick(F.layer_norm(features, features.shape[2:]), targets)  # (B, T, M, D)
        tokens = forward_visible(self.online, view, views["context"])
        return {"loss": F.smooth_l1_loss(self.predictor(tokens, views["context"], targets).float(), wanted)}

    def after_step(self, progress: float) -> None:
        """The target network follows (appendix A.1: "linearly increase this value to 1.0")."""
        follow(self.encoder, self.online, self.momentum + (1 - self.momentum) * progress)

    def example_images(self, views: Views, batch: Batch) -> dict[str, Tensor]:
        """The view, what the online network sees of it, and the blocks whose features are predicted."""
        view, everything = views["view"], torch.ones(len(views["view"]), self.grid**2, device=views["view"].device)
        seen = {"context": views["context"], "targets": views["targets"].flatten(1)}
        return {"view": view} | {k: paint(view, everything.scatter(1, at, 0.0), self.patch) for k, at in seen.items()}


class _Predictor(nn.Module):
    """A narrow vision transformer from visible features and places to the features there; each block is predicted by itself."""

    positions: Tensor

    def __init__(self, encoder_dim: int, grid: int, prefix: int, dim: int, depth: int, heads: int) -> None:
        super().__init__()
        self.prefix = prefix
        self.embed = nn.Linear(encoder_dim, dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.register_buffer("positions", sincos_positions(dim, grid))
        self.blocks = transformer(dim, depth, heads)
        self.norm = nn.LayerNorm(dim)
        self.project = nn.Linear(dim, encoder_dim)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, tokens: Tensor, context: Tensor, targets: Tensor) -> Tensor:
        """(B, prefix + V, D) features, (B, V) their places, (B, T, M) places -> (B, T, M, D)."""
        x = self.embed(tokens)
        places = F.pad(pick(self.positions.expand(len(x), -1, -1), context), (0, 0, self.prefix, 0))
        x = (x + places)[:, None].expand(-1, targets.shape[1], -1, -1)  # (B, T, prefix + V, dim)
        queries = self.mask_token + pick(self.positions.expand(len(x), -1, -1), targets)  # (B, T, M, dim)
        x = torch.cat([x, queries], 2).flatten(0, 1)
        x = self.blocks(x)
        return self.project(self.norm(x[:, -targets.shape[2] :])).unflatten(0, targets.shape[:2])


def pick(tokens: Tensor, at: Tensor) -> Tensor:
    """(B, N, D) tokens, (B, ...) places -> (B, ..., D)."""
    chosen = tokens.gather(1, at.flatten(1)[:, :, None].expand(-1, -1, tokens.shape[2]))
    return chosen.unflatten(1, at.shape[1:])


def block_shape(grid: int, scale: float, count: int) -> tuple[int, int]:
    """The sides of a target block, in patches: near ``scale`` of the image, and oblong where possible, to lie or to stand.

    Args:
        grid: patches along a side of the image.
        scale: share of the image.
        count: how many blocks; side by side, they leave a fifth of the image.

    Raises:
        UsageError: the grid is too small for any.
    """
    sides = [(a, b) for a in range(1, grid) for b in range(a, min(grid, max(a + 1, int(WIDEST * a)) + 1))]
    fitting = [(a, b) for a, b in sides if count * a * b <= MOST_HIDDEN * grid**2]
    if not fitting:
        raise UsageError(f"{count} target blocks do not fit into {grid} x {grid} patches: a larger --size, or smaller patches")

    def misfit(side: tuple[int, int]) -> tuple[bool, bool, float]:
        off = abs(side[0] * side[1] / grid**2 - scale)
        near = off < TOLERANCE
        return not near, near and side[0] == side[1], off

    return min(fitting, key=misfit)


def target_blocks(chance: Tensor, grid: int, shape: tuple[int, int]) -> Tensor:
    """Where the patches of blocks lie, each block anywhere in the image, lying or standing.

    Args:
        chance: (B, T, 3) uniform in [0, 1): which way, which row, which column.
        grid: patches along a side of the image.
        shape: sides of a block.

    Returns:
        (B, T, M) int64, M the product of ``shape``.
    """
    short, long = shape
    way, row, column = chance[..., None].unbind(2)  # each (B, T, 1)
    width = torch.where(way < 0.5, long, short)
    top, left = (row * (grid - (short + long - width) + 1)).long(), (column * (grid - width + 1)).long()
    k = torch.arange(short * long, device=chance.device)
    return (top + k // width) * grid + left + k % width


def context_block(chance: Tensor, grid: int, scale: float) -> Tensor:
    """Which patches have their centre in the context block, a square anywhere in the image (section 3: "unit aspect ratio").

    Args:
        chance: (B, 3) uniform in [0, 1]: what share of the image, from ``scale`` to all; which row, which column.
        grid: patches along a side of the image.
        scale: smallest share of the image.

    Returns:
        (B, N) float, 1 inside.
    """
    side = (scale + (1 - scale) * chance[:, :1]).sqrt()  # (B, 1), of the image's
    start = chance[:, 1:] * (1 - side)  # (B, 2)
    centres = (torch.arange(grid, device=chance.device) + 0.5) / grid
    inside = (centres >= start[..., None]) & (centres <= (start + side)[..., None])  # (B, 2, grid)
    return (inside[:, 0, :, None] & inside[:, 1, None, :]).flatten(1).float()


def context_patches(chance: Tensor, outside: Tensor, hidden: Tensor, count: int) -> Tensor:
    """The visible patches: of the context block without the target blocks, as many as requested, by chance.

    Args:
        chance: (B, N) uniform in [0, 1).
        outside: (B, N), 1 outside the context block; such patches make up the number where the block alone has too few.
        hidden: (B, N), 1 in a target block.
        count: at most the number of patches that no target block covers.

    Returns:
        (B, count) int64.
    """
    return (chance + outside + 2 * hidden).argsort(1)[:, :count]
