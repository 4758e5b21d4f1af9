"""The verb `audit`: planted problems are found and named by row id, clean data are left alone, nothing identifying is written."""

from __future__ import annotations

import contextlib
import itertools
import json
import threading
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from scotoma import cli
from scotoma.commands.audit import audit
from scotoma.data.io import dicom_phi, read, text_detector
from scotoma.errors import RunError, UsageError
from scotoma.quality import audit as images
from scotoma.quality.audit import AuditedTable
from scotoma.run_folder import read_rows, status

PLACES = ((0.28, 0.5), (0.72, 0.5))


def draw_image(rng: np.random.Generator, kind: int = 0, size: tuple[int, int] = (72, 72)) -> np.ndarray:
    """Smooth noise of its own, dark border, a bright disc left (0) or right (1): what images of one sort have in common."""
    coarse = Image.fromarray(rng.integers(20, 150, (9, 9), dtype=np.uint8))
    pixels = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), float)
    rows, columns = np.mgrid[: size[1], : size[0]]
    x, y = columns / size[0], rows / size[1]
    disc = (x - PLACES[kind][0]) ** 2 + (y - PLACES[kind][1]) ** 2 < 0.03
    inside = (x - 0.5) ** 2 + (y - 0.5) ** 2 < 0.23
    return np.clip((pixels + 100 * disc) * inside + rng.normal(8, 2, pixels.shape), 0, 255).astype(np.uint8)


