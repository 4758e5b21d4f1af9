"""Near-duplicates: how many made copies of real images are found, what is wrongly taken for one, and how long it takes.

python benchmarks/duplicates.py            measures and writes benchmarks/results/duplicates.json
python benchmarks/duplicates.py table      prints the tables of docs/results/audit.md from it

Of each data set 300 images are drawn, one a unit (patient, lesion or published near-duplicate group); each is copied in each way
and compared with every image of the data set. Recall: the share of copies that are near their source. Precision: of all
pairs (copy, image) that are near, the share whose images belong to one unit.
"""

from __future__ import annotations

import io
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageEnhance

from scotoma.data import sources as table
from scotoma.data.io import read
from scotoma.data.splits import altered_copies, near_duplicates
from scotoma.data.store import store
from scotoma.data.store.hashes import cells, difference
from scotoma.run_folder import hardware

ROOT = Path(os.environ.get("SCOTOMA_DATA", Path(__file__).parents[2] / "shared" / "data"))
OUT = Path(__file__).parent / "results" / "duplicates.json"
SETS = {"brain_tumor_mri": "group", "cxr_pneumonia": "patient", "ham10000": "patient"}
COPIES = 300
SIZE = 96
rng = np.random.default_rng(0)


def jpeg(quality: int) -> Callable[[Image.Image], Image.Image]:
    """Recompress."""

    def change(image: Image.Image) -> Image.Image:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        return Image.open(buffer)

    return change


def resize(factor: float) -> Callable[[Image.Image], Image.Image]:
    """Resize both sides."""
    return lambda image: image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.BICUBIC)


def brightness(factor: float) -> Callable[[Image.Image], Image.Image]:
    """Multiply every grey level."""
    return lambda image: ImageEnhance.Brightness(image).enhance(factor)


def crop(share: float) -> Callable[[Image.Image], Image.Image]:
    """Keep a window of ``1 - share`` of either side, anywhere."""

    def change(image: Image.Image) -> Image.Image:
        width, height = round(image.width * (1 - share)), round(image.height * (1 - share))
        left, top = int(rng.integers(0, image.width - width + 1)), int(rng.integers(0, image.height - height + 1))
        return image.crop((left, top, left + width, top + height))

    return change


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    **{f"JPEG quality {q}": jpeg(q) for q in (50, 70, 85, 95)},
    **{f"resized x {f}": resize(f) for f in (0.5, 0.75, 1.5, 2.0)},
    **{f"brightness x {f}": brightness(f) for f in (0.8, 1.2)},
    "cropped by 2 %": crop(0.02),
    "cropped by 5 %": crop(0.05),
    "cropped by 10 %": crop(0.1),
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "turned by 90 degrees": lambda image: image.transpose(Image.Transpose.ROTATE_90),
    "turned by 5 degrees": lambda image: image.rotate(5, Image.Resampling.BICUBIC),
}


