from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.contexts import context
from sklearn.metrics import average_precision_score
from torchmetrics.retrieval import RetrievalMAP, RetrievalPrecision

from scotoma.data.labels.targets import Target
from scotoma.data.splits.splits import Split
from scotoma.errors import UsageError
from scotoma.evaluators import retrieval
from scotoma.evaluators.base import Context, Row
from scotoma.run_folder import Run

NAMES = ["precision_at_1", "precision_at_5", "precision_at_10", "precision_chance", "map", "map_chance"]


def placed(folder: Path, y: np.ndarray, units: np.ndarray | None = None, features: np.ndarray | None = None) -> Context:
    """Rows with these labels, half training, half test, and features drawn about the classes' centres."""
    rng, n = np.random.default_rng(0), len(y)
    made = context(folder, n)
    kinds = y if y.ndim == 1 else np.nan_to_num(y)[:, 0].astype(int)
    x = rng.normal(size=(n, 6)) + 1.5 * np.eye(6)[kinds] if features is None else features
    classes = tuple("abcdef"[: y.shape[1] if y.ndim == 2 else int(y.max()) + 1])
    of = np.array(["train"] * (n // 2) + ["test"] * (n - n // 2))
    split = Split(of, np.arange(n) if units is None else units, "patient", True)
    made = replace(made, target=Target(classes if y.ndim == 2 else ("t",), classes, y), split=split)
    made.__dict__["features"] = x.astype(np.float32)
    return made


def value(rows: list[Row], metric: str, label: str | None = None) -> float:
    (found,) = [r["value"] for r in rows if r["metric"] == metric and r.get("class") == label]
    return found


def slow(made: Context) -> dict[tuple[str, str | None], float]:
    """Every query by itself, by scikit-learn's average precision."""
    y, x = made.target.y, made.features.astype(float)
    train, test = made.split.rows("train"), made.split.rows("test")
    found: dict[tuple[str, str | None], list[float]] = {}
    for k, label in enumerate(made.target.classes):
        for q in test:
            if (y[q, k] if y.ndim == 2 else y[q] == k) != 1:
                continue
            gallery = [g for g in train if made.split.units[g] != made.split.units[q]]
            gallery = [g for g in gallery if (not np.isnan(y[g, k]) if y.ndim == 2 else y[g] >= 0)]
            right = np.array([y[g, k] == 1 if y.ndim == 2 else y[g] == k for g in gallery])
            if not right.any():
                continue
            cosine = np.array([x[q] @ x[g] / np.linalg.norm(x[q]) / np.linalg.norm(x[g]) for g in gallery])
            order = np.argsort(-cosine)
            of_query = {f"precision_at_{d}": right[order[:d]].mean() for d in (1, 5, 10)}
            of_query |= {"precision_chance": right.mean(), "map": average_precision_score(right, cosine)}
            for name, v in of_query.items():
                for of in (None, label):
                    found.setdefault((name, of), []).append(float(v))
    return {key: float(np.mean(v)) for key, v in found.items()}


def check(made: Context) -> list[Row]:
    rows = retrieval.evaluate(made)
    expected = slow(made)
    assert {(r["metric"], r.get("class")) for r in rows if r["metric"] != "map_chance"} == set(expected)
    for (name, label), v in expected.items():
        assert value(rows, name, label) == pytest.approx(v, abs=1e-6), (name, label)
    return rows


def test_of_classes_against_a_slow_loop(tmp_path: Path) -> None:
    y = np.random.default_rng(1).integers(-1, 3, 120)  # some have no label
    rows = check(placed(tmp_path, y))
    assert [r["metric"] for r in rows[:6]] == NAMES and len(rows) == 6 * 4
    assert all(r["low"] <= r["value"] <= r["high"] for r in rows if not r["metric"].endswith("_chance"))
    assert rows[0]["n"] == (y[60:] >= 0).sum() and rows[6]["n"] == (y[60:] == 0).sum()
    assert value(rows, "map") > value(rows, "map_chance") + 0.1


def test_of_findings_with_unknown_labels_against_a_slow_loop(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    y = rng.integers(0, 2, (100, 2)).astype(np.float32)
    y[rng.random(y.shape) < 0.3] = np.nan
    rows = check(placed(tmp_path, y))
    assert rows[0]["n"] == (y[50:] == 1).sum()  # an image with both findings is two queries


def test_the_querys_own_patient_is_no_neighbour(tmp_path: Path) -> None:
    y = np.arange(80) % 2
    units = np.arange(80) % 40  # each patient has a training and a test image, which are the same
    rng = np.random.default_rng(0)
    check(placed(tmp_path, y, units, np.tile(rng.normal(size=(40, 6)), (2, 1))))
    # of two patients a class each: without its own image, a query has nothing to find
    with pytest.raises(UsageError, match="no training image of another patient"):
        retrieval.evaluate(placed(tmp_path, np.array([0, 1, 0, 1]), np.array([0, 1, 0, 1])))


def test_values_equal_torchmetrics(tmp_path: Path) -> None:
    made = placed(tmp_path, np.random.default_rng(3).integers(0, 3, 90))
    rows = retrieval.evaluate(made)
    y, x = torch.from_numpy(made.target.y), torch.nn.functional.normalize(torch.from_numpy(made.features))
    cosine, right = (x[45:] @ x[:45].T + 1) / 2, y[45:, None] == y[:45]  # torchmetrics wants scores above 0
    index = torch.arange(45)[:, None].expand(-1, 45)
    for name, metric in {"map": RetrievalMAP(), **{f"precision_at_{k}": RetrievalPrecision(top_k=k) for k in (1, 5, 10)}}.items():
        assert value(rows, name) == pytest.approx(float(metric(cosine.flatten(), right.flatten(), index.flatten())), abs=1e-6)


@pytest.mark.parametrize(("size", "hits"), [(1, 1), (5, 1), (6, 3), (7, 7)])
def test_chance_is_the_mean_over_all_orders(size: int, hits: int) -> None:
    orders = [np.isin(np.arange(size), c) for c in itertools.combinations(range(size), hits)]
    aps = [np.mean([right[: i + 1].mean() for i in np.flatnonzero(right)]) for right in orders]
    _, _, found = retrieval._block(np.zeros((1, size)), np.ones((1, size), bool), np.arange(size) < hits)
    assert found["map_chance"][0] == pytest.approx(np.mean(aps)) and found["precision_chance"][0] == pytest.approx(hits / size)


def test_closed_forms() -> None:
    """Right ones at places 1 and 3 of 4: AP (1/1 + 2/3) / 2; of a gallery of 4, all 4 count for the first five and ten."""
    cosine, relevant = np.array([[0.9, 0.8, 0.7, 0.6]]), np.array([True, False, True, False])
    nearest, right, found = retrieval._block(cosine, np.ones((1, 4), bool), relevant)
    assert nearest.tolist() == [[0, 1, 2, 3, -1]] and right.tolist() == [[True, False, True, False, False]]
    assert [found[name][0] for name in NAMES[:3]] == [1, 0.5, 0.5] and found["map"][0] == pytest.approx(5 / 6)
    free = np.array([[False, True, True, True]])  # the first is of the same patient
    nearest, right, found = retrieval._block(cosine, free, relevant)
    assert nearest.tolist() == [[1, 2, 3, -1, -1]] and found["map"][0] == 1 / 2 and found["precision_chance"][0] == 1 / 3


def test_blocks_give_what_one_block_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = placed(tmp_path, np.arange(60) % 3)
    rows = retrieval.evaluate(made)
    monkeypatch.setattr(retrieval, "BLOCK", 1)
    assert retrieval.evaluate(made) == [
        row | {key: pytest.approx(row[key], nan_ok=True) for key in ("value", "low", "high")} for row in rows
    ]


def test_images_of_one_patient_widen_the_interval(tmp_path: Path) -> None:
    y = np.arange(240) % 2
    x = np.random.default_rng(0).normal(size=(240, 6)) + np.eye(6)[y]
    x[120:] = x[120:][np.arange(120) // 20 * 20 + np.arange(120) % 2]  # each patient's images of a class are the same
    alone = placed(tmp_path, y, np.arange(240), x)
    together = placed(tmp_path, y, np.r_[np.arange(120), 120 + np.arange(120) // 20], x)
    a, b = (next(r for r in retrieval.evaluate(made) if r["metric"] == "map") for made in (alone, together))
    assert a["value"] == b["value"] and b["high"] - b["low"] > 1.3 * (a["high"] - a["low"])


def test_cases_are_right_and_wrong_ones_of_each_class_whatever_the_order_of_the_table(tmp_path: Path) -> None:
    made = placed(tmp_path, np.random.default_rng(1).integers(0, 2, 80))
    figure = retrieval.neighbours(made)
    figure.savefig(tmp_path / "neighbours.png")
    y, rows = made.target.y, made.dataset.table["row"].tolist()
    cells = [axis.get_xlabel().split("\n") for axis in figure.axes]
    assert len(cells) == 4 * 6
    found = []
    for query, *nearest in (cells[i : i + 6] for i in range(0, 24, 6)):
        q, others = (rows.index(int(query[0].split()[1])), [rows.index(int(c[0].split()[1])) for c in nearest])
        assert made.split.of[q] == "test" and {made.split.of[o] for o in others} == {"train"}
        assert [query[1], *(c[1] for c in nearest)] == [f"t = {made.target.classes[k]}" for k in (y[q], *y[others])]
        cosine = made.features @ made.features[q] / np.linalg.norm(made.features, axis=1)
        assert others == np.argsort(-cosine[:40])[:5].tolist()
        found.append((y[q], y[q] == y[others[0]]))
    assert found == [(0, True), (0, False), (1, True), (1, False)]
    frames = [axis.spines["left"].get_linestyle() for axis in figure.axes[1:6]]
    labels = [y[rows.index(int(c[0].split()[1]))] for c in cells[:6]]
    assert frames == ["-" if k == labels[0] else "--" for k in labels[1:]]

    order = np.random.default_rng(5).permutation(80)
    table = made.dataset.table.iloc[order].reset_index(drop=True)
    turned = replace(
        made, dataset=replace(made.dataset, table=table), target=replace(made.target, y=y[order]),
        split=Split(made.split.of[order], made.split.units[order], "patient", True),
    )  # fmt: skip
    turned.__dict__["features"] = made.features[order]
    assert [a.get_xlabel().split("\n") for a in retrieval.neighbours(turned).axes] == cells


def test_findings_of_a_case_are_named(tmp_path: Path) -> None:
    y = np.array([[1, 1], [0, np.nan], [0, 0], [1, 0]] * 10, np.float32)
    figure = retrieval.neighbours(placed(tmp_path, y))
    texts = {axis.get_xlabel().split("\n")[1] for axis in figure.axes if axis.get_xlabel()}
    assert {"a, b", "a"} <= texts <= {"a, b", "a", "no known finding"}
    assert {axis.get_title() for axis in figure.axes[::6]} <= {"a?", "b?"}


def test_figures_are_left_in_the_run(tmp_path: Path) -> None:
    made, run = context(tmp_path / "data", 48), Run.open(tmp_path / "run", "evaluate", {})
    retrieval.figures(made, run)
    words = {p.stem: json.loads(p.read_text()) for p in (tmp_path / "run" / "figures").glob("*.json")}
    assert words.keys() == {"retrieval", "retrieval-map"} and all(w["section"] == "features" for w in words.values())
    assert all((tmp_path / "run" / "figures" / f"{name}.png").stat().st_size > 1000 for name in words)
    assert "of the features of 12 test images" in words["retrieval-map"]["caption"]


def test_regions_are_refused(tmp_path: Path) -> None:
    made = context(tmp_path, 24)
    with pytest.raises(UsageError, match="needs classes"):
        retrieval.evaluate(replace(made, target=Target(("mask_path",), ("mask",), np.zeros(24, int))))
