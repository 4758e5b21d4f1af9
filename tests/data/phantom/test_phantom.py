"""The phantoms: repeatable, true to what they claim, neither trivial nor invisible."""

from __future__ import annotations

import subprocess
import sys
from functools import lru_cache

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from scotoma.data.phantom.phantom import LABELS, Phantom, draw, render, table, truth
from scotoma.data.phantom.radiograph import Painter

N = 1200


@lru_cache(maxsize=1)
def series() -> list[Phantom]:
    return [draw(11, index) for index in range(N)]


def column(name: str) -> np.ndarray:
    return np.array([p.truth[name] for p in series()])


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def width(mask: np.ndarray) -> int:
    columns = np.flatnonzero(mask.any(0))
    return int(columns[-1] - columns[0] + 1)


def test_same_arguments_same_image_in_any_order() -> None:
    forward = [draw(5, index) for index in range(8)]
    for index in (6, 1, 7, 0):
        again = draw(5, index)
        assert np.array_equal(again.pixels, forward[index].pixels)
        assert again.truth == forward[index].truth
        assert all(np.array_equal(again.masks[name], forward[index].masks[name]) for name in again.masks)
    assert not np.array_equal(draw(6, 0).pixels, forward[0].pixels)
    assert not np.array_equal(forward[0].pixels, forward[1].pixels)


def test_two_processes_draw_the_same_pixels() -> None:
    code = "from scotoma.data.phantom.phantom import draw; import zlib; print(zlib.crc32(draw(5, 4).pixels.tobytes()))"
    assert python(code) == python(code)


def test_truth_needs_no_painting() -> None:
    assert all(truth(11, index) == series()[index].truth for index in range(0, N, 7))


def test_pixels_are_uint8_that_use_their_range_without_clipping() -> None:
    pixels = np.stack([p.pixels for p in series()])
    assert pixels.dtype == np.uint8
    assert pixels.shape == (N, 128, 128)
    low, high = np.percentile(pixels.reshape(N, -1), (2, 98), axis=1)
    assert (high - low).min() > 100
    assert (pixels == 0).mean() < 0.01
    assert (pixels == 255).mean() < 0.01
    assert 90 < pixels.mean() < 165


def test_side_changes_only_the_raster() -> None:
    for index in range(12):
        small, large = draw(2, index, 128), draw(2, index, 256)
        assert small.truth == large.truth
        for name in ("heart", "lungs", "lesion"):
            pooled = large.masks[name].reshape(128, 2, 128, 2).mean((1, 3))
            sure = (pooled == 0) | (pooled == 1)
            edge = small.masks[name] != (pooled > 0.5)
            assert sure.mean() > 0.9
            assert (edge & sure).sum() <= 2
        shrunk = large.pixels.reshape(128, 2, 128, 2).mean((1, 3))
        assert np.corrcoef(shrunk.ravel(), small.pixels.ravel())[0, 1] > 0.99


def test_prevalences_and_cardiomegaly_by_the_true_ratio() -> None:
    rows = table(6000, seed=3)
    share = rows[list(LABELS)].mean()
    expected = {"cardiomegaly": 0.30, "nodule": 0.30, "effusion": 0.20, "pneumothorax": 0.12}
    assert {name: share[name] for name in LABELS} == pytest.approx(expected, abs=0.03)
    assert ((rows.ctr > 0.5) == (rows.cardiomegaly == 1)).all()
    assert (rows.sex == "F").mean() == pytest.approx(0.48, abs=0.04)
    assert (rows.view == "AP").mean() == pytest.approx(0.32, abs=0.06)
    assert rows.age.between(18, 100).all()
    # What the module states depends on nothing must not be readable from the rest of the table.
    assert rows[["nodule", "pneumothorax"]].corrwith(rows.age).abs().max() < 0.06
    assert abs(np.corrcoef(rows.nodule, rows.view == "AP")[0, 1]) < 0.06


def test_patients_come_back_with_their_anatomy() -> None:
    rows = table(3000, seed=9)
    by = rows.groupby("patient")
    assert rows.study.is_unique
    assert set(by.size()) == {1, 2, 3}
    assert (by.frame.max() - by.frame.min() == by.size() - 1).all()
    assert (by.sex.nunique() == 1).all()
    assert (by.age.max() - by.age.min()).max() <= 3
    assert by.age.is_monotonic_increasing.all()
    assert (by.ctr.max() - by.ctr.min()).max() < 0.09
    assert by.nodule.nunique().max() == 2
    assert not set(rows.patient) & set(table(30, seed=10).patient)

    # A film looks more like the same patient's next film than like the next patient's, finer than pose can explain.
    images = [p.pixels.astype(np.float64).reshape(32, 4, 32, 4).mean((1, 3)) for p in series()[:300]]
    patients = column("patient")[:300]
    same, other = [], []
    for first, second in zip(range(299), range(1, 300), strict=True):
        alike = np.corrcoef(images[first].ravel(), images[second].ravel())[0, 1]
        (same if patients[first] == patients[second] else other).append(alike)
    assert np.mean(same) > np.mean(other) + 0.01


def test_painted_heart_is_the_true_ratio_magnified_on_ap() -> None:
    shown, true, ap = [], column("ctr").astype(float), column("view") == "AP"
    for p in series():
        heart, lungs = p.masks["heart"], p.masks["lungs"]
        assert heart.any()
        assert lungs.any()
        assert not (heart & lungs).any()
        shown.append(width(heart) / width(lungs))
    ratio = np.array(shown) / true
    assert np.median(ratio[~ap]) == pytest.approx(1.0, abs=0.03)
    assert np.percentile(ratio[~ap], (2, 98)) == pytest.approx((1, 1), abs=0.08)
    assert np.median(ratio[ap]) == pytest.approx(1.16, abs=0.03)
    assert np.percentile(ratio[ap], 2) > 1.05
    # The heart's shadow lies to the patient's left.
    centres = [np.nonzero(p.masks["heart"])[1].mean() - np.nonzero(p.masks["lungs"])[1].mean() for p in series()[:100]]
    assert np.mean(centres) > 2


