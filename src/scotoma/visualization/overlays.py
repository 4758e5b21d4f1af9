"""Attribution maps laid over images: one image and map, or a sheet of several."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scotoma import files

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OPACITY = 0.75  # of the strongest pixel


@dataclass(frozen=True)
class Case:
    """An image and what explains it.

    Args:
        row: its row id.
        group: by which cases are put together.
        label: the class that is explained.
        probability: of it.
        image: (H, W), grey, or (H, W, 3), in [0, 1].
        maps: of each method, (H, W).
        truth: the true class in words, where the classifier is wrong.
    """

    row: int
    group: str
    label: str
    probability: float
    image: np.ndarray
    maps: dict[str, np.ndarray]
    truth: str = ""

    @property
    def title(self) -> str:
        """The class and its probability."""
        return f"{self.label}: {self.probability:.2f}"


def colour(values: np.ndarray) -> np.ndarray:
    """A map (H, W) as colours, (H, W, 4) in [0, 1], the more opaque the larger its value.

    They can be distinguished with any colour vision: cividis where no value is negative, else orange for and purple against.
    """
    import matplotlib

    signed = bool(values.min() < 0)
    limit = float(np.quantile(np.abs(values), 0.995)) or float(np.abs(values).max()) or 1.0
    strength = np.clip(values / limit, -1, 1)
    colours = np.asarray(matplotlib.colormaps["PuOr_r" if signed else "cividis"]((strength + 1) / 2 if signed else strength))
    colours[..., 3] = OPACITY * np.abs(strength)
    return colours


def blend(image: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8: the map (H, W) over the image, (H, W) or (H, W, 3), pixel for pixel."""
    colours = colour(values)
    alpha = colours[..., 3:]
    mixed = (image[..., None] if image.ndim == 2 else image) * (1 - alpha) + colours[..., :3] * alpha
    return np.asarray(np.rint(np.clip(mixed, 0, 1) * 255), np.uint8)


def overlay(image: np.ndarray, values: np.ndarray, title: str) -> Figure:
    """An image (H, W), grey, or (H, W, 3), in [0, 1], alone and below a map (H, W)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.4, 2.4), layout="constrained")
    for axis, above in zip(figure.subplots(1, 2), (None, colour(values)), strict=True):
        axis.imshow(image, cmap="gray", vmin=0, vmax=1)
        if above is not None:
            axis.imshow(above)
        axis.set_axis_off()
    figure.suptitle(title, fontsize=9, parse_math=False)
    return figure


def sheet(cases: list[Case]) -> Figure:
    """A row for each case: the image, then each method's map over it."""
    from matplotlib.figure import Figure

    names = list(cases[0].maps)
    figure = Figure(figsize=(1.35 * (1 + len(names)), 1.6 * len(cases)), layout="constrained")
    for i, (axes, case) in enumerate(zip(figure.subplots(len(cases), 1 + len(names), squeeze=False), cases, strict=True)):
        for axis, name in zip(axes, (None, *names), strict=True):
            axis.imshow(case.image, cmap="gray", vmin=0, vmax=1)
            axis.set_xticks([])
            axis.set_yticks([])
            if name is not None:
                axis.imshow(colour(case.maps[name]))
            if i == 0:
                axis.set_title((name or "image").replace("_", "\n"), fontsize=8)
        words = [f"row {case.row}", *textwrap.wrap(case.title, 20, max_lines=2)]
        words += textwrap.wrap(f"true: {case.truth}", 20, max_lines=2) if case.truth else []
        axes[0].set_xlabel("\n".join(words), fontsize=7, parse_math=False)
    return figure


def save(cases: list[Case], folder: Path) -> None:
    """Write ``explain-ROW-METHOD.png`` for every case and method."""
    folder.mkdir(parents=True, exist_ok=True)
    for case in cases:
        for name, values in case.maps.items():
            with files.replacing(folder / f"explain-{case.row}-{name}.png") as temporary:
                overlay(case.image, values, case.title).savefig(temporary, dpi=110, format="png")
