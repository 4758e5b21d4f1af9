"""A patient who withdraws: found in every run, store, cache and embeddings file, and taken out of them."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pyarrow
import pytest
from conftest import grey_image
from PIL import Image
from pyarrow import parquet
from safetensors.numpy import save_file

import scotoma
from scotoma import files
from scotoma.cli import main
from scotoma.data import encoder_header, provenance, sources, withdrawal
from scotoma.data.evaluated_images import note
from scotoma.data.patient_rows import rows_of
from scotoma.data.pseudonyms import key_id, load_key, pseudonym
from scotoma.data.store import image_index, store
from scotoma.errors import RunError, UsageError
from scotoma.models import encoders
from scotoma.reporting.build import build
from scotoma.run_folder import Run, read_rows, status, withdrawn

PATIENT = "Q77-13"


@pytest.fixture
def left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twelve images of six patients, with masks: a prepared store, a cache, two runs, an embeddings file, as verbs leave them."""
    monkeypatch.setenv("SCOTOMA_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    rng, rows = np.random.default_rng(0), []
    for k in range(12):
        Image.fromarray(grey_image(k % 2, rng)).save(tmp_path / f"{k}.png")
        Image.fromarray(np.full((40, 40), 1 + k % 2, np.uint8)).save(tmp_path / f"mask{k}.png")
        patient = PATIENT if k in (4, 5) else f"p{k // 2}"
        rows.append({"image_path": f"{k}.png", "mask_path": f"mask{k}.png", "patient": patient, "label": "ab"[k % 2]})
    pd.DataFrame(rows).to_csv("table.csv", index=False)
    scotoma.prepare("table.csv", "runs/store", size=16, quiet=True)
    _, opened = store.prepare(sources.load("table.csv"), 16, quiet=True)
    hashed = sources.load("table.csv").table["patient"]
    content = opened.facts["content"]
    for name, has in (("with", range(12)), ("without", [0, 1, 2])):
        run = Run.open(Path("runs") / name, "pretrain", {"data": "table.csv"})
        of = pd.DataFrame({"row": list(has), "patient": hashed[list(has)], "content": content[list(has)], "split": "train"})
        of.assign(split=["val" if k == 5 else "train" for k in has]).to_parquet(run.path / "used.parquet")
        (run.path / "report.html").write_text("images")
        run.add_rows([{"evaluator": "data", "metric": "images", "value": 1}])
        run.finish()
    # a run whose table named no patients: found by the contents of his images
    nameless = Run.open(Path("runs/nameless"), "pretrain", {"data": "table.csv"})
    frame = pd.DataFrame({"row": [0, 1], "patient": [None, None], "content": content[[3, 4]].tolist(), "split": "test"})
    frame.to_parquet(nameless.path / "used.parquet")
    nameless.finish()
    features = pd.DataFrame({"row": range(12), "patient": hashed, "embedding": [[0.5, float(k)] for k in range(12)]})
    packed = pyarrow.Table.from_pandas(features, preserve_index=False)
    parquet.write_table(packed.replace_schema_metadata({b"scotoma": b"{}"}), "runs/features.parquet")
    return tmp_path


def found(where: list[str] | None = None) -> dict[str, tuple[str, int, dict[str, int]]]:
    rows = scotoma.find(PATIENT, where, quiet=True)
    return {Path(r["path"]).name: (r["kind"], r["images"], r["splits"]) for r in rows}


def test_everything_that_holds_a_patient_is_named(left: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = next((left / "cache" / "stores").iterdir()).name
    assert found() == {
        "store": ("store", 2, {}),
        "with": ("run", 2, {"train": 1, "val": 1}),
        "nameless": ("run", 1, {"test": 1}),
        "features.parquet": ("embeddings", 2, {}),
        cache: ("cache", 2, {}),
        f"{cache}.csv": ("index", 2, {}),
    }
    assert set(found([str(left / "runs" / "without")])) == {cache, f"{cache}.csv"}
    assert main(["find", PATIENT]) == 0
    printed = capsys.readouterr()
    assert "run         runs/with  2 images (1 train, 1 val)" in printed.out
    assert "what was made with another key cannot be searched" in printed.err
    assert PATIENT not in printed.out + printed.err
    assert main(["find", "nobody"]) == 0
    assert capsys.readouterr().out == "nothing below runs and in the cache holds this patient\n"


def test_a_damaged_record_hides_no_other(left: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (left / "runs" / "nameless" / "used.parquet").write_bytes(b"PAR1")
    assert set(found()) >= {"store", "with", "features.parquet"}
    assert "nameless/used.parquet: damaged: whom it names cannot be searched" in capsys.readouterr().err


def test_an_identifier_is_read_from_standard_input(left: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for text, count in ((f"{PATIENT}\n", 6), (f"\n  {PATIENT} \np0\n", 7)):
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        assert len(scotoma.find("-", quiet=True)) == count
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    with pytest.raises(UsageError, match="no patient is named"):
        scotoma.find("-", quiet=True)
    with pytest.raises(UsageError, match="no such folder"):
        scotoma.find("x", ["elsewhere"])
    with pytest.raises(UsageError, match="name a patient, or use `cache`"):
        scotoma.purge()


def test_without_yes_nothing_changes(left: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def everything() -> dict[str, bytes]:
        return {str(p): p.read_bytes() for p in left.rglob("*") if p.is_file()}

    before = everything()
    assert main(["purge", PATIENT]) == 0
    assert everything() == before
    said = capsys.readouterr().out
    command = "scotoma pretrain --config runs/with/config.yaml --out runs/with --overwrite"
    assert f"train anew, once the patient is out of the table: {command}\n" in said
    assert said.endswith("nothing was changed: use --yes to do it\n")


def test_his_predictions_go_and_the_others_stay(left: Path) -> None:
    """Of a run that names him by the keyed hash, and of one that knows the contents of his images alone."""
    used = pd.read_parquet("runs/with/used.parquet")
    hers = used.assign(patient="another", content="another's")  # the same row ids, of another table
    for run, frame in (("with", used.assign(content=None)), ("nameless", pd.read_parquet("runs/nameless/used.parquet"))):
        Path("runs", run, "predictions").mkdir()
        both = pd.concat([frame, hers])[["row", "patient", "content", "split"]].assign(label="a", probability_a=0.5)
        both.to_parquet(f"runs/{run}/predictions/metrics.parquet")
    of_with = len(pd.read_parquet("runs/with/predictions/metrics.parquet"))
    scotoma.purge(PATIENT, yes=True, quiet=True)
    named = pd.read_parquet("runs/with/predictions/metrics.parquet")
    assert len(named) == of_with - 2 and not named["patient"].isin(withdrawal.pseudonyms([PATIENT])).any()
    nameless = pd.read_parquet("runs/nameless/predictions/metrics.parquet")
    assert sorted(nameless["row"][nameless["patient"] != "another"]) == [0]  # the other image is of somebody else
    assert (nameless["patient"] == "another").sum() == len(hers)


def test_his_lines_go_from_a_studys_predictions(left: Path) -> None:
    images = pd.read_parquet("runs/with/used.parquet")[["row", "patient", "content", "split"]]
    Path("runs/with/predictions").mkdir()
    images.to_parquet("runs/with/predictions/images.parquet")
    outputs = np.stack([images["row"], images["row"] + 0.5], 1)
    np.save("runs/with/predictions/linear-simclr-f1-s0.npy", outputs)
    scotoma.purge(PATIENT, yes=True, quiet=True)
    kept, rows = np.load("runs/with/predictions/linear-simclr-f1-s0.npy"), pd.read_parquet("runs/with/predictions/images.parquet")
    assert not rows["patient"].isin(withdrawal.pseudonyms([PATIENT])).any() and len(rows) == len(images) - 2
    assert kept[:, 0].tolist() == rows["row"].tolist() and (kept[:, 1] - kept[:, 0] == 0.5).all()


def test_he_is_taken_out_and_the_others_stay_as_they_were(left: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = store.open_store(Path("runs/store"))
    pixels, regions = np.array(before.pixels), np.array(store.open_store(Path("runs/store/regions")).pixels)
    assert main(["purge", PATIENT, "--yes"]) == 0
    done = {line.split()[0]: line.partition(": ")[2] for line in capsys.readouterr().out.splitlines()}
    assert done["store"] == done["embeddings"] == "rewritten without the patient"
    assert done["cache"] == "removed"
    assert done["run"] == "marked as holding a withdrawn patient, pages and figures that may show the patient removed"
    assert not any((left / "cache" / "stores").iterdir())
    (index,) = (left / "cache" / "index").iterdir()
    assert done["index"] == "rewritten without the patient" and index.stat().st_mode & 0o777 == 0o600
    assert image_index.read(index)["file"].tolist() == [str(left / f"{k}.png") for k in range(12) if k not in (4, 5)]
    dataset, opened = store.prepare(sources.load("runs/store"), 16, quiet=True)
    assert dataset.table["row"].tolist() == [0, 1, 2, 3, *range(6, 12)]
    others = np.isin(np.arange(12), (4, 5), invert=True)
    assert np.array_equal(opened.pixels[others], pixels[others])
    assert not opened.pixels[~others].any()
    assert pixels[~others].any()
    assert not opened.hashes[~others].any()
    assert opened.facts["content"].isna().tolist() == (~others).tolist()
    maps = store.open_masks(dataset, opened.side)
    assert np.array_equal(maps[0].pixels[others], regions[others])
    assert not maps[0].pixels[~others].any()
    features = pd.read_parquet("runs/features.parquet")
    assert features["row"].tolist() == [0, 1, 2, 3, *range(6, 12)]
    assert b"scotoma" in parquet.read_schema("runs/features.parquet").metadata
    # runs cannot forget: they state it, lose their pages, and are found again
    assert set(found()) == {"with", "nameless"}
    assert withdrawn(Path("runs/with")) == 1
    assert status(Path("runs/with")) == "finished"
    assert read_rows(Path("runs/with"))[-1] == {"evaluator": "data", "metric": "withdrawn_patients", "value": 1}
    assert not Path("runs/with/report.html").exists()
    assert Path("runs/without/report.html").exists()
    assert withdrawn(Path("runs/without")) == 0
    assert main(["purge", PATIENT, "--yes"]) == 0  # once more changes nothing
    assert len(read_rows(Path("runs/with"))) == 2
    assert main(["purge", PATIENT, "--yes", "--runs"]) == 0
    assert sorted(p.name for p in Path("runs").iterdir()) == ["features.parquet", "store", "without"]
    capsys.readouterr()
    assert found() == {}


def test_a_purge_that_was_killed_is_found_again_and_completed(left: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, count = withdrawal.files.replacing, [0]

    def dies(path: Path) -> object:
        count[0] += 1
        if count[0] == 2:
            raise KeyboardInterrupt
        return real(path)

    holding = next(h for h in withdrawal.search(withdrawal.pseudonyms([PATIENT]), [Path("runs/store")], Path("none")))
    monkeypatch.setattr(withdrawal.files, "replacing", dies)
    with pytest.raises(KeyboardInterrupt):
        withdrawal.take_out_of_store(holding)
    monkeypatch.undo()
    again = withdrawal.search(withdrawal.pseudonyms([PATIENT]), [left / "runs" / "store"], Path("none"))
    assert [h.images for h in again] == [2]
    withdrawal.take_out_of_store(again[0])
    assert withdrawal.search(withdrawal.pseudonyms([PATIENT]), [left / "runs" / "store"], Path("none")) == []


def test_a_run_that_is_being_written_is_left_and_said(left: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree("runs/nameless")
    run = Run.open(Path("runs/with"), "pretrain", {"data": "table.csv"}, overwrite=True)
    pd.DataFrame({"row": [0], "patient": [pseudonym(PATIENT, load_key())], "split": "train"}).to_parquet(run.path / "used.parquet")
    assert main(["purge", PATIENT, "--yes", "--runs"]) == 1
    assert "2 of 6 are in use (runs/with): purge again when those runs have ended" in capsys.readouterr().err
    run.finish()
    assert main(["purge", PATIENT, "--yes", "--runs"]) == 0
    assert not Path("runs/with").exists()


def test_the_cache_of_everybody_is_not_emptied_for_one_patient(left: Path) -> None:
    before = sorted((left / "cache" / "stores").iterdir())
    with pytest.raises(UsageError, match="empties the whole cache and excludes a patient"):
        scotoma.purge(PATIENT, cache=True, yes=True)
    assert before and sorted((left / "cache" / "stores").iterdir()) == before


def test_the_cache_is_emptied(left: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["purge", "--cache"]) == 0
    (kept,) = (left / "cache" / "stores").iterdir()
    assert capsys.readouterr().out.splitlines()[0] == f"cache       {kept}: remove"  # whomever it holds
    assert main(["purge", "--cache", "--yes"]) == 0
    assert not list((left / "cache" / "stores").iterdir())
    assert json.loads((left / "runs" / "store" / "store.json").read_text())  # named stores stay
    capsys.readouterr()


def test_weights_copied_away_are_found_by_their_record(left: Path) -> None:
    def weights(name: str, patients: list[str], key: str) -> None:
        named = np.array([pseudonym(p, load_key()) for p in patients], object)
        record = provenance.of_rows(named, np.array(["c"] * len(named), object), key, 1).header()
        header = {"scotoma": json.dumps({"timm_name": "resnet10t", "trained_on": record})}
        save_file({"w": np.zeros(2, np.float32)}, left / "runs" / name, metadata=header)

    own = key_id(load_key())
    weights("copy.safetensors", ["p0", PATIENT], own)
    weights("other.safetensors", ["p0", "p1"], own)
    weights("elsewhere.safetensors", [PATIENT], "another key")
    (left / "runs" / "damaged.safetensors").write_bytes(b"\xff" * 20)
    assert {name: kind for name, (kind, _, _) in found().items() if name.endswith("tensors")} == {"copy.safetensors": "weights"}
    scotoma.purge(PATIENT, yes=True, quiet=True)
    assert Path("runs/copy.safetensors").exists()
    scotoma.purge(PATIENT, yes=True, runs=True, quiet=True)
    assert not Path("runs/copy.safetensors").exists()
    assert Path("runs/other.safetensors").exists()


def test_a_card_and_a_verb_say_that_a_run_holds_a_withdrawn_patient(left: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from scotoma.data.datamodule import read_earlier_split

    scotoma.purge(PATIENT, yes=True, quiet=True)
    page = build([Path("runs/with")], out=Path("page.html"))
    said = "with holds 1 withdrawn patient: train it anew without"
    assert f"<b>Withdrawn.</b> {said}." in page.read_text() and f"report: {said}" in capsys.readouterr().err
    assert "It holds 1 withdrawn patient: train it anew without." in Path("page_model_card.md").read_text()
    assert "ithdrawn" not in build([Path("runs/without")], out=Path("page.html")).read_text()
    assert len(read_earlier_split(Path("runs/with"))) > 10
    assert "runs/with: holds 1 withdrawn patient: train it anew without" in capsys.readouterr().err


def test_a_damaged_list_of_evaluated_images_is_one_clear_line(left: Path) -> None:
    """Nothing is written over it: whom it named may stand in a copy."""
    rows, opened = store.prepare(sources.load("table.csv"), 16, quiet=True)
    Path("tested.parquet").write_bytes(b"PAR1 cut short")
    with pytest.raises(UsageError, match=r"tested\.parquet: damaged: put it back from a copy"):
        note(Path(), rows, opened)
    assert Path("tested.parquet").read_bytes() == b"PAR1 cut short"


def test_runs_that_only_looked_at_him_are_found_and_lose_what_shows_him(left: Path) -> None:
    """An audit, and a test of a model on a table of its own; what was tested into one run twice is kept of both times."""
    scotoma.audit("table.csv", out="runs/audit", quiet=True)
    rows, opened = store.prepare(sources.load("table.csv"), 16, quiet=True)
    tested = Run.open(Path("runs/tested"), "evaluate", {})
    for part in (slice(0, 6), slice(6, 12), slice(3, 7)):
        some = replace(rows, table=rows.table.iloc[part].reset_index(drop=True))
        note(tested.path, some, opened, np.full(len(some), "test"))
    maps = tested.path / "figures" / "explanations"
    maps.mkdir(parents=True)
    shown = "explain-4-saliency.png", "explain-4-saliency.dcm", "../explanations-right_unsure.png", "../unheard_of.svg"
    for name in shown:
        (maps / name).touch()
    tested.finish()
    assert len(pd.read_parquet(tested.path / "tested.parquet")) == 12
    assert found()["audit"] == ("run", 2, {})
    assert found()["tested"] == ("run", 2, {"test": 2})
    assert Path("runs/audit/audit.html").exists()
    scotoma.purge(PATIENT, yes=True, quiet=True)
    assert not Path("runs/audit/audit.html").exists()
    assert [p.name for p in (tested.path / "figures").rglob("*")] == ["explanations"]
    assert (withdrawn(Path("runs/audit")), withdrawn(tested.path)) == (1, 1)


def test_several_patients_at_once_are_counted_each(left: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for text, counts in ((f"{PATIENT}\np0\nnobody\n", (2, 1)), ("p1\n", (3, 2)), (f"p0\n{PATIENT}\n", (3, 2))):
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        scotoma.purge("-", yes=True, quiet=True)
        assert (withdrawn(Path("runs/with")), withdrawn(Path("runs/without"))) == counts
    assert [r["value"] for r in read_rows(Path("runs/with")) if r["metric"] == "withdrawn_patients"] == [2, 1]


def test_an_interrupted_run_keeps_its_mark_when_it_is_finished(left: Path) -> None:
    for again in ({"resume": True}, {"overwrite": True}):
        run = Run.open(Path("runs/stopped"), "pretrain", {}, overwrite=True)
        shutil.copy("runs/with/used.parquet", run.path)
        run.add_rows([{"evaluator": "pretrain", "metric": "steps", "value": 1}])
        run.close()
        assert "stopped" in found()
        scotoma.purge(PATIENT, yes=True, quiet=True)
        run = Run.open(Path("runs/stopped"), "pretrain", {}, **again)
        run.replace_rows([])
        run.finish()
        assert withdrawn(run.path) == len(read_rows(run.path)) == ("resume" in again)


def test_what_a_killed_build_left_is_said_and_removed_unless_it_is_being_built(
    left: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = left / "cache" / "stores"
    for name in ("a-1.partial", "b-2.partial"):
        (root / name).mkdir()
        (root / name / "pixels.npy").touch()
    assert main(["find", PATIENT]) == 0
    assert "2 unfinished stores in the cache are not searched: `scotoma purge` removes them" in capsys.readouterr().err
    with files.lock(root / "b-2.lock", remove=True), pytest.raises(RunError, match=r"1 of .* are in use .*b-2\.partial"):
        scotoma.purge(PATIENT, yes=True)
    printed = capsys.readouterr().out
    assert f"unfinished  {root / 'a-1.partial'}: removed\n" in printed
    assert [p.name for p in root.glob("*.partial")] == ["b-2.partial"]
    scotoma.purge(cache=True, yes=True)
    assert "trained on the patient" not in capsys.readouterr().out
    assert not any(root.iterdir())


def volumes(folder: Path) -> Path:
    """Three NIfTI volumes of seven slices, the outer ones black; the folder names no patient."""
    folder.mkdir(parents=True)
    for k in range(3):
        values = np.random.default_rng(k).integers(1, 900, (20, 18, 7)).astype(np.int16)
        values[:, :, [0, 6]] = 0
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), folder / f"case_{k}.nii.gz")
    return folder


def test_all_slices_of_a_volume_go_where_one_is_known_to_be_his(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SCOTOMA_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    folder = volumes(tmp_path / "data")
    scotoma.prepare(folder, "stores/hip", size=16, quiet=True)
    path, info = Path("encoder.safetensors"), encoder_header.EncoderInfo("resnet10t", {}, 1, 32, (0.4,), (0.2,))
    encoders.save(path, encoders.build(info), info)
    scotoma.embed(path, folder, out="stores/e.parquet", quiet=True)
    rows = pd.DataFrame({"image_path": [str(folder / f"case_{k}.nii.gz") for k in range(3)], "patient": ["a", "b", "c"]})
    rows.to_csv("named.csv", index=False)
    scotoma.audit("named.csv", out="stores/audit", quiet=True)  # one slice of each volume, of which it knows the patient
    facts = store.open_store(Path("stores/hip")).facts
    his = (facts["file"] == pseudonym(str(folder / "case_1.nii.gz"), load_key())).to_numpy()
    assert his.sum() == 7
    pixels = np.array(store.open_store(Path("stores/hip")).pixels)
    caches = {p.name for p in (tmp_path / "cache" / "stores").iterdir()}
    every = scotoma.find("b", ["stores"], quiet=True)
    assert {r["images"] for r in every if r["kind"] == "index"} == {7, 1}
    known = {Path(r["path"]).name: (r["kind"], r["images"]) for r in every if r["kind"] != "index"}
    assert {k: v for k, v in known.items() if k not in caches} == {
        "hip": ("store", 7), "e.parquet": ("embeddings", 7), "audit": ("run", 1),
    }  # fmt: skip
    assert sorted(v for k, v in known.items() if k in caches) == [("cache", 1), ("cache", 7)]
    assert "images that name no patient" in capsys.readouterr().err
    scotoma.purge("b", ["stores"], yes=True, quiet=True)
    after = np.array(store.open_store(Path("stores/hip")).pixels)
    assert not after[his].any()
    assert np.array_equal(after[~his], pixels[~his])
    assert sorted(pd.read_parquet("stores/hip/table.parquet")["row"]) == np.flatnonzero(~his).tolist()
    assert sorted(pd.read_parquet("stores/e.parquet")["row"]) == np.flatnonzero(~his).tolist()
    shutil.rmtree("stores/audit")  # where nothing names him, the volume's own path does
    by_path = scotoma.find("data/case_2.nii.gz", ["stores"], quiet=True)
    assert [r["images"] for r in by_path if r["kind"] != "index"] == [7, 7]


def test_what_belongs_to_a_row_of_his_is_his_unless_it_names_another_patient() -> None:
    named = pd.DataFrame({"patient": ["his", "other", "other"], "content": ["c1", "c2", "dup"], "blank": False})
    series = pd.DataFrame(
        {
            "content": ["c1", "c3", "black", "c4", "c5"],
            "series": ["s", "s", "s", "t", None],
            "study": ["u", "u", "u", "u", "v"],
            "blank": [False, False, True, False, False],
        }
    )
    elsewhere = pd.DataFrame({"content": ["black", "c3", "c4", "dup", "c6"], "patient": [None, None, "x", None, "x"], "study": "1"})
    found, names, contents = rows_of([named, series, elsewhere], {"his"})
    assert found[0].tolist() == [True, False, False]
    assert found[1].tolist() == [True, True, True, True, False]
    assert found[2].tolist() == [False, True, True, False, False]  # c4 is filed under another; many have a study 1
    assert {"his", "s", "t"} <= names
    assert "black" not in contents
    run = pd.DataFrame({"owner": ["s", "z", None], "content": ["c9", "c2", "black"]})
    assert rows_of([named, series, run], {"his"})[0][2].tolist() == [True, False, False]