def test_lesion_masks_follow_the_labels() -> None:
    for p in series()[:600]:
        lesion = p.masks["lesion"]
        assert set(np.unique(lesion)) <= {0, 1}
        findings = [p.truth[name] for name in LABELS[1:]]
        if not any(findings):
            assert not lesion.any()
        if findings == [1, 0, 0]:
            # Radius 4 to 9 mm where the film is some 350 mm wide.
            assert 3 <= lesion.sum() <= 50
            assert width(lesion) <= 9
        if findings in ([0, 1, 0], [0, 0, 1]):
            assert not (lesion & ~p.masks["lungs"] & 1).any()


def test_a_known_nodule_is_denser_than_what_surrounds_it() -> None:
    gy, gx = np.mgrid[:128, :128]
    contrast = []
    for p in series():
        if [p.truth[name] for name in LABELS[1:]] != [1, 0, 0]:
            continue
        inside = p.masks["lesion"] > 0
        y, x = np.nonzero(inside)
        away = np.hypot(gx - x.mean(), gy - y.mean())
        radius = np.sqrt(inside.sum() / np.pi)
        ring = (away > radius + 1.5) & (away < radius + 5)
        contrast.append((p.pixels[inside].mean() - p.pixels[ring].mean()) / p.pixels[ring].std())
    assert len(contrast) > 150
    assert np.mean(contrast) > 1.0
    assert np.mean(np.array(contrast) > 0) > 0.8


def test_free_air_is_darker_and_fluid_brighter_than_the_other_side() -> None:
    mirrored = {"effusion": [], "pneumothorax": []}
    for p in series():
        for name, found in mirrored.items():
            if p.truth[name] and sum(int(p.truth[other]) for other in LABELS[1:]) == 1:
                inside = (p.masks["lesion"] > 0) & (p.masks["lungs"][:, ::-1] > 0)
                if inside.sum() > 20:
                    found.append(p.pixels[inside].mean() - p.pixels[:, ::-1][inside].mean())
    assert np.median(mirrored["effusion"]) > 25
    assert np.median(mirrored["pneumothorax"]) < -3


def test_what_pixels_alone_can_tell() -> None:
    pixels = np.stack([p.pixels for p in series()]).astype(np.float32)
    small = pixels.reshape(N, 32, 4, 32, 4).mean((2, 4)).reshape(N, -1)
    middle = pixels.reshape(N, 64, 2, 64, 2).mean((2, 4)).reshape(N, -1)
    cut = 798  # a multiple of 6: no patient on both sides
    assert not set(column("patient")[:cut]) & set(column("patient")[cut:])

    def auroc(features: np.ndarray, target: np.ndarray, parts: int | None) -> float:
        reduce = [PCA(parts, random_state=0)] if parts else []
        model = make_pipeline(*reduce, StandardScaler(), LogisticRegression(C=1.0 if parts else 1e-3, max_iter=300))
        model.fit(features[:cut], target[:cut])
        return float(roc_auc_score(target[cut:], model.decision_function(features[cut:])))

    nodule = column("nodule").astype(int)
    assert auroc(small, nodule, 60) < 0.8
    assert auroc(middle, nodule, None) < 0.8
    assert 0.65 < auroc(small, column("sex") == "F", 60) < 0.97
    assert 0.6 < auroc(small, column("age").astype(int) > 55, 60) < 0.97
    assert 0.75 < auroc(small, column("cardiomegaly").astype(int), 60) < 0.99


def test_table_and_image_speak_of_the_same_things() -> None:
    rows = table(5, seed=4)
    assert list(rows.columns[:4]) == ["image_path", "frame", "patient", "study"]
    assert list(table(0).columns) == list(rows.columns)
    for row in rows.itertuples():
        drawn = draw(4, row.frame, 64)
        assert np.array_equal(render(row.image_path, row.frame, 64), drawn.pixels)
        assert np.array_equal(render(row.mask_path, row.frame, 64), drawn.masks["lesion"])
        assert np.array_equal(render("phantom:4#heart", row.frame, 64), drawn.masks["heart"])
        assert {name: getattr(row, name) for name in drawn.truth} == drawn.truth


@pytest.mark.parametrize("path", ["phantom:", "phantom:-1", "phantom:x", "phantom:1#bone", "scan.png", "phantom:1#"])
def test_other_paths_are_refused_in_one_line(path: str) -> None:
    with pytest.raises(ValueError, match=r"write phantom:SEED") as error:
        render(path, 0)
    assert "\n" not in str(error.value)


def test_negative_indices_are_refused() -> None:
    with pytest.raises(ValueError, match="0 or more"):
        render("phantom:1", -1)
    with pytest.raises(ValueError, match="0 or more"):
        truth(-1, 0)


def test_import_needs_numpy_only() -> None:
    code = "import sys, scotoma.data.phantom.phantom; print(sorted({'torch', 'scipy', 'pandas', 'PIL'} & set(sys.modules)))"
    assert python(code) == "[]"


def test_nothing_is_ever_not_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    develop = Painter._develop

    def watched(self: Painter, attenuation: np.ndarray) -> np.ndarray:
        seen.append(bool(np.isfinite(attenuation).all()) and attenuation.dtype == np.float32)
        return develop(self, attenuation)

    monkeypatch.setattr(Painter, "_develop", watched)
    with np.errstate(all="raise", under="ignore"):
        for index in range(60):
            draw(21, index, 96)
    assert seen == [True] * 60
