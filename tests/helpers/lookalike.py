"""Writes look-alikes of public data sets: their folders and tables, with synthetic images."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
from PIL import Image

from scotoma.data import pseudonyms
from scotoma.data.dataset import Dataset
from scotoma.data.sources import values


def draw_image(path: Path, level: int = 90, size: tuple[int, int] = (12, 10), colour: bool = False) -> Path:
    """A flat image whose level states which it is; 16 bits where the level needs them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dtype = np.uint16 if level > 255 else np.uint8
    Image.fromarray(np.full((*size, 3) if colour else size, level, dtype)).save(path)
    return path


def text(path: Path, *lines: str) -> Path:
    """A text file of these lines, zipped where its name states it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = "".join(line + "\n" for line in lines).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def hashed(value: str) -> str:
    return pseudonyms.pseudonym(pseudonyms.canonical(value), pseudonyms.load_key())


def under(dataset: Dataset, root: Path, column: str = "image_path") -> list[str | None]:
    """The paths of a column, relative to the data set's folder."""
    return [None if p is None else Path(p).relative_to(root).as_posix() for p in values(dataset.table[column])]


def column(dataset: Dataset, name: str) -> list:
    return values(dataset.table[name])
