"""Burned-in text is found and painted over, markers are not, and what the extra is missing for is reported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from scotoma.commands.prepare import prepare
from scotoma.data import sources
from scotoma.data.io import read, text_detector
from scotoma.data.phantom import phantom
from scotoma.data.store import decode_worker, store
from scotoma.errors import UsageError

REDACT = read.Display(redact=True)


def film(index: int, side: int = 320) -> Image.Image:
    return Image.fromarray(phantom.render("phantom:41", index, side))


def write(image: Image.Image, at: tuple[int, int], words: str, height: int, fill: int) -> tuple[int, int, int, int]:
    """Write a line whose letters are ``height`` pixels high; its box."""
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(height / 0.7)
    draw.text(at, words, fill=fill, font=font)
    left, top, right, bottom = draw.textbbox(at, words, font=font)
    return round(left), round(top), round(right), round(bottom)


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_detector, "models", lambda: None)


@pytest.mark.parametrize(
    ("words", "height", "fill", "turned"),
    [
        ("KOWALSKI^PIOTR", 7, 255, False),
        ("born 12.03.1961", 12, 190, False),
        ("MRN 448120", 20, 0, False),
        ("ST MARY", 12, 255, True),
    ],
)
def test_a_line_is_found_and_painted_over(words: str, height: int, fill: int, turned: bool) -> None:
    image = film(3)
    if turned:
        image = image.transpose(Image.Transpose.ROTATE_90)
    left, top, right, bottom = write(image, (40, 200), words, height, fill)
    plain = film(3).transpose(Image.Transpose.ROTATE_90) if turned else film(3)
    pixels, clean = (np.asarray(i.transpose(Image.Transpose.ROTATE_270) if turned else i) for i in (image, plain))
    found = text_detector.text_lines(pixels)
    inked = pixels != clean
    over = np.zeros(pixels.shape, bool)
    for box in found:
        over[box[1] : box[3], box[0] : box[2]] = True
    assert over[inked].mean() > 0.9
    assert over.sum() < 4 * (right - left) * (bottom - top)
    painted = text_detector.paint_over(pixels, found)
    was, left_over = (np.abs(p.astype(int) - clean)[inked].mean() for p in (pixels, painted))
    assert left_over < was / 2
    assert text_detector.text_lines(painted) == []


def test_markers_numbers_arrows_and_rulers_are_no_finding() -> None:
    for index, words in enumerate(("L", "PA", "R  3", "120")):
        image = film(index)
        write(image, (30, 240), words, 16, 255)
        draw = ImageDraw.Draw(image)
        draw.line((200, 100, 240, 130), fill=255, width=3)
        for k in range(9):
            draw.line((308, 60 + 20 * k, 316, 60 + 20 * k), fill=255)
        assert text_detector.text_lines(np.asarray(image)) == []


def test_a_short_name_below_a_finding_goes_with_it_and_a_side_marker_stays() -> None:
    found = [(40, 20, 200, 40), (40, 60, 80, 80), (0, 60, 10, 80), (40, 200, 90, 220)]
    marks = [text_detector.Mark(box, letters) for box, letters in zip(found, (9, 3, 1, 3), strict=True)]
    assert text_detector._lines(marks) == found[:2]
    assert text_detector._lines(marks[1:]) == []
    row = [
        text_detector.Mark((10, 10, 40, 30), 3),
        text_detector.Mark((50, 12, 70, 30), 2),
        text_detector.Mark((52, 90, 70, 110), 1),
    ]
    assert text_detector._lines(row) == [(10, 10, 40, 30), (50, 12, 70, 30)]  # five in a row


def test_small_letters_of_a_large_film_and_a_colour_image() -> None:
    image = film(7, 1100)
    box = write(image, (900, 1020), "DOE^JANE 1961", 9, 255)
    found = text_detector.text_lines(np.asarray(image))
    assert any(text_detector._is_within(box, f) for f in found)
    pixels = np.full((200, 260, 3), (190, 110, 120), np.uint8)
    image = Image.fromarray(pixels)
    ImageDraw.Draw(image).text((20, 90), "PATIENT 4711", fill=(250, 250, 20), font=ImageFont.load_default(16))
    painted = text_detector.paint_over(np.asarray(image), text_detector.text_lines(np.asarray(image)))
    assert np.abs(painted.astype(int) - pixels).max() < 12


def test_other_depths_are_painted_in_their_own_values() -> None:
    deep = np.full((100, 200), 9000, np.uint16)
    painted = text_detector.paint_over(deep, [(0, 0, 200, 100)])
    assert painted.dtype == np.uint16 and not painted.any()  # nothing lies around it
    deep[40:50, 60:120] = 65535
    painted = text_detector.paint_over(deep, [(60, 40, 120, 50)])
    assert (painted == 9000).all() and (deep == 65535).any()


def test_tiles_cover_a_side_and_overlap() -> None:
    for length in (5, 1024, 1025, 2500, 5001):
        tiles = list(text_detector._tiles(length))
        assert tiles[0].start == 0 and tiles[-1].stop == length
        assert all(t.stop - t.start <= text_detector.TILE for t in tiles)
        assert all(b.start <= a.stop - text_detector.OVERLAP for a, b in pairwise(tiles))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three films: with text, without, and with a marker."""
    root = tmp_path / "films"
    root.mkdir()
    for k in range(3):
        image = film(k)
        if k != 1:
            write(image, (10, 4), ("SMITH^ANNA 1950", "", "R")[k], 12, 255)
        image.save(root / f"{k}.png")
    film(1).save(root / "3.jpg", quality=95)
    return root


