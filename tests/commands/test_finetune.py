from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from scotoma.commands.evaluate import evaluate
from scotoma.commands.finetune import finetune
from scotoma.commands.pretrain import pretrain
from scotoma.data import encoder_header
from scotoma.errors import UsageError
from scotoma.models import encoders
from scotoma.run_folder import read_config, read_rows


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
    rows = read_rows(frozen)
    auroc = next(r["value"] for r in rows if r["metric"] == "auroc")
    first, data_line, device, following = frozen.summary.splitlines()
    assert re.fullmatch(
        rf"validation: auroc {auroc:.3f} \(95 % interval \S+ to \S+, 32 images\); choices were made by these images: no test", first
    )
    parts = "32 training, 32 validation, 32 test (held out)"
    assert data_line == f"data: 96 images of 96 near-duplicate groups: {parts}; the table's own split"
    assert device.startswith("device: ") and following == f"next: scotoma evaluate {frozen} {data}"
    of_encoder = encoder.summary.splitlines()
    assert re.fullmatch(r"pretrained: resnet10t by simclr on 32 images, 2 steps of 8 in \d+\.\d minutes", of_encoder[0])
    assert of_encoder[1] == data_line and of_encoder[3] == f"next: scotoma finetune {data} --target COLUMN --encoder {encoder}"
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
