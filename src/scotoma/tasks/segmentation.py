"""Segmentation: the label maps of ``mask_path``, a class of every pixel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scotoma import plugins
from scotoma.data.encoder_header import EncoderInfo
from scotoma.data.labels import masks
from scotoma.data.labels.masks import Masks
from scotoma.data.labels.targets import MASKS
from scotoma.data.splits.label_draws import Draw
from scotoma.errors import UsageError
from scotoma.methods.base import Batch, Method, Views, decay_groups
from scotoma.methods.parts.inputs import Inputs
from scotoma.methods.parts.losses import segmentation
from scotoma.methods.supervised import Supervised, still
from scotoma.metrics.intervals import image_means, mean_over_draws, of_images, paired_difference
from scotoma.metrics.segmentation import OVERLAPS, scores
from scotoma.models import segmentation_decoders
from scotoma.models.encoders import freeze, layer_groups
from scotoma.models.precision import full_precision
from scotoma.models.segmentation_decoders import SegmentationDecoder, maps
from scotoma.rng import KeyedRNG
from scotoma.run_folder import Row, Run
from scotoma.tasks.base import FineTuning, Model, Task
from scotoma.training.trainer import Batches, cost_rows
from scotoma.transforms.augmentation import plain

ARGUMENTS = ("min_scale", "jitter", "trained_stages", "layer_decay")  # those of ``Supervised`` that mean something here
AT_A_TIME = 8


class Segmenter(Method):
    """Cross-entropy and Dice loss of a decoder on an encoder's maps, under mild augmentation.

    Args:
        encoder: the network whose maps are decoded.
        inputs: what the images are.
        decoder: behind it.
        codes: (256,) int64, stored value of a label map -> class.
        frozen: leave the encoder as it is.
        min_scale: smallest crop, as a fraction of the image area.
        jitter: strength of brightness, contrast and gamma changes.
        trained_stages: train only so many of the encoder's last stages; 0 trains all.
        layer_decay: factor on the learning rate from each layer of the encoder to the one before it; 1 for none.
    """

    warmup = Supervised.warmup
    codes: Tensor

    def __init__(self, encoder: nn.Module, inputs: Inputs, decoder: SegmentationDecoder, codes: np.ndarray, frozen: bool = False,
                 min_scale: float = 0.5, jitter: float = 0.2, trained_stages: int = 0,
                 layer_decay: float = 1.0) -> None:  # fmt: skip
        super().__init__(encoder, inputs)
        if trained_stages < 0 or not 0 < layer_decay <= 1:
            raise UsageError("--method.trained_stages must be at least 0, --method.layer_decay above 0 and at most 1")
        if frozen:
            encoder.requires_grad_(False)
        elif trained_stages:
            freeze(encoder, trained_stages)
        self.decoder, self.layer_decay = decoder, layer_decay
        self.register_buffer("codes", torch.from_numpy(codes), persistent=False)
        self.augment = inputs.augmentation(scale=(min_scale, 1.0), jitter=jitter)

    def param_groups(self) -> list[dict[str, Any]]:
        """Encoder and decoder at one rate, so that random and pretrained weights are trained alike."""
        encoder = decay_groups(self.encoder) if self.layer_decay == 1 else layer_groups(self.encoder, self.layer_decay)
        return [*(group for group in encoder if group["params"]), *decay_groups(self.decoder)]

    def train(self, mode: bool = True) -> Segmenter:
        """Training mode, but for the batch normalisation of what is left as it is."""
        super().train(mode)
        still(self.encoder)
        return self

    def views(self, images: Tensor, rng: KeyedRNG, masks: Tensor | None = None) -> Views:
        """One mildly changed view, and the classes of its pixels under the same warp, 0 beyond the image."""
        assert masks is not None
        drawn = self.augment.sample(rng)
        stored = self.augment.apply_to_labels(masks, drawn)[:, 0].long()
        return {"view": self.augment.apply(images, drawn), "labels": self.codes[stored]}

    def loss(self, views: Views, batch: Batch) -> dict[str, Tensor]:
        """Of the logits at the view's side."""
        return {"loss": segmentation(self.decoder(maps(self.encoder, views["view"]), views["view"]), views["labels"])}


