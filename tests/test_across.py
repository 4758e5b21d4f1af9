from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from scotoma import across, launch, plugins
from scotoma.errors import UsageError
from scotoma.run import read_rows

WORKER = Path(__file__).with_name("together.py")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return int(found.getsockname()[1])


def started(world: int, *command: str) -> list[subprocess.Popen[str]]:
    """So many processes as torchrun starts them."""
    places = {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world), "MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port())}
    return [
        subprocess.Popen(
            [sys.executable, *command], env=os.environ | places | {"RANK": str(r), "LOCAL_RANK": str(r), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for r in range(world)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, clinic_table: Path) -> dict[int, Path]:
    """The runs of all methods by one process and by two, on the same pictures."""
    folder = tmp_path_factory.mktemp("together")
    found = {}
    for world in (1, 2):
        found[world] = folder / str(world)
        found[world].mkdir()
        processes = started(world, str(WORKER), str(clinic_table), str(found[world]))
        said = [process.communicate(timeout=600)[0] for process in processes]
        assert not any(process.returncode for process in processes), "\n".join(said)
    return found


@pytest.mark.parametrize("name", plugins.names("methods"))
def test_two_processes_do_what_one_does(name: str, runs: dict[int, Path]) -> None:
    one, two = (json.loads((runs[world] / "traces.json").read_text())[name] for world in (1, 2))
    assert len(one) == 5 and len(set(one)) == 5
    np.testing.assert_allclose(two, one, rtol=1e-5, atol=1e-5)
    for world in (1, 2):
        assert next(r["value"] for r in read_rows(runs[world] / name) if r["metric"] == "processes") == world


def test_one_process_passes_through() -> None:
    x = torch.randn(3, 2, requires_grad=True)
    assert across.world() == 1 and across.rank() == 0
    assert across.mean(x) is x and across.gathered(x) is x and torch.equal(across.own(x), x) and across.agreed(5) == 5
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    assert type(across.share_norms(network)[1]) is nn.BatchNorm1d
    assert float(across.share(torch.tensor(6.0), torch.tensor(3))) == 2
    assert float(across.share(torch.tensor(0.0), torch.tensor(0))) == 0


def test_several_processes_are_asked_for_where_they_can_be_had() -> None:
    from scotoma.pretrain import pretrain

    with pytest.raises(UsageError, match="torchrun --nproc_per_node 3"):
        pretrain("phantom:8", devices=3)
    with pytest.raises(UsageError, match="--devices 4096: this machine has"):
        launch.start(4096, [])


@pytest.mark.parametrize(("names", "several"), [
    ({}, False), ({"WORLD_SIZE": "1"}, False), ({"WORLD_SIZE": "2"}, True), ({"SLURM_NTASKS": "4"}, False),
    ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_STEP_ID": "0"}, True),
])  # fmt: skip
def test_launchers_are_found_by_what_they_set(names: dict[str, str], several: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_STEP_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    assert launch.several() == several
