"""Context encoder: hide a block and fill it in from its surroundings (Pathak et al. 2016, arXiv 1604.07379)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from scotoma.errors import UsageError
from scotoma.methods.base import Batch, Method, Views
from scotoma.methods.parts.inputs import Inputs
from scotoma.methods.parts.mask_strategies import MaskStrategy
from scotoma.models.inpainting_decoders import MapDecoder, fill_in
from scotoma.rng import KeyedRNG
from scotoma.transforms.masking import paint, patchify


class ContextEncoder(Method):
    """Inpainting with any CNN; reconstruction loss only, no adversarial term. Exports the online encoder.

    Args:
        masking: which cells to hide, a kind of ``parts.mask_strategies``; ``block``: rectangles at random places (section 3.3,
            "random block": the central block of the paper's figures teaches features that latch on to its border and serve worse).
        mask_ratio: share of the image that is hidden (section 3.3: "covering up to 1/4 of the image").
        cells: cells along a side of the image, of which blocks are made.
        whole: count the error on the whole image, not on the hidden part alone (equation 1: the hidden part).
        decoder_dim: channels of the decoder's first maps (section 3.1: the 256 of AlexNet's pool5).
        min_scale: smallest crop, as a fraction of the image area.
        jitter: strength of brightness, contrast and gamma changes.

    Hidden pixels are filled "with constant mean value" (section 4), which is 0 after normalisation. The paper drops half of the
    channel-wise layer's inputs out; here they are not: dropout needs random numbers that a resumed run cannot draw again. Beside
    the map, the decoder is given the encoder's features, so that what is exported takes part in the filling in.
    """

    needs_cnn = True
    batch_size = 64
    learning_rate = 1e-3
    weight_decay = 0.01
    # section 5.2: AlexNet, which timm has not; Adam, 1e-4 for random regions; 100,000 steps are 5 passes over ImageNet
    reference: ClassVar[dict[str, Any]] = {
        "encoder": "resnet50",
        "size": 224,  # 227 in the paper: 8 cells divide 224
        "batch_size": 64,
        "learning_rate": 1e-4,
        "scaling": "sqrt",
        "warmup": 0.0,
        "weight_decay": 0.0,
        "epochs": 5,
        "method_args": {"decoder_dim": 256, "min_scale": 0.5, "jitter": 0.0},
    }

    def __init__(self, encoder: nn.Module, inputs: Inputs, *, masking: str = "block", mask_ratio: float = 0.25, cells: int = 8,
                 whole: bool = False, decoder_dim: int = 128, min_scale: float = 0.5, jitter: float = 0.1) -> None:  # fmt: skip
        super().__init__(encoder, inputs)
        self.decoder = MapDecoder(encoder, inputs.in_chans, inputs.image_size, decoder_dim)
        if cells < 2 or inputs.image_size % cells:
            raise UsageError(f"--method.cells {cells}: must divide the {inputs.image_size} pixels of a side, and be at least 2")
        self.cell, self.whole = inputs.image_size // cells, whole
        self.mask_strategy = MaskStrategy(masking, mask_ratio, cells, inputs, encoder)
        self.augment = inputs.augmentation(scale=(min_scale, 1.0), jitter=jitter)

    def views(self, images: Tensor, rng: KeyedRNG) -> Views:
        """One view and the random numbers by which its cells are hidden."""
        return {"view": self.augment(images, rng), "noise": self.mask_strategy.draw(rng)}

    def fill(self, views: Views) -> tuple[Tensor, Tensor]:
        """The image predicted from what is visible, (B, C, size, size) float32, and the mask of its cells (B, N)."""
        mask = self.mask_strategy.order(views["view"], views["noise"], self.encoder)[2]
        return fill_in(self.encoder, self.decoder, paint(views["view"], mask, self.cell)).float(), mask

    def loss(self, views: Views, batch: Batch) -> dict[str, Tensor]:
        """Equation 1, the mean instead of the sum: the squared error on hidden pixels. An agent that hides adds its own loss."""
        prediction, mask = self.fill(views)
        errors = patchify((prediction - views["view"]).square(), self.cell).mean(2)  # (B, N)
        loss = errors.mean() if self.whole else (errors * mask).sum() / mask.sum()
        return {"loss": loss + self.mask_strategy.loss(views["view"], errors, mask)}

    def after_step(self, progress: float) -> None:
        """What hides may follow a schedule."""
        self.mask_strategy.after_step(progress)

    def example_images(self, views: Views, batch: Batch) -> dict[str, Tensor]:
        """The view, what the encoder saw of it, and the filled-in part beside the visible one."""
        view = views["view"]
        prediction, mask = self.fill(views)
        holes = paint(torch.zeros_like(view), mask, self.cell, 1.0).bool()
        return {"view": view, "visible": paint(view, mask, self.cell), "reconstruction": torch.where(holes, prediction, view)}
