"""What holds for every method there is."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from scotoma import plugins
from scotoma.data.encoder_header import EncoderInfo
from scotoma.methods.base import Method
from scotoma.methods.parts.inputs import Column, Inputs, Requirements
from scotoma.models import encoders
from scotoma.training import presets
from scotoma.training.trainer import make_views
from scotoma.transforms import augmentation

SIZE = 32
IMAGES = 40
NETWORKS = ("resnet10t", "vit_tiny_patch8")
CASES = [
    (name, network, channels)
    for name, network, channels in itertools.product(plugins.names("methods"), NETWORKS, (1, 3))
    if not getattr(plugins.method(name), "needs_cnn" if network.startswith("vit") else "needs_vit")
]


def network_of(name: str, channels: int) -> torch.nn.Module:
    timm_name, kwargs = encoders.resolve(name, SIZE)
    info = EncoderInfo(timm_name, kwargs, channels, SIZE, (0.4,) * channels, (0.2,) * channels)
    return encoders.build(info, **({"depth": 2} if network_is_vit(name) else {}))


def network_is_vit(name: str) -> bool:
    return name.startswith("vit")


def wants_of(name: str) -> Requirements:
    chosen = plugins.method(name)
    return chosen.requirements(chosen.settings({}))


def make(name: str, network: str, channels: int) -> Method:
    torch.manual_seed(0)
    columns = tuple(Column(c, () if k % 2 else ("a", "b")) for k, c in enumerate(wants_of(name).columns))
    inputs = Inputs(
        SIZE, channels, (0.4,) * channels, (0.2,) * channels, "grey", 3, (0.5, 1.0, 1.5), images=IMAGES, columns=columns
    )
    return plugins.method(name)(network_of(network, channels), inputs).train()


def batch_of(name: str, channels: int, n: int = 6, epoch: int = 0) -> dict[str, Tensor]:
    """What a method requires, made up: a third of the column's cells are missing, and a third of the images have no mask."""
    requirements, generator = wants_of(name), torch.Generator().manual_seed(0)
    images, paired_images = torch.randint(0, 256, (2, n, channels, 40, 40), generator=generator, dtype=torch.uint8)
    batch = {"images": images, "rows": torch.arange(n) * 7, "positions": torch.arange(n), "epochs": torch.full((n,), epoch)}
    if requirements.labels:
        batch["targets"] = torch.arange(n) % 3
    if requirements.columns:
        cells = (torch.arange(n)[:, None] + torch.arange(len(requirements.columns))) % 3
        batch["columns"] = torch.where(cells == 2, torch.nan, cells.float())
    if requirements.pairs:
        batch["paired_images"] = paired_images
        if requirements.pairs.startswith("next:"):
            batch["follows"] = (torch.arange(n) % 2).float()
    if requirements.masks:
        batch["masks"] = torch.zeros(n, 1, 40, 40, dtype=torch.uint8)
        batch["masks"][n // 3 :, :, 10:20, 10:20] = 1
    return batch


def step(method: Method, batch: dict[str, Tensor], epoch: int = 0, bfloat16: bool = False) -> Tensor:
    batch = batch | {"epochs": torch.full_like(batch["epochs"], epoch)}
    made = make_views(method, batch, 0)
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        return method.loss(made, batch)["loss"]


@pytest.mark.parametrize(("name", "network", "channels"), CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_reaches_every_trained_parameter(name: str, network: str, channels: int, dtype: torch.dtype) -> None:
    method, batch = make(name, network, channels), batch_of(name, channels)
    encoder = method.encoder
    optimizer = torch.optim.SGD([p for g in method.param_groups() for p in g["params"]], lr=0.01)
    frozen = {n: p.detach().clone() for n, p in method.named_parameters() if not p.requires_grad}
    for epoch in range(4):  # a head that starts at 0, and the last norm of a residual block, pass nothing on at first
        optimizer.zero_grad()
        loss = step(method, batch, epoch, dtype == torch.bfloat16)
        assert loss.ndim == 0 and torch.isfinite(loss)
        loss.float().backward()
        optimizer.step()
        assert all(torch.equal(p, frozen[n]) for n, p in method.named_parameters() if not p.requires_grad)
        method.after_step((epoch + 1) / 4)
        frozen = {n: p.detach().clone() for n, p in method.named_parameters() if not p.requires_grad}  # an EMA has moved
    for n, p in method.named_parameters():
        if p.requires_grad:
            assert p.grad is not None and torch.isfinite(p.grad).all(), n
            assert p.ndim <= 1 or p.grad.abs().max() > 0, n
        else:
            assert p.grad is None, n
    assert method.encoder is encoder  # what is exported is the network that was given
    assert method.encoder.eval()(torch.zeros(1, channels, SIZE, SIZE)).shape == (1, encoders.width(encoder))


@pytest.mark.parametrize(("name", "network", "channels"), [case for case in CASES if case[2] == 1])
def test_state_dict_carries_everything(name: str, network: str, channels: int) -> None:
    method, batch = make(name, network, channels), batch_of(name, channels)
    step(method, batch).backward()
    with torch.no_grad():
        for p in method.parameters():
            if p.requires_grad:
                p.add_(torch.randn_like(p), alpha=0.01)
    torch.manual_seed(99)
    again = plugins.method(name)(network_of(network, channels), method.inputs).train()
    again.load_state_dict(method.state_dict(), strict=True)
    assert torch.equal(step(again, batch, 1), step(method, batch, 1))


@pytest.mark.parametrize(("name", "network", "channels"), [case for case in CASES if case[2] == 1])
def test_param_groups_hold_each_trained_parameter_once(name: str, network: str, channels: int) -> None:
    method = make(name, network, channels)
    groups = method.param_groups()
    grouped = [id(p) for g in groups for p in g["params"]]
    assert sorted(grouped) == sorted(id(p) for p in method.parameters() if p.requires_grad)
    for group in groups:
        assert all(p.ndim > 1 for p in group["params"]) or group["weight_decay"] == 0  # biases and norms are not decayed


class Waits(TorchDispatchMode):
    """Names the operations for which the processor would wait for a GPU: those whose result's shape or value it has to know."""

    ASKING = ("_local_scalar_dense", "nonzero", "masked_select", "_unique", "unique_", "bincount", "is_nonzero", "equal", "item")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        masks = name in ("index", "index_put", "index_put_") and any(i is not None and i.dtype == torch.bool for i in args[1])
        if masks or any(name.startswith(asking) for asking in self.ASKING):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("name", "network", "channels"), [case for case in CASES if case[2] == 1])
def test_no_step_waits_for_the_device(name: str, network: str, channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augmentation, "_to_blur", lambda sigma: slice(None))  # as on a GPU
    method, batch = make(name, network, channels), batch_of(name, channels)
    optimizer = torch.optim.AdamW(method.param_groups(), fused=True)
    step(method, batch).backward()  # what the first step alone does may wait
    with Waits() as waits:
        step(method, batch).backward()
        optimizer.step()
        method.after_step(0.5)
    # whose attention is old is decided by the processor, once a step
    assert waits.found == (["_local_scalar_dense"] if name == "msmae" else [])


@pytest.mark.parametrize(("name", "network", "channels"), CASES)
def test_images_are_images(name: str, network: str, channels: int) -> None:
    method = make(name, network, channels).eval()
    batch = batch_of(name, channels, 3)
    with torch.no_grad():
        shown = method.example_images(make_views(method, batch, 0), batch)
    assert shown
    for column, view in shown.items():
        assert view.shape == (3, channels, SIZE, SIZE), column
        assert torch.isfinite(view).all(), column


@pytest.mark.parametrize("name", plugins.names("methods"))
def test_views_do_not_depend_on_the_batch(name: str) -> None:
    method, batch = make(name, NETWORKS[plugins.method(name).needs_vit], 1), batch_of(name, 1)
    together, alone = make_views(method, batch, 0), make_views(method, {k: v[4:5] for k, v in batch.items()}, 0)
    assert together.keys() == alone.keys()
    for key, view in alone.items():
        torch.testing.assert_close(view[0], together[key][4], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", plugins.names("methods"))
def test_the_papers_preset_is_made_of_arguments(name: str) -> None:
    chosen = plugins.method(name)
    assert {"encoder", "size", "batch_size", "learning_rate", "weight_decay", "scaling", "epochs"} <= chosen.reference.keys()
    preset = dict(chosen.reference)
    settings = preset.pop("method_args", {})
    found = presets.preset(chosen, "reference")
    assert {k: getattr(found, k) for k in preset} == preset and found.scaling in ("", *presets.SCALINGS)
    assert 0 <= found.warmup < 1 and found.final_learning_rate < found.learning_rate
    defaults = chosen.settings({})
    assert {k: type(v) for k, v in settings.items()} == {k: type(defaults[k]) for k in settings}
    if "encoder" in preset:
        encoders.resolve(preset["encoder"], preset["size"])
    for size in (16, 32, 64, 96, 128, 224):
        timm_name, kwargs = encoders.resolve(chosen.encoder_at(size), size)
        assert not timm_name.startswith("vit") or size // kwargs["patch_size"] >= 8
    assert plugins.needs(name) == [
        word for word, needed in (("labels", chosen.needs_labels), ("ViT", chosen.needs_vit), ("CNN", chosen.needs_cnn),
                                  ("metadata", bool(wants_of(name).columns))) if needed
    ]  # fmt: skip
