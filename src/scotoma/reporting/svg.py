"""What the report's drawings share: palette, line styles, the grid of panels that becomes one SVG.

Lines differ by colour (Okabe and Ito's palette, safe for colour-blind readers), dash pattern and marker, so that a grey
print keeps them apart. Text becomes outlines: the page looks the same wherever it is opened. Drawn with matplotlib's
figures alone, without pyplot and its global state.
"""

from __future__ import annotations

import base64
import io
import math
import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import Bbox

Style = dict[str, Any]


WIDTH = 7.2  # inches: the text width of an A4 page with 14 mm margins
INK, FAINT, RULE = "#222222", "#6b6b6b", "#d9d9d9"
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES: tuple[Any, ...] = ("-", (0, (7, 2)), (0, (4, 1.5, 1, 1.5)), (0, (2, 1)))
MARKERS = "os^DvPX"
CONTROL_STYLES: dict[str, Style] = {
    "random": {"color": "#222222", "linestyle": (0, (4, 2)), "marker": "o", "markerfacecolor": "white"},
    "pixels": {"color": "#6b6b6b", "linestyle": (0, (1, 1.5)), "marker": "x"},
    "header": {"color": "#8c6d1f", "linestyle": (0, (1, 3)), "marker": "+"},
    "majority": {"color": "#9a9a9a", "linestyle": (0, (6, 4)), "marker": "_"},
}
SETTINGS: Any = {
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
        labels: label -> "method", or the kind of control: "random", the evaluator's name.
    """
    chosen: dict[str, Style] = {}
    counts = {"method": 0, "random": 0}
    for label, kind in labels.items():
        i = counts.get(kind, 0)
        if kind == "method":
            turn = {"color": PALETTE[i % 6], "linestyle": DASHES[i % 4], "marker": MARKERS[i % 7]}
        else:
            turn = CONTROL_STYLES.get(kind, CONTROL_STYLES["majority"]) | ({"marker": MARKERS[i % 7]} if kind == "random" else {})
        chosen[label] = {"markeredgewidth": 1.2, **turn}
        counts[kind] = i + 1
    return chosen


@contextmanager
def panels(
    count: int, columns: int, height: float, shared: bool = False
) -> Iterator[tuple[list[Axes], Callable[[Mapping[str, Style]], str]]]:
    """A grid of panels of this height in inches, and the function that adds the legend and gives the SVG."""
    with matplotlib.rc_context(SETTINGS):
        rows = math.ceil(count / columns)
        figure = Figure(figsize=(WIDTH, height * rows), layout="compressed" if shared else "constrained")
        axes = figure.subplots(rows, columns, squeeze=False, sharey=shared).ravel()
        for spare in axes[count:]:
            spare.set_axis_off()

        def finish(style: Mapping[str, Style]) -> str:
            drawn = {name for ax in axes[:count] for name in ax.get_legend_handles_labels()[1]}
            names = [name for name in style if name in drawn]
            if names:
                handles = [Line2D([], [], **style[name]) for name in names]
                across = 3 if max(map(len, names)) < 30 else 2
                figure.set_figheight(height * rows + 0.2 * math.ceil(len(names) / across))
                figure.legend(handles, names, loc="outside lower center", ncols=across, handlelength=4)
            text = io.StringIO()
            figure.draw_without_rendering()
            figure.set_layout_engine("none")
            # panels of equal sides leave room above and below, or want more: the height is what was drawn, the width is the page's
            drawn_box = figure.get_tightbbox()
            box = Bbox.from_extents(0, drawn_box.y0 - 0.05, WIDTH, drawn_box.y1 + 0.05)
            figure.savefig(text, format="svg", metadata={"Date": None}, bbox_inches=box)
            return text.getvalue()

        yield list(axes[:count]), finish


def grid(ax: Axes) -> None:
    """Faint lines behind what is drawn."""
    ax.grid(color=RULE, linewidth=0.5)
    ax.set_axisbelow(True)


def title(text: str, columns: int) -> str:
    """A panel's title, broken into lines that fit over it."""
    room = int(72 * WIDTH / columns / 6.5)  # a bold letter of 9 points is 6.5 wide
    return "\n".join("\n".join(textwrap.wrap(line, room)) for line in text.split("\n"))


def outer(ax: Axes) -> None:
    """Only the first panel of a row names the vertical axis that all share."""
    if (place := ax.get_subplotspec()) is not None and not place.is_first_col():
        ax.set_ylabel("")
        ax.tick_params(labelleft=False)


def uri(svg: str) -> str:
    """A drawing as an image's address."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
