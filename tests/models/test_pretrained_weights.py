"""Weights to start from."""

from __future__ import annotations

import argparse
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from helpers.headers import info_of
from safetensors.torch import save_file

from scotoma import preflight
from scotoma.data import encoder_header, provenance
from scotoma.errors import UsageError
from scotoma.models import checkpoints, encoders, pretrained_weights


def test_a_run_of_the_same_network_is_taken_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    info = info_of("resnet10t")
    source, encoder = encoders.build(info), encoders.build(info)
    encoders.save(tmp_path / encoder_header.FILE, source, info)
    pretrained_weights.start(encoder, info, str(tmp_path))
    assert pretrained_weights.network(str(tmp_path)) == "resnet10t"
    assert all(torch.equal(a, b) for a, b in zip(source.state_dict().values(), encoder.state_dict().values(), strict=True))
    assert not capsys.readouterr().err  # nothing was guessed


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_three_channels_become_one_by_their_sum_and_the_head_is_left_out(tmp_path: Path, suffix: str) -> None:
    source = timm.create_model("resnet10t", num_classes=7)
    weights = {k: v.contiguous() for k, v in source.state_dict().items()}
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": {f"module.{k}": v for k, v in weights.items()}}, path)
    else:
        save_file(weights, path)
    info = info_of("resnet10t")
    encoder = encoders.build(info)
    pretrained_weights.start(encoder, info, str(path))
    grey = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        wanted = source.eval().forward_head(source.forward_features(grey.expand(-1, 3, -1, -1)), pre_logits=True)
        torch.testing.assert_close(encoder.eval()(grey), wanted)
    assert pretrained_weights.network(str(path)) is None


def test_a_vision_transformer_takes_another_size_and_patch(tmp_path: Path) -> None:
    before = info_of("vit_tiny_patch8", 3, 64)
    source = timm.create_model(before.timm_name, num_classes=0, depth=1, **before.timm_kwargs)
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    info = info_of("vit_tiny_patch8", 1, 32)
    encoder = encoders.build(info, depth=1)
    pretrained_weights.start(encoder, info, str(tmp_path / "weights.safetensors"))
    assert encoder.pos_embed.shape == (1, 17, 192)
    torch.testing.assert_close(encoder.pos_embed[:, 0], source.pos_embed[:, 0])
    with torch.no_grad():  # a plain image of the larger size shows nearly the same
        small, large = encoder(torch.full((1, 1, 32, 32), 0.5)), source(torch.full((1, 3, 64, 64), 0.5))
    assert torch.cosine_similarity(small, large) > 0.95
    other = info_of("vit_tiny_patch16", 1, 32)
    halved = encoders.build(other, depth=1)
    pretrained_weights.start(halved, other, str(tmp_path / "weights.safetensors"))
    assert halved.patch_embed.proj.weight.shape[2:] == (16, 16)


