"""Nothing that names a patient leaves the input: not in stores, rows, logs, figures, networks or reports, nor on the screen.

Every place where a value can stand is planted with words of their own: columns of the table, folder and file names, cells of the
sheet that is joined, DICOM elements (free text and private ones too), Exif, texts and comments of PNG, JPEG and TIFF, names of
NIfTI and members of NPZ. Every verb then runs on it, failing ones too, and whatever was written or printed is searched.
"""

from __future__ import annotations

import base64
import gzip
import io
import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from conftest import grey_image
from PIL import Image, PngImagePlugin, TiffImagePlugin, UnidentifiedImageError
from pydicom.uid import generate_uid
from safetensors.numpy import save_file

from scotoma.cli import main

SECRETS = {
    "PatientName": "Zwxyname^Qfirst",
    "PatientID": "PIDQ7731",
    "AccessionNumber": "ACCQ9942",
    "StudyDate": "19870623",
    "PatientBirthDate": "19310417",
    "InstitutionName": "Qhospital Zentral",
    "ReferringPhysicianName": "Qdoctor^Who",
    "StudyDescription": "Qdescription of study",
    "StudyInstanceUID": "1.2.826.0.1.777777.42",
    "PatientComments": "Qcomments on the patient",
    "ImageComments": "Qimagecomments",
    "SeriesDescription": "Qseries",
    "ProtocolName": "Qprotocol",
    "RequestedProcedureDescription": "Qprocedure",
    "StationName": "QSTATION7",
    "PatientAddress": "Qelementstreet 7",
    "DerivationDescription": "Qderivation",
    "StudyTime": "QBADTIME",  # breaks the rules of its kind: pydicom quotes such values in warnings
}
PRIVATE = "Qprivate element"
COLUMNS = {  # of the table: column -> the value of patient k
    "patient_name": "Qcolname Hans{}",
    "mrn": "QMRN55{}",
    "dob": "1933-11-{:02}",
    "address": "Qcolstreet {}",
    "phone": "+49 30 77123{:02}",
    "accession": "QCOLACC{}",
    "remarks": "Qremark: came with wife number {} from Bonn",
    "wer": "Qunderanothername{}",  # under a name of its own
    "examined": "{:02}.03.1999",
}
SHEET = {"doctor": "readerQ88-{}", "surname": "Qsheetname{}", "finding_text": "Qsheettext of patient {} and so on"}
NEEDLES = [*SECRETS.values(), "Zwxyname", "Qfirst", "FILEQ55", "FOLDERQ44", "SHEETQ66", "SHEETNAMEQ67", "MEMBERQ33"]
NEEDLES += [PRIVATE, "PNGQ1", "PNGQ2", "EXIFQ1", "EXIFQ2", "JPEGQ1", "TIFFQ1", "TIFFQ2", "NIFTIQ1", "NIFTIQ2", "PIDTABLEQ"]
NEEDLES += [re.split(r"\{", text)[0] for text in (*COLUMNS.values(), *SHEET.values()) if not text.startswith("{")]
NEEDLES += [COLUMNS["examined"].format(k) for k in range(20)]


def texts(path: Path) -> Iterator[bytes]:
    """A file as it is, and what is packed in it."""
    raw = path.read_bytes()
    if path.suffix == ".safetensors":  # weights say nothing, and are long
        raw = raw[: 8 + int.from_bytes(raw[:8], "little")]
    yield raw
    if path.suffix == ".parquet":
        frame = pd.read_parquet(path)
        yield frame.to_csv().encode()
        yield str(pd.io.parquet.get_engine("pyarrow").api.parquet.read_schema(path).metadata).encode()
    elif path.suffix == ".png":
        yield from inside(raw)
    elif raw[:2] == b"\x1f\x8b":
        yield gzip.decompress(raw)
    elif zipfile.is_zipfile(io.BytesIO(raw)):
        with zipfile.ZipFile(path) as archive:
            yield from (name.encode() + archive.read(name)[:100_000] for name in archive.namelist())
    elif path.suffix == ".html":
        for packed in re.findall(rb"base64,([A-Za-z0-9+/=]+)", raw):
            yield from inside(base64.b64decode(packed))


def inside(raw: bytes) -> Iterator[bytes]:
    """What an image says of itself."""
    yield raw
    with suppress(UnidentifiedImageError), Image.open(io.BytesIO(raw)) as image:
        image.load()
        yield repr(image.info).encode() + repr(dict(image.getexif())).encode()


