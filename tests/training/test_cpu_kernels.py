from __future__ import annotations

import copy
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import scotoma
from scotoma.training import cpu_kernels


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def gradients(network: nn.Module, images: Tensor, bfloat16: bool) -> dict[str, Tensor]:
    network.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        out = network(images)
    (out.float() * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
    return {"out": out.detach().float()} | {n: p.grad.float() for n, p in network.named_parameters() if p.grad is not None}


def close(found: dict[str, Tensor], expected: dict[str, Tensor], share: float) -> None:
    """Each tensor to a share of its own size."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert float((found[name] - value).norm()) <= share * float(value.norm()) + 1e-5, name


@pytest.mark.parametrize(("bfloat16", "share"), [(False, 1e-4), (True, 0.05)])
def test_plain_attention_gives_the_same_features_and_gradients(bfloat16: bool, share: float) -> None:
    torch.manual_seed(0)
    plain = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=0, depth=2)
    fused, images = copy.deepcopy(plain), torch.randn(3, 3, 32, 32)
    cpu_kernels.tune(plain, torch.bfloat16 if bfloat16 else torch.float32, tokens=4)
    assert not any(block.attn.fused_attn for block in plain.blocks) and all(block.attn.fused_attn for block in fused.blocks)
    close(gradients(plain, images, bfloat16), gradients(fused, images, bfloat16), share)


@pytest.mark.parametrize(("dtype", "tokens", "fused"), [(torch.bfloat16, 600, False), (torch.bfloat16, 601, True),
                                                         (torch.float32, 65, True), (torch.float32, 0, False)])  # fmt: skip
def test_attention_stays_fused_where_there_are_many_tokens(dtype: torch.dtype, tokens: int, fused: bool) -> None:
    network = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=0, depth=1)
    cpu_kernels.tune(network, dtype, tokens)
    assert network.blocks[0].attn.fused_attn == fused


@pytest.mark.parametrize("side", [1, 3, 4])
def test_a_convolution_over_a_small_map_is_the_same_convolution(side: int) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(384, 400, 3, padding=1).to(memory_format=torch.channels_last)
    usual, images = copy.deepcopy(layer), torch.randn(2, 384, side, side).contiguous(memory_format=torch.channels_last)
    cpu_kernels.tune(layer, torch.bfloat16, 0)
    calls: list[int] = []
    product = torch.nn.functional.linear
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu_kernels.F, "linear", lambda *a: calls.append(1) or product(*a))
        found = gradients(layer, images, True)
    assert calls == [1]
    close(found, gradients(usual, images, True), 0.02)
    close(gradients(layer, images, False), gradients(usual, images, False), 1e-6)  # in float32 it is torch's
    assert layer.state_dict().keys() == usual.state_dict().keys() and found["out"].shape == (2, 400, side, side)


@pytest.mark.parametrize("changes", [{"stride": 2}, {"groups": 2}, {"padding": 0}, {"dilation": 2}, {"kernel_size": 1},
                                      {"in_channels": 128}, {"padding_mode": "reflect"}])  # fmt: skip
def test_other_convolutions_are_left_alone(changes: dict[str, object]) -> None:
    layer = nn.Conv2d(**{"in_channels": 384, "out_channels": 384, "kernel_size": 3, "padding": 1} | changes)  # type: ignore[arg-type]
    cpu_kernels.tune(layer, torch.bfloat16, 0)
    assert type(layer) is nn.Conv2d


def test_large_maps_go_through_torchs_convolution() -> None:
    layer = nn.Conv2d(384, 384, 3, padding=1)
    cpu_kernels.tune(layer, torch.bfloat16, 0)
    with pytest.MonkeyPatch.context() as patch, torch.autocast("cpu", torch.bfloat16):
        patch.delattr(cpu_kernels.F, "linear")
        assert layer(torch.zeros(1, 384, 5, 5)).shape == (1, 384, 5, 5)


def test_on_a_gpu_nothing_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    network = nn.Sequential(nn.Conv2d(384, 384, 3, padding=1))
    cpu_kernels.tune(network, torch.bfloat16, 0)
    assert type(network[0]) is nn.Conv2d


def pooled(pool: nn.Module, images: Tensor) -> tuple[Tensor, Tensor, int]:
    """What comes out, the gradient, and the bytes of int64 that are kept for it."""
    images, kept = images.clone().requires_grad_(), []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        out = pool(nn.functional.relu(images))
    (out.float() * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
    assert images.grad is not None
    return out.detach(), images.grad, sum(x.nbytes for x in kept if x.dtype == torch.int64)


def test_a_max_pool_gives_the_same_and_keeps_no_places() -> None:
    torch.manual_seed(0)
    pool = nn.MaxPool2d(3, 2, 1)
    images = torch.randn(2, 8, 12, 12).to(torch.bfloat16).contiguous(memory_format=torch.channels_last)
    out, gradient, places = pooled(pool, images)
    cpu_kernels.tune(pool, torch.bfloat16, 0)
    found = pooled(pool, images)
    assert torch.equal(found[0], out) and torch.equal(found[1], gradient)
    assert places == 8 * out.numel() and found[2] == 0
    with torch.no_grad():
        assert torch.equal(pool(images), nn.functional.max_pool2d(images, 3, 2, 1))


def test_a_max_pool_that_is_to_tell_places_is_left_alone() -> None:
    pool = nn.MaxPool2d(2, return_indices=True)
    cpu_kernels.tune(pool, torch.bfloat16, 0)
    assert type(pool) is nn.MaxPool2d


@pytest.mark.parametrize(("megabytes", "kept"), [(8, True), (48, False)])
def test_freed_memory_is_kept_but_for_the_largest_tensors(megabytes: int, kept: bool) -> None:
    """What is freed comes again without new pages, which it does not by itself; in a process of its own."""
    script = """
import resource, sys, torch
from scotoma.training import cpu_kernels
if sys.argv[1] == "keep":
    cpu_kernels.keep_memory()
def step():
    together = [torch.zeros(int(sys.argv[2]) * 250_000) for _ in range(20)]
    while together:
        together.pop()
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

    def faults(way: str) -> int:
        command = [sys.executable, "-c", script, way, str(megabytes)]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    # where the heap happens to lie decides whether a run by itself keeps what is freed: some do
    left = next((n for n in (faults("leave") for _ in range(8)) if n > 10_000), 0)
    keeping = faults("keep")
    assert left > 10_000 and (keeping < left / 10 if kept else keeping > 10_000)


def test_training_from_python_leaves_nothing_behind_and_gives_the_commands_numbers(
    clinic_table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command, in a process of its own, alone sets glibc's memory; after training, modules have torch's classes."""
    given = {"steps": 3, "batch_size": 8, "size": 64, "precision": "bf16-mixed", "encoder": "resnet18"}
    script = """
import sys
from scotoma import cli
from scotoma.training import cpu_kernels
cpu_kernels.keep_memory = lambda: print("kept")
sys.exit(cli.main())
"""
    flags = [text for name, value in given.items() for text in (f"--{name}", str(value))]
    command = ["pretrain", "--method", "supervised", "--data", str(clinic_table), "--target", "label", *flags, "--quiet"]
    command = [sys.executable, "-c", script, *command, "--out", str(tmp_path / "command")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0 and "kept" in done.stdout, done.stderr

    def state() -> object:
        return dict(os.environ), [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGALRM)]

    networks: list[tuple[nn.Module, int]] = []
    before, threads, tune = state(), torch.get_num_threads(), cpu_kernels.tune
    torch.set_num_threads(1)
    monkeypatch.setattr(cpu_kernels, "keep_memory", pytest.fail)
    monkeypatch.setattr(cpu_kernels, "tune", lambda net, *more: tune(net, *more) or networks.append((net, ours(net))))
    scotoma.pretrain(str(clinic_table), "supervised", tmp_path / "function", target=["label"], quiet=True, **given)
    torch.set_num_threads(threads)
    assert state() == before
    network, swapped = networks[0]
    assert swapped > 0 and ours(network) == 0
    found, expected = (load_file(tmp_path / way / "encoder.safetensors") for way in ("function", "command"))
    assert found.keys() == expected.keys() and all(torch.equal(found[k], v) for k, v in expected.items())


def ours(network: nn.Module) -> int:
    """How many modules of a network are of our classes."""
    return sum(type(module).__module__ == cpu_kernels.__name__ for module in network.modules())
