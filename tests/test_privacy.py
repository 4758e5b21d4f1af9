"""Nothing that names a patient leaves the input: not in stores, rows, logs, figures, networks or reports, nor on the screen."""

from __future__ import annotations

import gzip
import io
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import grey_picture
from PIL import Image

from scotoma.cli import main

SECRETS = {
    "PatientName": "Zwxyname^Qfirst",
    "PatientID": "PIDQ7731",
    "AccessionNumber": "ACCQ9942",
    "StudyDate": "19870623",
    "PatientBirthDate": "19310417",
    "InstitutionName": "Qhospital Zentral",
    "ReferringPhysicianName": "Qdoctor^Who",
    "StudyDescription": "Qdescription",
    "StudyInstanceUID": "1.2.826.0.1.777777.42",
}
NEEDLES = [
    *SECRETS.values(),
    "Zwxyname",
    "Qfirst",
    "FILEQ55",
    "SHEETQ66",
    "readerQ88",
]  # the last: file names, a label file, a reader


def texts(path: Path) -> Iterator[bytes]:
    """A file as it is, and what is packed in it."""
    raw = path.read_bytes()
    yield raw
    if path.suffix == ".parquet":
        frame = pd.read_parquet(path)
        yield frame.to_csv().encode()
        yield str(pd.io.parquet.get_engine("pyarrow").api.parquet.read_schema(path).metadata).encode()
    elif path.suffix == ".png":
        image = Image.open(path)
        image.load()
        yield repr(image.info).encode()
    elif raw[:2] == b"\x1f\x8b":
        yield gzip.decompress(raw)
    elif zipfile.is_zipfile(io.BytesIO(raw)):
        with zipfile.ZipFile(path) as archive:
            yield from (name.encode() + archive.read(name) for name in archive.namelist())


def leaks(root: Path) -> list[tuple[str, str]]:
    """(file, secret) for every secret found below a folder, in any usual encoding."""
    found = []
    for path in (p for p in root.rglob("*") if p.is_file()):
        for text in (str(path.relative_to(root)).encode(), *texts(path)):
            lower = text.lower()
            for secret in NEEDLES:
                coded = (
                    secret.lower().encode(),
                    secret.lower().encode("utf-16-le"),
                    secret.lower().encode("utf-32-le"),
                    secret.encode().hex().encode(),
                )
                if any(code in lower for code in coded):
                    found.append((str(path.relative_to(root)), secret))
    return found


@pytest.fixture
def scans(write_dicom: Callable[..., Path], tmp_path: Path) -> Path:
    """Forty DICOM files of twenty patients, two of them broken, under names that are accession numbers, and their labels."""
    rng, root = np.random.default_rng(0), tmp_path / "scans"
    rows = []
    for k in range(40):
        kind, patient = k // 2 % 2, k // 2
        own = SECRETS | {
            "PatientID": f"{SECRETS['PatientID']}-{patient}",
            "StudyInstanceUID": f"{SECRETS['StudyInstanceUID']}.{patient}",
        }
        path = write_dicom(
            root / f"FILEQ55-{k}.dcm",
            grey_picture(kind, rng),
            Modality="DX",
            PatientAge="061Y",
            PatientSex="F",
            Manufacturer="Maker",
            **own,
        )
        rows += [{"file": path.stem, "dx": ("left", "right")[kind], "doctor": f"readerQ88-{r}"} for r in range(3)]
    (root / "FILEQ55-6.dcm").write_bytes(b"no picture")
    (root / "FILEQ55-7.dcm").write_bytes((root / "FILEQ55-8.dcm").read_bytes()[:900])
    pd.DataFrame(rows).to_csv(tmp_path / "SHEETQ66.csv", index=False)
    return root


def test_nothing_that_names_a_patient_is_in_any_output(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    monkeypatch.setenv("SCOTOMA_CACHE", str(out / "cache"))
    labels = tmp_path / "labels.csv"
    (tmp_path / "SHEETQ66.csv").rename(labels)  # a path that is typed is the user's own: the configuration repeats it
    joined = f"--labels {labels} --on file --readers soft"
    short = "--size 16 --steps 2 --batch_size 8 --precision 32-true"
    commands = [
        f"prepare {scans} --out {out}/store --size 16 {joined}",
        f"pretrain --data {scans} --out {out}/encoder --encoder resnet10t {short}",
        f"finetune --data {scans} --target dx --encoder {out}/encoder --out {out}/model --steps 2 --batch_size 8 {joined}",
        f"evaluate {out}/model --data {out}/store --target dx --out {out}/tested",
        f"evaluate {out}/model --data {scans} --target dx --with explain,retrieval --out {out}/explained {joined}",
        f"embed {out}/encoder --data {scans} --out {out}/features.parquet {joined}",
        f"report {out}/encoder {out}/model {out}/tested {out}/explained",
    ]
    for line in commands:
        assert main(line.split()) == 0, line
    printed = capfd.readouterr()
    assert "2 of 40 pictures of scans cannot be read (first: row 6: " in printed.err
    said = (printed.out + printed.err).lower()
    assert [s for s in NEEDLES if s.lower() in said] == []
    assert {p.name for p in out.rglob("*")} >= {
        "facts.parquet",
        "table.parquet",
        "used.parquet",
        "model.safetensors",
        "rows.jsonl",
        "report.html",
        "model_card.md",
        "features.parquet",
    }
    assert list(out.rglob("explain-*.dcm")), "explanations of DICOM pictures come as DICOM"
    assert leaks(out) == []
    assert pd.read_parquet(out / "store" / "table.parquet")["patient"].nunique() == 19  # one patient's two files are broken...


def test_the_search_finds_what_is_planted(tmp_path: Path) -> None:
    pd.DataFrame({"a": ["x", SECRETS["PatientID"]]}).to_parquet(tmp_path / "a.parquet", compression="zstd")
    np.savez_compressed(tmp_path / "b.npz", a=np.array([SECRETS["StudyDate"]]))
    (tmp_path / "c.gz").write_bytes(gzip.compress(SECRETS["AccessionNumber"].encode()))
    (tmp_path / "FILEQ55.txt").write_text("nothing")
    assert {name for name, _ in leaks(tmp_path)} == {"a.parquet", "c.gz", "FILEQ55.txt", "b.npz"}
