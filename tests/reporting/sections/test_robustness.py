"""The report's sections on corruptions, subgroups and explanations, from made rows."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.report_runs import Page, page, row, write

from scotoma.reporting.build import build


def test_corruptions_are_told_with_the_clean_score_and_the_hidden_share_is_drawn(tmp_path: Path) -> None:
    rows = [row("robustness", "auroc", 0.912, corruption="clean", severity=0)]
    for share in (0.1, 0.5, 0.9):
        rows.append(row("robustness", "auroc_relative_drop", share / 2, corruption="patches", severity=share))
    for name, drop in (("poisson", 0.123), ("all", 0.234), ("patches", 0.3)):
        rows.append(row("robustness", "mean_auroc_relative_drop", drop, corruption=name))
    found = page(tmp_path, rows)
    assert "robustness" in found.ids and "Robustness" in found.text
    told = ("0.912", "Photon (Poisson) noise 0.123 [0.103, 0.143]", "Mean over corruptions 0.234", "Masking part of the image.")
    for words in told:
        assert words in found.text, words
    assert "0.300" not in found.text, "hidden patches stand in the figure, not among the corruptions"
    assert not {"subgroups", "explanations"} & set(found.ids)


def test_subgroups_tell_small_ones_and_what_chance_would_give(tmp_path: Path) -> None:
    rows = []
    for name, value, small in (("F", 0.91, False), ("M", 0.71, False), ("unknown", 0.55, True)):
        rows.append(row("subgroups", "auroc", value, column="sex", subgroup=name, patients=80, n=120, small=small))
    rows.append(row("subgroups", "auroc_gap", 0.2, half=0.1, column="sex", highest="F", lowest="M"))
    rows.append(row("subgroups", "auroc", 0.8, column="view", subgroup="PA", patients=90, n=90, small=False))
    rows.append(row("subgroups", "auroc_gap", 0.05, half=0.05, column="view", highest="PA", lowest="AP"))
    found = page(tmp_path, rows)
    for words in (
        "by sex",
        "unknown (small) 80 120 0.550",
        "AUROC: largest gap 0.200 (95 % interval 0.100 to 0.300), highest for F, lowest for M; more than chance alone would give.",
        "highest for PA, lowest for AP; no more than chance may give.",
    ):
        assert words in found.text.replace("\u00a0", " "), words
    assert "F (small)" not in found.text


def test_an_explanation_that_fails_the_randomisation_test_is_marked(tmp_path: Path) -> None:
    rows = []
    for name, passed in (("saliency", 1.0), ("guided_grad_cam", 0.0)):
        rows.append(row("explain", "deletion", 0.31, explanation=name))
        rows.append(row("explain", "pointing_game", 0.82, explanation=name))
        rows.append(row("explain", "sanity_passed", passed, half=0, explanation=name, n=64))
    rows.append(row("explain", "sanity_passed", 0.46, half=0.1, explanation="occlusion", n=32))
    rows.append(row("explain", "deletion", 0.61, explanation="random map"))
    rows.append(row("explain", "agreement", 0.987, explanation="saliency", other="guided_grad_cam"))
    found = page(tmp_path, rows)
    for words in (
        "Pointing game",
        "0.820",
        "0.310 [0.290, 0.330] 0.820 [0.800, 0.840] ✓",
        "0.820 [0.800, 0.840] ✗",
        "Randomisation test: share of images passed",
        "✗ 0.460 [0.360, 0.560] n = 32",
        "Left out, so that n is smaller, are images of which either network's map is constant",
        "Do not show these maps as evidence: guided grad cam, occlusion failed the randomisation test.",
    ):
        assert words in found.text, words
    assert "saliency failed" not in found.text and "0.987" in found.text and "No better" not in found.text


def test_an_explanation_no_better_than_the_random_map_is_no_evidence(tmp_path: Path) -> None:
    rows = []
    for name, deletion, insertion in (("saliency", 0.31, 0.69), ("guided_grad_cam", 0.558, 0.689), ("random map", 0.504, 0.688),
                                      ("occlusion", 0.504, 0.6)):  # fmt: skip
        rows.append(row("explain", "deletion", deletion, explanation=name))
        rows.append(row("explain", "insertion", insertion, explanation=name))
        if name != "random map":
            rows.append(row("explain", "sanity_passed", 1.0, half=0, explanation=name))
    text = page(tmp_path, rows).text
    assert (
        "Do not show these maps as evidence: guided grad cam, occlusion: no better than the random map by deletion; occlusion: no "
        "better than the random map by insertion."
    ) in text


def test_corruption_errors_stand_beside_those_of_a_baseline(tmp_path: Path) -> None:
    def tested(name: str, method: str, errors: dict[str, tuple[float, float]], n: int = 100) -> Path:
        rows = [row("robustness", "auroc", 0.9, corruption="clean", severity=0, n=n)]
        for corruption, pair in errors.items():
            for severity, error in enumerate(pair, 1):
                rows.append(row("robustness", "auroc", 1 - error, corruption=corruption, severity=severity, n=n))
            rows.append(row("robustness", "mean_auroc_relative_drop", 0.05, corruption=corruption, n=n))
        return write(tmp_path / name, [{**r, "method": method} for r in rows], {"command": "evaluate"})

    own = tested("own", "simclr", {"jpeg": (0.1, 0.2), "gamma": (0.2, 0.2), "patches": (0.4, 0.4)})
    base = tested("base", "random", {"jpeg": (0.2, 0.4), "gamma": (0.1, 0.1), "patches": (0.1, 0.1)})
    elsewhere = tested("elsewhere", "mae", {"jpeg": (0.1, 0.2), "gamma": (0.2, 0.2)}, n=50)
    text = Page(build([own, base, elsewhere], tmp_path / "both.html").read_text()).text
    # jpeg: 0.3 / 0.6, gamma: 0.4 / 0.2; patches hidden are no corruption; other test images cannot be compared
    assert "Corruption error relative to Random weights 1.250 1.000 \u2013" in text
    assert "divided by that of Random weights" in text
    assert "Corruption error" not in Page(build([own]).read_text()).text, "one classifier has nothing to stand beside"


@pytest.mark.parametrize(
    ("target", "classes", "words"), [("covid", ("0", "1"), " AUROC"), ("effusion,nodule", ("effusion", "nodule"), "macro AUROC")]
)
def test_the_auroc_of_two_classes_is_one_and_of_two_findings_a_mean(
    target: str, classes: tuple[str, ...], words: str, tmp_path: Path
) -> None:
    common = {"target": target, "fraction": 1.0, "labels": 50, "n": 90}
    rows = [row("metrics", "auroc", 0.8, **common), *(row("metrics", "auroc", 0.8, **common, **{"class": c}) for c in classes)]
    text = page(tmp_path, rows).text
    assert words in text and ("macro AUROC" in text) == (words == "macro AUROC")
