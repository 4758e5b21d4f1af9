"""What ``finetune``, ``evaluate`` and ``study`` do with regions: an encoder and a few masks -> a segmenter, and its label maps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scotoma.data.datamodule import DataModule
from scotoma.data.encoder_header import EncoderInfo
from scotoma.data.labels import masks
from scotoma.data.labels.masks import Regions
from scotoma.data.labels.targets import MASKS
from scotoma.data.splits.label_draws import Draw
from scotoma.data.store.store import Store
from scotoma.errors import UsageError
from scotoma.methods.base import Batch, Method, Views, decay_groups
from scotoma.methods.parts.inputs import Inputs
from scotoma.methods.parts.losses import segmentation
from scotoma.methods.supervised import Supervised, still
from scotoma.metrics.bootstrap import bootstrap_weights, estimate, image_means, mean_over_draws
from scotoma.metrics.segmentation import OVERLAPS, scores
from scotoma.models import segmentation_decoders
from scotoma.models.encoders import freeze, layer_groups
from scotoma.models.precision import automatic_precision
from scotoma.models.segmentation_decoders import Decoder, maps
from scotoma.rng import KeyedRNG
from scotoma.run_folder import Row, Run
from scotoma.tasks.base import Recipe
from scotoma.training.trainer import Batches, cost_rows
from scotoma.transforms.augmentation import plain

ARGUMENTS = ("min_scale", "jitter", "trained_stages", "layer_decay")  # those of ``Supervised`` that mean something here
MONITORS = ("loss", "dice")
AT_A_TIME = 8


class Segmenter(Method):
    """Cross-entropy and Dice loss of a decoder on an encoder's maps, under mild augmentation.

    Args:
        encoder: the network whose maps are decoded.
        inputs: what the images are.
        decoder: behind it.
        codes: (256,) int64, stored value of a label map -> class.
        frozen: leave the encoder as it is.
        min_scale: smallest share of the image that a crop keeps.
        jitter: strength of brightness, contrast and gamma changes.
        trained_stages: train only so many of the encoder's last stages; 0 trains all.
        layer_decay: factor on the learning rate from each layer of the encoder to the one before it; 1 for none.
    """

    warmup = Supervised.warmup
    codes: Tensor

    def __init__(self, encoder: nn.Module, inputs: Inputs, decoder: Decoder, codes: np.ndarray, frozen: bool = False,
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

    def views(self, images: Tensor, rng: KeyedRNG, regions: Tensor | None = None) -> Views:
        """One mildly changed view, and the classes of its pixels under the same warp, 0 beyond the image."""
        assert regions is not None
        drawn = self.augment.sample(rng)
        stored = self.augment.apply_to_labels(regions, drawn)[:, 0].long()
        return {"view": self.augment.apply(images, drawn), "labels": self.codes[stored]}

    def loss(self, views: Views, batch: Batch) -> dict[str, Tensor]:
        """Of the logits at the view's side."""
        return {"loss": segmentation(self.decoder(maps(self.encoder, views["view"]), views["view"]), views["labels"])}


