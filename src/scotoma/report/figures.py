"""The report's drawings: each function takes tidy tables and returns one SVG as text.

Lines differ by colour (Okabe and Ito's palette, safe for colour-blind readers), dash pattern and marker, so that a grey print
keeps them apart. Text becomes outlines: the page looks the same wherever it is opened. Drawn with matplotlib's figures alone,
without pyplot and its global state.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

Style = dict[str, Any]

WIDTH = 7.2  # inches: the text width of an A4 page with 14 mm margins
INK, FAINT, RULE = "#222222", "#6b6b6b", "#d9d9d9"
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES: tuple[Any, ...] = ("-", (0, (7, 2)), (0, (4, 1.5, 1, 1.5)), (0, (2, 1)))
MARKERS = "os^DvPX"
CONTROLS: dict[str, Style] = {
    "random": {"color": "#222222", "linestyle": (0, (4, 2)), "marker": "o", "markerfacecolor": "white"},
    "pixels": {"color": "#6b6b6b", "linestyle": (0, (1, 1.5)), "marker": "x"},
    "header": {"color": "#8c6d1f", "linestyle": (0, (1, 3)), "marker": "+"},
    "majority": {"color": "#9a9a9a", "linestyle": (0, (6, 4)), "marker": "_"},
}
SETTINGS = {
    "font.size": 8.5,
    "font.family": "DejaVu Sans",
    "text.color": INK,
    "text.parse_math": False,  # class names come from the user: a "$" is a "$"
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "lines.linewidth": 1.5,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "scotoma",  # the same rows give the same page, byte for byte
}


def styles(labels: Mapping[str, str]) -> dict[str, Style]:
    """A line style for each label, the same in every figure.

    Args:
        labels: label -> "method", or the kind of control: "random", "pixels", "header", "majority".
    """
    chosen: dict[str, Style] = {}
    counts = {"method": 0, "random": 0}
    for label, kind in labels.items():
        i = counts.get(kind, 0)
        if kind == "method":
            turn = {"color": PALETTE[i % 6], "linestyle": DASHES[i % 4], "marker": MARKERS[i % 7]}
        else:
            turn = CONTROLS[kind] | ({"marker": MARKERS[i % 7]} if kind == "random" else {})
        chosen[label] = {"markeredgewidth": 1.2, **turn}
        counts[kind] = i + 1
    return chosen


def curve(panels: Sequence[tuple[str, pd.DataFrame]], style: Mapping[str, Style], metric: str) -> str:
    """A metric against the fraction of labels, with intervals; the panels side by side, on one scale.

    Args:
        panels: title and table with columns label, fraction, labels, value, low, high.
        style: of every label.
        metric: what the vertical axis says.
    """
    columns = min(2, len(panels))
    with _figure(len(panels), columns, 3.1) as (figure, axes, finish):
        for (title, table), ax in zip(panels, axes, strict=True):
            names = list(dict.fromkeys(table["label"]))
            for i, name in enumerate(names):
                rows = table[table["label"] == name].sort_values("fraction")
                # intervals at one fraction stand side by side, not on top of each other
                x = rows["fraction"] * 10 ** (0.018 * (i - (len(names) - 1) / 2))
                ax.plot(x, rows["value"], label=name, **style[name])
                bars = rows["low"].notna() & rows["high"].notna()
                ax.vlines(x[bars], rows["low"][bars], rows["high"][bars], color=style[name]["color"], linewidth=1)
            ticks = table.dropna(subset="fraction").groupby("fraction")["labels"].max()
            ax.set_xscale("log")
            ax.xaxis.set_major_locator(FixedLocator(list(ticks.index)))
            ax.xaxis.set_minor_locator(NullLocator())
            ax.set_xticks(list(ticks.index), [_tick(f, n) for f, n in ticks.items()])
            ax.set(title=title, xlabel="share of the labels used (n = labelled training pictures)")
            _grid(ax)
        bottom = min((float(t[["value", "low"]].min(axis=None)) for _, t in panels), default=0.5)
        for ax in axes:
            ax.set_ylim(min(0.98, bottom) - 0.02, 1.005)
            ax.axhline(0.5, color=FAINT, linewidth=0.7)
        axes[0].set_ylabel(metric)
        return finish(style)


def roc(panels: Sequence[tuple[str, pd.DataFrame]], style: Mapping[str, Style]) -> str:
    """ROC curves, a panel a class.

    Args:
        panels: title and table with columns label, fpr, value (the true-positive rate), low, high.
        style: of every label.
    """
    columns = {1: 2, 2: 2, 4: 2}.get(len(panels), 3)
    with _figure(len(panels), columns, WIDTH / columns + 0.15) as (figure, axes, finish):
        for (title, table), ax in zip(panels, axes, strict=True):
            ax.plot([0, 1], [0, 1], color=RULE, linewidth=0.8)
            for i, name in enumerate(dict.fromkeys(table["label"])):
                rows = table[table["label"] == name].sort_values("fpr")
                every = max(1, len(rows) // 6)
                ax.plot(rows["fpr"], rows["value"], label=name, markevery=(i % every, every), **style[name] | {"linewidth": 1.2})
                if rows["low"].notna().any():
                    ax.fill_between(rows["fpr"], rows["low"], rows["high"], color=style[name]["color"], alpha=0.1, linewidth=0)
            ax.set(title=title, xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
            ax.set(xlabel="1 − specificity", ylabel="sensitivity", xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
            _grid(ax)
        return finish(style)


def confusion(panels: Sequence[tuple[str, pd.DataFrame]]) -> str:
    """Confusion matrices: the share of each row's pictures as shade and per cent, the count beneath.

    Args:
        panels: title and square table of counts, true classes as index, predicted ones as columns.
    """
    size = max(len(table) for _, table in panels)
    columns = min(3, len(panels)) if size <= 4 else min(2, len(panels)) if size <= 6 else 1
    columns = max(columns, 2 if size <= 6 else 1)
    font = max(4.5, min(8.0, 26 * WIDTH / columns / 2.4 / (size + 1.5) / 2.2))
    with _figure(len(panels), columns, WIDTH / columns * 0.92 + 0.35) as (figure, axes, finish):
        for (title, table), ax in zip(panels, axes, strict=True):
            counts = table.to_numpy(dtype=float)
            total = counts.sum(1, keepdims=True)
            share = np.divide(counts, total, out=np.zeros_like(counts), where=total > 0)
            ax.pcolormesh(share, cmap="Blues", vmin=0, vmax=1.25, edgecolors="white", linewidth=1)
            for (i, j), s in np.ndenumerate(share):
                text = f"{100 * s:.0f} %\n{counts[i, j]:,.0f}"
                ax.text(j + 0.5, i + 0.5, text, ha="center", va="center", fontsize=font, color="white" if s > 0.65 else INK)
            ticks = np.arange(len(table)) + 0.5
            ax.set_xticks(ticks, [_short(c) for c in table.columns], rotation=35, ha="right", rotation_mode="anchor")
            ax.set_yticks(ticks, [_short(c) for c in table.index])
            ax.set(title=title, xlabel="predicted", ylabel="true", aspect="equal")
            ax.invert_yaxis()
            ax.tick_params(length=0, labelsize=max(6.0, font))
            ax.spines[:].set_visible(False)
        return finish({})


def losses(panels: Sequence[tuple[str, pd.DataFrame]], style: Mapping[str, Style]) -> str:
    """The pretraining loss over the steps, a panel a method: losses of different methods have different scales.

    Args:
        panels: label and table with columns step, loss.
        style: of every label.
    """
    columns = max(2, min(3, len(panels)))
    with _figure(len(panels), columns, 2.1) as (figure, axes, finish):
        for (name, table), ax in zip(panels, axes, strict=True):
            rows = _thin(table.dropna(subset=["step", "loss"]).sort_values("step"))
            ax.plot(rows["step"], rows["loss"], **style[name] | {"marker": None, "linewidth": 1.2})
            ax.set(title=name, xlabel="step", ylabel="loss")
            ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.0f}"))
            _grid(ax)
        return finish({})


def features(lines: Sequence[tuple[str, pd.DataFrame]], style: Mapping[str, Style]) -> str:
    """How the encoder's features spread out while it learned.

    Args:
        lines: label and table with columns step, feature_spread, effective_rank (empty where not measured).
        style: of every label.
    """
    words = {"feature_spread": "feature spread", "effective_rank": "effective rank"}
    with _figure(2, 2, 2.4) as (figure, axes, finish):
        for (column, title), ax in zip(words.items(), axes, strict=True):
            for name, table in lines:
                rows = table.dropna(subset=["step", column]).sort_values("step")
                ax.plot(rows["step"], rows[column], label=name, **style[name] | {"linewidth": 1.2, "markersize": 3.5})
            ax.set(title=title, xlabel="step")
            ax.set_ylim(bottom=0)
            ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.0f}"))
            _grid(ax)
        return finish(style)


@contextmanager
def _figure(count: int, columns: int, height: float) -> Iterator[tuple[Figure, list[Axes], Any]]:
    """A grid of panels of this height in inches, and the function that adds the legend and gives the SVG."""
    with matplotlib.rc_context(SETTINGS):
        rows = math.ceil(count / columns)
        figure = Figure(figsize=(WIDTH, height * rows), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        for spare in grid[count:]:
            spare.set_axis_off()

        def finish(style: Mapping[str, Style]) -> str:
            drawn = {name for ax in grid[:count] for name in ax.get_legend_handles_labels()[1]}
            names = [name for name in style if name in drawn]
            if names:
                handles = [Line2D([], [], **style[name]) for name in names]
                across = 3 if max(map(len, names)) < 30 else 2
                figure.set_figheight(height * rows + 0.2 * math.ceil(len(names) / across))
                figure.legend(handles, names, loc="outside lower center", ncols=across, handlelength=4)
            text = io.StringIO()
            figure.savefig(text, format="svg", metadata={"Date": None})
            return text.getvalue()

        yield figure, list(grid[:count]), finish


def _grid(ax: Axes) -> None:
    ax.grid(color=RULE, linewidth=0.5)
    ax.set_axisbelow(True)


def _tick(fraction: Any, labels: float) -> str:
    return f"{100 * fraction:g} %" + (f"\nn = {labels:,.0f}" if labels == labels else "")


def _short(name: Any) -> str:
    text = str(name)
    return text if len(text) <= 16 else text[:15] + "…"


def _thin(table: pd.DataFrame, most: int = 400) -> pd.DataFrame:
    """At most so many points, each the mean of its neighbours: the curve's shape, not the page's weight."""
    if len(table) <= most:
        return table
    return table.groupby(np.arange(len(table)) * most // len(table))[["step", "loss"]].mean()
