"""Robustness: a condition is what a classifier predicts for images corrupted one by one; drops are relative to the clean images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from helpers.contexts import context, head
from sklearn.metrics import roc_auc_score

from scotoma.data.splits.splits import Split
from scotoma.evaluators import linear, metrics, robustness, subgroups
from scotoma.evaluators.base import Context
from scotoma.models.encoders import forward_visible
from scotoma.rng import KeyedRNG
from scotoma.transforms.corruptions.base import SEVERITIES, find_corruptions, order_of_patches


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Context:
    """A third of the images is tested on; the two halves of an image differ little, so that noise matters."""
    return context(tmp_path_factory.mktemp("made"), n=160)


@pytest.fixture(scope="module")
def rows(made: Context) -> list[dict[str, object]]:
    return robustness.evaluate(made)


def value(rows: list[dict[str, object]], metric: str, corruption: str, severity: float | None = None) -> float:
    found = [r["value"] for r in rows if (r["metric"], r["corruption"], r.get("severity")) == (metric, corruption, severity)]
    assert len(found) == 1
    return float(found[0])  # type: ignore[arg-type]


def slow_auroc(made: Context, name: str, severity: int) -> float:
    """Decoded by image, without the evaluator."""
    head = linear.head(made)
    test = made.test
    scores = []
    for number in made.dataset.table["row"].to_numpy()[test]:
        x = torch.from_numpy(made.store.batch(np.array([number]))).float() / 255
        x = find_corruptions("xray")[name](x, severity, KeyedRNG(0, 0, torch.tensor([int(number)])).of(name))
        logits = head(made.encoder(x)).detach()
        scores.append(float(logits[0, 1] - logits[0, 0]))
    return float(roc_auc_score(made.target.y[test], scores))


@pytest.mark.parametrize(("name", "severity"), [("gaussian", 5), ("brightness", 3), ("impulse", 4)])
def test_a_condition_equals_images_corrupted_one_by_one(
    made: Context, rows: list[dict[str, object]], name: str, severity: int
) -> None:
    assert value(rows, "auroc", name, severity) == pytest.approx(slow_auroc(made, name, severity), abs=1e-6)


def test_clean_images_are_as_the_linear_probe_finds_them(made: Context, rows: list[dict[str, object]]) -> None:
    clean = next(r for r in linear.evaluate(made) if r["metric"] == "auroc" and "seed" not in r and "class" not in r)
    (found,) = [r for r in rows if r["corruption"] == "clean"]
    assert [found[key] for key in ("value", "low", "high")] == pytest.approx(
        [clean[key] for key in ("value", "low", "high")], abs=1e-9
    )


def test_a_classifier_has_one_value_of_clean_images_whoever_tests_it(tmp_path: Path) -> None:
    """Three classes and a temperature far from 1, whose mean AUROC hangs on it, at a size that trains in bfloat16."""
    made = context(tmp_path, n=160, classes=3, head=head(3))
    made.info = replace(made.info, image_size=48, temperature=3.0, thresholds=(0.4, 0.3, 0.35))
    found = robustness.evaluate(made)
    (clean,) = [r for r in found if r["corruption"] == "clean"]
    (whole,) = [r for r in metrics.evaluate(made) if r["metric"] == "auroc" and "class" not in r]
    assert [clean[key] for key in ("value", "low", "high", "n")] == [whole[key] for key in ("value", "low", "high", "n")]
    made.dataset = replace(made.dataset, table=made.dataset.table.assign(site=np.where(np.arange(160) % 4 < 2, "a", "b")))
    groups = {r["subgroup"]: r for r in subgroups.evaluate(made, resamples=10) if r["metric"] == "auroc" and "class" not in r}
    p, test = metrics.probabilities(made), made.test
    at = made.dataset.table["site"].to_numpy()[test] == "a"
    assert groups["a"]["value"] == pytest.approx(roc_auc_score(made.target.y[test][at], p[test][at], multi_class="ovr"), abs=1e-9)


def test_drops_are_relative_to_the_clean_images(rows: list[dict[str, object]]) -> None:
    clean = value(rows, "auroc", "clean", 0)
    drops = []
    for severity in SEVERITIES:
        drops.append(1 - value(rows, "auroc", "gaussian", severity) / clean)
        assert value(rows, "auroc_relative_drop", "gaussian", severity) == pytest.approx(drops[-1], abs=1e-9)
    assert value(rows, "mean_auroc_relative_drop", "gaussian") == pytest.approx(np.mean(drops), abs=1e-9)
    means = [value(rows, "mean_auroc_relative_drop", name) for name in find_corruptions("xray")]
    assert value(rows, "mean_auroc_relative_drop", "all") == pytest.approx(np.mean(means), abs=1e-9)


def test_intervals_hold_their_values_and_a_drop_is_paired(rows: list[dict[str, object]]) -> None:
    for row in rows:
        if np.isnan(float(row["low"])):  # type: ignore[arg-type]  # no patient moves it
            assert row["value"] == 0 and "drop" in str(row["metric"])
            continue
        assert float(row["low"]) <= float(row["value"]) + 1e-9 and float(row["value"]) <= float(row["high"]) + 1e-9  # type: ignore[arg-type]
    unchanged = [r for r in rows if r["metric"] == "auroc_relative_drop" and r["corruption"] == "contrast" and r["severity"] == 1]
    assert unchanged[0]["value"] == 0 and np.isnan(float(unchanged[0]["low"]))  # type: ignore[arg-type]
    # unpaired it would vary as much as two AUROCs do


def test_hiding_more_costs_more_and_magnetic_corruptions_are_for_magnetic_resonance(
    made: Context, rows: list[dict[str, object]]
) -> None:
    assert value(rows, "auroc_relative_drop", "patches", 0.9) > value(rows, "auroc_relative_drop", "patches", 0.1) - 1e-9
    assert not any(r["corruption"] in ("ghosting", "dropped_tokens") for r in rows)
    few = Split(np.where(np.arange(160) % 8 == 0, "test", made.split.of), made.split.units, "patient", True)
    magnetic = replace(made, info=replace(made.info, modality="mr"), split=few)
    assert any(r["corruption"] == "ghosting" for r in robustness.evaluate(magnetic))


@pytest.mark.parametrize(("side", "patch"), [(32, 16), (32, 8), (64, 16), (96, 16)])
def test_no_share_of_hidden_patches_is_none_or_all(made: Context, side: int, patch: int) -> None:
    x, rng = torch.rand(3, 1, side, side), KeyedRNG(0, 0, torch.arange(3))
    info = replace(made.info, image_size=side, mean=(0.3,))
    for (name, share), images, keep in robustness._conditions(x, info, rng, patch, drop=True):
        hidden = (images == torch.tensor(0.3)).float().mean((1, 2, 3))
        if name == "patches":
            assert ((hidden > 0) & (hidden < 1)).all(), share
        if keep is not None:
            assert 1 <= keep.shape[1] < (side // patch) ** 2, share


def test_tokens_are_dropped_and_pixels_painted_alike(made: Context) -> None:
    """A ViT sees the same patches either way, but painted ones still speak: the two must differ, and each equal its definition."""
    torch.manual_seed(0)
    vit = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, in_chans=1, num_classes=0, depth=2).eval()
    x, rng = torch.rand(3, 1, 32, 32), KeyedRNG(0, 0, torch.arange(3))
    found = {
        c: robustness._features(vit, made.info, images, keep)
        for c, images, keep in robustness._conditions(x, replace(made.info, mean=(0.3,), std=(0.2,)), rng, 8, drop=True)
        if c[0] in ("patches", "dropped_tokens")
    }
    order = order_of_patches(16, rng)
    keep = order[:, 8:].sort(1).values
    expected = vit.forward_head(forward_visible(vit, x, keep))
    assert torch.allclose(found["dropped_tokens", 0.5], expected, atol=1e-5)
    assert not torch.allclose(found["patches", 0.5], found["dropped_tokens", 0.5], atol=0.02)
    painted = x.clone()
    for k in range(3):
        for cell in order[k, :8].tolist():
            painted[k, :, cell // 4 * 8 :, :][:, :8, cell % 4 * 8 : cell % 4 * 8 + 8] = 0.3
    assert torch.allclose(found["patches", 0.5], vit(painted), atol=1e-5)