class Job:
    """A segmenter to be trained as ``finetune`` is asked to; made before anything is written.

    Args:
        network: the encoder.
        info: of it.
        material: the images and their label maps.
        drawn: whose label maps may be seen.
        recipe: how.
        decoder: its name, or ``auto``.
        quiet: no progress bar.

    Raises:
        UsageError: the recipe or the decoder does not go with these data or this network.
    """

    evaluator = "segmentation"

    def __init__(self, network: nn.Module, info: EncoderInfo, material: DataModule, drawn: Draw, recipe: Recipe, decoder: str,
                 quiet: bool) -> None:  # fmt: skip
        self.network, self.recipe, self.quiet = network, recipe, quiet
        self.store, self.rows, self.split = material.store, material.rows, material.split
        self.regions = masks.read(material.dataset, self.store.side, quiet=quiet)
        readable = self.regions.at >= 0
        self.drawn = replace(drawn, train=drawn.train[readable[drawn.train]], val=drawn.val[readable[drawn.val]])
        check(recipe, self.drawn)
        name = segmentation_decoders.choose(decoder, network)
        torch.manual_seed(recipe.seed)
        self.head = segmentation_decoders.Decoder(name, network, info, len(self.regions.values))
        self.info = replace(info, targets=(MASKS,), classes=self.regions.classes, decoder=name)

    def train(self, run: Run | None) -> list[Row]:
        """Train encoder and decoder; rows of what that took."""
        info, positions = self.info, self.drawn.train
        inputs = Inputs(
            info.image_size, info.in_chans, info.mean, info.std, info.modality, len(info.classes), images=len(positions)
        )  # fmt: skip
        method = Segmenter(self.network, inputs, self.head, self.regions.codes, self.recipe.frozen, **arguments(self.recipe))
        batches = Batches(self.store, self.rows[positions], regions=(self.regions.store, self.regions.at[positions]))
        trained, plan = self.recipe.train(method, batches, info.image_size, lambda _: self.score(), run, self.quiet)
        self.network, self.head = self.network.cpu(), self.head.cpu()
        return cost_rows(trained, plan, method, len(positions), 0.0)

    def score(self) -> float:
        """What is monitored of the draw's validation rows, higher being better: the mean Dice, or the loss with its sign turned."""
        chosen = self.drawn.val
        if self.recipe.monitor == "dice":
            dice = self.evaluate(chosen)[:, :, OVERLAPS.index("dice")]
            return -float("inf") if np.isnan(dice).all() else float(np.nanmean(dice))
        parts = logits(self.network, self.head, self.info, self.store, self.rows, chosen)
        losses = [float(segmentation(found, torch.from_numpy(self.regions.maps(part)))) * len(part) for found, part in parts]
        return -sum(losses) / len(chosen)

    def evaluate(self, chosen: np.ndarray) -> np.ndarray:
        """Scores of these rows, as `evaluate` gives them."""
        return evaluate(self.network, self.head, self.info, self.store, self.rows, self.regions, chosen)

    def validate(self) -> list[Row]:
        """Metrics of all validation rows that have label maps."""
        val = self.split.rows("val")
        val = val[self.regions.at[val] >= 0]
        return summary(self.evaluate(val), self.split.units[val], self.info.classes) if len(val) else []


def arguments(recipe: Recipe) -> dict[str, Any]:
    """Arguments of the segmenter among those of the recipe.

    Raises:
        UsageError: one of the others is not at its default.
    """
    for name in recipe.encoder_args:
        if name not in ARGUMENTS:
            raise UsageError(f"--method.{name} is for classifiers: of regions there are {', '.join(ARGUMENTS)}")
    return recipe.encoder_args


def check(recipe: Recipe, drawn: Draw) -> None:
    """Refuse a recipe before anything is written.

    Raises:
        UsageError: an argument does not go with regions, or validation masks are needed and there are none.
    """
    arguments(recipe)
    recipe.require(MONITORS, len(drawn.val), sampling=False)
    if not len(drawn.train):
        raise UsageError("no training row has a mask that can be read")


def evaluate(encoder: nn.Module, decoder: Decoder, info: EncoderInfo, store: Store, rows: np.ndarray, regions: Regions,
             chosen: np.ndarray) -> np.ndarray:  # fmt: skip
    """(n, regions, len(OVERLAPS)) scores of every image of these rows, NaN where it has no map; distances in pixels of its file.

    Compared at the store's side, which is finer than what the network sees: its logits are interpolated, not the masks.
    """
    known = regions.at[chosen] >= 0
    found = np.full((len(chosen), len(regions.values) - 1, len(OVERLAPS)), np.nan)
    parts = predict(encoder, decoder, info, store, rows, chosen[known])
    pairs = (pair for maps, part in parts for pair in zip(maps, regions.maps(part), strict=True))
    for i, (predicted, truth) in zip(np.flatnonzero(known), pairs, strict=True):
        found[i] = scores(predicted, truth, len(regions.values))
    facts = store.facts.iloc[rows[chosen]]
    longest = np.maximum(facts["height"], facts["width"]).to_numpy(float)
    found[:, :, OVERLAPS.index("hausdorff95")] *= (longest / store.side)[:, None]
    return found