def coded(secret: str) -> tuple[bytes, ...]:
    """A value in any usual encoding, as parts of a longer one may be: base64 is searched by the value's own start."""
    lower = secret.lower()
    return lower.encode(), lower.encode("utf-16-le"), lower.encode("utf-32-le"), secret.encode().hex().encode()


def leaks(root: Path) -> list[tuple[str, str]]:
    """(file, secret) for every secret found below a folder, in any usual encoding."""
    found, codes = [], {secret: coded(secret) for secret in NEEDLES}
    own = {p for p in root.rglob("*") if p.name == "jobs.jsonl" or p.match("cache/index/*.csv")}  # what names files, for its owner
    assert all(p.stat().st_mode & 0o777 == 0o600 for p in own)
    for path in (p for p in root.rglob("*") if p.is_file() and p not in own):
        for text in (str(path.relative_to(root)).encode(), *texts(path)):
            lower = text.lower()
            found += [(str(path.relative_to(root)), s) for s, code in codes.items() if any(c in lower for c in code)]
    return found


def said(capfd: pytest.CaptureFixture[str]) -> tuple[str, list[str]]:
    """What was printed since, and the secrets in it."""
    printed = capfd.readouterr()
    text = printed.out + printed.err
    return text, [s for s in NEEDLES if s.lower() in text.lower()]


def plant(root: Path, name: str, k: int, pixels: np.ndarray, write_dicom: Callable[..., Path]) -> str:
    """One image of patient k // 2 in one of six formats, with planted words wherever the format has room; its path."""
    kind = ("dcm", "dcm", "png", "jpg", "tif", "nii.gz", "npz")[k % 7]
    path = root / f"{name}.{kind}"
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x010E], exif[0x9C9C] = "EXIFQ1 description", "EXIFQ2 comment".encode("utf-16-le")
    if kind == "png":
        info = PngImagePlugin.PngInfo()
        info.add_text("Author", "PNGQ1")
        info.add_itxt("Comment", "PNGQ2", zip=True)
        image.save(path, pnginfo=info, exif=exif)
    elif kind == "jpg":
        image.save(path, exif=exif, comment=b"JPEGQ1", quality=95)
    elif kind == "tif":
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        tags[270], tags[315] = "TIFFQ1", "TIFFQ2"
        image.save(path, tiffinfo=tags)
    elif kind == "nii.gz":
        scan = nibabel.Nifti1Image(pixels[..., None], np.eye(4))
        scan.header["db_name"], scan.header["descrip"] = b"NIFTIQ1", b"NIFTIQ2"
        nibabel.save(scan, path)
    elif kind == "npz":
        np.savez(path, MEMBERQ33=pixels[None])
        return f"{path}#MEMBERQ33"
    else:
        numbered = {name: SECRETS[name] for name in ("PatientID", "StudyInstanceUID")}
        own = SECRETS | {name: f"{value}.{k // 2}" for name, value in numbered.items()}
        write_dicom(path, pixels, Modality="DX", PatientAge="061Y", PatientSex="F", Manufacturer="Maker", **own)
        from pydicom import dcmread

        header = dcmread(path)
        header.private_block(0x0099, "QCREATOR", create=True).add_new(0x01, "LO", PRIVATE)
        header.SOPInstanceUID = generate_uid()
        header.save_as(path)
    return str(path)


