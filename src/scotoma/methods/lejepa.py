"""LeJEPA: views predict each other, embeddings regularised to a standard normal (Balestriero & LeCun 2025, arXiv 2511.08544)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scotoma.distributed import collectives
from scotoma.errors import UsageError
from scotoma.methods.base import Batch, Method, Views
from scotoma.methods.parts.inputs import Inputs
from scotoma.models.encoders import forward_visible, is_vit, small_side, width
from scotoma.models.heads import projector
from scotoma.rng import KeyedRNG

KNOTS, T_MAX = 17, 3.0  # of the integral over frequencies: the published code's, and table 1a: [-3, 3] as good as [-5, 5]


class LeJEPA(Method):
    """Large and small crops of an image agree, under SIGReg: no teacher, no stop-gradient. Exports the online encoder.

    Args:
        sigreg_weight: lambda, the weight of SIGReg beside 1 - lambda for the prediction (section 6.1: "0.05 as a robust default").
        slices: random directions per step along which embeddings are tested against the normal distribution (section 6.1: 1,024;
            512 within a point of it).
        global_views: large crops, to whose mean all views are drawn (section 6.1: 2).
        local_views: small crops (experiment details 1: 6).
        local_size: side of the small crops, pixels; 0 for 7/16 of the image's (98 of 224), rounded to whole patches
            (CNNs: to multiples of 8).
        hidden_dim: width of the projector's two hidden layers (published code: 2,048).
        projection_dim: width of the embeddings that the loss sees (table 1d: 64 best of 64 to 1,024).
        min_scale: smallest global crop and largest local crop, as a fraction of the image area (published code: 0.3).
        local_scale: smallest local crop, as a fraction of the image area (published code: 0.05).
        jitter: strength of brightness, contrast and gamma changes (published code: 0.4).
        blur: probability of blurring a view (published code: 50 %).

    The default encoder is resnet18, as for the other joint-embedding methods, so that a comparison is one of methods: the paper
    advises "standard architectures such as ResNets and ViTs", and convolutions make do with fewer images. There algorithm 2 takes
    all views for global ones; local ones are kept here, as SwAV has them for ResNets, because they cost a sixth
    (``--method.global_views 6 --method.local_views 0`` is the paper's way).

    Small data: SIGReg grows with the batch and the prediction does not, so a batch of 64 holds the embeddings half as tightly as
    the paper's smallest, 128; it takes twice the steps in the same time. Four local views that keep a tenth of the image: less
    of a medical image is often background. Left out: solarisation, which makes no sense for grey medical images. The statistic
    is that of the images of one process.
    """

    batch_size = 64
    learning_rate = 1e-3
    reference: ClassVar[dict[str, Any]] = {
        "encoder": "vit_large_patch14",
        "size": 224,
        "batch_size": 512,  # table 1c: best of 128 to 1,024
        "learning_rate": 5e-4,  # AdamW
        "scaling": "sqrt",
        "warmup": 0.01,  # published example: one epoch of 100
        "final_learning_rate": 5e-7,  # a thousandth of the peak
        "weight_decay": 0.05,  # published code: 0.05 for ViTs, 0.0005 for ResNets
        "epochs": 100,
        "method_args": {"slices": 1024, "local_views": 6, "hidden_dim": 2048, "local_scale": 0.05},
    }
    steps: Tensor

    def __init__(self, encoder: nn.Module, inputs: Inputs, *, sigreg_weight: float = 0.05, slices: int = 256,
                 global_views: int = 2, local_views: int = 4, local_size: int = 0, hidden_dim: int = 512,
                 projection_dim: int = 64, min_scale: float = 0.3, local_scale: float = 0.1, jitter: float = 0.4,
                 blur: float = 0.5) -> None:  # fmt: skip
        super().__init__(encoder, inputs)
        if not 0 <= sigreg_weight <= 1:
            raise UsageError(f"--method.sigreg_weight {sigreg_weight}: must be from 0 to 1")
        if global_views < 1 or global_views + local_views < 2:
            raise UsageError("--method.global_views must be at least 1, and 2 without --method.local_views")
        self.vit = is_vit(encoder)
        side = small_side(encoder, inputs.image_size, local_size, 7 / 16) if local_views else inputs.image_size
        self.sigreg_weight, self.slices, self.projection_dim = sigreg_weight, slices, projection_dim
        self.wide_names = [f"global view {i + 1}" for i in range(global_views)]
        self.narrow_names = [f"local view {i + 1}" for i in range(local_views)]
        self.projector = projector([width(encoder), hidden_dim, hidden_dim, projection_dim])
        self.wide = inputs.augmentation(scale=(min_scale, 1.0), jitter=jitter, blur=blur)
        self.narrow = replace(self.wide, size=side, scale=(local_scale, min_scale))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def views(self, images: Tensor, rng: KeyedRNG) -> Views:
        """Global views, and local ones, which show less at a smaller size."""
        crops = dict.fromkeys(self.wide_names, self.wide) | dict.fromkeys(self.narrow_names, self.narrow)
        return {name: crop(images, rng.of(name)) for name, crop in crops.items()}

    def embed(self, images: Tensor) -> Tensor:
        """(B, C, H, W) of any size -> (B, D) features; a ViT's positions are resampled to a local view's grid."""
        if self.vit and images.shape[-1] != self.inputs.image_size:
            vit: Any = self.encoder
            return vit.forward_head(forward_visible(vit, images))
        return self.encoder(images)

    def directions(self) -> Tensor:
        """(K, D) unit vectors, others in each step: "being able to resample at every step provides" coverage "for free" (figure 7).

        A function of the number of steps made and of nothing else, so that every process has the same ones and a resumed run goes
        on as an undisturbed one.
        """
        rows = torch.arange(self.slices, device=self.steps.device)
        return F.normalize(KeyedRNG(0, self.steps, rows).normal("directions", self.projection_dim), dim=1)

    def loss(self, views: Views, batch: Batch) -> dict[str, Tensor]:
        """Equation "LeJEPA" of section 5.1, as in algorithm 2: (1 - lambda) x prediction + lambda x mean of SIGReg over views."""
        groups = [names for names in (self.wide_names, self.narrow_names) if names]
        features = [self.embed(torch.cat([views[name] for name in names])) for names in groups]
        z = self.projector(torch.cat(features)).float()
        z = z.view(sum(map(len, groups)), -1, z.shape[1])  # (V, B, D), the global views first
        z = collectives.all_gather(z.transpose(0, 1)).transpose(0, 1)
        prediction, sigreg = prediction_loss(z, len(self.wide_names)), sketched_normality(z, self.directions())
        loss = (1 - self.sigreg_weight) * prediction + self.sigreg_weight * sigreg
        return {"loss": loss, "prediction": prediction, "sigreg": sigreg}

    def after_step(self, progress: float) -> None:
        """The next step has other directions."""
        self.steps += 1

    def example_images(self, views: Views, batch: Batch) -> dict[str, Tensor]:
        """The global views, and the first local one, enlarged."""
        size = (self.inputs.image_size, self.inputs.image_size)
        small = {name: F.interpolate(views[name], size, mode="bilinear") for name in self.narrow_names[:1]}
        return {name: views[name] for name in self.wide_names} | small


def prediction_loss(z: Tensor, count: int) -> Tensor:
    """Mean squared distance of every view to the mean of the global ones (equation 7; algorithm 2: mean over coordinates too).

    Args:
        z: (V, B, D) embeddings, the global views first; the gradient goes to all of them.
        count: how many are global.
    """
    return (z - z[:count].mean(0)).square().mean()


def sketched_normality(z: Tensor, directions: Tensor) -> Tensor:
    """SIGReg: how far embeddings are from a standard normal, as seen along directions (definition 2).

    Args:
        z: (..., B, D) embeddings; each set of B is tested by itself.
        directions: (K, D) unit vectors.

    Returns:
        The mean of the statistic over sets and directions.
    """
    with torch.autocast(z.device.type, enabled=False):
        return epps_pulley((z.float() @ directions.T).transpose(-1, -2)).mean()


def epps_pulley(x: Tensor, knots: int = KNOTS, t_max: float = T_MAX) -> Tensor:
    """The statistic of Epps & Pulley (1983) against N(0, 1) (section 4.2.3, equation "Epps-Pulley").

    N times the integral over t of |mean of exp(i t x) - exp(-t^2 / 2)|^2 exp(-t^2 / 2), by the trapezoidal rule on the half t >= 0,
    as the integrand is even (section 5.1). For normal x its mean is near 1 whatever N; for any other law it grows with N.

    Args:
        x: (..., N) samples.
        knots: frequencies from 0 to ``t_max``.
        t_max: the largest one.

    Returns:
        (...), not negative.
    """
    t = torch.linspace(0, t_max, knots, device=x.device)
    normal = torch.exp(-t.square() / 2)  # the characteristic function of N(0, 1), and the weight
    phase = x[..., None, :] * t[:, None]  # (..., T, N)
    error = (phase.cos().mean(-1) - normal).square() + phase.sin().mean(-1).square()
    return 2 * x.shape[-1] * torch.trapezoid(error * normal, dx=t_max / (knots - 1))