def summary(found: np.ndarray, units: np.ndarray, classes: tuple[str, ...]) -> list[Row]:
    """Rows of scores (n, regions, len(OVERLAPS)): means over images, of each region and over all, with intervals over patients.

    Where patients have several images there are also means over patients (``unit`` patient), each counting once.
    """
    weights = np.pad(bootstrap_weights(units), ((1, 0), (0, 0)), constant_values=1)
    rows: list[Row] = []
    for m, metric in enumerate(OVERLAPS):
        for unit, values, w, people in (("image", found[:, :, m], weights, units), *_by_patient(found[:, :, m], units)):
            for label, part in _by_region(values, classes):
                known = (~np.isnan(part)).any(1)
                counted = {"metric": metric, "unit": unit, "n": int(known.sum())}
                rows.append({**counted, **label, **estimate(image_means(part, w), people[known])})
    return rows


def draw_rows(found: np.ndarray, drawn: Draw) -> list[Row]:
    """Means over images and regions of one draw's segmenter, a row a metric."""
    common = {"fraction": drawn.fraction, "seed": drawn.seed, "labels": len(drawn.train), "n": len(found)}
    once = np.ones((1, len(found)))
    return [{**common, "metric": name, "value": float(image_means(found[:, :, m], once)[0])} for m, name in enumerate(OVERLAPS)]


def fraction_rows(found: list[np.ndarray], units: np.ndarray, classes: tuple[str, ...], fraction: float, labels: int) -> list[Row]:
    """What the segmenters of all draws of one fraction show together: means with intervals, over regions and of each."""
    common = {"fraction": fraction, "labels": labels}
    return [
        {**common, "metric": metric, **label, **mean_over_draws(None, units, list(parts), units)}
        for m, metric in enumerate(OVERLAPS)
        for label, parts in _by_region(np.stack(found)[:, :, :, m], classes)
    ]


def _by_region(values: np.ndarray, classes: tuple[str, ...]) -> list[tuple[dict[str, str], np.ndarray]]:
    """(..., regions) of all regions, and where there are several of each one, under its name."""
    several = classes[1:] if len(classes) > 2 else ()
    return [({}, values), *(({"class": name}, values[..., k : k + 1]) for k, name in enumerate(several))]


def _by_patient(values: np.ndarray, units: np.ndarray) -> list[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """Means of each patient's images, the bootstrap over patients, and who they are; nothing where each has one."""
    different, of = np.unique(units, return_inverse=True)
    if len(different) == len(units):
        return []
    of_patient = np.stack([image_means(column, of == np.arange(len(different))[:, None]) for column in values.T], 1)
    return [("patient", of_patient, np.pad(bootstrap_weights(different), ((1, 0), (0, 0)), constant_values=1), different)]


def predict(encoder: nn.Module, decoder: Decoder, info: EncoderInfo, store: Store, rows: np.ndarray,
            chosen: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:  # fmt: skip
    """Label maps (b, side, side) uint8 of these rows at the store's side, and which rows they are, part by part."""
    for found, part in logits(encoder, decoder, info, store, rows, chosen):
        yield found.argmax(1).to(torch.uint8).numpy(), part


@torch.no_grad()
def logits(encoder: nn.Module, decoder: Decoder, info: EncoderInfo, store: Store, rows: np.ndarray,
           chosen: np.ndarray) -> Iterator[tuple[Tensor, np.ndarray]]:  # fmt: skip
    """Logits (b, classes, side, side) of these rows at the store's side, on the CPU, and which rows they are, part by part."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for network in (encoder, decoder):
        network.to(device).to(memory_format=torch.channels_last).eval()
    precise = automatic_precision(info.image_size) == "bf16-mixed"
    for start in range(0, len(chosen), AT_A_TIME):
        part = chosen[start : start + AT_A_TIME]
        images = plain(torch.from_numpy(store.batch(rows[part])).to(device), info.image_size, info.mean, info.std)
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=precise):
            found = decoder(maps(encoder, images), images)
        yield F.interpolate(found, (store.side, store.side), mode="bilinear", align_corners=False).cpu(), part