def near(left: np.ndarray, right: np.ndarray, bits: int) -> np.ndarray:
    """(n, m) bool of hashes (n, 32) and (m, 32): by the rule of `duplicates`, written plainly."""
    words = (np.ascontiguousarray(h).view(np.uint64) for h in (left, right))
    distance = np.bitwise_count(next(words)[:, None] ^ next(words)[None]).sum(2, dtype=np.int64)
    a, b = near_duplicates.information(left), near_duplicates.information(right)
    limit = np.minimum(bits, (a[:, None] + b[None]) // (2 * near_duplicates.SHARE))
    return (distance <= limit) & (a[:, None] >= near_duplicates.LEAST_SET) & (b[None] >= near_duplicates.LEAST_SET)


def stored(pixels: np.ndarray) -> Image.Image:
    """An image as it comes out of the store, in grey."""
    side, (height, width) = store.side_for(SIZE), pixels.shape[:2]
    return altered_copies.without_padding(read.square(pixels, side, 1), width, height)


def quality(name: str, unit: str) -> list[dict[str, Any]]:
    """Recall and precision of each change on one data set, by the hash alone and with alterations."""
    dataset, opened = store.prepare(table.load(ROOT / name / "table.csv"), SIZE, quiet=True)
    frame, rows = dataset.table, dataset.table["row"].to_numpy()
    units = pd.factorize(frame[unit])[0]
    plain = opened.hashes[rows]
    began = time.process_time()
    originals = altered_copies.greys(opened, rows)
    altered = np.stack([altered_copies.alterations(g) for g in originals])
    seconds = time.process_time() - began
    drawn = frame.drop_duplicates(unit).sample(COPIES, random_state=0).index.to_numpy()
    found = []
    for change, make in CHANGES.items():
        made = [np.asarray(make(Image.fromarray(read.read(frame["image_path"][i]).pixels))) for i in drawn]
        hashes = np.stack([difference(cells(m)) for m in made])
        greys = [stored(m) for m in made]
        their = np.stack([altered_copies.alterations(g) for g in greys])
        by_hash = near(hashes, plain, near_duplicates.NEAR_DUPLICATE_BITS)
        by_both = by_hash.copy()
        for v in range(altered_copies.PLAIN + 1):
            looks = (plain, hashes) if v == altered_copies.PLAIN else (altered[:, v], their[:, v])
            for a, b in np.argwhere(near(hashes, looks[0], near_duplicates.MOST_BITS) & ~by_both):
                by_both[a, b] = altered_copies.is_alike(originals[b], v, greys[a])
            for a, b in np.argwhere(near(looks[1], plain, near_duplicates.MOST_BITS) & ~by_both):
                by_both[a, b] = altered_copies.is_alike(greys[a], v, originals[b])
        same = units[drawn][:, None] == units[None]
        row: dict[str, Any] = {"data": name, "change": change, "copies": COPIES, "images": len(frame)}
        for way, joined in (("hash", by_hash), ("altered", by_both)):
            row |= {
                f"{way}_recall": round(float(joined[np.arange(COPIES), drawn].mean()), 4),
                f"{way}_precision": round(float((joined & same).sum() / max(joined.sum(), 1)), 4),
                f"{way}_other_unit": int((joined & ~same).sum()),
            }
        found.append(row)
        print(row, flush=True)
    found.append({"data": name, "change": None, "alterations_ms_a_image": round(1000 * seconds / len(frame), 3)})
    return found


def between() -> dict[str, int]:
    """Images of the smaller brain MR collection, by label, that have a copy in the larger one."""
    parts, labels = [], []
    for name in ("brain_tumor_yesno", "brain_tumor_mri"):
        dataset, opened = store.prepare(table.load(ROOT / name / "table.csv"), SIZE, quiet=True)
        parts.append((opened, dataset.table["row"].to_numpy()))
        labels.append(dataset.table["label"].to_numpy(object))
    label = labels[0]
    result: dict[str, int] = {}
    hashed = near_duplicates.near_duplicates(np.concatenate([s.hashes[r] for s, r in parts]))
    for way, groups in (("hash", hashed), ("altered", altered_copies.find_copies_of_stores(parts))):
        small = np.isin(groups[: len(label)], groups[len(label) :])
        result |= {f"{way}_{k}": int(small[label == k].sum()) for k in ("no", "yes")}
    return result


def planted(n: int, kind: str) -> dict[str, Any]:
    """Seconds of a core for n hashes, random with a twentieth copied 10 bits away; or with 150 bits of background; or all alike."""
    draw = np.random.default_rng(0)
    bits = np.unpackbits(draw.integers(0, 256, (n, 32), dtype=np.uint8), axis=1)
    first = 150 if kind == "background" else 0
    bits[:, :first] = 0
    order, m = draw.permutation(n), n // 20
    made, sources = (np.arange(n), np.zeros(n, int)) if kind == "copies" else (order[:m], order[m : 2 * m])
    bits[made] = bits[sources]
    for _ in range(5 if kind == "copies" else 10):
        bits[made, draw.integers(first, 256, len(made))] ^= 1
    hashes = np.packbits(bits, axis=1)
    del bits
    began = time.process_time()  # of one core; other work on the machine does not count
    groups = near_duplicates.near_duplicates(hashes)
    seconds = time.process_time() - began
    found = float((groups[made] == groups[sources]).mean())
    return {"hashes": n, "kind": kind, "seconds": round(seconds, 2), "found": round(found, 5), "groups": int(groups.max()) + 1}


def tables() -> str:
    """The two tables of docs/results/audit.md."""
    kept = json.loads(OUT.read_text())
    rows = pd.DataFrame([r for r in kept["quality"] if r["change"]])
    lines = ["| copy | " + " | ".join(SETS) + " |", "|---|" + "---|" * len(SETS)]
    for change in CHANGES:
        cells = []
        for name in SETS:
            r = rows[(rows["change"] == change) & (rows["data"] == name)].iloc[0]
            cells.append(f"{r['hash_recall']:.2f} / {r['altered_recall']:.2f}")
        lines.append(f"| {change} | " + " | ".join(cells) + " |")
    sums = rows.groupby("data")[["hash_other_unit", "altered_other_unit"]].sum()
    lines.append(
        "| pairs of two units (all copies) | " + " | ".join(f"{sums.loc[n].iloc[0]} / {sums.loc[n].iloc[1]}" for n in SETS) + " |"
    )
    lines += ["", "| hashes | kind | seconds | planted pairs found |", "|---|---|---|---|"]
    lines += [f"| {r['hashes']:,} | {r['kind']} | {r['seconds']:.1f} | {r['found']:.4f} |" for r in kept["time"]]
    return "\n".join(lines)


def main() -> None:
    """Measure, or print the tables."""
    if sys.argv[1:] == ["table"]:
        print(tables())
        return
    result = {
        "hardware": hardware(),
        "quality": [row for name, unit in SETS.items() for row in quality(name, unit)],
        "brain_tumor_yesno_in_brain_tumor_mri": between(),
        "time": [planted(n, kind) for n in (10_000, 100_000, 1_000_000) for kind in ("random", "background", "copies")],
    }
    OUT.write_text(json.dumps(result, indent=1) + "\n")
    print(tables())


if __name__ == "__main__":
    main()
