"""What ``test_across.py`` runs in one process and in two: every method for a few steps through ``pretrain``.

Two processes do it twice: each with all of a method, and with the method dealt out; then once more dealt out, killed and resumed.
"""

from __future__ import annotations

import csv
import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from scotoma import plugins
from scotoma.commands.pretrain import pretrain
from scotoma.distributed import collectives
from scotoma.training import fsdp, trainer

STEPS = 5
GIVEN: dict[str, dict[str, Any]] = {
    "msmae": {"warmup_epochs": 0, "attention_interval": 1},
    "intelligent_masking": {"replay": 16, "gamma": 0.5},
    "simmim": {"masking": "agent", "next_task": True},
    "msn": {"columns": ("age",), "positives": "patient"},
    "autoencoder": {"classifier_weight": 1.0},
    "simclr": {"positives": "patient"},
}


def trace(name: str, table: str, folder: Path, **how: Any) -> list[float]:
    """The loss of each step."""
    chosen = plugins.method(name)
    run = pretrain(
        table, name, folder / name, steps=STEPS, batch_size=8, size=32, precision="32-true", method_args=GIVEN.get(name),
        learning_rate=2e-4,  # at higher ones rounding grows from step to step
        encoder="vit_tiny_patch8" if chosen.needs_vit else "test_convnext", target=["label"], quiet=True,
        **how,
    )  # fmt: skip
    with (run / "metrics.csv").open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def main(table: str, folder: Path) -> None:
    """Write the traces of all methods, as far as this process has them to itself."""
    torch.set_num_threads(1)
    found = {name: trace(name, table, folder) for name in plugins.names("methods")}
    (folder / "traces.json").write_text(json.dumps(found))
    if collectives.world() > 1:
        fsdp.shard = measured
        dealt = folder / "dealt"
        dealt.mkdir(exist_ok=True)
        found = {name: trace(name, table, dealt, shard=True) for name in plugins.names("methods")}
        found["killed"] = killed("dino", table, dealt / "killed")
        (dealt / "traces.json").write_text(json.dumps(found))
        (dealt / f"shares-{collectives.rank()}.json").write_text(json.dumps(shares))
        (dealt / "parts.json").write_text(json.dumps(parts))
        (dealt / "gradient.json").write_text(json.dumps(gradient()))


class Sum(torch.nn.Module):
    """The loss of one layer is the sum of what it gives: its gradient is the input."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 2, bias=False)

    def loss(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x).sum()


def gradient() -> list[list[float]]:
    """Of a layer dealt out, where process 0 has ones and process 1 twos; Adam, which takes the scale out, would not show it."""
    method = Sum()
    fsdp.shard(method, init_device_mesh("cpu", (collectives.world(),)))
    method.loss(torch.full((1, 3), 1.0 + collectives.rank())).backward()
    found: Any = method.layer.weight.grad
    return found.full_tensor().tolist()  # type: ignore[no-any-return]


def killed(name: str, table: str, folder: Path) -> list[float]:
    """The losses of a run that ended between two steps and went on from its last checkpoint."""
    folder.mkdir(exist_ok=True)
    step_loss, calls = trainer.step_loss, 0

    def counted(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise InterruptedError
        return step_loss(*arguments)

    trainer.CHECKPOINT_SECONDS, trainer.step_loss = 0, counted
    with suppress(InterruptedError):
        trace(name, table, folder, shard=True)
    return trace(name, table, folder, shard=True, resume=True) if calls == 4 else []


shares: list[float] = []  # of all parameters, those that lie in this process; a number a method
parts: list[int] = []  # that are gathered by themselves; a number a method
shard = fsdp.shard


def measured(method: torch.nn.Module, mesh: Any) -> None:
    """Deal a method out, and see how much of it is left here."""
    everything = sum(p.numel() for p in method.parameters())
    shard(method, mesh)
    parts.append(sum(isinstance(m, FSDPModule) for m in method.modules()))
    here = [p.to_local() if isinstance(p, DTensor) else p for p in method.parameters()]
    shares.append(sum(p.numel() for p in here) / everything)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
