"""A study of numbers on images whose number is known: rows, intervals and the page are worked out again by hand."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.extensions import added
from helpers.report_runs import Page
from PIL import Image
from sklearn import metrics as sk

from scotoma.cli import main
from scotoma.commands.study import study
from scotoma.metrics import intervals
from scotoma.run_folder import read_rows

PATIENTS, UNKNOWN, NOISE = 30, 5, 0.5  # two images each; of so many images the diameter is not known; noise in pixels
FLAGS = "--target diameter --regression --encoder resnet10t --size 32 --steps 1 --finetune_steps 2 --fractions 0.3,1 --seeds 3"
STILL = '''"""Still: learns nothing, as its learning rate is 0."""

from scotoma.methods.simsiam import SimSiam


class Still(SimSiam):
    learning_rate = 0.0
'''


@pytest.fixture(scope="module")
def discs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Discs of many grey levels: ``diameter`` is theirs in pixels with noise, missing for the first images; bad columns beside."""
    folder, rng, rows = tmp_path_factory.mktemp("discs"), np.random.default_rng(0), []
    y, x = np.mgrid[:32, :32]
    for i in range(2 * PATIENTS):
        radius, level, at = rng.uniform(3, 11), rng.uniform(120, 220), rng.uniform(12, 20, 2)
        image = np.where((x - at[0]) ** 2 + (y - at[1]) ** 2 <= radius**2, level, 60) + rng.normal(0, 10, (32, 32))
        Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(folder / f"{i}.png")
        rows.append({"image_path": f"{i}.png", "patient": f"p{i // 2}", "diameter": round(2 * radius + rng.normal(0, NOISE), 2)})
    frame = pd.DataFrame(rows)
    frame.loc[: UNKNOWN - 1, "diameter"] = None
    frame = frame.assign(
        words="old", flat=3.0, mask_path=frame["image_path"], two=frame["diameter"].where(frame.index.isin([10, 12]))
    )
    frame.to_csv(folder / "table.csv", index=False)
    side = np.where(frame.index < 44, "train", "test")
    known = {
        "no_test": frame["diameter"].where(side == "train"),
        "one_train": frame["diameter"].where((side == "test") | (frame.index == 9)),
    }
    frame.assign(split=side, **known).to_csv(folder / "split.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def finished(discs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("study") / "run"
    given = ["study", "--data", str(discs / "table.csv"), *FLAGS.split(), "--methods", "simclr", "--out", str(out), "--quiet"]
    with contextlib.redirect_stderr(io.StringIO()) as said:
        assert main(given) == 0
    (out / "stderr.txt").write_text(said.getvalue())
    return out


@pytest.fixture(scope="module")
def rows(finished: Path) -> pd.DataFrame:
    return pd.DataFrame(read_rows(finished))


@pytest.fixture(scope="module")
def tested(discs: Path, finished: Path) -> pd.DataFrame:
    """The table's rows with their part of the split; those of the table that test come first by position."""
    frame = pd.read_csv(discs / "table.csv")
    used = pd.read_parquet(finished / "used.parquet").set_index("row")["split"]
    return frame.assign(split=used[frame.index].to_numpy())


def predictions(run: Path, use: str, method: str, fraction: float) -> list[np.ndarray]:
    """What the models of both draws said of the test images."""
    names = {"control": f"{use}-control", "random": f"{use}-random-simclr-resnet10t"}
    name = names.get(method, f"{use}-{method}-resnet10t")
    return [np.load(run / "predictions" / f"{name}-f{fraction:g}-s{seed}.npy").astype(float) for seed in range(3)]


ARMS = [(u, "control") for u in ("majority", "header", "pixels")] + [
    (u, m) for u in ("linear", "finetune") for m in ("random", "simclr")
]


def test_patients_are_on_one_side_and_counts_are_of_the_table(rows: pd.DataFrame, tested: pd.DataFrame, finished: Path) -> None:
    assert tested.groupby("patient")["split"].nunique().max() == 1
    data = rows[(rows["evaluator"] == "data") & rows["class"].isna()].set_index(["metric", "split"])["value"]
    for part, own in tested.groupby("split"):
        assert data["images", part] == len(own) and data["patients", part] == own["patient"].nunique()
    known = tested[tested["diameter"].notna() & (tested["split"] == "test")]
    assert 0 < len(known) <= (tested["split"] == "test").sum()
    assert set(rows.loc[(rows["evaluator"] == "regression") & (rows["split"] == "test"), "n"].dropna()) == {len(known)}
    row = rows[rows["metric"] == "tested"].iloc[0]
    assert (row["value"], row["patients"]) == (len(known), known["patient"].nunique())
    labels = pd.read_csv(finished / "labels.csv")
    assert (labels["split"].to_numpy() == tested["split"][labels["row"]].to_numpy()).all()
    assert tested["diameter"][labels["row"]].notna().all()
    drawn = labels[labels["split"] == "train"].groupby("seed").size()
    at = rows[rows["metric"] == "mae"].groupby("fraction")["labels"].unique()
    assert [list(v) for v in at] == [[drawn[0]], [(tested["diameter"].notna() & (tested["split"] == "train")).sum()]]


def test_rows_of_each_draw_are_the_errors_of_its_saved_predictions(
    rows: pd.DataFrame, tested: pd.DataFrame, finished: Path
) -> None:
    truth = tested.loc[tested["diameter"].notna() & (tested["split"] == "test"), "diameter"].to_numpy(np.float32).astype(float)
    single = (
        rows[(rows["evaluator"] == "regression") & (rows["split"] == "test") & rows["seed"].notna()]
        .set_index(["use", "method", "fraction", "seed", "metric"])
        .sort_index()
    )
    assert len(single) == len(ARMS) * 2 * 3 * 5
    for use, method in ARMS:
        for fraction in (0.3, 1.0):
            for seed, found in enumerate(predictions(finished, use, method, fraction)):
                expected = {"mae": np.abs(found - truth).mean(), "rmse": np.sqrt(((found - truth) ** 2).mean()),
                            "bias": (found - truth).mean(), "r2": sk.r2_score(truth, found)}  # fmt: skip
                row = single.loc[(use, method, fraction, seed)]["value"]
                assert {k: row[k] for k in expected} == pytest.approx(expected, abs=1e-9)
                if use in ("majority", "header"):  # sizes are all the same, so that headers know the mean alone
                    assert np.ptp(found) < 1e-6 and np.isnan(row["pearson"])
                else:
                    assert row["pearson"] == pytest.approx(np.corrcoef(truth, found)[0, 1], abs=1e-6)


def test_means_and_differences_are_over_patients_and_draws(rows: pd.DataFrame, tested: pd.DataFrame, finished: Path) -> None:
    known = tested[tested["diameter"].notna() & (tested["split"] == "test")]
    truth = known["diameter"].to_numpy(np.float32).astype(float)
    units = pd.factorize(tested["patient"])[0][known.index]
    means = rows[(rows["metric"] == "mae") & rows["seed"].isna()].set_index(["use", "method", "fraction"])
    differences = rows[(rows["metric"] == "mae_difference") & (rows["reference"] == "random")].set_index(
        ["use", "method", "fraction"]
    )
    assert len(differences) == 4
    for (use, method, fraction), row in means.iterrows():
        errors = [np.abs(p - truth) for p in predictions(finished, use, method, fraction)]
        expected = intervals.mean_over_draws(None, units, errors, units, "mae")
        assert {k: row[k] for k in ("value", "low", "high", "draws", "over")} == pytest.approx(
            {k: expected[k] for k in ("value", "low", "high", "draws", "over")}
        )
        assert row["value"] == pytest.approx(np.mean(errors)) and row["low"] <= row["value"] <= row["high"]
    for (use, method, fraction), row in differences.iterrows():
        own, random = ([np.abs(p - truth) for p in predictions(finished, use, m, fraction)] for m in (method, "random"))
        expected = intervals.paired_difference(None, units, own, random, units)
        assert {k: row[k] for k in expected} == pytest.approx(expected, nan_ok=True)
        assert row["value"] == pytest.approx(
            means.loc[(use, method, fraction), "value"] - means.loc[(use, "random", fraction), "value"]
        )
    p = sorted(differences["p_value"])
    adjusted = np.minimum(1, np.maximum.accumulate(np.array(p) * [4, 3, 2, 1]))
    assert sorted(differences["p_holm"]) == pytest.approx(sorted(adjusted))


def test_the_mean_is_that_of_the_draws_training_labels(rows: pd.DataFrame, tested: pd.DataFrame, finished: Path) -> None:
    labels = pd.read_csv(finished / "labels.csv")
    for seed, found in enumerate(predictions(finished, "majority", "control", 0.3)):
        drawn = labels[(labels["seed"] == seed) & (labels["split"] == "train")]["row"]
        assert found == pytest.approx(tested["diameter"][drawn].mean(), abs=1e-4)


def test_what_knows_the_images_beats_the_mean_and_nothing_beats_the_noise(rows: pd.DataFrame) -> None:
    mae = rows[(rows["metric"] == "mae") & rows["seed"].isna() & (rows["fraction"] == 1)].set_index(["use", "method"])
    assert mae.loc[("linear", "random"), "value"] < mae.loc[("majority", "control"), "value"] / 2
    assert mae["value"].min() > NOISE * np.sqrt(2 / np.pi) / 2, "a prediction so good has seen the answer"


def test_the_page_says_who_won_as_the_rows_do(rows: pd.DataFrame, tested: pd.DataFrame, finished: Path) -> None:
    text = Page((finished / "report.html").read_text()).text.replace("\u00a0", " ")
    chosen = (rows["metric"] == "mae_difference") & (rows["fraction"] == 0.3) & (rows["reference"] == "random")
    differences = rows[chosen].set_index("use")
    assert "What pretraining was worth" in text and "in the unit of diameter" in text
    for use, name in (("linear", "ridge regression on the frozen encoder"), ("finetune", "fine-tuned network")):
        row = differences.loc[use]
        won = {True: "better than", False: "worse than"}[row["value"] < 0] if row["p_holm"] < 0.05 else "did not beat"
        assert f"SimCLR, {name}: {won} random weights" in text
    sizes, unknown = tested.groupby("split").size(), tested[tested["diameter"].isna()].groupby("split").size()
    counts = [(int(unknown.get(part, 0)), sizes[part]) for part in ("train", "val", "test")]
    assert "No number (images) " + " ".join(f"{n} ({100 * n / of:.0f} %)" for n, of in counts) in text
    line = f"discs0: {UNKNOWN} of {2 * PATIENTS} images have no number in diameter: they are neither tested nor trained on"
    assert line in (finished / "stderr.txt").read_text()


def test_a_method_that_learns_nothing_does_not_beat_its_own_untrained_network(discs: Path, tmp_path: Path) -> None:
    with added(tmp_path / "added", {"methods": STILL}, "still"):
        given = {"fractions": [0.5], "seeds": 3, "steps": 2, "size": 32, "encoder": "vit_tiny_patch16", "controls": ["random"]}
        run = study(
            discs / "table.csv", ["diameter"], ["still"], tmp_path / "run", regression=True, finetune_steps=2, quiet=True, **given
        )
    rows = pd.DataFrame(read_rows(run))
    found = rows[rows["metric"] == "mae_difference"]
    assert sorted(found["use"]) == ["finetune", "linear"]
    assert (found["value"].abs() < 0.5).all() and (found["p_holm"] > 0.05).all()
    text = Page((run / "report.html").read_text()).text
    assert text.count(": did not beat random weights") == 2 and "better than random" not in text and "\u25b2 [" not in text


@pytest.mark.parametrize(
    ("table", "flags", "words"),
    [
        ("table", "--target words --regression", "words holds 'old', which is no number; leave --regression out for classes"),
        ("table", "--target flat --regression", "flat has fewer than two different numbers: nothing to predict"),
        ("table", "--target mask_path --regression", "--target mask_path names masks, not numbers: leave --regression out"),
        ("table", "--target diameter --regression --classes 1,2", "--regression predicts one column of numbers, without --classes"),
        ("table", "--target diameter --regression --separator |", "--separator goes with findings in words: leave it out"),
        ("table", "--target diameter --regression --decoder unet", "--decoder is for masks"),
        ("table", "--target two --regression", "too few patients or groups to draw a split (2 patients with a label)"),
        ("split", "--target no_test --regression", "no row in split test has a number in no_test"),
        ("split", "--target one_train --regression", "all labelled rows in split train have the same number in one_train"),
    ],
)
def test_a_wrong_request_is_one_line(
    discs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], table: str, flags: str, words: str
) -> None:
    out = ["--methods", "simclr", "--size", "32", "--steps", "1", "--out", str(tmp_path / "run"), "--quiet"]
    assert main(["study", "--data", str(discs / f"{table}.csv"), *flags.split(), *out]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("scotoma: ")]
    assert words in line and not (tmp_path / "run").exists()