class Segmentation(Task):
    """Outputs are (n, side, side) label maps at the store's side; a study stores (n, classes - 1, len(OVERLAPS)) scores of them."""

    evaluator, headline, monitors = "segmentation", OVERLAPS[0], ("loss", "dice")
    modes, controls, is_of_images = ("finetune",), ("random",), False

    @staticmethod
    def fits(columns: tuple[str, ...], numbers: bool) -> bool:
        """``mask_path`` alone."""
        return columns == (MASKS,)

    @classmethod
    def check(cls, tuning: FineTuning) -> None:
        """Refuse what is for classifiers."""
        for name in tuning.encoder_args:
            if name not in ARGUMENTS:
                raise UsageError(f"--method.{name} is for classifiers: of masks there are {', '.join(ARGUMENTS)}")
        super().check(tuning)

    @classmethod
    def check_study(cls, methods: list[str], modes: list[str], controls: list[str]) -> None:
        """Refuse methods that would see every label map, too."""
        super().check_study(methods, modes, controls)
        for method in methods:
            chosen, given = plugins.variant(method)
            requirements = chosen.requirements(chosen.settings(given))
            if requirements.labels or requirements.masks:
                raise UsageError(f"{method} reads labels or masks: for masks name methods that read none")
        wrong = next((c for c in controls if c in Task.controls and c not in cls.controls), None)
        if wrong:
            raise UsageError(f"--controls {wrong} does not apply to masks: random, or weights to compare with")

    @cached_property
    def masks(self) -> Masks:
        """The label maps of all rows."""
        return masks.read(self.dataset, self.store.side, self.classes or self.target.mask_classes, quiet=self.quiet)

    def require(self, tuning: FineTuning, network: nn.Module, info: EncoderInfo, drawn: Draw) -> None:
        """Refuse a decoder that does not go with this network, and a draw without a mask that can be read."""
        readable = self.readable(drawn)
        super().require(tuning, network, info, readable)
        if not len(readable.train):
            raise UsageError("no training row has a mask that can be read")
        self.decoder(tuning, network, info)

    def readable(self, drawn: Draw) -> Draw:
        """A draw without the rows whose masks cannot be read."""
        found = self.masks.at >= 0
        return replace(drawn, train=drawn.train[found[drawn.train]], val=drawn.val[found[drawn.val]])

    def decoder(self, tuning: FineTuning, network: nn.Module, info: EncoderInfo) -> SegmentationDecoder:
        """An untrained decoder."""
        name = segmentation_decoders.choose(tuning.decoder, network)
        return SegmentationDecoder(name, network, info, len(self.masks.values))

    def require_classes(self) -> None:
        """Refuse."""
        raise UsageError("--target mask_path is for a segmenter: finetune one, or name a column of classes")

    def train(
        self, network: nn.Module, info: EncoderInfo, drawn: Draw, tuning: FineTuning, run: Run | None = None
    ) -> tuple[Model, list[Row]]:
        """Train network and decoder, or the decoder alone."""
        drawn = self.readable(drawn)
        name = segmentation_decoders.choose(tuning.decoder, network)
        info = replace(info, targets=(MASKS,), classes=self.masks.classes, decoder=name)
        info = replace(info, mask_values=self.masks.values if self.masks.names else ())
        torch.manual_seed(tuning.seed)
        decoder = self.decoder(tuning, network, info)
        model = Model(network, info, decoder)
        inputs = Inputs(
            info.image_size, info.in_chans, info.mean, info.std, info.modality, len(info.classes), images=len(drawn.train)
        )
        method = Segmenter(network, inputs, decoder, self.masks.codes, tuning.frozen, **tuning.encoder_args)
        batches = Batches(self.store, self.rows[drawn.train], masks=(self.masks.store, self.masks.at[drawn.train]))

        def score(_: torch.device) -> float:
            return self.monitor(model, drawn.val, tuning.monitor)

        trained, schedule = tuning.train(method, batches, info.image_size, score, run, self.quiet)
        return Model(network.cpu(), info, decoder.cpu()), cost_rows(trained, schedule, method, len(drawn.train), 0.0)

    def monitor(self, model: Model, val: np.ndarray, name: str) -> float:
        """What is monitored of a draw's validation rows, higher being better: the mean Dice, or the loss with its sign turned."""
        if name == "dice":
            dice = self.measure(model, val)[:, :, OVERLAPS.index("dice")]
            return -float("inf") if np.isnan(dice).all() else float(np.nanmean(dice))
        parts = self.logits(model, val)
        losses = [float(segmentation(found, torch.from_numpy(self.masks.maps(part)))) * len(part) for found, part in parts]
        return -sum(losses) / len(val)

    @torch.no_grad()
    def logits(self, model: Model, positions: np.ndarray) -> Iterator[tuple[Tensor, np.ndarray]]:
        """Logits (b, classes, side, side) in float32 at the store's side, on the CPU, and which rows they are, part by part."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        for network in (model.network, model.head):
            network.to(device).to(memory_format=torch.channels_last).eval()
        info, side = model.info, self.store.side
        for start in range(0, len(positions), AT_A_TIME):
            part = positions[start : start + AT_A_TIME]
            images = plain(torch.from_numpy(self.store.batch(self.rows[part])).to(device), info.image_size, info.mean, info.std)
            images = images.contiguous(memory_format=torch.channels_last)
            with full_precision():
                found = model.head(maps(model.network, images), images)
            yield F.interpolate(found, (side, side), mode="bilinear", align_corners=False).cpu(), part

    def outputs(self, model: Model, positions: np.ndarray) -> np.ndarray:
        """(n, side, side) uint8 label maps at the store's side."""
        parts = [found.argmax(1).to(torch.uint8).numpy() for found, _ in self.logits(model, positions)]
        return np.concatenate([np.zeros((0, self.store.side, self.store.side), np.uint8), *parts])

    def score(self, outputs: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """(n, classes - 1, len(OVERLAPS)) scores of images that have a label map; distances in pixels of their files.

        Compared at the store's side, which is finer than what the network sees: its logits are interpolated, not the masks. Where
        one map alone has a class the distance is the diagonal of the file's image.
        """
        truth, several = self.masks.maps(positions), len(self.masks.values)
        found = np.array([scores(a, b, several) for a, b in zip(outputs, truth, strict=True)])
        facts = self.store.facts.iloc[self.rows[positions]]
        height, width = (facts[name].to_numpy(float)[:, None] for name in ("height", "width"))
        at = OVERLAPS.index("hausdorff95")
        is_alone = np.isnan(found[:, :, OVERLAPS.index("sensitivity")]) != np.isnan(found[:, :, OVERLAPS.index("precision")])
        pixels = found[:, :, at] * np.maximum(height, width) / self.store.side
        found[:, :, at] = np.where(is_alone, np.hypot(height, width), pixels)
        return found

    def tabulate(self, scores: np.ndarray, positions: np.ndarray) -> dict[str, np.ndarray]:
        """``METRIC_CLASS``: the scores of each image's masks."""
        return {f"{metric}_{name}": scores[:, k, m] for k, name in enumerate(self.names) for m, metric in enumerate(OVERLAPS)}

    @property
    def names(self) -> tuple[str, ...]:
        """The classes beside the background."""
        return self.masks.classes[1:]

    def measure(self, model: Model, positions: np.ndarray) -> np.ndarray:
        """The score of a model's outputs, part by part, as label maps take much memory; NaN where an image has no map."""
        known = np.flatnonzero(self.masks.at[positions] >= 0)
        found = np.full((len(positions), len(self.masks.values) - 1, len(OVERLAPS)), np.nan)
        for start in range(0, len(known), AT_A_TIME):
            part = known[start : start + AT_A_TIME]
            found[part] = self.score(self.outputs(model, positions[part]), positions[part])
        return found

    def examples_with_maps(self, part: str) -> np.ndarray:
        """Positions of those of a part of the split whose label map can be read."""
        found = self.examples(part)
        return found[self.masks.at[found] >= 0]

    def validate(self, model: Model, drawn: Draw) -> list[Row]:
        """Scores with intervals, by class and over patients too."""
        val = self.examples_with_maps("val")
        return self.summarise(self.measure(model, val), val) if len(val) else []

    def summarise(self, found: np.ndarray, positions: np.ndarray) -> list[Row]:
        """Rows of one model's scores: means over images, of each class and over all, with intervals over patients.

        Where patients have several images there are also means over patients (``unit`` patient), each counting once.
        """
        units = self.split.units[positions]
        rows: list[Row] = []
        for m, metric in enumerate(OVERLAPS):
            for unit, values, people in (("image", found[:, :, m], units), *_by_patient(found[:, :, m], units)):
                for label, part in _by_class(values, self.masks):
                    rows.append({"metric": metric, "unit": unit, **label, **of_images(metric, part, people)})
        return rows

    def summarise_draw(self, scores: np.ndarray, positions: np.ndarray, drawn: Draw) -> list[Row]:
        """Means over images and classes."""
        common = {"fraction": drawn.fraction, "seed": drawn.seed, "labels": len(drawn.train), "n": len(scores)}
        once = np.ones((1, len(scores)))
        return [
            {**common, "metric": name, "value": float(image_means(scores[:, :, m], once)[0])} for m, name in enumerate(OVERLAPS)
        ]

    def summarise_fraction(self, scores: list[np.ndarray], positions: np.ndarray, fraction: float, labels: int) -> list[Row]:
        """Means with intervals, over classes and of each."""
        common, units = {"fraction": fraction, "labels": labels}, self.split.units[positions]
        return [
            {**common, "metric": metric, **label, **mean_over_draws(None, units, list(parts), units, metric)}
            for m, metric in enumerate(OVERLAPS)
            for label, parts in _by_class(np.stack(scores)[:, :, :, m], self.masks)
        ]

    def difference(self, scores: list[np.ndarray], reference: list[np.ndarray], positions: np.ndarray) -> dict[str, Any]:
        """Of Dice."""
        units = self.split.units[positions]
        first, second = ([p[:, :, 0] for p in side] for side in (scores, reference))
        return paired_difference(None, units, first, second, units)

    def protocol(self, tuning: FineTuning) -> Row:
        """The decoder, as it was named."""
        return {"decoder": tuning.decoder}


def _by_class(values: np.ndarray, found: Masks) -> list[tuple[dict[str, str], np.ndarray]]:
    """(..., K) of all K classes, and where there are several, or the one has a name, of each under its name."""
    names = found.classes[1:]
    each = names if len(names) > 1 or names != (str(found.values[-1]),) else ()
    return [({}, values), *(({"class": name}, values[..., k : k + 1]) for k, name in enumerate(each))]


def _by_patient(values: np.ndarray, units: np.ndarray) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Means of each patient's images, and who they are; nothing where each has one."""
    different, of = np.unique(units, return_inverse=True)
    if len(different) == len(units):
        return []
    of_patient = np.stack([image_means(column, of == np.arange(len(different))[:, None]) for column in values.T], 1)
    return [("patient", of_patient, different)]
