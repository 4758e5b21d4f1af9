"""Labels that have nothing to do with the images: no model may be better than chance, and none better than another."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from scotoma.data.datamodule import gather
from scotoma.data.encoder_header import EncoderInfo
from scotoma.data.splits.label_draws import draw
from scotoma.metrics import intervals
from scotoma.models import encoders, linear_probe
from scotoma.models.features import extract

SEEDS = 40


@pytest.mark.long
@pytest.mark.parametrize("fraction", [0.3, 1.0])
def test_permuted_labels_beat_nothing(fraction: float) -> None:
    """Of 40 intervals 36 or more hold 0.5 (probability 95 %), and 0 for the difference of two networks.

    Labels are permuted between the patients of each part of the split. At a share of the labels three draws are probed.
    """
    module = gather(data="phantom:900", target=["cardiomegaly"], size=32, quiet=True)
    target, split = module.target, module.split
    assert target is not None
    rows = module.dataset.table["row"].to_numpy()
    features = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        info = EncoderInfo("resnet10t", {}, 1, 32, (0.4,), (0.25,))
        features.append(extract(encoders.build(info).eval(), info, module.store, rows))
    units, test = split.units, split.rows("test")
    hold_chance = hold_nothing = 0
    for seed in range(SEEDS):
        rng, y = np.random.default_rng(seed), target.y.copy()
        for part in ("train", "val", "test"):
            inside = split.rows(part)
            names, first, of = np.unique(units[inside], return_index=True, return_inverse=True)
            y[inside] = target.y[inside][first][rng.permutation(len(names))][of]
        permuted = replace(target, y=y)
        draws = [draw(permuted, split, fraction, s) for s in range(3 if fraction < 1 else 1)] * (1 if fraction < 1 else 3)
        ours, theirs = ([linear_probe.predict(x, permuted, d, test) for d in draws] for x in features)
        mean = intervals.mean_over_draws("auroc", y[test], ours, units[test])
        difference = intervals.paired_difference("auroc", y[test], ours, theirs, units[test])
        hold_chance += mean["low"] <= 0.5 <= mean["high"]
        hold_nothing += difference["low"] <= 0 <= difference["high"]
    assert hold_chance >= 36 and hold_nothing >= 36, (hold_chance, hold_nothing)