@pytest.mark.long
def test_ages_of_real_radiographs(data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Five steps teach nothing: the page says so, in years, and how many images have no age."""
    frame = pd.read_csv(data_root / "covid_chestxray" / "table.csv")[["image_path", "patient", "age"]]
    frame.assign(image_path=f"{data_root / 'covid_chestxray'}/" + frame["image_path"]).to_csv(tmp_path / "ages.csv", index=False)
    flags = FLAGS.replace("diameter", "age").replace("--steps 1", "--steps 5").split()
    given = [
        "study",
        "--data",
        str(tmp_path / "ages.csv"),
        *flags,
        "--methods",
        "simclr",
        "--out",
        str(tmp_path / "run"),
        "--quiet",
    ]
    assert main(given) == 0
    unknown = int(frame["age"].isna().sum())
    assert unknown and f"ages: {unknown} of {len(frame)} images have no number in age" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "run")]) == 0
    text = Page((tmp_path / "run" / "report.html").read_text()).text
    rows = pd.DataFrame(read_rows(tmp_path / "run"))
    mean = rows[(rows["metric"] == "mae") & (rows["use"] == "majority") & rows["seed"].isna() & (rows["fraction"] == 0.3)][
        "value"
    ].item()
    assert 5 < mean < 30 and f"Predicting the mean of the training labels errs by {mean:.2f}" in text
    assert "in the unit of age" in text and ": better than random weights" not in text and "SimCLR, fine-tuned network" in text
