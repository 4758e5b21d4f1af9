"""The study: nested draws, controls beside every result, and the same rows whether stopped, resumed or repeated."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from safetensors.torch import save_file
from sklearn.metrics import roc_auc_score

from scotoma.commands.evaluate import evaluate
from scotoma.commands.study import study
from scotoma.data import encoder_header
from scotoma.data.phantom import phantom
from scotoma.errors import UsageError
from scotoma.metrics import learning_curves
from scotoma.models import encoders
from scotoma.run_folder import read_rows, status
from scotoma.studies import runner

SMALL = {
    "target": ["cardiomegaly"],
    "fractions": [0.2, 1.0],
    "seeds": 2,
    "steps": 3,
    "size": 32,
    "finetune_steps": 2,
    "quiet": True,
}
TIMED = ("seconds", "seconds_preparing", "images_per_second", "peak_memory_bytes")


def untimed(folder: Path) -> list[dict]:
    return [row for row in read_rows(folder) if row["metric"] not in TIMED]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return study(
        "phantom:150", methods=["simclr", "supervised"], out=tmp_path_factory.mktemp("study") / "run", encoder="resnet10t", **SMALL
    )


def test_every_arm_has_every_fraction_and_draw(finished: Path) -> None:
    rows = pd.DataFrame(read_rows(finished))
    single = rows[(rows["metric"] == "auroc") & rows["seed"].notna()]
    arms = single.groupby(["evaluator", "method"]).size().to_dict()
    assert arms == {
        ("header", "control"): 4, ("majority", "control"): 4, ("pixels", "control"): 4,
        ("linear", "random"): 8, ("linear", "simclr"): 4, ("linear", "supervised"): 4,
        ("finetune", "random"): 8, ("finetune", "simclr"): 4, ("finetune", "supervised"): 4,
    }  # fmt: skip
    untrained = single[single["method"] == "random"]
    assert untrained.groupby("control_of").size().to_dict() == {"simclr": 8, "supervised": 8}  # of each method its own
    assert (single[single["evaluator"] == "majority"]["value"] == 0.5).all()


def test_predictions_lead_back_to_images(finished: Path) -> None:
    images = pd.read_parquet(finished / "predictions" / "images.parquet")
    table = pd.DataFrame({"row": range(150), "truth": [phantom.truth(0, i)["cardiomegaly"] for i in range(150)]})
    assert images.attrs["classes"] == ["0", "1"]  # the columns of the arrays
    assert (images["split"] == "test").all() and images["patient"].notna().all() and images["content"].is_unique
    assert images.merge(table, on="row")["truth"].astype(int).tolist() == images["label"].astype(int).tolist()
    p = np.load(finished / "predictions" / "linear-simclr-resnet10t-f1-s0.npy")
    (row,) = (
        r
        for r in read_rows(finished)
        if (r["metric"], r.get("class"), r["evaluator"], r.get("method")) == ("auroc", None, "linear", "simclr")
        and (r.get("seed"), r.get("fraction")) == (0, 1)
    )
    assert row["value"] == pytest.approx(roc_auc_score(images["label"].astype(int), p[:, 1]), abs=1e-6)


def test_means_and_differences_follow_from_the_draws(finished: Path) -> None:
    rows = pd.DataFrame(read_rows(finished))
    auroc = rows[(rows["metric"] == "auroc") & rows["class"].isna() & (rows["evaluator"] == "finetune") & (rows["fraction"] == 0.2)]
    auroc = auroc.assign(method=auroc["method"] + auroc["control_of"].map(" {}".format).where(auroc["control_of"].notna(), ""))
    by = auroc[auroc["seed"].notna()].groupby("method")["value"].mean()
    mean = auroc[auroc["seed"].isna()].set_index("method")["value"]
    assert mean.to_dict() == pytest.approx(by.to_dict()) and len(by) == 4
    differences = rows[(rows["metric"] == "auroc_difference")]
    assert differences.groupby("reference").size().to_dict() == dict.fromkeys(["random", "majority", "header", "pixels"], 8)
    own = differences[differences["reference"] == "random"]
    value = own[(own["evaluator"] == "finetune") & (own["fraction"] == 0.2)].set_index("method")["value"]
    for method in ("simclr", "supervised"):
        assert value[method] == pytest.approx(by[method] - by[f"random {method}"])
    family = own[own["p_value"].notna()]
    assert (family["p_holm"] >= family["p_value"]).all()
    assert differences[differences["reference"] != "random"]["p_holm"].isna().all()  # shown without a verdict


def test_a_method_stands_beside_every_control(finished: Path) -> None:
    rows = pd.DataFrame(read_rows(finished))
    auroc = rows[(rows["metric"] == "auroc") & rows["class"].isna() & rows["seed"].isna()]
    value = auroc.set_index(["evaluator", "method", "fraction"])["value"]
    found = rows[(rows["metric"] == "auroc_difference") & (rows["reference"] != "random")]
    for _, row in found.iterrows():
        expected = value[row["evaluator"], row["method"], row["fraction"]] - value[row["reference"], "control", row["fraction"]]
        assert row["value"] == pytest.approx(expected)
    assert set(found["fraction"]) == {0.2, 1.0} and set(found["evaluator"]) == {"linear", "finetune"}


def test_the_rows_of_a_fine_tuning_state_where_its_head_started_and_what_it_took(finished: Path) -> None:
    rows = pd.DataFrame(read_rows(finished))
    tuned = rows[(rows["evaluator"] == "finetune") & rows["seed"].notna()]
    assert set(tuned["head"]) <= {"zero", "probe"}
    assert tuned.groupby(["method", "control_of", "fraction", "seed"], dropna=False)["head"].nunique().eq(1).all()
    seconds = tuned[tuned["metric"] == "seconds"]
    assert len(seconds) == 16 and (seconds["value"] > 0).all() and set(seconds["split"]) == {"train"}
    assert rows.loc[rows["evaluator"] == "linear", "head"].isna().all()


def test_draws_are_saved_and_nested_and_never_test_rows(finished: Path) -> None:
    labels = pd.read_csv(finished / "labels.csv")
    used = pd.read_parquet(finished / "used.parquet")
    split = used.set_index("row")["split"]
    assert set(labels["fraction"]) == {0.2} and set(labels["seed"]) == {0, 1}
    assert (split[labels["row"]].to_numpy() == labels["split"].to_numpy()).all()


def test_a_method_that_reads_labels_is_trained_on_each_draw_alone(finished: Path) -> None:
    folders = sorted(p.name for p in (finished / "pretrain").glob("supervised-*"))
    assert folders == ["supervised-f0.2-s0", "supervised-f0.2-s1", "supervised-f1-s0"]  # all labels can be drawn in one way only
    labels = pd.read_csv(finished / "labels.csv")
    drawn = ((labels["fraction"] == 0.2) & (labels["seed"] == 0) & (labels["split"] == "train")).sum()
    seen = [r["value"] for r in read_rows(finished / "pretrain" / "supervised-f0.2-s0") if r["metric"] == "images"]
    assert seen == [drawn]


def test_random_weights_are_those_of_the_methods_network_another_for_each_draw(finished: Path) -> None:
    _, trained, _ = encoders.load(finished / "pretrain" / "simclr")
    weights = []
    for draw in (0, 1):
        network, random, _ = encoders.load(finished / "pretrain" / f"random-simclr-s{draw}")
        assert (random.timm_name, random.timm_kwargs, random.mean, random.std) == (
            trained.timm_name,
            trained.timm_kwargs,
            trained.mean,
            trained.std,
        )
        assert random.method == {"name": "random", "of": "simclr"} and random.seed == 1000 + draw
        weights.append(network.state_dict()["conv1.0.weight"])
    assert not torch.equal(*weights)


def test_at_all_labels_only_what_differs_by_draw_is_computed_anew(finished: Path) -> None:
    def same(name: str) -> bool:
        return np.array_equal(*(np.load(finished / "predictions" / f"{name}-f1-s{seed}.npy") for seed in (0, 1)))

    assert same("linear-simclr-resnet10t") and same("linear-supervised-resnet10t") and same("pixels-control")
    assert not same("linear-random-simclr-resnet10t") and not same("finetune-simclr-resnet10t")


def test_it_ends_with_a_report(finished: Path) -> None:
    page = (finished / "report.html").read_text()
    assert status(finished) == "finished" and "SimCLR" in page and "Random weights" in page


def test_its_own_configuration_gives_the_same_rows(finished: Path, tmp_path: Path) -> None:
    from scotoma.cli import main

    assert main(["study", "--config", str(finished / "config.yaml"), "--out", str(tmp_path / "again"), "--quiet"]) == 0
    assert untimed(tmp_path / "again") == untimed(finished)


def test_a_killed_study_goes_on_where_it_stopped(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    command = [
        sys.executable,
        "-m",
        "scotoma.cli",
        "study",
        "--config",
        str(finished / "config.yaml"),
        "--out",
        str(out),
        "--quiet",
    ]
    process = subprocess.Popen(command)
    deadline = time.monotonic() + 240
    while len(list((out / "predictions").glob("finetune-*.npy"))) < 2:  # in the middle of its classifiers
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert status(out) == "running" and not (out / "rows.jsonl").exists()
    done = {p: p.stat().st_mtime_ns for p in (out / "predictions").glob("*.npy")}
    with pytest.raises(UsageError, match="`resume`"):
        study("phantom:150", methods=["simclr", "supervised"], out=out, encoder="resnet10t", **SMALL)
    study("phantom:150", methods=["simclr", "supervised"], out=out, encoder="resnet10t", resume=True, **SMALL)
    assert untimed(out) == untimed(finished)
    assert all(p.stat().st_mtime_ns == at for p, at in done.items())  # nothing that was done is done again


def test_a_study_that_an_earlier_version_began_is_not_gone_on_with(finished: Path, tmp_path: Path) -> None:
    """Its control was another one; finished, it stays as it is."""
    out = tmp_path / "old"
    shutil.copytree(finished, out)
    config = [line for line in (out / "config.yaml").read_text().splitlines() if not line.startswith("pretrainings")]
    (out / "config.yaml").write_text("\n".join(config))
    given = {"methods": ["simclr", "supervised"], "out": out, "encoder": "resnet10t", "resume": True, **SMALL}
    assert read_rows(study("phantom:150", **given)) == read_rows(finished)
    (out / "status.json").write_text(json.dumps({"state": "running"}))
    with pytest.raises(UsageError, match="an earlier version started this study"):
        study("phantom:150", **given)


def test_an_encoder_of_a_study_is_not_tested_on_its_training_images(finished: Path, tmp_path: Path) -> None:
    from scotoma.data.phantom.phantom import table

    own = table(150)
    own["split"] = "test"
    own.loc[own["patient"].isin(own["patient"].unique()[:40]), "split"] = "train"
    with pytest.raises(UsageError, match="pretraining"):
        evaluate(finished / "pretrain" / "simclr", own, target=["cardiomegaly"], out=tmp_path / "e", quiet=True)


def test_methods_with_other_arguments_and_given_weights_stand_beside_each_other(tmp_path: Path) -> None:
    source = timm.create_model("resnet10t", num_classes=0)
    save_file(source.state_dict(), tmp_path / "public.safetensors")
    weights = str(tmp_path / "public.safetensors")
    small = SMALL | {"fractions": [0.5], "seeds": 1, "modes": ["linear"]}
    out = study(
        "phantom:150", methods=["simclr?temperature=0.5&jitter=0.1", "proxy?columns=cardiomegaly"], out=tmp_path / "run",
        encoder="resnet10t", controls=["random", weights], **small,
    )  # fmt: skip
    rows = pd.DataFrame(read_rows(out))
    scores = rows[(rows["metric"] == "auroc") & rows["seed"].isna() & rows["class"].isna()]
    assert set(scores["method"]) == {
        "random",
        "public.safetensors",
        "simclr?temperature=0.5&jitter=0.1",
        "proxy?columns=cardiomegaly",
    }
    differences = rows[rows["metric"] == "auroc_difference"]
    assert set(differences["method"]) == set(scores["method"]) - {"random"}
    of_weights = differences[differences["method"] == "public.safetensors"]
    assert set(of_weights["reference"]) == {"random"} and of_weights["p_holm"].isna().all()  # public weights are no method
    assert set(differences[differences["reference"] == "public.safetensors"]["method"]) == set(differences["method"]) - {
        "public.safetensors"
    }
    assert json.loads((out / "pretrain" / "controls.json").read_text()) == {
        "simclr?temperature=0.5&jitter=0.1": "simclr?temperature=0.5&jitter=0.1",
        "proxy?columns=cardiomegaly": "proxy?columns=cardiomegaly",  # it has other views, hence other batch statistics
        "public.safetensors": "simclr?temperature=0.5&jitter=0.1",
    }
    info = encoder_header.read_info(out / "pretrain" / "simclr_temperature=0.5_jitter=0.1")
    assert (info.method["temperature"], info.method["jitter"]) == (0.5, 0.1)
    inside = read_rows(out / "pretrain" / "simclr_temperature=0.5_jitter=0.1")
    assert {r["method"] for r in inside} == {"simclr?temperature=0.5&jitter=0.1"}, "the report must not take it for another run"
    page = (out / "report.html").read_text()
    assert "SimCLR (temperature 0.5, jitter 0.1)" in page and ">SimCLR</th>" not in page
    card = (out / "model_card.md").read_text()
    assert "pretrained by SimCLR (temperature 0.5, jitter 0.1), Proxy tasks (columns cardiomegaly)." in card
    given, info, _ = encoders.load(out / "pretrain" / "public.safetensors-resnet10t")
    assert info.method == {"name": "public.safetensors"}
    kernel = "layer2.0.conv1.weight"
    assert torch.equal(given.state_dict()[kernel], source.state_dict()[kernel])
    # the proxy task is the target itself: it is trained on the labels of a draw alone
    labels = pd.read_csv(out / "labels.csv")
    pretrained = next(r for r in read_rows(out / "pretrain" / "proxy_columns=cardiomegaly-f0.5-s0") if r["metric"] == "steps")
    assert pretrained["value"] == 3 and labels["fraction"].eq(0.5).all()


def test_weights_of_one_name_and_of_a_methods_name_stand_beside_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scotoma.studies.arms import weights_of

    monkeypatch.chdir(tmp_path)
    for path in ("a/encoder.safetensors", "b/encoder.safetensors", "runs/simclr", "random", "c/mae"):
        Path(path).parent.mkdir(exist_ok=True)
        Path(path).touch()
    controls = ["a/encoder.safetensors", "b/encoder.safetensors", "runs/simclr", "./random", "c/mae", "resnet18.a1_in1k", "pixels"]
    assert weights_of({"controls": ["random", *controls, "c/mae"], "methods": ["simclr", "byol"]}) == {
        **{path: path for path in controls[:4]}, "mae": "c/mae", "resnet18.a1_in1k": "resnet18.a1_in1k",
    }  # fmt: skip


def test_a_users_own_list_of_labels_is_a_share_of_the_study(finished: Path, tmp_path: Path) -> None:
    used = pd.read_parquet(finished / "used.parquet")
    train = used.loc[used["split"] == "train", "row"].sort_values().tolist()
    listed, place = sorted(train[::3]), tmp_path / "train33F.txt"
    place.write_text("\n".join(map(str, listed)))
    given = SMALL | {"fractions": [0.2], "modes": ["linear"], "controls": ["random"], "label_lists": [str(place)]}
    run = study("phantom:150", methods=["simclr"], out=tmp_path / "run", encoder="resnet10t", **given)
    share = float(f"{len(listed) / len(train):.4g}")
    rows, labels = pd.DataFrame(read_rows(run)), pd.read_csv(run / "labels.csv")
    auroc = rows[(rows["metric"] == "auroc") & (rows["method"] == "simclr") & rows["seed"].isna() & rows["class"].isna()]
    drawn = labels[labels["split"] == "train"]
    expected = {0.2: len(drawn[(drawn["fraction"] == 0.2) & (drawn["seed"] == 0)]), share: len(listed)}
    assert auroc.set_index("fraction")["labels"].to_dict() == expected
    for _, one in drawn[drawn["fraction"] == share].groupby("seed"):
        assert one["row"].tolist() == listed
    place.write_text("nothing.png\n")
    with pytest.raises(UsageError, match="name no image"):
        study("phantom:150", methods=["simclr"], out=tmp_path / "x", **given)
    assert not (tmp_path / "x").exists()


def test_several_targets_with_missing_labels_are_one_study(tmp_path: Path) -> None:
    from scotoma.data.phantom.phantom import table

    own = table(150)
    own.loc[own.index % 5 == 0, "effusion"] = None  # unknown, never "no"
    run = study(
        own, ["cardiomegaly", "effusion"], ["simclr"], tmp_path / "run", fractions=[0.5], seeds=2, steps=2, size=32,
        encoder="resnet10t", finetune_steps=2, quiet=True,
    )  # fmt: skip
    rows = pd.DataFrame(read_rows(run))
    tuned = rows[(rows["evaluator"] == "finetune") & (rows["method"] == "simclr")]
    auroc = tuned[(tuned["metric"] == "auroc") & tuned["seed"].isna()]
    by = auroc.set_index("class")["value"]
    assert by[["cardiomegaly", "effusion"]].mean() == pytest.approx(auroc[auroc["class"].isna()]["value"].item())
    n = auroc.set_index("class")["n"]
    assert n["effusion"] < n["cardiomegaly"] and "effusion" in (run / "report.html").read_text()


def test_curves_of_three_fractions_are_continued(tmp_path: Path) -> None:
    small = SMALL | {"fractions": [0.2, 0.5, 1.0], "modes": ["linear"], "controls": ["random"], "seeds": 3}
    run = study("phantom:150", methods=["simclr"], out=tmp_path / "run", encoder="resnet10t", **small)
    rows = pd.DataFrame(read_rows(run))
    more = rows[rows["evaluator"] == "extrapolation"]
    needed = more[more["metric"] == "labels_for_auroc"]
    assert needed.groupby(["use", "method"]).size().to_dict() == dict.fromkeys([("linear", "random"), ("linear", "simclr")], 5)
    single = rows[(rows["metric"] == "auroc") & rows["seed"].notna() & (rows["method"] == "simclr")]
    means = single.groupby("labels")["value"].mean()
    law = learning_curves.fit(means.index, means)
    further = more[(more["metric"] == "auroc_predicted") & (more["method"] == "simclr")]
    assert further["value"].tolist() == pytest.approx(law.at(further["labels"]).tolist())
    assert (further["low"] < further["high"]).all()
    widths = more[more["metric"] == "patients_for_width"]
    test = rows[(rows["evaluator"] == "data") & (rows["metric"] == "images") & (rows["split"] == "test")]
    share = test.loc[test["class"] == "1", "value"].item() / test.loc[test["class"].isna(), "value"].item()
    assert set(widths["class"]) == {"1"} and widths["prevalence"].unique() == pytest.approx([share])
    assert "Labels and patients needed" in (run / "report.html").read_text() and (run / "tables" / "labels_needed.csv").exists()


def test_wrong_requests_are_one_line_and_leave_nothing(tmp_path: Path) -> None:
    for change, match in (
        ({"methods": ["simclr", "simclr"]}, "once"),
        ({"methods": ["simcrl"]}, "did you mean 'simclr'"),
        ({"fractions": [0.0]}, "fractions"),
        ({"controls": ["chance"]}, "unknown control"),
        ({"minutes": 1.0}, "one of"),
        ({"pretrainings": 3}, "each needs a label draw"),
        ({"pretrainings": 0}, "at least 1"),
    ):
        with pytest.raises(UsageError, match=match):
            study("phantom:20", out=tmp_path / "x", **({**SMALL, "methods": ["simclr"]} | change))
    assert not (tmp_path / "x").exists()


def test_weights_that_cannot_be_taken_are_refused_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(*_: object, **__: object) -> None:
        raise AssertionError("a pretraining began")

    monkeypatch.setattr(runner, "train", train)
    weights = timm.create_model("resnet10t", num_classes=0).state_dict()
    damaged = {k: torch.full_like(v, torch.nan) if k == "layer1.0.conv1.weight" else v for k, v in weights.items()}
    save_file(damaged, tmp_path / "damaged.safetensors")
    save_file(weights, tmp_path / "sound.safetensors")
    controls = ["random", str(tmp_path / "sound.safetensors"), str(tmp_path / "damaged.safetensors")]
    with pytest.raises(UsageError, match=r"layer1.0.conv1.weight is not finite"):
        study("phantom:60", methods=["simclr"], out=tmp_path / "x", encoder="resnet10t", controls=controls, **SMALL)
    assert not (tmp_path / "x").exists()


def test_a_few_real_labels_go_further_after_pretraining(data_root: Path, tmp_path: Path) -> None:
    """The main job, small: a minute's SimCLR on real brain MR beats random weights with 5 % of the labels."""
    run = study(
        data_root / "brain_tumor_mri" / "table.csv", ["label"], ["simclr"], tmp_path / "run", fractions=[0.05], seeds=2, steps=60,
        size=48, modes=["linear"], controls=["random"], quiet=True,
    )  # fmt: skip
    rows = [r for r in read_rows(run) if r["metric"] == "auroc_difference"]
    assert len(rows) == 1 and rows[0]["value"] > 0.02
    assert np.isfinite(json.loads((run / "rows.jsonl").read_text().splitlines()[-1])["value"])


@pytest.mark.parametrize(("methods", "more", "message"), [
    ("simclr,mae", {"encoder": "resnet10t"}, "mae needs a vision transformer"),
    ("simclr,mae?masking=nope", {}, "masking"), ("mae?masking", {}, r"mae\?masking: give masking a value, mae\?masking=VALUE"),
])  # fmt: skip
def test_a_wrong_method_leaves_no_folder_and_nothing_is_trained(
    methods: str, more: dict[str, str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scotoma.studies.runner.train", lambda *_: pytest.fail("trained"))
    with pytest.raises(UsageError, match=message):
        study("phantom:40", "cardiomegaly", methods.split(","), tmp_path / "out", steps=2, size=32, quiet=True, **more)
    assert not (tmp_path / "out").exists()