def save(folder: Path, images: list[np.ndarray], **columns: Any) -> pd.DataFrame:
    folder.mkdir()
    paths = []
    for i, pixels in enumerate(images):
        paths.append(str(folder / f"DOE_JANE_{i}.png"))
        Image.fromarray(pixels).save(paths[-1])
    return pd.DataFrame({"image_path": paths, **columns})


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, list[dict[str, Any]], Path]:
    """120 images of 60 patients with one of each problem, audited."""
    rng = np.random.default_rng(0)
    labels = np.arange(120) // 2 % 2
    images = [draw_image(rng, k) for k in labels]
    images[10] = images[11] = images[0]  # row 11 in another split than 10 and 0, row 10 with another label than 0
    images[20] = 255 - images[20]
    images[30] = np.full((72, 72), 7, np.uint8)
    images[40] = draw_image(rng, 0, (400, 72))
    images[50] = images[2][:, ::-1]
    of = np.where(np.arange(120) // 2 % 3 == 0, "test", "train")
    patients = [f"Doe^Jane{k // 2}" for k in range(120)]
    of[[0, 1, 10]], of[11] = "train", "test"
    patients[4] = patients[13]  # rows 4 and 5, 12 and 13
    of[[4, 5]], of[[12, 13]] = "train", "test"
    label = np.array(["left", "right"], object)[labels]
    label[10], label[0] = "right", "left"
    frame = save(
        tmp_path_factory.mktemp("audit") / "scans", images, label=label, patient=patients, split=of,
        age=rng.integers(20, 90, 120).astype(float), sex=np.where(labels == 0, "F", "M"),
    )  # fmt: skip
    frame.loc[60:90, "age"] = np.nan
    Path(frame["image_path"][119]).write_bytes(b"no image")
    out = tmp_path_factory.mktemp("runs") / "audit"
    return frame, audit(frame, out=out, quiet=True), out


def of_check(rows: list[dict[str, Any]], check: str) -> dict[str, Any]:
    found = [r for r in rows if r["metric"] == check]
    assert len(found) == 1, (check, [r["metric"] for r in rows if "severity" in r])
    return found[0]


def test_planted_problems_are_found_by_row(spoilt: tuple[pd.DataFrame, list[dict[str, Any]], Path]) -> None:
    _, rows, _ = spoilt
    wanted = {
        "identical_across_splits": ("error", [0, 10, 11]),
        "contradicting_labels_identical": ("error", [0, 10, 11]),
        "inverted": ("warning", [20]),
        "constant": ("warning", [30]),
        "unreadable": ("warning", [119]),
        "odd_file": ("note", [40]),
    }
    for check, (severity, ids) in wanted.items():
        found = of_check([r for r in rows if check != "odd_file" or "shape" in r.get("text", "")], check)
        assert (found["severity"], found["rows"]) == (severity, ids), check
    leak = of_check(rows, "patient_across_splits")
    assert leak["severity"] == "error"
    assert {4, 12, 13} <= set(leak["rows"])
    mirrored = [r for r in rows if r["metric"].startswith("altered_copy")]
    assert any({2, 50} <= set(r["rows"]) for r in mirrored)
    missing = next(r for r in rows if r["metric"] == "missing_values" and r["column"] == "age")
    assert missing["value"] == 31
    severities = [r["severity"] for r in rows if "severity" in r]
    assert severities == sorted(severities, key=["error", "warning", "note"].index)


def test_the_run_folder_names_rows_and_nothing_else(spoilt: tuple[pd.DataFrame, list[dict[str, Any]], Path]) -> None:
    frame, rows, out = spoilt
    assert status(out) == "finished"
    assert [r["metric"] for r in read_rows(out)] == [r["metric"] for r in rows]
    page = (out / "audit.html").read_text()
    assert page.count("<img") > 10
    assert "data:image/jpeg" in page
    assert "http" not in page.replace('http-equiv="Content-Security-Policy"', "")
    for file in ("audit.html", "rows.jsonl", "config.yaml"):
        text = (out / file).read_text()
        assert "DOE_JANE" not in text
        assert "Doe^Jane" not in text
        assert str(Path(frame["image_path"][0]).parent) not in text
    assert ">row 20 " in page
    with pytest.raises(UsageError, match="finished run"):
        audit(frame, out=out, quiet=True)


def test_the_cohort_and_counts_are_rows(spoilt: tuple[pd.DataFrame, list[dict[str, Any]], Path]) -> None:
    frame, rows, out = spoilt
    train = next(r for r in rows if r["evaluator"] == "cohort" and r["metric"] == "patients" and r["split"] == "train")
    readable = frame[:119]
    assert train["value"] == readable["patient"][readable["split"] == "train"].nunique()
    by_sex = {r["class"]: r["value"] for r in rows if r.get("column") == "sex" and r["metric"] == "images" and "split" not in r}
    assert by_sex == readable["sex"].value_counts().to_dict()
    assert "Composition of the splits" in (out / "audit.html").read_text()


def test_sizes_that_go_with_the_label_are_found_and_clean_data_are_left_alone(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    labels = np.arange(90) % 2
    sizes = [(60, 66) if k and rng.random() < 0.8 else (66, 60) for k in labels]
    images = [draw_image(rng, 0, s) for s in sizes]
    common = {"label": labels, "patient": [f"p{k}" for k in range(90)], "split": ["train", "train", "test"] * 30}
    rows = audit(save(tmp_path / "sizes", images, **common), quiet=True)
    found = of_check(rows, "header_predicts")
    assert found["severity"] == "warning"
    assert "width" in found["text"]
    area = next(r for r in rows if r["metric"] == "auroc" and r["from"] == "header")
    exact = np.mean([s == (60, 66) for s, k in zip(sizes, labels, strict=True) if k])
    assert area["value"] == pytest.approx(0.5 + exact / 2, abs=0.06)
    assert area["low"] < area["value"] < area["high"]
    rare = common | {"label": ["n/a", "unknown", *labels[2:].astype(str)]}
    rows = audit(save(tmp_path / "rare", images, **rare), target=["label"], quiet=True)
    part, found = of_check(rows, "shortcuts_in_part"), of_check(rows, "header_predicts")
    assert "without 'n/a', 'unknown': images of fewer than 5 patients" in part["text"] and part["value"] == 2
    area = next(r for r in rows if r["metric"] == "auroc" and r["from"] == "header")
    assert area["n"] == 88 and area["reason"].startswith("without 'n/a', 'unknown'")
    assert "width" in found["text"] and "(1.00)" not in found["text"]  # one image of a class is separated by anything
    one = common | {"label": ["a"] * 86 + ["b"] * 4}
    rows = audit(save(tmp_path / "one", images, **one), target=["label"], quiet=True)
    text = of_check(rows, "shortcuts_not_checked")["text"]
    assert text.startswith("not checked: whether size, headers or the border alone predict label ('b': images of fewer than 5")
    clean = audit(save(tmp_path / "clean", [draw_image(rng, k) for k in labels], **common), quiet=True, fail_on="warning")
    assert {r["severity"] for r in clean if "severity" in r} <= {"note"}


def test_a_table_is_held_against_another(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    images = [draw_image(rng) for _ in range(24)]
    inside = save(tmp_path / "a", images, patient=[f"p{k}" for k in range(24)])
    other = [draw_image(rng) for _ in range(12)]
    other[3] = images[5]
    other[7] = images[9][::-1]
    outside = save(tmp_path / "b", other, patient=["p1", *(f"q{k}" for k in range(11))])
    rows = audit(inside, against=outside, quiet=True)
    same = of_check(rows, "identical_in_both_tables")
    assert (same["severity"], same["rows"], same["against_rows"]) == ("error", [5], [3])
    people = of_check(rows, "patient_in_both_tables")
    assert (people["severity"], people["rows"], people["against_rows"]) == ("error", [1], [0])
    turned = of_check(rows, "altered_copy_in_both_tables")
    assert (turned["rows"], turned["against_rows"]) == ([9], [7])
    with pytest.raises(RunError, match=r"2 problems, the first: 1 patient in both tables"):
        audit(inside, against=outside, quiet=True, fail_on="error")


@pytest.mark.parametrize("installed", [True, False])
def test_text_and_identifying_headers_are_told_without_their_content(
    tmp_path: Path, installed: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if not installed:
        monkeypatch.setattr(text_detector, "models", lambda: None)
    pydicom = pytest.importorskip("pydicom")
    from pydicom.dataset import FileDataset, FileMetaDataset

    rng = np.random.default_rng(3)
    for i in range(3):
        image = Image.fromarray(draw_image(rng, 0, (256, 256)))
        if i == 1:
            ImageDraw.Draw(image).text((8, 226), "SMITH 1961", fill=255, font=ImageFont.load_default(20))
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        meta.MediaStorageSOPInstanceUID = f"1.2.3.{i + 1}"
        meta.MediaStorageSOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
        ds = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
        ds.SOPClassUID, ds.Modality = meta.MediaStorageSOPClassUID, "OT"
        ds.PatientName, ds.PatientID = ("Zyxw^Quentin", "8841990") if i == 2 else ("Anonymous", "")
        ds.StudyDate, ds.InstitutionName = ("20190317", "Saint Elsewhere") if i == 2 else ("", "")
        ds.Rows = ds.Columns = 256
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated = ds.BitsStored = 8
        ds.HighBit, ds.PixelRepresentation, ds.PixelData = 7, 0, np.asarray(image).tobytes()
        ds.save_as(tmp_path / f"{i}.dcm", enforce_file_format=True)
    out = tmp_path.with_name(tmp_path.name + "-run")
    rows = audit(tmp_path, out=out, quiet=True)
    assert of_check(rows, "burned_in_text")["rows"] == [1]
    assert ("a detector finds more: pip install 'scotoma[ocr]'" in capsys.readouterr().err) is not installed
    headers = of_check(rows, "identifying_header")
    assert headers["rows"] == [2]
    assert headers["elements"] == {"PatientName": 1, "PatientID": 1, "StudyDate": 1, "InstitutionName": 1}
    for file in (p for p in out.rglob("*") if p.is_file()):
        assert not any(word in file.read_bytes() for word in (b"Zyxw", b"8841990", b"20190317", b"Elsewhere"))


def test_identifying_elements_of_other_formats_are_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    image = Image.fromarray(draw_image(rng))
    exif = Image.Exif()
    exif[0x013B], exif[0x9C9D] = "Dr. Who", "Dr. Who".encode("utf-16-le")
    exif.get_ifd(0x8769)[0x9003] = "2019:03:17 10:00:00"
    exif.get_ifd(0x8825)[1] = "N"
    image.save(tmp_path / "a.jpg", exif=exif)
    nothing = Image.Exif()
    nothing[0x013B], nothing[0x0131] = "anonymous", "GIMP"
    image.save(tmp_path / "b.jpg", exif=nothing)
    text = PngInfo()
    text.add_text("Author", "Dr. Who")
    text.add_text("Software", "any")
    image.save(tmp_path / "c.png", pnginfo=text)
    for name in ("d", "e"):
        volume = nibabel.Nifti1Image(np.zeros((4, 4, 2), np.int16), np.eye(4))
        volume.header["db_name"] = b"WHO^DOCTOR" if name == "d" else b""
        nibabel.save(volume, tmp_path / f"{name}.nii.gz")
    (tmp_path / "f.dcm").write_bytes(b"broken")
    found = {p.name: dicom_phi.find_filled(str(p)) for p in tmp_path.iterdir()}
    assert found == {
        "a.jpg": ["Artist", "XPAuthor", "DateTimeOriginal", "GPS position"],
        "b.jpg": [],
        "c.png": ["PNG text Author"],
        "d.nii.gz": ["db_name"],
        "e.nii.gz": [],
        "f.dcm": None,
    }


def test_the_command_prints_and_fails_where_it_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(4)
    pixels = draw_image(rng)
    frame = save(tmp_path / "x", [pixels, pixels, *(draw_image(rng) for _ in range(4))], split=["train", "test"] * 3)
    table = tmp_path / "t.csv"
    frame.to_csv(table, index=False)
    assert cli.main(["audit", str(table)]) == 0
    assert "same pixels" in capsys.readouterr().out
    assert cli.main(["audit", str(table), "--fail_on", "error", "--quiet"]) == 1
    captured = capsys.readouterr()
    assert "same pixels" in captured.err
    assert captured.out == ""
    assert cli.main(["audit", str(table), "--fail_on", "sometimes"]) == 2
    assert cli.main(["audit", str(table), "--target", "lable"]) == 2


@pytest.mark.parametrize(("name", "target", "low", "high"), [
    ("brain_tumor_yesno", "label", 0.77, 0.87), pytest.param("covid_chestxray", "covid", 0.60, 0.70, marks=pytest.mark.long),
])  # fmt: skip
def test_known_confounders_are_found(data_root: Path, name: str, target: str, low: float, high: float) -> None:
    rows = audit(data_root / name / "table.csv", target=[target], quiet=True)
    found = of_check(rows, "header_predicts")
    assert low < found["auroc"] < high
    assert json.dumps(found)


def test_dicom_files_of_which_some_state_no_view(tmp_path: Path, write_dicom: Any) -> None:
    rng = np.random.default_rng(5)
    for k in range(24):
        view = {"ViewPosition": ("PA", "AP")[k % 2]} if k % 3 else {}
        modality = {"Modality": "DX"} if k % 4 else {}
        pixels = 255 - draw_image(rng) if k == 5 else draw_image(rng)
        write_dicom(tmp_path / "scans" / f"{k}.dcm", pixels, PatientID=f"p{k}", **view, **modality)
    rows = audit(tmp_path / "scans", quiet=True)
    assert next(r["value"] for r in rows if r.get("column") == "view" and r.get("class") == "PA") == 8
    assert next(r["value"] for r in rows if r.get("column") == "view" and r.get("class") == "missing") == 8


def test_the_caller_s_filters_of_warnings_are_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads that hid a decoder's warnings left all warnings hidden: each restored what the other had set."""
    came, first_left, numbers = threading.Barrier(2), threading.Event(), itertools.count()

    def wait(*args: Any) -> Any:
        number = next(numbers)
        with contextlib.ExitStack() as stack:
            if number == 1:
                came.wait(30)
            stack.enter_context(read.one_line("a"))
            if number == 0:
                came.wait(30)
                came.wait(30)
            else:
                came.wait(30)
                first_left.wait(30)
        first_left.set()
        raise read.ImageError("not needed here")

    monkeypatch.setattr(read, "read", wait)
    table = pd.DataFrame({"image_path": ["phantom:0"] * 2})
    part = AuditedTable(SimpleNamespace(name="a", table=table), None)  # type: ignore[arg-type]
    before = list(warnings.filters)
    images._confidential(part, SimpleNamespace(names=["0", "1"]), quiet=True)  # type: ignore[arg-type]
    assert warnings.filters == before
