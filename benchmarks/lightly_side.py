"""lightly's side of ``peers.py``: methods as its documentation's examples have them, and the loop that trains any side but ours.

From the examples: transforms, heads, their widths, losses, temperatures, momentum, masks, float32 and three channels. Batch size,
optimiser and learning rate are the examples' too (``theirs``: what a reader of them gets), or Scotoma's (batch size, AdamW, weight
decay, schedule), so that neither side is helped by them. The network is the same in any case.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

import lightly.loss as losses
import torch
from lightly import transforms
from lightly.models import modules, utils
from lightly.utils.scheduler import cosine_schedule
from PIL import Image
from torch import Tensor, nn

from scotoma.models import encoders
from scotoma.training.schedule import learning_rate_factor

WORKERS = 2
NORMALIZE = transforms.utils.IMAGENET_NORMALIZE


class Example(nn.Module):
    """Views of a batch -> loss; ``transform`` makes the views of one image."""

    epoch = 0
    batch_size = 256  # the example's
    optimizer: tuple[Any, float] = (torch.optim.SGD, 0.06)
    transform: Callable[..., Any]
    backbone: Any

    def before_step(self) -> None:
        """What happens to the gradients."""


class SimCLR(Example):
    """``simclr.py``."""

    def __init__(self, encoder: nn.Module, size: int) -> None:
        super().__init__()
        self.backbone, width = encoder, encoders.width(encoder)
        self.head = modules.SimCLRProjectionHead(width, width, 128)
        self.criterion = losses.NTXentLoss()
        self.transform = transforms.SimCLRTransform(input_size=size)

    def forward(self, views: list[Tensor], progress: float) -> Tensor:
        """Loss."""
        first, second = (self.head(self.backbone(view)) for view in views)
        return self.criterion(first, second)


class MoCo(Example):
    """``moco.py``."""

    def __init__(self, encoder: nn.Module, size: int) -> None:
        super().__init__()
        self.backbone, width = encoder, encoders.width(encoder)
        self.head = modules.MoCoProjectionHead(width, width, 128)
        self.teacher = copy.deepcopy(nn.Sequential(self.backbone, self.head))
        utils.deactivate_requires_grad(self.teacher)
        self.criterion = losses.NTXentLoss(memory_bank_size=(4096, 128))
        self.transform = transforms.MoCoV2Transform(input_size=size)

    def forward(self, views: list[Tensor], progress: float) -> Tensor:
        """Loss, after the teacher has followed."""
        momentum = cosine_schedule(round(1000 * progress), 1001, 0.996, 1)
        utils.update_momentum(nn.Sequential(self.backbone, self.head), self.teacher, m=momentum)
        with torch.no_grad():
            key = self.teacher(views[1])
        return self.criterion(self.head(self.backbone(views[0])), key)


class BYOL(Example):
    """``byol.py``."""

    def __init__(self, encoder: nn.Module, size: int) -> None:
        super().__init__()
        self.backbone, width = encoder, encoders.width(encoder)
        self.head, self.predictor = modules.BYOLProjectionHead(width, 1024, 256), modules.BYOLPredictionHead(256, 1024, 256)
        self.teacher = copy.deepcopy(nn.Sequential(self.backbone, self.head))
        utils.deactivate_requires_grad(self.teacher)
        self.criterion = losses.NegativeCosineSimilarity()
        self.transform = transforms.SimCLRTransform(input_size=size)

    def forward(self, views: list[Tensor], progress: float) -> Tensor:
        """Loss, after the teacher has followed."""
        utils.update_momentum(nn.Sequential(self.backbone, self.head), self.teacher, m=0.99)
        with torch.no_grad():
            targets = [self.teacher(view) for view in views]
        first, second = (self.predictor(self.head(self.backbone(view))) for view in views)
        return 0.5 * (self.criterion(first, targets[1]) + self.criterion(second, targets[0]))


class MAE(Example):
    """``mae.py``."""

    optimizer = (torch.optim.AdamW, 1.5e-4)

    def __init__(self, encoder: Any, size: int) -> None:
        super().__init__()
        self.backbone = modules.MaskedVisionTransformerTIMM(vit=encoder)
        self.patch, self.count = encoder.patch_embed.patch_size[0], self.backbone.sequence_length
        self.decoder = modules.MAEDecoderTIMM(
            num_patches=encoder.patch_embed.num_patches, patch_size=self.patch, embed_dim=encoder.embed_dim,
            decoder_embed_dim=512, decoder_depth=1, decoder_num_heads=16,
        )  # fmt: skip
        self.criterion = nn.MSELoss()
        self.transform = transforms.MAETransform(input_size=size)

    def forward(self, views: list[Tensor], progress: float) -> Tensor:
        """Loss."""
        images = views[0]
        keep, mask = utils.random_token_mask((len(images), self.count), mask_ratio=0.75, device=images.device)
        encoded = self.decoder.embed(self.backbone.encode(images=images, idx_keep=keep))
        masked = utils.repeat_token(self.decoder.mask_token, (len(images), self.count))
        decoded = self.decoder.decode(utils.set_at_index(masked, keep, encoded.type_as(masked)))
        predicted = self.decoder.predict(utils.get_at_index(decoded, mask))
        target = utils.get_at_index(utils.patchify(images, self.patch), mask - 1)
        return self.criterion(predicted, target)


class DINO(Example):
    """``dino.py``."""

    batch_size = 64
    optimizer = (torch.optim.Adam, 1e-3)

    def __init__(self, encoder: nn.Module, size: int) -> None:
        super().__init__()
        self.backbone, width = encoder, encoders.width(encoder)
        self.head = modules.DINOProjectionHead(width, 512, 64, 2048, freeze_last_layer=1)
        self.teacher = nn.Sequential(copy.deepcopy(encoder), modules.DINOProjectionHead(width, 512, 64, 2048))
        utils.deactivate_requires_grad(self.teacher)
        self.criterion = losses.DINOLoss(output_dim=2048, warmup_teacher_temp_epochs=5)
        self.transform = transforms.DINOTransform(global_crop_size=size, local_crop_size=size // 2)

    def forward(self, views: list[Tensor], progress: float) -> Tensor:
        """Loss, after the teacher has followed."""
        momentum = cosine_schedule(round(1000 * progress), 1001, 0.996, 1)
        utils.update_momentum(nn.Sequential(self.backbone, self.head), self.teacher, m=momentum)
        with torch.no_grad():
            teacher = [self.teacher(view) for view in views[:2]]
        student = [self.head(self.backbone(view)) for view in views]
        return self.criterion(teacher, student, epoch=self.epoch)

    def before_step(self) -> None:
        """The last layer rests in the first epoch."""
        self.head.cancel_last_layer_gradients(current_epoch=self.epoch)


class MSN(Example):
    """``msn.py``."""

    batch_size = 64
    optimizer = (torch.optim.AdamW, 1.5e-4)

    def __init__(self, encoder: Any, size: int) -> None:
        super().__init__()
        self.backbone = modules.MaskedVisionTransformerTIMM(vit=encoder)
        self.head = modules.heads.MSNProjectionHead(encoder.embed_dim)
        self.teacher = copy.deepcopy(nn.ModuleList([self.backbone, self.head]))
        utils.deactivate_requires_grad(self.teacher)
        self.prototypes = nn.Parameter(nn.Linear(256, 1024, bias=False).weight.detach().clone())
        self.criterion = losses.MSNLoss()
        self.transform = transforms.MSNTransform(random_size=size, focal_size=size // 2)

    def forward(self, views: list[Tensor], progress: float) -> Tensor:
        """Loss, after the teacher has followed."""
        utils.update_momentum(self.backbone, self.teacher[0], 0.996)
        utils.update_momentum(self.head, self.teacher[1], 0.996)
        with torch.no_grad():
            targets = self.teacher[1](self.teacher[0](views[0]))
        anchor = self._masked(views[1])
        focal = self._masked(torch.cat(views[2:]))
        return self.criterion(torch.cat([anchor, focal]), targets, self.prototypes)

    def _masked(self, images: Tensor) -> Tensor:
        patch = self.backbone.vit.patch_embed.patch_size[0]
        count = (images.shape[-1] // patch) ** 2 + 1
        keep, _ = utils.random_token_mask((len(images), count), mask_ratio=0.15, device=images.device)
        return self.head(self.backbone(images, idx_keep=keep))


METHODS: dict[str, type[Any]] = {"simclr": SimCLR, "moco_v2": MoCo, "byol": BYOL, "mae": MAE, "dino": DINO, "msn": MSN}


class Images(torch.utils.data.Dataset):
    """Decoded files, opened and transformed as lightly's own data set does."""

    def __init__(self, paths: list[str], transform: Callable[[Image.Image], list[Tensor]]) -> None:
        self.paths, self.transform = paths, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> list[Tensor]:
        with Image.open(self.paths[index]) as image:
            return self.transform(image.convert("RGB"))


