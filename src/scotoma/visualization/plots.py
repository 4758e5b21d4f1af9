"""Figures that a run leaves in its folder: images side by side, and maps of features."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito 2008: distinguished by people with any colour vision; markers differ too, for paper without colour
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#999999")
MARKERS = "osD^vP*X"


def image_grid(columns: dict[str, np.ndarray]) -> Figure:
    """A row for each image, a column for each name: (n, H, W, C) values in [0, 1]."""
    from matplotlib.figure import Figure

    count = len(next(iter(columns.values())))
    figure = Figure(figsize=(1.35 * len(columns), 1.35 * count), layout="constrained")
    axes = figure.subplots(count, len(columns), squeeze=False)
    for j, (name, images) in enumerate(columns.items()):
        axes[0, j].set_title(name, fontsize=9)
        for i, pixels in enumerate(images):
            grey = pixels.shape[2] == 1
            axes[i, j].imshow(pixels[:, :, 0] if grey else pixels, cmap="gray" if grey else None, vmin=0, vmax=1)
            axes[i, j].set_axis_off()
    return figure


def draw_outlines(images: np.ndarray, truth: np.ndarray, found: np.ndarray, titles: list[str]) -> Figure:
    """A column for each image: alone above, below with outlines of the true mask (solid) and of the predicted one (dashed).

    Args:
        images: (n, H, W, C) in [0, 1].
        truth: (n, H, W) classes, 0 for the background.
        found: (n, H, W).
        titles: (n,).
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.2 * len(images), 4.8), layout="constrained")
    axes = figure.subplots(2, len(images), squeeze=False)
    for j, (pixels, title) in enumerate(zip(images, titles, strict=True)):
        for axis in axes[:, j]:
            axis.imshow(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels, cmap="gray", vmin=0, vmax=1)
            axis.set_axis_off()
        axes[0, j].set_title(title, fontsize=9)
        for labels, style, colour in ((truth[j], "solid", COLOURS[4]), (found[j], "dashed", COLOURS[5])):
            for k in np.unique(labels[labels > 0]):
                axes[1, j].contour(labels == k, [0.5], colors=colour, linestyles=style, linewidths=0.9)
    return figure


def scatter(points: dict[str, np.ndarray], labels: np.ndarray, classes: tuple[str, ...]) -> Figure:
    """A panel for each name of (n, 2) points, three in a row, coloured and marked by class id; -1 (unknown) is left out."""
    from matplotlib.figure import Figure

    columns = min(3, len(points))
    rows = -(-len(points) // columns)
    figure = Figure(figsize=(4.2 * columns, 4.4 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for axis in panels[len(points) :]:
        axis.set_visible(False)
    for axis, (name, xy) in zip(panels, points.items(), strict=False):
        for k, label in enumerate(classes):
            chosen = labels == k
            style = {"color": COLOURS[k % len(COLOURS)], "marker": MARKERS[k % len(MARKERS)]}
            axis.scatter(xy[chosen, 0], xy[chosen, 1], s=9, alpha=0.7, linewidths=0, label=label, **style)
        axis.set_title("\n".join(textwrap.wrap(name, 44)), fontsize=10)
        axis.set_xticks([])
        axis.set_yticks([])
    panels[0].legend(fontsize=8, markerscale=1.8, loc="best")
    return figure


def agreement(truth: np.ndarray, found: np.ndarray, name: str) -> Figure:
    """Points of predicted against true numbers, and the line on which both are alike."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.4, 4.2), layout="constrained")
    axis = figure.subplots()
    ends = [float(min(truth.min(), found.min())), float(max(truth.max(), found.max()))]
    axis.plot(ends, ends, color=COLOURS[7], linestyle="--", linewidth=1)
    axis.scatter(truth, found, s=12, alpha=0.6, linewidths=0, color=COLOURS[0])
    axis.set_xlabel(f"{name}, true", parse_math=False)
    axis.set_ylabel(f"{name}, predicted", parse_math=False)
    return figure


def curve(x: np.ndarray, y: np.ndarray, x_name: str, y_name: str, marked: float) -> Figure:
    """One line over a logarithmic axis, with a vertical line at ``marked``."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 3.2), layout="constrained")
    axis = figure.subplots()
    axis.plot(x, y, color=COLOURS[0])
    axis.axvline(marked, color=COLOURS[1], linestyle="--", label=f"{marked:.2g}")
    axis.set_xscale("log")
    axis.set_xlabel(x_name)
    axis.set_ylabel(y_name)
    axis.legend(frameon=False)
    return figure