def scrambled(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Weights of which no tensor is as a new network has it."""
    generator = torch.Generator().manual_seed(7)
    return {
        k: torch.rand(v.shape, generator=generator) + 0.5 if v.is_floating_point() else torch.tensor(41)
        for k, v in network.state_dict().items()
    }


def under(prefix: str, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + k: v for k, v in weights.items()}


def doubled(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {k: 2 * v for k, v in weights.items()}


FORMS = {  # what is saved of weights w (and others, o), the place that is taken of it, and how many tensors beside o are left out
    "plain": (lambda w, o: {**w, "head.weight": torch.zeros(5, 192)}, "", None, 1),
    "averaged": (lambda w, o: {"state_dict": o, "state_dict_ema": w, "arch": "vit"}, "state_dict_ema", "state_dict", 0),
    "ema_in_model": (
        lambda w, o: {"model": under("net.", o), "model_ema": under("module.net.", w)},
        "model_ema: module.net.", "model: net.", 0,
    ),
    "teacher": (
        lambda w, o: {"teacher": under("backbone.", w), "student": under("module.backbone.", o)},
        "teacher: backbone.", "student: module.backbone.", 0,
    ),
    "teacher_in_one": (
        lambda w, o: {"model": {**under("student.backbone.", o), **under("teacher.backbone.", w)}},
        "model: teacher.backbone.", "model: student.backbone.", 0,
    ),
    "query": (
        lambda w, o: {"state_dict": {**under("module.encoder_k.", o), **under("module.encoder_q.", w), "queue": torch.ones(3)}},
        "state_dict: module.encoder_q.", "state_dict: module.encoder_k.", 1,
    ),
    "base": (
        lambda w, o: {"state_dict": {**under("base_encoder.", w), **under("momentum_encoder.", o)}},
        "state_dict: base_encoder.", "state_dict: momentum_encoder.", 0,
    ),
    "target": (
        lambda w, o: {"encoder": o, "predictor": {"a": torch.ones(1)}, "target_encoder": w}, "target_encoder", "encoder", 1,
    ),
    "compiled": (lambda w, o: under("_orig_mod.module.", w), "_orig_mod.module.", None, 0),
    "optimiser": (
        lambda w, o: {"model": w, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 1.0}]},
                      "args": argparse.Namespace(lr=0.1)},
        "model", None, 0,
    ),
    "lightning": (
        lambda w, o: {"state_dict": under("model.", w), "hyper_parameters": {"lr": np.float64(0.1)}},
        "state_dict: model.", None, 0,
    ),
    "twice_the_same": (lambda w, o: {"a": w, "b": dict(w)}, "a", "b", 0),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_checkpoints_of_other_programs(form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    info = info_of("vit_tiny_patch8", 3, 32)
    encoder = encoders.build(info, depth=1)
    weights = scrambled(encoder)
    content, place, not_taken, rest = FORMS[form]
    others = doubled(weights)
    torch.save(content(weights, others), tmp_path / "theirs.pth.tar")
    pretrained_weights.start(encoder, info, str(tmp_path / "theirs.pth.tar"))
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, weights[name]), name
    said = capsys.readouterr().err
    left_out = rest + (len(weights) if not_taken else 0)
    end = f"; not taken: {not_taken}" if not_taken else ""
    where = f"{place}, " if place else ""
    began = f"theirs.pth.tar: {where}{len(weights)} tensors; {left_out} others left out"
    assert said.startswith(began) and said.endswith(f"{end}\n") and "\n" not in said[:-1]
    listed = said.removeprefix(began).removesuffix(f"{end}\n")
    if not left_out:
        assert listed == ""
        return
    names = listed.removeprefix(" (").removesuffix(")").split(" and ")[0].split(", ")
    assert len(names) == min(left_out, 5) and (f" and {left_out - 5} more)" in listed) == (left_out > 5)
    content_of = checkpoints.read(tmp_path / "theirs.pth.tar")
    stored = {f"{t}: {n}" if t else n for t, table in checkpoints._tables(content_of) for n in table}
    assert set(names) <= stored


def test_two_networks_that_differ_and_that_no_rule_tells_apart_are_refused(tmp_path: Path) -> None:
    info = info_of("vit_tiny_patch8", 3, 32)
    encoder = encoders.build(info, depth=1)
    weights = scrambled(encoder)
    torch.save({"left": weights, "right": under("deep.", doubled(weights))}, tmp_path / "two.pt")
    with pytest.raises(UsageError, match=r"several networks that fit .left, right: deep\..: save the one"):
        pretrained_weights.start(encoder, info, str(tmp_path / "two.pt"))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_and_counters_that_old_files_lack(
    kind: torch.dtype, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    info = info_of("resnet10t", 3)
    encoder = encoders.build(info)
    weights = {k: v.to(kind) for k, v in scrambled(encoder).items() if not k.endswith("num_batches_tracked")}
    torch.save(weights, tmp_path / "old.pth")
    pretrained_weights.start(encoder, info, str(tmp_path / "old.pth"))
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, weights[name].float() if name in weights else torch.tensor(0)), name
    assert "num_batches_tracked of batch norm, which it lacks, are 0" in capsys.readouterr().err


def test_weights_that_are_not_finite_and_objects_beside_them_are_refused(tmp_path: Path) -> None:
    info = info_of("resnet10t", 3)
    encoder = encoders.build(info)
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    weights = scrambled(encoder)
    torch.save({**weights, "layer1.0.bn1.bias": torch.full((64,), float("nan"))}, tmp_path / "nan.pth")
    with pytest.raises(UsageError, match=r"layer1.0.bn1.bias is not finite"):
        pretrained_weights.start(encoder, info, str(tmp_path / "nan.pth"))
    torch.save({"model": weights, "config": Path("x")}, tmp_path / "objects.pth")
    with pytest.raises(UsageError, match=r"Python objects beside the weights .pathlib.*save its table of weights alone"):
        pretrained_weights.start(encoder, info, str(tmp_path / "objects.pth"))
    torch.save(encoder, tmp_path / "module.pth")
    with pytest.raises(UsageError, match=r"Python objects beside the weights"):
        pretrained_weights.start(encoder, info, str(tmp_path / "module.pth"))
    partial = {k: v for k, v in weights.items() if not k.startswith("layer4")}
    torch.save({"model": under("module.", partial)}, tmp_path / "partial.pth")
    with pytest.raises(UsageError, match=r"not weights of a resnet10t .layer4.* is missing"):
        pretrained_weights.start(encoder, info, str(tmp_path / "partial.pth"))
    assert all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items())


def test_tensors_that_are_no_plain_weights_are_refused_and_nobody_is_sent_to_unsafe_loading(tmp_path: Path) -> None:
    info = info_of("resnet10t", 3)
    encoder = encoders.build(info)
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    weights, name = scrambled(encoder), "layer2.0.conv1.weight"
    odd = {
        "sparse": weights[name].to_sparse(),
        "quantised": torch.quantize_per_tensor(weights[name], 0.1, 0, torch.qint8),
        "meta": weights[name].to("meta"),
        "complex": weights[name].to(torch.complex64),
    }
    for kind, tensor in odd.items():
        torch.save({**weights, name: tensor}, tmp_path / f"{kind}.pth")
        with pytest.raises(UsageError, match=rf"{kind}.pth: {name} is no plain tensor"):
            pretrained_weights.start(encoder, info, str(tmp_path / f"{kind}.pth"))
    torch.save({**weights, "bn1.running_var": -weights["bn1.running_var"].abs() - 1}, tmp_path / "variance.pth")
    with pytest.raises(UsageError, match=r"bn1.running_var is not finite, or a variance below 0"):
        pretrained_weights.start(encoder, info, str(tmp_path / "variance.pth"))
    (tmp_path / "raw.pth.tar").write_bytes(pickle.dumps({"state_dict": {"a": 1}}))  # of no torch.save
    (tmp_path / "text.pth").write_text("hello")
    (tmp_path / "nothing.pth").write_bytes(b"")
    for file in ("raw.pth.tar", "text.pth", "nothing.pth"):
        with pytest.raises(UsageError, match=r"no weights can be read from it .it is damaged, or no file of weights.$") as refusal:
            pretrained_weights.start(encoder, info, str(tmp_path / file))
        assert "weights_only" not in str(refusal.value)
    assert all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items())


def test_blocks_in_chunks_are_numbered_through(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    info = info_of("vit_tiny_patch8", 3, 32)
    encoder = encoders.build(info, depth=3)
    weights = scrambled(encoder)
    chunked = {re.sub(r"^blocks\.(\d)", lambda m: f"blocks.{int(m[1]) // 2}.{m[1]}", k): v for k, v in weights.items()}
    assert "blocks.1.2.norm1.weight" in chunked and "blocks.0.1.norm1.weight" in chunked
    torch.save({"teacher": under("backbone.", chunked)}, tmp_path / "teacher.pth")
    pretrained_weights.start(encoder, info, str(tmp_path / "teacher.pth"))
    assert all(torch.equal(v, weights[k]) for k, v in encoder.state_dict().items())
    assert "teacher: backbone., 42 tensors, blocks numbered through their chunks; 0 others left out" in capsys.readouterr().err


def test_other_weights_are_refused_by_name(tmp_path: Path) -> None:
    info = info_of("resnet10t")
    encoder = encoders.build(info)
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    save_file(encoders.build(info_of("resnet18")).state_dict(), tmp_path / "other.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    (tmp_path / "broken.pth").write_bytes(b"nothing")
    torch.save({"model": [1, 2]}, tmp_path / "list.pth")
    for name, message in (
        ("other.safetensors", "not weights of a resnet10t"),
        ("broken.safetensors", "no weights"),
        ("broken.pth", "no weights"),
        ("list.pth", "no table of weights"),
    ):
        with pytest.raises(UsageError, match=message):
            pretrained_weights.start(encoder, info, str(tmp_path / name))
    with pytest.raises(UsageError, match="neither a run, nor a file"):
        pretrained_weights.start(encoder, info, "no_such_network.of_anyone")
    assert all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items())


def test_a_tag_whose_weights_cannot_be_had_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", refuse)
    info = info_of("resnet18")
    with pytest.raises(UsageError, match=r"cannot be had .no route to host.; fill timm's cache"):
        pretrained_weights.start(torch.nn.Linear(1, 1), info, "resnet18.a1_in1k")
    assert pretrained_weights.network("resnet18.a1_in1k") == "resnet18"


def test_a_tag_is_taken_from_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    source = timm.create_model("resnet10t")
    monkeypatch.setattr(
        timm, "create_model", lambda tag, pretrained: source if (tag, pretrained) == ("resnet10t.c3_in1k", True) else None
    )
    info = info_of("resnet10t", 3)
    encoder = timm.models.resnet10t(num_classes=0)
    pretrained_weights.start(encoder, info, "resnet10t.c3_in1k")
    assert torch.equal(encoder.state_dict()["layer4.0.conv1.weight"], source.state_dict()["layer4.0.conv1.weight"])


def test_a_path_at_which_nothing_lies_is_no_tag(tmp_path: Path) -> None:
    for source in (str(tmp_path / "run"), "runs/simclr.old", "weights.pth", "moco.pth.tar"):
        with pytest.raises(UsageError, match=r"there is no such folder or file"):
            preflight.require(source)
    (tmp_path / "run").mkdir()
    for source in (str(tmp_path / "run"), "resnet18", "resnet18.a1_in1k", "hf-hub:timm/resnet18.a1_in1k"):
        preflight.require(source)


def test_only_what_another_program_wrote_is_of_another_program(tmp_path: Path) -> None:
    (tmp_path / ".replaced").mkdir()  # a run that is being replaced
    (tmp_path / "half.safetensors").write_bytes(b"half")
    encoder = encoders.build(info_of("resnet10t"))
    save_file(encoder.state_dict(), tmp_path / "theirs.safetensors")
    torch.save(encoder.state_dict(), tmp_path / "theirs.pth")
    for name, message in (
        (".", "no encoder.safetensors or model.safetensors there"),
        ("half.safetensors", "not a whole safetensors"),
    ):
        for look in (
            provenance.record,
            pretrained_weights.network,
            encoder_header.info_or_none,
            lambda source: encoder_header.warn_unlike(source, "x", {}),
        ):
            with pytest.raises(UsageError, match=message):
                look(str(tmp_path / name))  # type: ignore[operator]
    for name in ("theirs.safetensors", "theirs.pth"):
        assert pretrained_weights.network(str(tmp_path / name)) is encoder_header.info_or_none(tmp_path / name) is None
        assert "another program" in provenance.record(tmp_path / name).unknown[0]
