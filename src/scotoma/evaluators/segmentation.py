"""Regions that a segmenter finds on the test rows: Dice, IoU, sensitivity, precision and 95 % Hausdorff distance, by region."""

from __future__ import annotations

import numpy as np

from scotoma.data.encoder_header import EncoderInfo
from scotoma.data.labels import masks
from scotoma.data.labels.masks import Regions
from scotoma.errors import UsageError
from scotoma.evaluators.base import Context, Row
from scotoma.metrics.classification import mean_of_known
from scotoma.metrics.segmentation import OVERLAPS
from scotoma.models.segmentation_decoders import Decoder
from scotoma.run_folder import Run
from scotoma.tasks.segmentation import evaluate as score
from scotoma.tasks.segmentation import predict, summary
from scotoma.visualization.plots import outlined

PROTOCOL = 1
NEEDED = "--with segmentation needs a segmenter: name a run of finetune --target mask_path"
TRAINS = False
SHOWN = 6


def require(info: EncoderInfo) -> None:
    """Refuse weights that are no segmenter's, as their header says, before data are read."""
    if not info.decoder:
        raise UsageError(NEEDED)


def evaluate(context: Context) -> list[Row]:
    """Rows of every metric: over regions, by region, and where patients have several images over patients (``unit``).

    Raises:
        UsageError: the model is no segmenter, or the target is none of regions.
    """
    _, _, test = _parts(context)
    return summary(_scores(context), context.split.units[test], context.info.classes)


def figures(context: Context, run: Run) -> None:
    """Test images from the worst found to the best, with outlines of what is there and of what was found."""
    decoder, truth, test = _parts(context)
    dice = np.nan_to_num(mean_of_known(_scores(context)[:, :, OVERLAPS.index("dice")]), nan=-1)
    order = np.argsort(dice, kind="stable")
    shown = order[np.unique(np.linspace(0, len(order) - 1, SHOWN).astype(int))]
    rows = context.dataset.table["row"].to_numpy()
    maps = np.concatenate([m for m, _ in predict(context.encoder, decoder, context.info, context.store, rows, test[shown])])
    images = context.store.batch(rows[test[shown]]).transpose(0, 2, 3, 1) / 255.0
    titles = [f"Dice {dice[i]:.2f}" if dice[i] >= 0 else "nothing to find" for i in shown]
    caption = (
        f"{len(shown)} of {len(test)} test images, from the worst Dice coefficient to the best in even steps, each alone and "
        "with outlines: solid where an expert drew the region, dashed where the model finds it."
    )
    figure = outlined(images, truth.maps(test[shown]), maps, titles)
    run.figure("segmentation", figure, "Regions found, from the worst image to the best", caption, "results")


def _parts(context: Context) -> tuple[Decoder, Regions, np.ndarray]:
    """Decoder, label maps, and the test rows that have one that can be read."""
    decoder, info = context.head, context.info
    if not isinstance(decoder, Decoder):
        raise UsageError(NEEDED)
    if not context.target.regional:
        raise UsageError("--with segmentation finds regions: leave --target out, or say --target mask_path")
    found = masks.read(context.dataset, context.store.side, info.classes)
    test = context.test[found.at[context.test] >= 0]
    if not len(test):
        raise UsageError("no test row has a mask that can be read")
    return decoder, found, test


def _scores(context: Context) -> np.ndarray:
    decoder, truth, test = _parts(context)
    rows = context.dataset.table["row"].to_numpy()
    return context.once("overlaps", lambda: score(context.encoder, decoder, context.info, context.store, rows, truth, test))