def train(build: Callable[[], Example], paths: list[str], steps: int, chosen: Any, window: float = 0.0, theirs: bool = False,
          after: Callable[[int], None] = lambda done: None) -> dict[str, float]:  # fmt: skip
    """Train the network that ``build`` puts into an example, for so many steps or until ``window`` is over.

    Args:
        build: makes the example, around an encoder that is trained in place.
        paths: image files.
        steps: length of the training and of its schedule.
        chosen: Scotoma's method, whose batch size, learning rate, weight decay and warm-up are taken with AdamW and a cosine.
        window: seconds after the second step; 0: ``steps`` alone count.
        theirs: batch size, optimiser and (constant) learning rate are the example's own instead.
        after: called after each step with its number.

    Returns:
        ``images_seen``; ``seconds_starting`` until the second step was done (the workers' start among them); ``images_per_second``
        from then on.
    """
    began = time.perf_counter()
    started = began
    torch.manual_seed(0)
    method = build().train()
    trained = [p for p in method.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": chosen.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    batch_size, learning_rate = chosen.batch_size, chosen.learning_rate
    optimizer: torch.optim.Optimizer = torch.optim.AdamW(groups, lr=learning_rate)
    if theirs:
        kind, learning_rate = method.optimizer
        optimizer, batch_size = kind(trained, lr=learning_rate), method.batch_size
    loader = torch.utils.data.DataLoader(
        Images(paths, method.transform), batch_size, shuffle=True, drop_last=True, num_workers=WORKERS, persistent_workers=True
    )
    done = 0
    while True:
        for views in loader:
            progress = done / steps
            for group in [] if theirs else optimizer.param_groups:
                group["lr"] = learning_rate * learning_rate_factor(done, steps, chosen.warmup)
            method(views, progress).backward()
            method.before_step()
            optimizer.step()
            optimizer.zero_grad()
            done += 1
            after(done)
            now = time.perf_counter()
            started = now if done == 2 else started
            if done == steps or (window and done > 2 and now - started > window):
                rate = (done - 2) * batch_size / (now - started)
                return {"images_seen": float(done * batch_size), "seconds_starting": started - began, "images_per_second": rate}
        method.epoch += 1
