"""A method's inputs: the description of its images, and what it requires of a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from scotoma.data.modalities import modality
from scotoma.transforms.augmentation import Augmentation


@dataclass(frozen=True)
class Column:
    """A column of the table that a method predicts or takes as input.

    Args:
        name: of the column.
        classes: of a categorical one, whose values are class ids; empty for numbers, which are standardised.
        mean: what was subtracted of numbers.
        std: what they were divided by.
    """

    name: str
    classes: tuple[str, ...] = ()
    mean: float = 0.0
    std: float = 1.0


@dataclass(frozen=True)
class Requirements:
    """What a batch must bring beside the images.

    Args:
        labels: ``batch["targets"]``, the target's classes or 0/1 labels.
        unlabelled: with labels, images without one too.
        columns: ``batch["columns"]`` (B, K) float32, NaN where missing: these columns, described by ``Inputs.columns``.
        pairs: ``paired_images``, to ``views``: for each image another that has the same value in this column (``patient``), or
            lies in the same band of so many units (``age:10``); itself where there is none. ``next:study``: the one that follows it
            in its study or, half the time, one that does not; ``batch["follows"]`` (B,) states which by 1 and 0.
        masks: ``masks``, to ``views``: (B, 1, H, W) uint8, above 0 in the mask of ``mask_path``; all 0 where there is none.
    """

    labels: bool = False
    unlabelled: bool = False
    columns: tuple[str, ...] = ()
    pairs: str = ""
    masks: bool = False


@dataclass(frozen=True)
class Inputs:
    """Description of a method's images.

    Args:
        image_size: input size of the encoder, pixels.
        in_chans: channels.
        mean: mean a channel of the training pixels in [0, 1].
        std: standard deviation a channel.
        modality: a key of ``scotoma.data.modalities.MODALITIES``.
        outputs: classes of a categorical target, or number of 0/1 targets; 0 without targets.
        class_weights: weight of each class (or of the positives of each 0/1 target) in the loss; empty for none.
        soft: whether a categorical target comes as (B, C) shares of annotators, not as (B,) class ids.
        images: how many different ones there are to train on; ``batch["positions"]`` (B,) numbers them from 0.
        columns: those that the method requires.
        trained: whether the encoder starts from trained weights (``--init``), which a method must not initialise anew.
    """

    image_size: int
    in_chans: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    modality: str = "grey"
    outputs: int = 0
    class_weights: tuple[float, ...] = ()
    soft: bool = False
    images: int = 0
    columns: tuple[Column, ...] = ()
    trained: bool = False

    def augmentation(self, **changes: Any) -> Augmentation:
        """A random view of these images, as its modality allows."""
        return Augmentation(self.image_size, self.mean, self.std, modality(self.modality), **changes)
