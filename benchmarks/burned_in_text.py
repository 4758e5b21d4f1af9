"""Burned-in text: what share of painted lines is found, how often an alarm is false, and how long a film takes.

python benchmarks/burned_in_text.py choose [N]   the films for choosing scales and thresholds: prints recall and alarms
python benchmarks/burned_in_text.py test         reads the test films once and writes benchmarks/results/burned_in_text.json
python benchmarks/burned_in_text.py table        prints the tables of docs/results/audit.md from it

Films for choosing and films for testing share no font, letter height, contrast, place, background series or data set. A film with
text has one block of one to three lines as apparatus write them; its letters are as high as a capital. A film without text has
side and view markers, single numbers, arrows and rulers instead. A line counts as found where boxes cover at least 60 % of it.
The real films are a fixed random sample; ``burned_in_text_labels.csv`` says which of them hold at least four letters or digits in
a row, as counted by hand.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from scotoma.data.io import burned_in_text, text_detector
from scotoma.data.io import read as images
from scotoma.data.phantom import phantom
from scotoma.run_folder import hardware

ROOT = Path(os.environ.get("SCOTOMA_DATA", Path(__file__).parents[2] / "shared" / "data"))
OUT = Path(__file__).parent / "results" / "burned_in_text.json"
LABELS = Path(__file__).parent / "results" / "burned_in_text_labels.csv"
FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
COVERED = 0.6
MARKERS = ("L", "R", "AP", "PA", "LL", "RL", "ML", "7", "12", "1", "120")
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Part:
    """What the films of one part are made of.

    Args:
        seed: of everything drawn.
        sides: of phantoms, pixels.
        data: data sets whose images are backgrounds, too.
        fonts: file names of matplotlib's fonts, ``hershey`` (OpenCV's strokes), ``bitmap`` or ``aileron`` (Pillow's).
        heights: of a capital, pixels.
        contrasts: grey levels between letters and what they lie on; 255 for black or white.
        inside: whether text lies over the body instead of along an edge.
        last, first, other: words of which lines are made.
    """

    seed: int
    sides: tuple[int, ...]
    data: tuple[str, ...]
    fonts: tuple[str, ...]
    heights: tuple[int, ...]
    contrasts: tuple[int, ...]
    inside: bool
    last: tuple[str, ...]
    first: tuple[str, ...]
    other: tuple[str, ...]


CHOOSE = Part(
    11, (384, 768, 1536), ("cxr_pneumonia", "brain_tumor_mri"),
    ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSansMono.ttf", "DejaVuSerif.ttf"),
    (7, 9, 13, 19, 30), (60, 100, 160, 255), False,
    ("DOE", "MUELLER", "SMITH", "KOWALSKI", "GARCIA"), ("JANE", "ANNA", "JOHN", "PIOTR"),
    ("ST MARY HOSPITAL", "Radiologie Nord", "PORTABLE", "80 kV 4 mAs", "SE 3 IM 41"),
)  # fmt: skip
TEST = Part(
    23, (256, 512, 1024, 2048), ("ham10000", "retina_vessels", "ct_age_contrast"),
    ("cmss10.ttf", "cmr10.ttf", "cmtt10.ttf", "STIXGeneral.ttf", "STIXGeneralBol.ttf", "hershey", "bitmap", "aileron"),
    (6, 8, 11, 16, 24, 36), (50, 80, 130, 255), True,
    ("NGUYEN", "IVANOVA", "TANAKA", "OKAFOR", "LINDQVIST", "O'NEILL"), ("LEE", "AHMED", "SVEN", "MARIA", "CHLOE"),
    ("UNIVERSITY MEDICAL CENTER", "Klinikum Sued", "ERECT PORTABLE", "120 kVp 250 mA", "W 400 L 40", "FOV 24.0 cm", "THK 5.0 mm"),
)  # fmt: skip


def line_of(part: Part, rng: np.random.Generator) -> str:
    """A line as an apparatus writes it: a name, a date, an id, a hospital or a technique."""

    def pick(words: tuple[str, ...]) -> str:
        return words[int(rng.integers(len(words)))]

    day, month, year, number = rng.integers((1, 1, 1930, 10000), (29, 13, 2020, 9999999)).tolist()
    kinds = {
        CHOOSE.seed: (
            f"{pick(part.last)}^{pick(part.first)}", f"{day:02}.{month:02}.{year}", f"ID {number}", pick(part.other),
            f"{day % 24:02}:{month:02}:{year % 60:02}",
        ),
        TEST.seed: (
            f"{pick(part.last).title()}, {pick(part.first).title()}", f"{pick(part.last)} {pick(part.first)} M {year % 90}Y",
            f"{year}-{month:02}-{day:02}", f"DOB {month:02}/{day:02}/{year}", f"MRN {number}", f"A{number:08}", pick(part.other),
        ),
    }  # fmt: skip
    return pick(kinds[part.seed])


def glyphs(words: str, font: str, height: int) -> np.ndarray:
    """(h, w) coverage from 0 to 1 of a line whose capitals are ``height`` pixels high."""
    if font == "hershey":
        import cv2

        scale, thick = height / 21, max(1, round(height / 14))
        (width, above), below = cv2.getTextSize(words, cv2.FONT_HERSHEY_SIMPLEX, scale, thick)
        canvas = np.zeros((above + below + 2 * thick + 4, width + 2 * thick + 4), np.uint8)
        cv2.putText(canvas, words, (thick + 2, above + thick + 2), cv2.FONT_HERSHEY_SIMPLEX, scale, 255, thick, cv2.LINE_AA)
        mask = canvas / 255
    else:
        if font == "bitmap":
            face: Any = ImageFont.load_default_imagefont()
        elif font == "aileron":
            face = ImageFont.load_default(height / 0.7)
        else:
            face = ImageFont.truetype(str(FONTS / font), height / 0.7)
        left, top, right, bottom = (round(v) for v in face.getbbox(words))
        canvas_image = Image.new("L", (right - left + 4, bottom - top + 4))
        ImageDraw.Draw(canvas_image).text((2 - left, 2 - top), words, fill=255, font=face)
        if font == "bitmap":  # of one height, 8 pixels; larger ones are its pixels enlarged
            factor = max(1, round(height / 8))
            canvas_image = canvas_image.resize(
                (canvas_image.width * factor, canvas_image.height * factor), Image.Resampling.NEAREST
            )
        mask = np.asarray(canvas_image) / 255
    rows, columns = np.flatnonzero(mask.max(1) > 0.3), np.flatnonzero(mask.max(0) > 0.3)
    return mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def paint(pixels: np.ndarray, mask: np.ndarray, x: int, y: int, contrast: int, rng: np.random.Generator) -> Box | None:
    """Paint a line whose corner is (x, y), lighter or darker than what it lies on; its box, or None where it does not fit."""
    height, width = mask.shape
    if x < 0 or y < 0 or y + height > pixels.shape[0] or x + width > pixels.shape[1]:
        return None
    ground = pixels[y : y + height, x : x + width]
    level = float(ground.mean())
    if contrast == 255:
        ink = 255.0 if level < 140 else 0.0
    else:
        ink = level + contrast if level + contrast <= 255 and (level < 128 or rng.random() < 0.3) else level - contrast
    cover = mask if mask.ndim == ground.ndim else mask[..., None]
    ground[...] = np.round(ground * (1 - cover) + np.clip(ink, 0, 255) * cover).astype(np.uint8)
    return x, y, x + width, y + height


def background(part: Part, index: int, rng: np.random.Generator) -> tuple[str, np.ndarray]:
    """A film without text: two of three are phantoms (with a side marker of their own), the third is real."""
    if index % 3 < 2:
        side = part.sides[index // 3 % len(part.sides)]
        return f"phantom {side}", phantom.render(f"phantom:{part.seed}", index, side).copy()
    name = part.data[index // 3 % len(part.data)]
    paths = pd.read_csv(ROOT / name / "table.csv")["image_path"]
    read = images.to_uint8(images.read(str(ROOT / name / paths[int(rng.integers(len(paths)))])).pixels)
    return name, np.repeat(np.repeat(read, 2, 0), 2, 1) if max(read.shape) < 256 else read.copy()


def films(part: Part, count: int, texts: bool) -> Iterator[tuple[dict[str, Any], np.ndarray, list[Box]]]:
    """Films with text, or with markers only: what they are, their pixels, and the boxes of their lines."""
    for index in range(count):
        rng = np.random.default_rng((part.seed, index, texts))
        kind, pixels = background(part, index, rng)
        height, width = pixels.shape[:2]
        font = part.fonts[int(rng.integers(len(part.fonts)))]
        fits = [h for h in part.heights if 11 * h < width]
        letters = fits[int(rng.integers(len(fits)))]
        contrast = part.contrasts[int(rng.integers(len(part.contrasts)))]
        if not texts:
            decorate(part, pixels, letters, contrast, font, rng)
            yield {"kind": kind}, pixels, []
            continue
        words = [line_of(part, rng) for _ in range(int(rng.integers(1, 4)))]
        masks = [glyphs(w, font, letters) for w in words]
        masks = [m for m in masks if m.shape[1] < width - 4] or [glyphs(words[0][:8], font, letters)]
        room = width - max(m.shape[1] for m in masks)
        step = round(letters * 1.7)
        block = step * len(masks)
        if part.inside:
            x, y = int(rng.integers(0, max(1, room))), int(rng.integers(height // 6, max(height // 6 + 1, height * 5 // 6 - block)))
        else:
            x, y = (3, max(0, room - 3))[index % 2], (4, max(0, height - block - 4))[index // 2 % 2]
        boxes = [paint(pixels, m, x, y + step * k, contrast, rng) for k, m in enumerate(masks)]
        yield {"kind": kind, "font": font, "letters": letters, "contrast": contrast}, pixels, [b for b in boxes if b]


def decorate(part: Part, pixels: np.ndarray, letters: int, contrast: int, font: str, rng: np.random.Generator) -> None:
    """A side or view marker or a number, at times an arrow or a ruler: what is no finding."""
    height, width = pixels.shape[:2]
    marker = glyphs(MARKERS[int(rng.integers(len(MARKERS)))], font, max(letters, 12))
    paint(pixels, marker, int(rng.integers(0, width - 8)), int(rng.integers(0, height - 8)), contrast, rng)
    image = Image.fromarray(pixels)
    draw, ink = ImageDraw.Draw(image), int(rng.integers(170, 256))
    ink_of = ink if pixels.ndim == 2 else (ink, ink, ink)
    x, y = int(rng.integers(width // 8, width * 7 // 8)), int(rng.integers(height // 8, height * 7 // 8))
    if rng.random() < 0.4:
        draw.line((x, y, x + letters * 2, y + letters), fill=ink_of, width=2)
        draw.polygon((x, y, x + letters // 2, y, x, y + letters // 2), fill=ink_of)
    if rng.random() < 0.4:
        for k in range(11):
            draw.line(
                (width - 12 + 4 * (k % 5 > 0), height // 4 + k * height // 24, width - 4, height // 4 + k * height // 24),
                fill=ink_of,
            )
    pixels[...] = np.asarray(image)


def covered(line: Box, found: list[Box]) -> bool:
    """Whether boxes cover a line: ``COVERED`` of its area."""
    left, upper, right, lower = line
    seen = np.zeros((lower - upper, right - left), bool)
    for box in found:
        seen[max(0, box[1] - upper) : max(0, box[3] - upper), max(0, box[0] - left) : max(0, box[2] - left)] = True
    return bool(seen.mean() >= COVERED)


# The real films: so many of each data set, drawn at random.
SAMPLE = {
    "covid_chestxray": 110, "brain_tumor_yesno": 30, "cxr_pneumonia": 15, "ham10000": 15, "brain_tumor_mri": 15,
    "retina_vessels": 5, "ct_age_contrast": 10,
}  # fmt: skip
FINDERS = {"detector": text_detector.text_lines, "rule": burned_in_text.text_lines}


def synthetic(part: Part, texts: int, without: int) -> Iterator[dict[str, Any]]:
    """A row a film: what it is, how many lines it has, how many each finder found, and how long that took."""
    for kind, count in ((True, texts), (False, without)):
        for about, pixels, lines in films(part, count, kind):
            row: dict[str, Any] = {
                "kind_of": "with" if kind else "without",
                **about,
                "side": max(pixels.shape[:2]),
                "lines": len(lines),
            }
            for name, find in FINDERS.items():
                began = time.process_time()
                boxes = find(pixels)
                row[f"{name}_seconds"] = round(time.process_time() - began, 4)
                row[name] = sum(covered(line, boxes) for line in lines) if kind else len(boxes)
            yield row


def real() -> list[dict[str, Any]]:
    """A row a real film: whether it holds text, as counted by hand (None where that is not clear), and what each finder says."""
    held = pd.read_csv(LABELS).set_index(["data", "row"])["text"]
    rows = []
    for name, count in SAMPLE.items():
        paths = pd.read_csv(ROOT / name / "table.csv")["image_path"]
        for i in paths.sample(count, random_state=7).sort_index().index:
            pixels = images.read(str(ROOT / name / paths[i])).pixels
            text = {"yes": True, "no": False, "unclear": None}[held[name, i]]
            rows.append({"data": name, "row": int(i), "text": text} | {k: len(find(pixels)) for k, find in FINDERS.items()})
    return rows


def speed() -> list[dict[str, Any]]:
    """Seconds of one core for a large film without text."""
    rows = []
    text_detector.text_lines(phantom.render("phantom:77", 0, 128))  # loads the networks
    for side in (3072,):  # smaller ones are among the synthetic films
        pixels = phantom.render("phantom:77", 1, side)
        began = time.process_time()
        text_detector.text_lines(pixels)
        rows.append({"side": side, "seconds": round(time.process_time() - began, 2)})
    return rows


def share(found: int, of: int) -> str:
    """A share with its count."""
    return f"{found / of:.0%} ({found} of {of})" if of else "-"


def tables() -> str:
    """The tables of docs/results/audit.md."""
    kept = json.loads(OUT.read_text())
    made = pd.DataFrame(kept["synthetic"])
    texts, none = made[made["lines"] > 0], made[made["kind_of"] == "without"]
    parts = ["| synthetic films | lines | found by the detector | by the rule |\n|---|---|---|---|\n"]

    def line(name: str, rows: pd.DataFrame) -> str:
        total = int(rows["lines"].sum())
        return f"| {name} | {total} | {share(int(rows['detector'].sum()), total)} | {share(int(rows['rule'].sum()), total)} |\n"

    parts.append(line("all", texts))
    parts += [line(f"letters of {h:.0f} px", texts[texts["letters"] == h]) for h in sorted(texts["letters"].unique())]
    names = {255: "black or white letters"}
    contrasts = sorted(texts["contrast"].unique())
    parts += [line(names.get(c, f"letters {c:.0f} grey levels off the ground"), texts[texts["contrast"] == c]) for c in contrasts]
    parts += [line(f"images of {s} px", texts[texts["side"] == s]) for s in sorted(texts["side"].unique()) if s in TEST.sides]
    parts.append(
        "\n| films | with text | found by the detector | by the rule | without | false alarms of the detector | of the rule |\n"
    )
    parts.append("|---|---|---|---|---|---|---|\n")
    wrong = [int((none[k] > 0).sum()) for k in FINDERS]
    found = [int((texts[k] > 0).sum()) for k in FINDERS]
    cells = [len(texts), *(share(f, len(texts)) for f in found), len(none), *wrong]
    parts.append("| synthetic | " + " | ".join(map(str, cells)) + " |\n")
    films_of = pd.DataFrame(kept["real"])
    films_of = films_of[films_of["text"].notna()]
    for name, rows in films_of.groupby("data", sort=False):
        has, lacks = rows[rows["text"] == True], rows[rows["text"] == False]  # noqa: E712
        cells = [len(has), *(share(int((has[k] > 0).sum()), len(has)) for k in FINDERS), len(lacks)]
        parts.append(f"| {name} | " + " | ".join(map(str, [*cells, *(int((lacks[k] > 0).sum()) for k in FINDERS)])) + " |\n")
    parts.append("\n| side | seconds of one core |\n|---|---|\n")
    usual = made.groupby("side")["detector_seconds"].median()
    seconds = {side: usual[side] for side in TEST.sides} | {row["side"]: row["seconds"] for row in kept["speed"]}
    parts += [f"| {side} | {value:.1f} |\n" for side, value in seconds.items()]
    return "".join(parts)


def main(arguments: list[str]) -> None:
    """One of the three commands above."""
    if arguments == ["table"]:
        print(tables())
    elif arguments[:1] == ["choose"]:
        count = int(arguments[1]) if len(arguments) > 1 else 60
        rows = pd.DataFrame(list(synthetic(CHOOSE, count, count)))
        texts = rows[rows["kind_of"] == "with"]
        for name in FINDERS:
            alarms = int((rows.loc[rows["kind_of"] == "without", name] > 0).sum())
            print(f"{name}: {share(int(texts[name].sum()), int(texts['lines'].sum()))} lines, {alarms} of {count} false alarms")
    elif arguments[:1] == ["test"]:
        result: dict[str, Any] = {"hardware": hardware(), "speed": speed(), "real": real(), "synthetic": []}
        for row in synthetic(TEST, 90, 150):
            result["synthetic"].append(row)
            OUT.write_text(json.dumps(result, indent=0) + "\n")
        print(tables())
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