@pytest.fixture
def planted(write_dicom: Callable[..., Path], tmp_path: Path) -> Path:
    """``table.csv`` of forty images of twenty patients, two broken, one folder per patient; and ``labels.csv`` of annotators."""
    rng, rows, sheet = np.random.default_rng(0), [], []
    for k in range(40):
        kind, patient = k // 2 % 2, k // 2
        name = f"FOLDERQ44_{patient}/FILEQ55-{k}"
        path = plant(tmp_path / "scans", name, k, grey_image(kind, rng), write_dicom)
        file = Path(path.partition("#")[0])
        if k == 7:
            file.write_bytes(b"no image")
        if k == 8:
            file.write_bytes(file.read_bytes()[:900])
        columns = {c: text.format(patient % 28 + 1) for c, text in COLUMNS.items()}
        own = {"image_path": path, "patient": f"PIDTABLEQ{patient}", "group": f"FOLDERQ44_{patient // 2}"}
        rows.append({**own, **columns, "sex": "FM"[patient % 2], "age": 40 + patient, "site": "AB"[patient // 10]})
        for r in range(3):
            read = ("left", "right")[kind ^ (r == 2 and k % 5 == 0)]
            sheet.append({"file": f"FILEQ55-{k}", "dx": read, **{c: t.format(r) for c, t in SHEET.items()}})
    pd.DataFrame(rows).to_csv(tmp_path / "table.csv", index=False)
    pd.DataFrame(sheet).to_csv(tmp_path / "labels.csv", index=False)
    return tmp_path


def run(lines: list[str], capfd: pytest.CaptureFixture[str], code: int = 0) -> str:
    """Run commands that must end with this code, and say nothing of what was planted; what they said."""
    told, wrong = [], []
    for line in lines:
        ended = main(line.split())
        text, found = said(capfd)
        if ended != code or found or (code and sum(not part.endswith(" ...") for part in text.splitlines()) > 3):
            wrong.append((line, ended, found, text))
        told.append(text)
    assert not wrong, "\n\n".join(map(str, wrong))
    return "".join(told)


def test_nothing_that_names_a_patient_is_in_any_output(
    planted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    out, data = tmp_path / "out", tmp_path / "table.csv"
    monkeypatch.setenv("SCOTOMA_CACHE", str(out / "cache"))
    joined = f"--labels {tmp_path}/labels.csv --on file --annotators soft"
    short = "--steps 2 --batch_size 8 --precision 32-true"
    told = run(
        [
            f"audit {data} --target dx --out {out}/audit {joined}",
            f"prepare {data} --out {out}/store --size 16 {joined}",
            f"pretrain --data {data} --out {out}/encoder --encoder resnet10t --size 16 {short}",
            f"finetune --data {data} --target dx --encoder {out}/encoder --out {out}/model {short} {joined}",
            f"evaluate {out}/model --data {out}/store --target dx --out {out}/tested",
            f"evaluate {out}/model --data {data} --target dx --with explain,retrieval,subgroups --out {out}/explained {joined}",
            f"embed {out}/encoder --data {data} --out {out}/features.parquet {joined}",
            f"evaluate {out}/model --data {data} --target dx --join_key --out {tmp_path}/apart {joined}",
            f"report {out}/encoder {out}/model {out}/tested {out}/explained",
        ],
        capfd,
    )
    assert "2 of 40 images of" in told
    assert "left out of the store as identifying: patient_name (a person's name), mrn (a record number), dob" in told
    assert {p.name for p in out.rglob("*")} >= {
        "facts.parquet",
        "table.parquet",
        "used.parquet",
        "audit.html",
        "model.safetensors",
        "rows.jsonl",
        "report.html",
        "model_card.md",
        "features.parquet",
    }
    assert list(out.rglob("explain-*.dcm")), "explanations of DICOM images come as DICOM"
    assert leaks(out) == []
    for path in (out / "cache" / "index").iterdir():
        wrong = pd.read_csv(path).dropna(subset="error")["file"]
        assert [name.rpartition("-")[2].partition(".")[0] for name in wrong] == [
            "7",
            "8",
        ]  # unreadable files have their names there
    asked_for = pd.read_parquet(tmp_path / "apart" / "predictions" / "metrics.parquet")  # on request alone, and in no other file
    assert asked_for["join_key"].str.startswith("FILEQ55-").all()
    assert {name for name, _ in leaks(tmp_path / "apart")} == {"predictions/metrics.parquet"}
    kept = pd.read_parquet(out / "store" / "table.parquet")
    assert kept["patient"].nunique() == 20
    assert {"sex", "age", "site", "dx", "dx_shares"} <= set(kept.columns)


def test_what_fails_says_nothing_of_patients(
    planted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    out, data, scans = tmp_path / "out", tmp_path / "table.csv", tmp_path / "scans"
    monkeypatch.setenv("SCOTOMA_CACHE", str(out / "cache"))
    joined = f"--labels {tmp_path}/labels.csv --on"
    frame = pd.read_csv(data)
    for name, changed in {
        "split": frame.assign(split=frame["patient_name"]),
        "frame": frame.assign(frame=frame["mrn"]),
        "gap": frame.assign(image_path=[None, *frame["image_path"][1:]]),
        "twosides": frame.assign(split=["train", "test"] * 20),
        "nopaths": frame.drop(columns="image_path"),
        "masks": frame.assign(mask_path=frame["image_path"]),
    }.items():
        changed.to_csv(tmp_path / f"{name}.csv", index=False)
    fails = [
        f"split {data} --out {out}/s.csv {joined} surname",  # names no image
        f"split {data} --out {out}/s.csv {joined} file",  # several rows
        f"split {data} --out {out}/s.csv {joined} absent",
        f"split {data} --out {out}/s.csv --test_where patient=PIDTABLE",
        f"split {data} --out {out}/s.csv --test_where mrn=x",
        f"split {data} --out {out}/s.csv --test_after remarks=2020-01-01",
        f"split {data} --out {out}/s.csv --target remarks",
        f"split {data} --out {out}/s.csv --target mrn,dob",
        *(f"prepare {tmp_path}/{name}.csv --out {out}/s --size 16" for name in ("split", "frame", "gap", "nopaths")),
        f"prepare {data} --out {out}/s --size 16 --columns dob",
        f"finetune --data {tmp_path}/twosides.csv --target sex --encoder {out}/none --out {out}/m",
        f"finetune --data {data} --target patient_nam --encoder {out}/none --out {out}/m",
        f"finetune --data {tmp_path}/masks.csv --target mask_path --encoder {out}/none --out {out}/m",
    ]
    run(fails, capfd, 2)
    run([f"prepare {data} --out {out}/s --size 16 --strict", f"prepare {scans} --out {out}/s --size 16 --strict"], capfd, 1)
    assert [path.stat().st_mode & 0o777 for path in out.rglob("jobs.jsonl")] == [0o600]  # kept for the next try, its owner's alone
    assert leaks(out) == []


@pytest.mark.long
def test_studies_and_what_keeps_or_purges_a_patient_name_nobody(
    planted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The verbs whose tests take longest, and the folder itself instead of the table."""
    out, data = tmp_path / "out", tmp_path / "table.csv"
    monkeypatch.setenv("SCOTOMA_CACHE", str(out / "cache"))
    joined = f"--labels {tmp_path}/labels.csv --on file --annotators majority"
    short = "--size 16 --steps 2 --batch_size 8 --precision 32-true"
    run(
        [
            f"audit {tmp_path}/scans --out {out}/folder",
            f"pretrain --data {tmp_path}/scans --out {out}/folder_p --method mae --encoder vit_tiny_patch8 {short}",
            f"pretrain --data {data} --out {out}/p --target dx --encoder resnet10t {short} {joined}",
            f"study --data {data} --target dx --methods simclr --encoder resnet10t --fractions 1 --seeds 1 --out {out}/study "
            f"--modes linear,finetune --size 16 --steps 2 --finetune_steps 2 {joined}",
            f"evaluate {out}/p --data {data} --target dx --with knn,linear,pixels,header,robustness --out {out}/e {joined}",
            f"report {out}/study {out}/p {out}/e",
            f"find {SECRETS['PatientID']} --where {out}",
            f"find PIDTABLEQ3 --where {out}",
            f"purge PIDTABLEQ3 --where {out} --yes",
        ],
        capfd,
    )
    assert leaks(out) == []


def test_the_search_finds_what_is_planted(tmp_path: Path) -> None:
    pd.DataFrame({"a": ["x", SECRETS["PatientID"]]}).to_parquet(tmp_path / "a.parquet", compression="zstd")
    np.savez_compressed(tmp_path / "b.npz", a=np.array([SECRETS["StudyDate"]]))
    (tmp_path / "c.gz").write_bytes(gzip.compress(SECRETS["AccessionNumber"].encode()))
    (tmp_path / "FILEQ55.txt").write_text("nothing")
    info = PngImagePlugin.PngInfo()
    info.add_itxt("Comment", "PNGQ2", zip=True)
    image, packed = Image.new("L", (4, 4)), io.BytesIO()
    image.save(tmp_path / "d.png", pnginfo=info)
    image.save(packed, "JPEG", comment=b"JPEGQ1")
    (tmp_path / "e.html").write_text(f"<img src=data:image/jpeg;base64,{base64.b64encode(packed.getvalue()).decode()}>")
    save_file({"w": np.zeros(2, np.float32)}, tmp_path / "f.safetensors", metadata={"scotoma": "QMRN551"})
    names = {"a.parquet", "c.gz", "FILEQ55.txt", "b.npz", "d.png", "e.html", "f.safetensors"}
    assert {name for name, _ in leaks(tmp_path)} == names
