from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from conftest import grey_image

from scotoma.cli import main
from scotoma.commands.embed import embed
from scotoma.commands.pretrain import pretrain
from scotoma.data.datamodule import gather
from scotoma.data.pseudonyms import load_key, pseudonym
from scotoma.errors import RunError, UsageError
from scotoma.models import encoders
from scotoma.models.features import extract

SHORT = {"size": 16, "encoder": "resnet10t", "steps": 1, "batch_size": 8, "precision": "32-true", "quiet": True}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretrain("phantom:40", out=tmp_path_factory.mktemp("embed") / "run", **SHORT)


def test_features_are_those_that_evaluators_see_in_the_order_of_the_rows(run: Path, tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setitem(embed.__globals__, "BLOCK", 16)  # 40 rows are three blocks
    path = embed(run, "phantom:40", tmp_path / "new" / "e.parquet", target=["cardiomegaly", "view"], quiet=True)
    frame = pd.read_parquet(path)
    assert list(frame.columns) == ["row", "split", "patient", "study", "cardiomegaly", "view", "embedding"]
    network, info, _ = encoders.load(run)
    data_module = gather(data="phantom:40", size=16, channels=1, encoder_run=run, quiet=True)
    expected = extract(network, info, data_module.store, data_module.rows)
    found = np.stack(frame["embedding"])
    assert found.dtype == np.float32 and found.shape == (40, 512)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)  # blocks of other sizes round otherwise
    assert frame["row"].tolist() == data_module.rows.tolist()
    assert frame["split"].tolist() == data_module.split.of.tolist()  # the run's own
    assert frame["patient"].tolist() == data_module.dataset.table["patient"].tolist()
    schema = pq.read_schema(path)
    assert str(schema.field("embedding").type) == "fixed_size_list<element: float>[512]"
    said = json.loads(schema.metadata[b"scotoma"])
    assert (said["encoder"], said["method"], said["fingerprint"]) == ("resnet10t", "simclr", info.data) and len(
        said["weights"]
    ) == 32
    assert [p.name for p in path.parent.iterdir()] == ["e.parquet"]


def test_rows_of_a_split_and_from_the_command_line(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(f"embed {run} --data phantom:40 --rows test --quiet".split()) == 0
    assert capsys.readouterr().out == "embeddings.parquet\n"
    frame, used = pd.read_parquet("embeddings.parquet"), pd.read_parquet(run / "used.parquet")
    assert list(frame.columns) == ["row", "split", "patient", "study", "embedding"] and set(frame["split"]) == {"test"}
    assert frame["row"].tolist() == used["row"][used["split"] == "test"].tolist()
    before = Path("embeddings.parquet").read_bytes()
    for line, words in (
        (f"embed {run} --data phantom:40", "embeddings.parquet exists: name another file with --out, or use --overwrite"),
        (f"embed {run} --data phantom:40 --out {tmp_path}", "exists: name another file with --out"),
        (f"embed {run} --data phantom:40 --rows tset --overwrite", "--rows tset: must be train, val, test or all"),
        (f"embed {run} --data phantom:40 --target cardiomegali --overwrite", "did you mean 'cardiomegaly'"),
        (f"embed {run} --data phantom:40 --target image_path --overwrite", "--target image_path: no column"),
        (f"embed {tmp_path}/absent --data phantom:40 --overwrite", "absent"),
        (f"embed {run} --data phantom:12:7 --rows test --overwrite --quiet", "no image is known to be in split test"),
    ):
        assert main(line.split()) == 2, line
        *_, text = capsys.readouterr().err.splitlines()
        assert words in text
    assert Path("embeddings.parquet").read_bytes() == before
    assert main(f"embed {run} --data phantom:40 --rows val --overwrite --quiet".split()) == 0
    assert set(pd.read_parquet("embeddings.parquet")["split"]) == {"val"}


def test_the_tables_own_split_and_columns_of_numbers_and_words(run: Path, tmp_path: Path) -> None:
    table = pd.DataFrame(
        {"image_path": "phantom:3", "frame": range(4), "split": ["test", None, "train", "val"], "grade": [1, "b", None, 2]}
    )
    frame = pd.read_parquet(embed(run, table, tmp_path / "e.parquet", target=["grade", "split"], quiet=True))
    assert frame["split"].fillna("").tolist() == ["test", "", "train", "val"]
    assert frame["grade"].fillna("").tolist() == ["1", "b", "", "2"]


def test_a_full_disk_is_one_line_and_leaves_what_was_there(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "e.parquet"
    path.write_bytes(b"older")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pyarrow.parquet.ParquetWriter.write_table", full)
    with pytest.raises(RunError, match="No space left"):
        embed(run, "phantom:12", path, overwrite=True, quiet=True)
    assert path.read_bytes() == b"older" and list(tmp_path.iterdir()) == [path]


def test_nothing_that_names_a_patient_is_written(run: Path, tmp_path: Path, write_dicom: Callable[..., Path], capfd) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(0)
    for k in range(6):
        write_dicom(
            tmp_path / "scans" / f"FILEQ-{k}.dcm", grey_image(k % 2, rng), PatientID=f"PIDQ{k // 2}", PatientName="Zwx^Q",
            StudyInstanceUID=f"1.2.826.0.1.777777.{k // 2}",
        )  # fmt: skip
    (tmp_path / "scans" / "FILEQ-1.dcm").write_bytes(b"no image")
    path = embed(run, tmp_path / "scans", tmp_path / "e.parquet", quiet=True)
    frame = pd.read_parquet(path)
    assert frame["row"].tolist() == [0, 2, 3, 4, 5]  # one is unreadable
    assert frame["patient"].tolist() == [pseudonym(f"PIDQ{k // 2}", load_key()) for k in (0, 2, 3, 4, 5)]
    assert "study" in frame.columns and frame["split"].isna().all()
    text = path.read_bytes() + frame.to_csv().encode() + str(pq.read_schema(path)).encode() + "".join(capfd.readouterr()).encode()
    assert not [s for s in (b"FILEQ", b"PIDQ", b"Zwx", b"777777") if s in text]


def test_of_a_classifier_its_targets_stand_beside_the_features(run: Path, tmp_path: Path) -> None:
    network, info, _ = encoders.load(run)
    info.targets, info.classes = ("cardiomegaly",), ("0", "1")
    encoders.save(tmp_path / "model.safetensors", network, info, head=encoders.nn.Linear(512, 2))
    frame = pd.read_parquet(embed(tmp_path / "model.safetensors", "phantom:12", tmp_path / "e.parquet", quiet=True))
    assert list(frame.columns) == ["row", "split", "patient", "study", "cardiomegaly", "embedding"]
    with pytest.raises(UsageError, match="use `overwrite`"):
        embed(tmp_path / "model.safetensors", "phantom:12", tmp_path / "e.parquet", quiet=True)
