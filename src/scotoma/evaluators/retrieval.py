"""Image retrieval: precision of the nearest training images (share of the same class), nothing trained.

A query is a labelled test image and its class; of several 0/1 targets, an image and each of its findings (a label of 1), so
that an image may be several queries or none. The gallery holds the training images whose label for that class or finding is
known, less those of the query's own patient (the unit of the split): a neighbour is right where it has it too. An unknown label is
neither right nor wrong. Neighbours stand in the order of the cosine of their features. Labels judge and do not retrieve: fractions
of them play no part.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from scotoma.errors import UsageError
from scotoma.evaluators.base import Context, Row, class_name
from scotoma.metrics.intervals import of_images
from scotoma.rng import KeyedRNG
from scotoma.run_folder import Run
from scotoma.visualization import embedding_map
from scotoma.visualization.plots import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PROTOCOL = 2
DEPTHS = (1, 5, 10)
SHOWN = 5  # neighbours of a case on the figure
CLASSES = 4  # classes on the figure, at most
LOOKED_THROUGH = 200  # queries of a class among which the figure's cases are sought
BLOCK = 2**22  # cosines at a time
SEED = 0


@dataclass(frozen=True)
class Neighbours:
    """What the queries of one class find.

    Args:
        label: of the class.
        queries: (q,) positions of test rows.
        nearest: (q, ``SHOWN``) positions of the nearest training rows, -1 where the gallery has no more.
        right: (q, ``SHOWN``) bool, whether these have the class.
        values: of each metric, (q,); NaN where the gallery has nothing to find.
    """

    label: str
    queries: np.ndarray
    nearest: np.ndarray
    right: np.ndarray
    values: dict[str, np.ndarray]


def evaluate(context: Context) -> list[Row]:
    """Means over queries, overall and per class (one without queries has no value), each with what random neighbours would reach.

    ``precision_at_1``, ``_5``, ``_10``: the share of right ones among the nearest (of a smaller gallery, among all);
    ``precision_chance``: their share in the gallery. ``map``: mean average precision over the whole ranking (Manning, Raghavan &
    Schütze 2008, Introduction to Information Retrieval, section 8.4; as torchmetrics' ``RetrievalMAP``); ``map_chance``: its exact
    expectation for a random order (Bestgen 2015). ``n`` counts queries; those with nothing to find in the gallery are left out.
    Intervals are over the queries' patients.

    Raises:
        UsageError: masks are to be predicted and no classes; or no training image of another patient has a class of a test image.
    """
    if not context.task.is_of_images:
        raise UsageError("--with retrieval needs classes, not masks: name a column of them with --target")
    found = search(context)
    queries = np.concatenate([f.queries for f in found])
    values = {name: np.concatenate([f.values[name] for f in found]) for name in found[0].values}
    labels = np.repeat(np.arange(len(found)), [len(f.queries) for f in found])
    known = ~np.isnan(values["map"])
    if not known.any():
        raise UsageError("--with retrieval: no training image of another patient has a class of a test image")
    units = context.split.units[queries]
    rows = _rows(values, known, units)
    for k, of_class in enumerate(found):
        chosen = known & (labels == k)
        few = {} if chosen.any() else {"few": True}  # without a value: no query has this class, or none can be answered
        rows += [{**row, "class": of_class.label, **few} for row in _rows(values, chosen, units)]
    return rows


def search(context: Context, most: int | None = None) -> list[Neighbours]:
    """Look up the queries of every class, or of each the first ``most``, in an order drawn by row id.

    Returns:
        One for each class; without queries where no test image has it.
    """
    target, units, features = context.target, context.split.units, context.features
    unit = features / np.linalg.norm(features, axis=1, keepdims=True).clip(1e-12)
    test = context.test
    key = KeyedRNG(SEED, 0, torch.from_numpy(_row_ids(context, test))).uniform("queries").numpy()
    test, train = test[np.argsort(key, kind="stable")], context.split.rows("train")
    found = []
    for k, label in enumerate(target.classes):
        has = target.y[:, k] if target.multilabel else np.where(target.y < 0, np.nan, target.y == k)
        queries, gallery = test[has[test] == 1][:most], train[~np.isnan(has[train])]
        step = max(1, BLOCK // max(1, len(gallery)))
        starts = range(0, max(1, len(queries)), step)
        parts = [
            _block(unit[q] @ unit[gallery].T, units[q][:, None] != units[gallery], has[gallery] == 1)
            for q in (queries[i : i + step] for i in starts)
        ]
        order = np.concatenate([p[0] for p in parts])
        values = {name: np.concatenate([p[2][name] for p in parts]) for name in parts[0][2]}
        nearest = np.where(order < 0, -1, np.append(gallery, -1)[order])
        found.append(Neighbours(label, queries, nearest, np.concatenate([p[1] for p in parts]), values))
    return found


def _block(cosine: np.ndarray, free: np.ndarray, relevant: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Rank the gallery for some queries.

    Args:
        cosine: (q, g).
        free: (q, g) bool, whether a gallery image is of another patient.
        relevant: (g,) bool, whether it has the class.

    Returns:
        (q, ``SHOWN``) the places of the nearest in the gallery, -1 for none; whether they are right; (q,) of each metric.
    """
    order = np.argsort(np.where(free, -cosine, np.inf), axis=1, kind="stable")
    right = np.take_along_axis(free & relevant, order, 1)  # the query's own patient stands last, and is never right
    size, hits = free.sum(1), right.sum(1)
    ranks = np.arange(1, cosine.shape[1] + 1)
    harmonic = np.append(0, np.cumsum(1 / ranks))[size]
    with np.errstate(invalid="ignore", divide="ignore"):
        found = {f"precision_at_{k}": right[:, :k].sum(1) / np.minimum(k, size) for k in DEPTHS}
        found["precision_chance"] = hits / size
        found["map"] = (right * right.cumsum(1) / ranks).sum(1) / hits
        found["map_chance"] = ((hits - 1) / np.maximum(1, size - 1) * (size - harmonic) + harmonic) / size
    values = {name: np.where(hits > 0, v, np.nan) for name, v in found.items()}
    first = np.full((len(cosine), SHOWN), -1)
    shown = order[:, :SHOWN]
    first[:, : shown.shape[1]] = np.where(np.take_along_axis(free, shown, 1), shown, -1)
    return first, np.pad(right[:, :SHOWN], ((0, 0), (0, SHOWN - shown.shape[1]))), values


def _rows(values: dict[str, np.ndarray], chosen: np.ndarray, units: np.ndarray) -> list[Row]:
    """The mean of each metric over the chosen queries."""
    return [{"metric": name} | of_images("fraction", v[chosen], units[chosen]) for name, v in values.items()]


def figures(context: Context, run: Run) -> None:
    """Some test images with their nearest training images, and a map of all test images."""
    caption = (
        f"On the left test images, to the right of each its {SHOWN} most alike training images (by the cosine of the encoder's "
        "features), of other patients. Of each class "
        + (f"(the first {CLASSES}) " if len(context.target.classes) > CLASSES else "")
        + "one whose nearest neighbour has the class too and one whose nearest has not, drawn by row id. Beneath stand row id and "
        "label, and of neighbours the cosine; a blue frame is right, a dashed orange one wrong."
    )
    run.figure("retrieval", neighbours(context), "The most alike training images of some test images", caption, "features")
    shown = embedding_map.choose_points(context.test)
    if len(shown) >= embedding_map.LEAST:
        figure, caption = embedding_map.figure({context.name: context.features[shown]}, context.target, shown)
        run.figure("retrieval-map", figure, "How the encoder arranges the test images", caption, "features")


def neighbours(context: Context) -> Figure:
    """A row for each case: a test image, then its nearest training images.

    Cases are, of each of the first ``CLASSES`` classes, a query whose nearest neighbour is right and one whose nearest is wrong:
    the first of the order that `search` draws by row id.
    """
    from matplotlib.figure import Figure

    cases = []
    found = [of_class for of_class in search(context, LOOKED_THROUGH) if (of_class.nearest[:, 0] >= 0).any()]
    for of_class in found[:CLASSES]:
        answered = of_class.nearest[:, 0] >= 0
        for wanted in (True, False):
            cases += [(of_class, i) for i in np.flatnonzero(answered & (of_class.right[:, 0] == wanted))[:1]]
    figure = Figure(figsize=(1.35 * (1 + SHOWN), 1.75 * len(cases)), layout="constrained")
    for axes, (of_class, i) in zip(figure.subplots(len(cases), 1 + SHOWN, squeeze=False), cases, strict=True):
        query = int(of_class.queries[i])
        for axis in axes:
            axis.set_axis_off()
        _draw(axes[0], context, query, "black", "-", f"{of_class.label}?" if context.target.multilabel else "")
        for axis, position, right in zip(axes[1:], of_class.nearest[i].tolist(), of_class.right[i], strict=True):
            if position >= 0:
                a, b = context.features[[query, position]]
                cosine = float(a @ b / max(1e-12, np.linalg.norm(a) * np.linalg.norm(b)))
                style = (COLOURS[0], "-") if right else (COLOURS[1], "--")
                _draw(axis, context, position, *style, f"{cosine:.2f}")
    return figure


def _draw(axis: Axes, context: Context, position: int, colour: str, line: str, above: str) -> None:
    """One image in a frame, its row id and label beneath it."""
    row = _row_ids(context, np.array([position]))
    pixels = context.store.batch(row)[0].transpose(1, 2, 0)
    grey = pixels.shape[2] == 1
    axis.set_axis_on()
    axis.imshow(pixels[:, :, 0] if grey else pixels, cmap="gray" if grey else None, vmin=0, vmax=255)
    axis.set_xticks([])
    axis.set_yticks([])
    for side in axis.spines.values():
        side.set(color=colour, linestyle=line, linewidth=2)
    words = [f"row {row[0]}", *textwrap.wrap(_label(context, position), 20, max_lines=2)]
    axis.set_xlabel("\n".join(words), fontsize=7, parse_math=False)
    axis.set_title(above, fontsize=7, parse_math=False)


def _label(context: Context, position: int) -> str:
    """The class of a row; of several 0/1 targets, the findings that it is known to have."""
    target, y = context.target, context.target.y[position]
    if not target.multilabel:
        return class_name(target, int(y))
    return ", ".join(name for name, value in zip(target.classes, y, strict=True) if value == 1) or "no known finding"


def _row_ids(context: Context, positions: np.ndarray) -> np.ndarray:
    return context.dataset.table["row"].to_numpy(np.int64)[positions]


def is_headline(row: Row) -> bool:
    """Whether a row stands in the short table."""
    return row["metric"] in ("precision_at_1", "precision_chance", "map", "map_chance") and "class" not in row
