from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from scotoma.data import encoder_header
from scotoma.data.encoder_header import EncoderInfo
from scotoma.data.io.read import Display
from scotoma.errors import RunError, UsageError
from scotoma.models import encoders, pretrained_weights

NETWORKS = ("resnet10t", "vit_tiny_patch8")


def info_of(name: str, size: int = 32, channels: int = 1) -> EncoderInfo:
    timm_name, kwargs = encoders.resolve(name, size)
    return EncoderInfo(
        timm_name, kwargs, channels, size, (0.4,) * channels, (0.2,) * channels, {"side": 48}, "xray",
        {"name": "mae", "mask_ratio": 0.6}, 7, {"torch": "x"}, "abc", ("finding",), ("no", "yes"),
    )  # fmt: skip


def test_an_encoder_whose_images_were_prepared_otherwise_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    info = info_of("resnet10t")
    levelled = {"side": 48, "protocol": 3, "display": Display(levels=(("uint16", 0, 4000),)).settings()}
    encoders.save(tmp_path / encoder_header.FILE, encoders.build(info), replace(info, pixels=levelled))
    ours = {"side": 96, "protocol": 4, "display": Display(levels=(("uint16", 10, 8000),)).settings()}
    encoder_header.warn_unlike(tmp_path, "scans", ours)
    said = capsys.readouterr().err
    assert said.startswith("scans: the encoder's images were prepared by version 3 of the reader of images, these by version 4; ")
    assert said.endswith("with uint16 values shown from 0 to 4000, these from 10 to 8000\n") and said.count("\n") == 1
    encoder_header.warn_unlike(tmp_path, "scans", levelled | {"side": 96})
    pretrained_weights.start(
        encoders.build(info), replace(info, pixels=ours), str(tmp_path)
    )  # --init, and a run as a study's control
    assert capsys.readouterr().err.count("these by version 4") == 1
    save_file({"weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    encoder_header.warn_unlike(tmp_path / "other.safetensors", "scans", ours)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_file_loads_strictly_by_timm_alone(name: str, channels: int, tmp_path: Path) -> None:
    info = info_of(name, channels=channels)
    network = encoders.build(info).eval().to(memory_format=torch.channels_last)
    path = tmp_path / encoder_header.FILE
    encoders.save(path, network, info)
    assert [p.name for p in tmp_path.iterdir()] == [encoder_header.FILE]  # nothing half-written is left
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["scotoma"])
    plain = timm.create_model(header["timm_name"], **header["timm_kwargs"]).eval()
    plain.load_state_dict(load_file(path), strict=True)
    images = torch.randn(2, channels, 32, 32)
    torch.testing.assert_close(plain(images), network(images), atol=1e-5, rtol=1e-4)
    assert plain(images).shape == (2, encoders.width(network))


@pytest.mark.parametrize("name", [*NETWORKS, "convnext_atto", "mobilenetv3_small_050"])
def test_encoder_header_and_head_come_back(name: str, tmp_path: Path) -> None:
    """ConvNeXt has weights of its own under ``head.``; MobileNetV3 gives more features than ``num_features`` states."""
    info = info_of(name)
    network = encoders.build(info).eval()
    images = torch.randn(2, 1, 32, 32)
    head = nn.Linear(encoders.width(network), 2)
    logits = head(network(images))
    encoders.save(tmp_path / "model.safetensors", network, info, head)
    again, found, found_head = encoders.load(tmp_path)
    assert found == info and found.name == name
    assert found_head is not None
    torch.testing.assert_close(found_head(again.eval()(images)), logits)
    encoders.save(tmp_path / encoder_header.FILE, network, info)
    assert encoders.load(tmp_path / encoder_header.FILE)[2] is None


@pytest.mark.parametrize(
    ("changes", "output"),
    [({"targets": ("label",), "classes": ("a", "b")}, "softmax"), ({"targets": ("a", "b"), "classes": ("a", "b")}, "sigmoid"),
     ({"targets": ("age",), "classes": ()}, "number")],
)  # fmt: skip
def test_the_pages_example_loads_files_by_timm_alone(
    changes: dict[str, Any], output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The code of ``docs/reference/encoder_file.md``, run where such files lie."""
    page = (Path(__file__).parents[2] / "docs" / "reference" / "encoder_file.md").read_text()
    first, second = (block.partition("```")[0] for block in page.split("```python\n")[1:])
    info = replace(info_of("convnext_atto"), temperature=2.0, **changes)  # which has weights of its own under head.
    network, head = encoders.build(info).eval(), nn.Linear(320, 1 if info.numeric else 2)
    for folder in ("encoder", "model"):
        (tmp_path / "runs" / folder).mkdir(parents=True)
    encoders.save(tmp_path / "runs/encoder/encoder.safetensors", network, info_of("convnext_atto"))
    encoders.save(tmp_path / "runs/model/model.safetensors", network, info, head)
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {"images": torch.rand(2, 1, 32, 32)}
    exec(first, found)
    wanted = network((found["images"] - 0.4) / 0.2)
    torch.testing.assert_close(found["features"], wanted)
    assert "head" not in found["h"]
    exec(second, found)
    assert found["h"]["head"] == {
        "kind": "linear", "weight": "head.weight", "bias": "head.bias", "input": "features", "output": output
    }  # fmt: skip
    torch.testing.assert_close(found["logits"], head(wanted) / 2)
    assert encoder_header.read_info(tmp_path / "runs/model") == info  # a header that is read is the one that was written


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    info = info_of("resnet10t")
    network = encoders.build(info)
    path = tmp_path / encoder_header.FILE
    header = {"scotoma": json.dumps(info.__dict__)}
    weights = dict(network.state_dict())
    with pytest.raises(UsageError, match=r"nowhere: there is no such folder or file; name a finished run or a weights file"):
        encoder_header.find(tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"no encoder.safetensors or model.safetensors there"):
        encoder_header.read_info(tmp_path)
    for changed in (
        {k: v for k, v in weights.items() if k != "bn1.weight"},
        weights | {"extra": torch.zeros(1)},
        weights | {"bn1.weight": torch.zeros(3)},
    ):
        save_file(changed, path, metadata=header)
        with pytest.raises(UsageError, match=r"not the weights of a resnet10t"):
            encoders.load(path)
    save_file(weights, path)
    with pytest.raises(UsageError, match="without Scotoma's header"):
        encoders.load(path)
    save_file(weights, path, metadata={"scotoma": json.dumps({"timm_name": "resnet10t", "novelty": 1})})
    with pytest.raises(UsageError, match=r"fields that are unknown to this version of Scotoma \('novelty'\)"):
        encoders.load(path)
    path.write_bytes(b"half")
    with pytest.raises(UsageError, match="not a whole safetensors file"):
        encoders.load(path)


def test_names_stand_for_timms() -> None:
    name, kwargs = encoders.resolve("vit_tiny_patch8", 32)
    assert name == "vit_tiny_patch16_224"
    assert kwargs == {"patch_size": 8, "img_size": 32}
    network = encoders.build(info_of("vit_tiny_patch8"))
    assert network.patch_embed.num_patches == 16
    assert encoders.resolve("resnet18", 33) == ("resnet18", {})
    assert encoders.resolve("swin_tiny_patch4_window7_224", 56)[1] == {"img_size": 56}


def test_the_mean_over_patches_is_the_same_network_read_out_otherwise() -> None:
    token, mean = info_of("vit_tiny_patch8"), info_of("vit_tiny_patch8_avg")
    assert (token.name, mean.name) == ("vit_tiny_patch8", "vit_tiny_patch8_avg")
    network, other = encoders.build(token).eval(), encoders.build(mean).eval()
    other.load_state_dict(network.state_dict(), strict=True)
    images = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        tokens = encoders.forward_visible(network, images)
        torch.testing.assert_close(network(images), tokens[:, 0])
        torch.testing.assert_close(other(images), tokens[:, 1:].mean(1))


def test_wrong_names_and_sizes_are_refused() -> None:
    with pytest.raises(UsageError, match=r"unknown encoder 'resnet81'; did you mean .*resnet18"):
        encoders.resolve("resnet81", 32)
    with pytest.raises(UsageError, match="patches of 8 pixels do not divide a size of 30"):
        encoders.resolve("vit_tiny_patch8", 30)
    with pytest.raises(UsageError, match="patches of 16 pixels do not divide a size of 40"):
        encoders.resolve("vit_small_patch16_224", 40)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_transformer_run_on_all_patches_equals_the_whole(channels: int) -> None:
    network = encoders.build(info_of("vit_tiny_patch8", channels=channels)).eval()
    images = torch.randn(3, channels, 32, 32)
    keep = torch.stack([torch.randperm(16) for _ in range(3)])  # order does not matter to attention
    tokens = encoders.forward_visible(network, images, keep)
    assert tokens.shape == (3, 17, 192)
    expected = network.forward_features(images)
    torch.testing.assert_close(tokens[:, 0], expected[:, 0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(tokens[:, 1:], expected[:, 1:].gather(1, keep[:, :, None].expand(-1, -1, 192)), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(tokens[:, 0], network(images), atol=1e-5, rtol=1e-4)


def test_dropped_patches_are_not_looked_at() -> None:
    network = encoders.build(info_of("vit_tiny_patch8")).eval()
    images = torch.randn(1, 1, 32, 32)
    changed = images.clone()
    changed[:, :, 8:16, 8:16] += 5  # patch 5
    without, with_it = torch.tensor([[0, 3, 9]]), torch.tensor([[0, 5, 9]])
    assert torch.equal(encoders.forward_visible(network, images, without), encoders.forward_visible(network, changed, without))
    assert not torch.allclose(
        encoders.forward_visible(network, images, with_it), encoders.forward_visible(network, changed, with_it)
    )


def test_which_networks_can_drop_tokens() -> None:
    assert encoders.is_vit(encoders.build(info_of("vit_tiny_patch8")))
    assert not encoders.is_vit(encoders.build(info_of("resnet10t")))
    assert not encoders.is_vit(timm.create_model("vit_small_patch16_rope_224", num_classes=0, depth=1, embed_dim=24, num_heads=2))


@pytest.mark.parametrize(("name", "count"), [("resnet10t", 5), ("vit_tiny_patch16_224", 3)])
def test_the_last_stages_alone_are_trained(name: str, count: int) -> None:
    kwargs = {"depth": 2, "img_size": 32} if name.startswith("vit") else {}
    network = timm.create_model(name, num_classes=0, in_chans=1, **kwargs)
    of = encoders.stages(network)
    assert set(of.values()) == set(range(count)) and set(of) == {k for k, _ in network.named_parameters()}
    encoders.freeze(network, 1)
    trained = {k for k, p in network.named_parameters() if p.requires_grad}
    last = ("layer4.",) if name == "resnet10t" else ("blocks.1.", "norm.")
    assert trained and trained == {k for k in of if k.startswith(last)}
    whole = timm.create_model(name, num_classes=0, in_chans=1, **kwargs)
    encoders.freeze(whole, count)
    assert all(p.requires_grad for p in whole.parameters())


def test_layers_learn_more_slowly_the_farther_from_the_head() -> None:
    network = timm.create_model("vit_tiny_patch16_224", num_classes=0, in_chans=1, depth=3, img_size=32)
    names = {id(p): k for k, p in network.named_parameters()}
    scale = {names[id(p)]: g["lr_scale"] for g in encoders.layer_groups(network, 0.5) for p in g["params"]}
    assert set(scale) == set(names.values())
    assert [scale[f"blocks.{k}.attn.qkv.weight"] for k in range(3)] == [0.25, 0.5, 1.0]
    assert scale["patch_embed.proj.weight"] == scale["pos_embed"] == 0.125 and scale["norm.weight"] == 1.0
    for group in encoders.layer_groups(network, 0.5):
        assert (group.get("weight_decay") == 0.0) == all(p.ndim <= 1 for p in group["params"])


def rewritten(path: Path, **fields: object) -> Path:
    """The file with other fields in its header; ``...`` takes a field away."""
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["scotoma"]) | fields
    header = {k: v for k, v in header.items() if v is not ...}
    save_file(load_file(path), path, metadata={"scotoma": json.dumps(header)})
    return path


HOSTILE = {
    "opens a file": {"timm_kwargs": {"checkpoint_path": "/etc/passwd"}},
    "downloads": {"timm_kwargs": {"pretrained": True}},
    "downloads from": {"timm_kwargs": {"pretrained_cfg": {"url": "http://example.org/x"}}},
    "downloads into": {"timm_kwargs": {"cache_dir": "/tmp/x"}},
    "a hub's name": {"timm_name": "hf-hub:someone/net"},
    "a hub's other name": {"timm_name": "hf_hub:someone/net"},
    "a local folder": {"timm_name": "local-dir:/tmp"},
    "a path": {"timm_name": "../../net"},
    "no name": {"timm_name": ""},
    "a list for a name": {"timm_name": ["resnet10t"]},
    "a large side": {"image_size": 10**9},
    "many patches": {"timm_name": "vit_tiny_patch16_224", "timm_kwargs": {"patch_size": 1, "img_size": 4096}},
    "a number as text": {"image_size": "32"},
    "true for a number": {"in_chans": True},
    "many channels": {"in_chans": 10**6, "mean": [0.0], "std": [1.0]},
    "a mean too few": {"mean": []},
    "a mean that is no number": {"mean": [float("nan")]},
    "a deviation of 0": {"std": [0.0]},
    "a temperature of 0": {"temperature": 0},
    "an infinite temperature": {"temperature": float("inf")},
    "classes of numbers": {"classes": [1, 2]},
    "classes as text": {"classes": "no"},
    "a method without a name": {"method": {}},
    "pixels as a list": {"pixels": [1]},
    "a display as text": {"pixels": {"display": "x"}},
    "a record as text": {"trained_on": "x"},
    "another type of an argument": {"timm_kwargs": {"img_size": [32, 32]}},
    "no side": {"image_size": 0},
    "no side beside one": {"image_size": -4, "timm_name": "vit_tiny_patch16_224", "timm_kwargs": {"img_size": 32}},
    "a class twice": {"classes": ["a", "a"]},
    "a threshold too few": {"classes": ["a", "b"], "thresholds": [0.5]},
    "an argument of another network": {"timm_kwargs": {"depth": 3}},
    "a network that timm lacks": {"timm_name": "resnet11x"},
    "other channels": {"timm_kwargs": {"in_chans": 3}},
    "a classifier of timm's": {"timm_kwargs": {"num_classes": 1000}},
    "a head as text": {"head": "linear"},
    "a key that nobody knows": {"more": 1},
    "a missing field": {"mean": ...},
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_header_is_data_within_bounds(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = info_of("resnet10t")
    encoders.save(tmp_path / encoder_header.FILE, encoders.build(info), info)
    path = rewritten(tmp_path / encoder_header.FILE, **HOSTILE[kind])
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("opened a connection"))
    with pytest.raises(UsageError, match=r"encoder.safetensors|no network 'resnet11x'") as caught:
        encoders.load(path)
    assert "\n" not in str(caught.value)


def test_a_header_that_is_no_json_or_nested_without_end_is_refused(tmp_path: Path) -> None:
    for text in ("{", "[1]", "1", "[" * 200_000, '{"seed": ' + "9" * 5000 + "}"):
        save_file({"a": torch.zeros(1)}, tmp_path / "x.safetensors", metadata={"scotoma": text})
        with pytest.raises(UsageError, match=r"x.safetensors"):
            encoder_header.read_info(tmp_path / "x.safetensors")


def test_a_header_without_a_record_is_still_read(tmp_path: Path) -> None:
    info = info_of("resnet10t")
    encoders.save(tmp_path / encoder_header.FILE, encoders.build(info), info)
    assert encoder_header.read_info(rewritten(tmp_path / encoder_header.FILE, trained_on=...)).trained_on is None


def test_weights_that_are_not_finite_are_neither_written_nor_read(tmp_path: Path) -> None:
    info = info_of("resnet10t")
    network = encoders.build(info)
    encoders.save(tmp_path / encoder_header.FILE, network, info)
    before = (tmp_path / encoder_header.FILE).read_bytes()
    with torch.no_grad():
        network.layer3[0].conv1.weight[0, 0, 0, 0] = float("inf")
    with pytest.raises(RunError, match=r"layer3.0.conv1.weight is not finite"):
        encoders.save(tmp_path / encoder_header.FILE, network, info)
    assert (tmp_path / encoder_header.FILE).read_bytes() == before
    weights = load_file(tmp_path / encoder_header.FILE)
    weights["bn1.running_var"][0] = float("nan")
    save_file(weights, tmp_path / "nan.safetensors", metadata={"scotoma": json.dumps(asdict(info))})
    with pytest.raises(UsageError, match=r"bn1.running_var is not finite"):
        encoders.load(tmp_path / "nan.safetensors")


def test_equal_networks_give_equal_bytes_in_every_process(tmp_path: Path) -> None:
    """Each process orders the header's keys by chance where there are several."""
    script = (
        "import sys, torch; from pathlib import Path; from scotoma.models import encoders; torch.manual_seed(0);"
        "n, k = encoders.resolve('resnet10t', 32); i = encoders.EncoderInfo(n, k, 1, 32, (0.4,), (0.2,), trained_on={'parts': []});"
        "[encoders.save(Path(sys.argv[1]) / f'{c}.safetensors', encoders.build(i), i) or torch.manual_seed(0) for c in 'ab']"
    )
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        subprocess.run([sys.executable, "-c", script, str(tmp_path / name)], check=True)
    assert len({p.read_bytes() for p in tmp_path.rglob("*.safetensors")}) == 1
    with safe_open(tmp_path / "one" / "a.safetensors", "pt") as file:
        assert list(file.metadata()) == ["scotoma"]


def test_a_classifier_whose_header_names_no_class_is_refused_in_a_true_line(tmp_path: Path) -> None:
    info = replace(info_of("resnet10t"), classes=())
    network = encoders.build(info)
    encoders.save(tmp_path / "model.safetensors", network, info, torch.nn.Linear(512, 3))
    with pytest.raises(UsageError, match=r"it names no class for a head of 3 outputs"):
        encoder_header.read_info(tmp_path)
    encoders.save(tmp_path / "model.safetensors", network, info, torch.nn.Linear(512, 1))  # of a number
    assert encoder_header.read_info(tmp_path).numeric
