"""Masks that a segmenter predicts of the test rows: Dice, IoU, sensitivity, precision and 95 % Hausdorff distance, by class."""

from __future__ import annotations

import numpy as np

from scotoma.data.encoder_header import EncoderInfo
from scotoma.errors import UsageError
from scotoma.evaluators.base import Context, Row
from scotoma.metrics.classification import mean_of_known
from scotoma.metrics.segmentation import OVERLAPS
from scotoma.models.segmentation_decoders import SegmentationDecoder
from scotoma.run_folder import Run
from scotoma.tasks.segmentation import Segmentation
from scotoma.visualization.plots import draw_outlines

PROTOCOL = 2
NEEDED = "--with segmentation needs a segmenter: name a run of finetune --target mask_path"
TRAINS = False
SHOWN = 6


def require(info: EncoderInfo) -> None:
    """Refuse weights that are no segmenter's, as their header states, before data are read."""
    if not info.decoder:
        raise UsageError(NEEDED)


def evaluate(context: Context) -> list[Row]:
    """Rows of every metric: over classes, by class, and where patients have several images over patients (``unit``).

    Raises:
        UsageError: the model is no segmenter, or the target is none of masks.
    """
    task, test = _parts(context)
    context.keep(_scores(context), test)
    return task.summarise(_scores(context), test)


def figures(context: Context, run: Run) -> None:
    """Test images from the worst found to the best, with outlines of what is there and of what was found."""
    task, test = _parts(context)
    dice = np.nan_to_num(mean_of_known(_scores(context)[:, :, OVERLAPS.index("dice")]), nan=-1)
    order = np.argsort(dice, kind="stable")
    shown = order[np.unique(np.linspace(0, len(order) - 1, SHOWN).astype(int))]
    maps = task.outputs(context.model, test[shown])
    images = context.store.batch(task.rows[test[shown]]).transpose(0, 2, 3, 1) / 255.0
    titles = [f"Dice {dice[i]:.2f}" if dice[i] >= 0 else "nothing to find" for i in shown]
    caption = (
        f"{len(shown)} of {len(test)} test images, from the worst Dice coefficient to the best in even steps, each alone and "
        "with outlines: solid where an expert drew the mask, dashed where the model predicts it."
    )
    figure = draw_outlines(images, task.masks.maps(test[shown]), maps, titles)
    run.figure("segmentation", figure, "Predicted masks, from the worst image to the best", caption, "results")


def _parts(context: Context) -> tuple[Segmentation, np.ndarray]:
    """The task, and the test rows whose label map can be read."""
    if not isinstance(context.head, SegmentationDecoder):
        raise UsageError(NEEDED)
    task = context.task
    if not isinstance(task, Segmentation):
        raise UsageError("--with segmentation predicts masks: leave --target out, or use --target mask_path")
    if context.target.mask_classes:
        raise UsageError("the model knows its classes: leave --classes out")
    test = task.examples_with_maps("test")
    if not len(test):
        raise UsageError("no test row has a mask that can be read")
    return task, test


def _scores(context: Context) -> np.ndarray:
    task, test = _parts(context)
    return context.once("overlaps", lambda: task.measure(context.model, test))


def is_headline(row: Row) -> bool:
    """Whether a row stands in the short table: of images, over classes and of each."""
    return row["unit"] == "image" and row["metric"] in ("dice", "iou", "hausdorff95")
