"""A look-alike of a chest X-ray set and one of a CT set, from their names on the command line to a tested classifier."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.lookalike import hashed, text
from helpers.public_sets import FINDINGS, HEADER, ct_slice, table_rows
from PIL import Image

from scotoma.cli import main
from scotoma.commands.evaluate import evaluate
from scotoma.commands.finetune import finetune
from scotoma.commands.pretrain import pretrain
from scotoma.data import sources
from scotoma.data.store import store
from scotoma.run_folder import read_rows

SHORT = {"size": 16, "encoder": "resnet10t", "batch_size": 8, "precision": "32-true", "quiet": True}


def chest(root: Path, patients: int = 40) -> Path:
    """Bright on the left with cardiomegaly (an uncertain one too), on the right without; every fourth patient is in ``valid``."""
    rng, rows = np.random.default_rng(0), {"train": [], "valid": []}
    for k in range(patients):
        split, ill = "valid" if k % 4 == 3 else "train", k // 4 % 2
        name = f"{split}/patient{k:05}/study1/view1_frontal.jpg"
        pixels = rng.integers(20, 60, (24, 20), dtype=np.uint8)
        pixels[:, slice(0, 10) if ill else slice(10, 20)] += 120
        (root / name).parent.mkdir(parents=True)
        Image.fromarray(pixels).save(root / name)
        value = ("-1.0" if k < 8 else "1.0") if ill else "0.0"
        rows[split].append(f"CheXpert-v1.0-small/{name},{'Male' if k % 2 else 'Female'},{40 + k},Frontal,AP,,,{value}{',' * 11}")
    for split, lines in rows.items():
        text(root / f"{split}.csv", HEADER, *lines)
    assert FINDINGS.split(",")[2] == "Cardiomegaly"
    return root


def test_a_chest_x_ray_set(tmp_path: Path) -> None:
    data = f"chexpert:{chest(tmp_path / 'CheXpert-v1.0-small')}?uncertain=1"
    assert main(["prepare", data, "--out", str(tmp_path / "store"), "--size", "16", "--quiet"]) == 0
    prepared = sources.load(tmp_path / "store").table
    assert prepared["patient"].tolist() == sources.load(data).table["patient"].tolist()
    assert hashed("patient00007") in set(prepared["patient"])
    assert prepared["cardiomegaly"].sum() == 20
    for path in (tmp_path / "store").iterdir():
        assert b"patient0000" not in path.read_bytes(), path.name
    encoder = pretrain(data, out=tmp_path / "encoder", steps=2, **SHORT)
    run = finetune(data, ["cardiomegaly"], encoder, out=tmp_path / "run", frozen=True, quiet=True)
    rows = evaluate(run, data, ["metrics"], quiet=True)
    auroc = next(r for r in rows if r["metric"] == "auroc" and r.get("class") is None)
    assert (auroc["n"], auroc["split"]) == (10, "test")  # the published validation set
    assert auroc["value"] > 0.9
    used = pd.read_parquet(tmp_path / "run" / "used.parquet").query("row >= 0")  # -1: what the encoder had seen before
    assert used.groupby("patient")["split"].nunique().max() == 1
    by_store = evaluate(run, tmp_path / "store", ["metrics"], quiet=True)
    assert next(r["value"] for r in by_store if r["metric"] == "auroc" and r.get("class") is None) == auroc["value"]


def test_a_ct_set_of_dicom_in_three_windows(tmp_path: Path) -> None:
    root, labels = tmp_path / "rsna", {}
    for k in range(60):  # two slices a patient; a bleeding patient has 70 HU in a corner, others 20 HU
        name, patient = f"ID_{k:09x}", k // 2
        level = np.full((16, 16), 30)
        level[:8, :8] = 70 if patient % 2 else 20
        level[15, 15] = k  # no two slices alike
        ct_slice(root / "stage_2_train" / f"{name}.dcm", f"ID_patient{patient}", f"1.2.{patient}", level)
        labels[name] = (0, 0, 0, 0, patient % 2, patient % 2)
    text(root / "stage_2_train.csv", "ID,Label", *table_rows(labels))
    data = f"rsna-ich:{root}"
    assert main(["prepare", data, "--out", str(tmp_path / "store"), "--size", "16", "--quiet"]) == 0
    dataset, opened = store.prepare(sources.load(tmp_path / "store"), 16, quiet=True)
    assert opened.channels == 3
    expected = [[(hu - centre) / width + 0.5 for centre, width in ((40, 80), (80, 200), (400, 1800))] for hu in (20, 70)]
    found = opened.pixels[[0, 2]][:, opened.side // 8, opened.side // 8] / 255
    np.testing.assert_allclose(found, np.clip(expected, 0, 1), atol=0.003)
    assert dataset.table["patient"].tolist() == [hashed(f"ID_patient{k // 2}") for k in range(60)]
    encoder = pretrain(data, out=tmp_path / "encoder", steps=2, **SHORT)
    run = finetune(data, ["any"], encoder, out=tmp_path / "run", frozen=True, quiet=True)
    auroc = next(r for r in evaluate(run, data, ["metrics"], quiet=True) if r["metric"] == "auroc" and r.get("class") is None)
    assert auroc["value"] == pytest.approx(1)
    used = pd.read_parquet(tmp_path / "run" / "used.parquet").query("row >= 0")  # -1: what the encoder had seen before
    assert used.groupby("patient")["split"].nunique().max() == 1
    assert used["patient"].nunique() == 30
    assert read_rows(run)