def test_prepare_paints_text_over_and_leaves_other_films_bit_by_bit(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stores = {}
    for name in ("plain", "redacted"):
        path = prepare(folder, tmp_path / name, size=64, redact=name == "redacted", quiet=True)
        stores[name] = store.open_store(path)
        said = capsys.readouterr().err
        assert ("painted over in 1 of 4 images" in said) == (name == "redacted")
    plain, redacted = stores["plain"], stores["redacted"]
    changed = [not np.array_equal(a, b) for a, b in zip(plain.pixels, redacted.pixels, strict=True)]
    assert changed == [True, False, False, False]
    assert np.array_equal(plain.hashes[1:], redacted.hashes[1:])
    assert plain.facts["content"].tolist() == redacted.facts["content"].tolist()  # the same films, as overlap is looked for
    assert redacted.facts["redacted"].notna().tolist() == changed
    assert json.loads((redacted.path / "store.json").read_text())["display"]["redact"] is True
    clean = read.square(np.asarray(film(0)), redacted.side, 1)
    assert np.abs(redacted.pixels[0].astype(int) - clean).mean() < np.abs(plain.pixels[0].astype(int) - clean).mean() / 3
    assert sources.load(redacted.path).display.redact


def test_without_the_extra_prepare_refuses_and_others_say_it(
    folder: Path, tmp_path: Path, absent: None, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError, match=r"`redact`: .*pip install 'scotoma\[ocr\]'"):
        prepare(folder, tmp_path / "out", size=32, redact=True, quiet=True)
    assert not (tmp_path / "out").exists()
    dataset = sources.load(folder)
    dataset = type(dataset)(dataset.name, dataset.table, display=REDACT)
    _, opened = store.prepare(dataset, 32, out=tmp_path / "late", quiet=True)
    assert not opened.display.redact
    assert "stays in these images" in capsys.readouterr().err


def test_a_store_that_differs_in_it_is_said(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = prepare(folder, tmp_path / "plain", size=32, quiet=True)
    dataset = sources.load(path)
    store.prepare(type(dataset)(dataset.name, dataset.table, store=path, display=REDACT), 32, quiet=True)
    assert "not painted over in this store, and was where" in capsys.readouterr().err
    with pytest.raises(UsageError, match="prepare it anew"):
        wanted = read.Display(equalize="clahe", redact=True)
        store.prepare(type(dataset)(dataset.name, dataset.table, store=path, display=wanted), 32, quiet=True)


def test_a_failing_detector_makes_the_image_unreadable_and_never_unpainted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(pixels: np.ndarray) -> list[text_detector.Box]:
        raise RuntimeError("no memory")

    monkeypatch.setattr(text_detector, "text_lines", fails)
    with pytest.raises(read.ImageError, match="no memory"):
        read.read(str(folder / "0.png"), display=REDACT)
    assert read.read(str(folder / "0.png")).pixels.shape == (320, 320)


def test_decoding_imports_onnxruntime_only_where_text_is_painted_over(folder: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys; from scotoma.data.store import decode_worker; from scotoma.data.io import read; "
        "read.read(sys.argv[1], None, 64); "
        "print([m for m in ('torch', 'pandas', 'onnxruntime', 'scipy', 'cv2') if m in sys.modules]); "
        "read.read(sys.argv[1], None, 64, read.Display(redact=True)); "
        "print([m for m in ('torch', 'pandas', 'onnxruntime', 'cv2', 'rapidocr') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code, str(folder / "0.png")], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines() == ["[]", "['onnxruntime']"]
    assert decode_worker.SECONDS >= 60


def test_the_detector_reports_nothing_to_anyone(tmp_path: Path) -> None:
    """onnxruntime writes an id of the machine below the cache and reports sessions, unless it is told not to before its import."""
    environment = {k: v for k, v in os.environ.items() if k not in ("CI", "ORT_DISABLE_TELEMETRY", "ORT_RUNNING_UNIT_TESTS")}
    environment |= {"XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path)}
    code = "from scotoma.data.io import text_detector as t; t._session(next(t.models().glob('*.onnx')).name)"
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []
