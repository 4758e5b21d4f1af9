from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from scotoma import cli
from scotoma.cli import main
from scotoma.commands.embed import embed
from scotoma.commands.evaluate import evaluate
from scotoma.commands.finetune import finetune
from scotoma.commands.pretrain import pretrain
from scotoma.data import encoder_header
from scotoma.errors import UsageError
from scotoma.methods.supervised import Supervised
from scotoma.models import encoders, pretrained_weights
from scotoma.run_folder import read_config, read_rows
from scotoma.training import trainer
from scotoma.training.schedule import learning_rate_factor


def test_the_verbs_from_images_to_a_tested_classifier(grey_folder, tmp_path: Path) -> None:
    data = grey_folder(count=16, splits=("train", "val", "test"))
    short = {"size": 16, "encoder": "resnet10t", "batch_size": 8, "precision": "32-true", "quiet": True}
    encoder = pretrain(data, out=tmp_path / "encoder", steps=2, **short)

    frozen = finetune(data, ["label"], encoder, out=tmp_path / "frozen", frozen=True, quiet=True)
    for name in ("config.yaml", "rows.jsonl", "model.safetensors", "used.parquet", "status.json"):
        assert (frozen / name).is_file(), name
    network, info, head = encoders.load(frozen)
    assert head is not None and info.targets == ("label",) and info.classes == ("left", "right")
    before, _, _ = encoders.load(encoder)
    assert all(torch.equal(v, before.state_dict()[k]) for k, v in network.state_dict().items())  # frozen means frozen
    with safe_open(frozen / "model.safetensors", "pt") as file:
        assert {"head.weight", "head.bias"} <= set(file.keys())
    rows = [row for row in read_rows(frozen) if row["evaluator"] not in ("data", "cohort")]
    auroc = next(r["value"] for r in rows if r["metric"] == "auroc")
    first, data_line, index, device, following = frozen.summary.splitlines()
    assert re.fullmatch(
        rf"validation: auroc {auroc:.3f} \(95 % interval \S+ to \S+, 32 images\); choices were made by these images: no test", first
    )
    parts = "32 training, 32 validation, 32 test (held out)"
    assert data_line == f"data: 96 images of 96 near-duplicate groups: {parts}; the table's own split"
    assert (
        Path(index.split()[1]).is_file()
        and device.startswith("device: ")
        and following == f"next: scotoma evaluate {frozen} {data}"
    )
    of_encoder = encoder.summary.splitlines()
    assert re.fullmatch(r"pretrained: resnet10t by simclr on 32 images, 2 steps of 8 in \d+\.\d minutes", of_encoder[0])
    assert of_encoder[1] == data_line and of_encoder[4] == f"next: scotoma finetune {data} --target COLUMN --encoder {encoder}"
    assert {r["split"] for r in rows} == {"val"} and {r["n"] for r in rows} == {32} and {r["labels"] for r in rows} == {32}

    tuned = finetune(
        data, ["label"], encoder, out=tmp_path / "tuned", steps=10, learning_rate=1e-3, quiet=True, precision="32-true"
    )
    changed, _, _ = encoders.load(tuned)
    assert any(not torch.equal(v, before.state_dict()[k]) for k, v in changed.state_dict().items())
    assert read_config(tuned)["steps"] == 10

    # tested: the frozen classifier's metrics are those of the linear probe on the same encoder
    by_model = evaluate(frozen, data, quiet=True)
    by_probe = evaluate(encoder, data, ["linear", "majority"], ["label"], quiet=True)
    model = next(r["value"] for r in by_model if r["metric"] == "auroc" and r.get("class") is None)
    linear_probe = next(r["value"] for r in by_probe if r["evaluator"] == "linear" and r["metric"] == "auroc" and "labels" in r)
    assert model == pytest.approx(linear_probe, abs=1e-6)
    assert {r["method"] for r in by_probe if r["evaluator"] == "majority"} == {"control"}

    # said again, rows replace those the same evaluators said before, and no others
    first = read_rows(encoder)
    evaluate(encoder, data, ["linear"], ["label"], quiet=True)
    again = read_rows(encoder)

    def counts(found: list[dict[str, object]]) -> dict[object, int]:
        return {name: sum(r["evaluator"] == name for r in found) for name in {r["evaluator"] for r in found}}

    assert counts(first) == counts(again) and {"pretrain", "linear", "majority", "data"} <= counts(again).keys()
    assert [
        r for r in read_rows(frozen) if r.get("split") == "val" and r["evaluator"] == "linear"
    ] == rows  # the training's own rows stay

    own = evaluate(encoder, data, ["knn"], ["label"], out=tmp_path / "own", quiet=True)
    assert len(read_rows(tmp_path / "own")) == len(own) and counts(read_rows(encoder)) == counts(again)

    with pytest.raises(UsageError, match="name one for the rows with `out`"):
        evaluate(encoder / encoder_header.FILE, data, ["knn"], ["label"], quiet=True)
    with pytest.raises(UsageError, match="name what to predict with `target`"):
        evaluate(encoder, data, quiet=True)
    with pytest.raises(UsageError, match="did you mean 'linear'"):
        evaluate(encoder, data, ["liner"], ["label"], quiet=True)
    with pytest.raises(UsageError, match="the classifier distinguishes left, right of label, not right, left"):
        evaluate(frozen, data, ["metrics"], ["label"], classes=["right", "left"], quiet=True)
    for arguments, message in (
        ({"label_fraction": 0.0}, "`label_fraction` 0.0"),
        ({"steps": 0}, "must be above 0"),
        ({"precision": "16"}, "precision='16'"),
        ({"schedule": "cosin"}, "schedule='cosin': must be cosine"),
        ({"balance": "yes"}, "balance='yes': must be weights"),
        ({"monitor": "roc"}, "`monitor` roc: one of loss, auroc"),
        ({"threshold": "1.5"}, "`threshold` 1.5: youden, or a sensitivity"),
        ({"method_args": {"mixup": -1.0}}, "`method_args.'mixup'.` -1.0"),
        ({"method_args": {"mixin": 1.0}}, "did you mean 'mixup'"),
        ({"frozen": True, "drop_path": 0.1}, "`frozen` leaves the encoder as it is"),
        ({"target": ["colour"]}, "no column 'colour'"),
    ):
        with pytest.raises(UsageError, match=message):
            finetune(**{"data": data, "target": ["label"], "encoder": encoder, "out": tmp_path / "no", "quiet": True, **arguments})
        assert not (tmp_path / "no").exists()


def test_tokens_are_dropped_in_training_only(grey_folder, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    data = grey_folder(count=12, splits=("train", "test"))
    short = {"size": 16, "precision": "32-true", "quiet": True}
    encoder = pretrain(
        data, "simmim", tmp_path / "encoder", encoder="vit_tiny_patch4", steps=1, method_args={"mask_unit": 4}, **short
    )
    whole = finetune(data, ["label"], encoder, tmp_path / "whole", steps=2, quiet=True)
    dropped = finetune(data, ["label"], encoder, tmp_path / "dropped", steps=2, method_args={"drop_tokens": 0.75}, quiet=True)
    weights = [encoders.load(run)[0].state_dict() for run in (whole, dropped)]
    assert weights[0].keys() == weights[1].keys() and any(not torch.equal(v, weights[1][k]) for k, v in weights[0].items())
    assert read_config(dropped)["method_args"]["drop_tokens"] == 0.75
    convolutional = pretrain(data, "simclr", tmp_path / "cnn", encoder="resnet10t", steps=1, **short)
    for source, share, message in ((convolutional, 0.5, "needs a vision transformer"), (encoder, 1.0, "at least 0 and below 1")):
        with pytest.raises(UsageError, match=message):
            finetune(data, ["label"], source, tmp_path / "no", method_args={"drop_tokens": share}, quiet=True)
    assert not (tmp_path / "no").exists()


@pytest.fixture
def tag(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[str, dict[str, torch.Tensor]]:
    """A tag of timm's whose weights lie in its cache, and these weights."""
    weights = timm.create_model("resnet10t", num_classes=1000).state_dict()
    torch.manual_seed(3)
    weights = {k: v + 0.01 * torch.randn_like(v) if v.is_floating_point() and "running" not in k else v for k, v in weights.items()}
    cache = tmp_path / "hub" / "models--timm--resnet10t.c3_in1k"
    (cache / "snapshots" / "0").mkdir(parents=True)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("0")
    save_file(weights, cache / "snapshots" / "0" / "model.safetensors")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(tmp_path / "hub"), raising=False)
    return "resnet10t.c3_in1k", weights


def test_weights_from_elsewhere_are_taken_at_every_door(grey_folder, tmp_path: Path, tag, capsys) -> None:  # type: ignore[no-untyped-def]
    """A tag, and the same weights as a file of another program, which does not state its network."""
    name, weights = tag
    data = grey_folder(count=16, splits=("train", "val", "test"))
    torch.save(
        {"state_dict": {f"module.{k}": v for k, v in weights.items()}, "best_acc1": np.float64(70)}, tmp_path / "theirs.pth.tar"
    )
    theirs = str(tmp_path / "theirs.pth.tar")
    short = {"size": 32, "frozen": True, "quiet": True}
    runs = [
        finetune(data, ["label"], name, out=tmp_path / "a", **short),
        finetune(data, ["label"], "resnet10t", out=tmp_path / "b", init=theirs, **short),
    ]
    said = f"theirs.pth.tar: state_dict: module., {len(weights) - 2} tensors; 2 others left out (state_dict: module.fc.weight, "
    assert said in capsys.readouterr().err  # but for the head
    made = [encoders.load(run) for run in runs]
    for network, info, _ in made:
        found = network.state_dict()
        torch.testing.assert_close(found["layer4.0.conv1.weight"], weights["layer4.0.conv1.weight"])
        assert (info.name, info.in_chans, info.image_size) == ("resnet10t", 1, 32)
        assert info.mean != (0.485,)  # the data's own
    assert [info.method["name"] for _, info, _ in made] == [name, "theirs.pth.tar"]
    evaluate(runs[0], data, quiet=True)
    assert main(["report", str(runs[0]), "--out", str(tmp_path / "page.html")]) == 0
    assert name in (tmp_path / "page.html").read_text()
    features = [embed(source, data, out=tmp_path / f"{k}.parquet", encoder=network, quiet=True)
                for k, (source, network) in enumerate([(name, None), (theirs, "resnet10t")])]  # fmt: skip
    first, second = (np.stack(pd.read_parquet(path)["embedding"].to_numpy()) for path in features)
    np.testing.assert_allclose(first, second, atol=1e-5)
    again = pretrain(
        data, out=tmp_path / "c", init=name, steps=1, learning_rate=1e-12, weight_decay=0.0, size=32, batch_size=8, quiet=True
    )
    torch.testing.assert_close(encoders.load(again)[0].state_dict()["layer4.0.conv1.weight"], weights["layer4.0.conv1.weight"])
    for arguments, message in (
        ({"encoder": theirs}, r"it does not state its network: `encoder` NETWORK `init` theirs.pth.tar"),
        ({"encoder": "resnet10u.c3_in1k"}, "neither a run, nor a file, nor one of timm's"),
        ({"encoder": "runs/absent"}, "there is no such folder or file"),
        ({"encoder": "resnet10t"}, r"weights of timm's by network and tag, such as resnet18\.a1_in1k$"),
        ({"encoder": "resnet10t.absent"}, r"resnet10t\.absent: timm has no weights of this tag; it has resnet10t\.c3_in1k$"),
        ({"encoder": str(runs[0]), "init": theirs}, "one of them"),
        ({"encoder": "resnet18", "init": str(runs[0])}, "are of a resnet10t"),
        ({}, "name `encoder`"),
    ):
        with pytest.raises(UsageError, match=message):
            finetune(data, ["label"], out=tmp_path / "no", quiet=True, **arguments)
        assert not (tmp_path / "no").exists()


def test_public_weights_are_fine_tuned_by_one_command(grey_folder, tmp_path: Path, tag, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    data = grey_folder(count=8, splits=("train", "val", "test"))
    monkeypatch.setattr(pretrained_weights, "image_size", lambda *_: 32)  # 176 of these weights
    monkeypatch.chdir(tmp_path)
    command = ["finetune", str(data), "--target", "label", "--encoder", tag[0], "--epochs", "3", "--batch_size", "8", "--quiet"]
    assert main([*command, "--warmup", "0.5", "--final_learning_rate", "1e-5", "--precision", "32-true"]) == 0
    config = read_config(tmp_path / "runs" / "finetune")
    assert (config["steps"], config["epochs"], config["encoder"]) == (6, None, tag[0])
    with (tmp_path / "runs" / "finetune" / "metrics.csv").open() as file:
        rates = [float(line["lr"]) for line in csv.DictReader(file)]
    assert rates == pytest.approx([5e-4 * learning_rate_factor(k, 6, 0.5, final=0.02) for k in range(1, 7)])
    assert encoder_header.read_info(tmp_path / "runs" / "finetune").image_size == 32
    for wrong, message in (
        (["--steps", "5"], "give one of `steps` and `epochs`"),
        (["--final_learning_rate", "1"], "at most the peak"),
    ):
        with pytest.raises(UsageError, match=re.escape(message)):
            cli._run("finetune", [*command[1:], *wrong])


@pytest.mark.parametrize("interrupted", [3, 9])  # in the first start of the head, and in the second
def test_an_interrupted_fine_tuning_goes_on_in_either_start_of_its_head(
    interrupted: int, grey_folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # type: ignore[no-untyped-def]
    data = grey_folder(count=16, splits=("train", "val"))
    encoder = pretrain(data, out=tmp_path / "encoder", size=16, encoder="resnet10t", batch_size=8, steps=1, quiet=True)
    short = {"steps": 6, "batch_size": 8, "learning_rate": 1e-3, "precision": "32-true", "quiet": True}
    alone = finetune(data, ["label"], encoder, tmp_path / "alone", **short)
    monkeypatch.setattr(trainer, "CHECKPOINT_SECONDS", 0)
    taken = iter(range(1, 100))

    def after_step(self: Supervised, progress: float) -> None:
        if next(taken) == interrupted:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Supervised, "after_step", after_step)
        finetune(data, ["label"], encoder, tmp_path / "resumed", **short)
    resumed = finetune(data, ["label"], encoder, tmp_path / "resumed", resume=True, **short)
    assert (resumed / "model.safetensors").read_bytes() == (alone / "model.safetensors").read_bytes()
    timed = ("seconds", "images_per_second", "peak_memory_bytes")
    assert [r for r in read_rows(resumed) if r["metric"] not in timed] == [r for r in read_rows(alone) if r["metric"] not in timed]
    heads = {row["head"] for row in read_rows(alone) if row.get("split") == "train" and row["evaluator"] == "finetune"}
    assert len(heads) == 1 and heads < {"zero", "probe"}
    steps = [[row["step"] for row in csv.DictReader((run / "metrics.csv").open())] for run in (alone, resumed)]
    assert steps[0] == steps[1] == [str(i) for i in range(1, 7)] and not (alone / "checkpoints").exists()
