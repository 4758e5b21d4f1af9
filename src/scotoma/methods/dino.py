"""DINO: self-distillation: a student matches an EMA teacher's distribution across crops (Caron et al. 2021, arXiv 2104.14294)."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scotoma.distributed import collectives
from scotoma.methods.base import Batch, Method, Views
from scotoma.methods.parts.inputs import Inputs
from scotoma.models.encoders import forward_visible, is_vit, small_side, width
from scotoma.models.heads import momentum_at, momentum_copy
from scotoma.rng import KeyedRNG

BOTTLENECK = 256  # appendix C, "Output dimension": d = 256
CENTRE_MOMENTUM = 0.9  # appendix D, "Online centering": m from 0 to 0.99 works, 0.999 collapses


class DINO(Method):
    """Self-distillation without labels, for vision transformers and CNNs. Exports the teacher, which is the EMA network.

    Args:
        local_views: small crops, which the student alone sees (section 3.1: "several"; published code: 8, of ViT-S 10).
        local_size: side of the small crops, pixels (section 3.1: 96 beside 224); 0 for half of the image's, in whole patches
            (CNNs: at least 32 pixels).
        output_dim: K, number of outputs of the head (prototypes) (appendix C: 65,536).
        hidden_dim: width of the head's hidden layers (section 3.1: 2,048).
        head_norm: batch norm in the head's hidden layers (appendix C: none; with it 68.6 % instead of 69.7 %).
        momentum: EMA momentum of the teacher at the start; a cosine takes it to 1 (section 3.1, "Teacher network": 0.996).
        student_temperature: temperature of the student's softmax (section 3.2).
        first_teacher_temperature: temperature of the teacher's softmax at the first step (section 3.2: 0.04).
        teacher_temperature: the same after the warm-up (section 3.2: 0.07; appendix D, "Sharpening": above 0.06 needs the warm-up).
        temperature_warmup: share of the steps over which the teacher's temperature rises (section 3.2: 30 epochs).
        frozen_last: share of the steps over which the head's last layer stays as it is (published code: the first epoch).
        min_scale: smallest global crop and largest local crop, as a fraction of the image area (appendix E: best around
            0.3; published code: 0.4, and 0.14 without local crops).
        local_scale: smallest local crop, as a fraction of the image area (appendix E: 0.05).
        jitter: strength of brightness, contrast and gamma changes (section 3.2: as BYOL's, 0.4).
        blur: probability of blurring a view (BYOL: 100 % of one global view, 10 % of the other; published code: half of the
            local ones).

    Small data. What is counted in epochs of a million images becomes a share of the steps. The teacher's memory,
    1 / (1 - momentum) steps, must be short beside a run of some hundred steps, yet longer than the centre's (10 steps) times the
    ratio of the temperatures, or all outputs swing together: 0.99 makes it 100. A direction of the output grows only where two
    views share more than teacher / student temperature of its variance, else all ends in the uniform distribution; grey images
    that look alike start far below the paper's 0.4 to 0.7. So targets are sharper, changes of brightness weaker, and the head's
    batch norm takes out what all images have in common (on synthetic bars, a ViT without it gave one answer to all images
    within 60 steps). 1,024 outputs do for a few thousand images (appendix C: 67.8 % instead of 69.7 % on ImageNet), and 4
    crops of half the side cost as much as one global view. Left out in both presets: solarisation, which makes no sense for grey
    images; the rise of weight decay from 0.04 to 0.4; and of the published code gradient clipping at 3 and drop path.
    """

    batch_size = 64
    learning_rate = 5e-4
    weight_decay = 0.04
    warmup = 0.1  # section 3.2: 10 epochs, of 100 in the ablations
    reference: ClassVar[dict[str, Any]] = {
        "encoder": "vit_small_patch16",
        "size": 224,
        "batch_size": 1024,
        "learning_rate": 2e-3,  # section 3.2: 0.0005 x batch / 256, of AdamW
        "scaling": "linear",
        "warmup": 0.0125,  # 10 epochs of 800
        "final_learning_rate": 1e-6,
        "weight_decay": 0.04,
        "epochs": 800,  # of ViT-S with 10 local crops, table 2; the ablations have 100 and 300
        # the teacher's temperature rises over 30 epochs, the head's last layer stays as it is for one; crops as published for ViT-S
        "method_args": {"local_views": 10, "local_size": 96, "output_dim": 65536, "hidden_dim": 2048, "head_norm": False,
                        "momentum": 0.996, "first_teacher_temperature": 0.04, "teacher_temperature": 0.07,
                        "temperature_warmup": 0.0375, "frozen_last": 0.00125, "min_scale": 0.25, "local_scale": 0.05,
                        "jitter": 0.4},
    }  # fmt: skip
    centre: Tensor
    progress: Tensor

    def __init__(self, encoder: nn.Module, inputs: Inputs, *, local_views: int = 4, local_size: int = 0, output_dim: int = 1024,
                 hidden_dim: int = 512, head_norm: bool = True, momentum: float = 0.99, student_temperature: float = 0.1,
                 first_teacher_temperature: float = 0.03, teacher_temperature: float = 0.04, temperature_warmup: float = 0.3,
                 frozen_last: float = 0.05, min_scale: float = 0.4, local_scale: float = 0.1, jitter: float = 0.1,
                 blur: float = 0.5) -> None:  # fmt: skip
        super().__init__(encoder, inputs)
        self.vit = is_vit(encoder)
        self.local_views, self.momentum, self.frozen_last = local_views, momentum, frozen_last
        self.student_temperature, self.temperature_warmup = student_temperature, temperature_warmup
        self.teacher_temperatures = (first_teacher_temperature, teacher_temperature)
        # section 3.1: "the exact same architecture in both student and teacher networks"
        self.student = copy.deepcopy(encoder)
        self.student_head = _PrototypeHead(width(encoder), hidden_dim, output_dim, head_norm)
        self.teacher_head = momentum_copy(self.student_head)
        encoder.requires_grad_(False)
        self.register_buffer("centre", torch.zeros(output_dim))
        self.register_buffer("progress", torch.zeros(()))
        self.wide = inputs.augmentation(scale=(min_scale, 1.0), jitter=jitter, blur=blur)
        size = small_side(encoder, inputs.image_size, local_size, 1 / 2) if local_views else inputs.image_size
        self.narrow = replace(self.wide, size=size, scale=(local_scale, min_scale))

    def views(self, images: Tensor, rng: KeyedRNG) -> Views:
        """Two global views, then the local ones, which are smaller (section 3.1: "multi-crop")."""
        views = {name: self.wide(images, rng.of(name)) for name in ("first view", "second view")}
        for name in (f"local view {i + 1}" for i in range(self.local_views)):
            views[name] = self.narrow(images, rng.of(name))
        return views

    def loss(self, views: Views, batch: Batch) -> dict[str, Tensor]:
        """Equation 3, then equation 4: as in algorithm 1 the centre moves after it was subtracted."""
        crops = list(views.values())
        wide = torch.cat(crops[:2])
        with torch.no_grad():  # the teacher's batch norm sees global views only, and keeps statistics of its own
            teacher = self.teacher_head(self._features(self.encoder, wide)).unflatten(0, (2, -1))
        features = [self._features(self.student, wide)]  # all crops of a size pass the network together (one batch norm)
        if crops[2:]:
            features.append(self._features(self.student, torch.cat(crops[2:])))
        frozen = self.progress < self.frozen_last
        student = self.student_head(torch.cat(features), frozen).unflatten(0, (len(crops), -1))
        loss = dino_loss(student, teacher, self.centre, self.student_temperature, self.temperature())
        if self.training:
            self.centre.lerp_(collectives.all_reduce_mean(teacher.mean((0, 1))), 1 - CENTRE_MOMENTUM)
        return {"loss": loss}

    def temperature(self) -> Tensor:
        """The teacher's, at this point of the training."""
        first, last = self.teacher_temperatures
        return first + (last - first) * (self.progress / max(self.temperature_warmup, 1e-9)).clamp(max=1)

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Section 3.1, "Teacher network": the update rule; buffers (batch statistics) are not copied."""
        self.progress.fill_(progress)
        momentum = momentum_at(self.momentum, progress)
        for teacher, student in ((self.encoder, self.student), (self.teacher_head, self.student_head)):
            torch._foreach_lerp_(list(teacher.parameters()), list(student.parameters()), 1 - momentum)

    def _features(self, encoder: Any, images: Tensor) -> Tensor:
        return encoder.forward_head(forward_visible(encoder, images)) if self.vit else encoder(images)


class _PrototypeHead(nn.Module):
    """Section 3.1 and appendix C: three linear layers with GELU, L2 norm, and a weight-normalised linear layer; no batch norm."""

    def __init__(self, features: int, hidden: int, outputs: int, norm: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width_in in (features, hidden):
            layers += [nn.Linear(width_in, hidden), nn.BatchNorm1d(hidden) if norm else nn.Identity(), nn.GELU()]
        self.mlp = nn.Sequential(*layers, nn.Linear(hidden, BOTTLENECK))
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        # of weight normalisation's two factors, direction and length, published code keeps the lengths at 1
        self.directions = nn.Parameter(torch.empty(outputs, BOTTLENECK))
        nn.init.kaiming_uniform_(self.directions, a=5**0.5)

    def forward(self, features: Tensor, frozen: Tensor | None = None) -> Tensor:
        """(B, D) -> (B, K) cosines, in float32; no gradient reaches the last layer while ``frozen`` () is true."""
        x = self.mlp(features).float()
        directions = self.directions if frozen is None else torch.where(frozen, self.directions.detach(), self.directions)
        with torch.autocast(x.device.type, enabled=False):  # bfloat16 would round a cosine over 0.04 to steps of 0.1
            return F.linear(F.normalize(x, dim=1), F.normalize(directions, dim=1))


def dino_loss(
    student: Tensor, teacher: Tensor, centre: Tensor, student_temperature: float, teacher_temperature: Tensor | float
) -> Tensor:
    """Equation 3: mean cross-entropy between the teacher's and the student's distributions of different views.

    Args:
        student: (V, B, K) outputs for all views.
        teacher: (G, B, K) for the first G of them.
        centre: (K,) is subtracted from the teacher's.
        student_temperature: of the student's softmax.
        teacher_temperature: of the teacher's, lower.
    """
    views, batch, _ = student.shape
    with torch.autocast(student.device.type, enabled=False):
        targets = ((teacher.detach().float() - centre) / teacher_temperature).softmax(2)
        predictions = (student.float() / student_temperature).log_softmax(2)
        pairs = torch.einsum("gbk,vbk->gv", targets, predictions)
    others = pairs.sum() - pairs.diagonal().sum()  # x' != x
    return -others / (batch * len(teacher) * (views - 1))
