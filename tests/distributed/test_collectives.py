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
from safetensors.torch import load_file
from torch import nn

from scotoma import plugins
from scotoma.distributed import collectives, launcher
from scotoma.errors import UsageError
from scotoma.run_folder import read_rows

WORKER = Path(__file__).parents[1] / "helpers" / "together.py"


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
    """The runs of all methods by one process and by two, on the same images."""
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


@pytest.mark.parametrize("name", plugins.names("methods"))
def test_a_method_dealt_out_over_two_processes_does_what_one_does(name: str, runs: dict[int, Path]) -> None:
    one, dealt = (json.loads((folder / "traces.json").read_text())[name] for folder in (runs[1], runs[2] / "dealt"))
    np.testing.assert_allclose(dealt, one, rtol=1e-5, atol=1e-5)
    found, expected = (load_file(folder / name / "encoder.safetensors") for folder in (runs[2] / "dealt", runs[2]))
    assert found.keys() == expected.keys()
    apart = torch.cat([(found[key] - weight).float().abs().flatten() for key, weight in expected.items()])
    assert float(apart.median()) < 1e-5  # five steps of Adam go 1e-3 far; where a gradient is rounding alone, either way
    assert float(apart.max()) < 1e-2


def test_what_is_dealt_out_lies_in_one_process_or_the_other(runs: dict[int, Path]) -> None:
    first, second = (json.loads((runs[2] / "dealt" / f"shares-{rank}.json").read_text()) for rank in (0, 1))
    assert len(first) >= len(plugins.names("methods"))
    parts = json.loads((runs[2] / "dealt" / "parts.json").read_text())
    assert max(parts) > 12 and min(parts) == 1  # blocks of transformers by themselves
    np.testing.assert_allclose(np.add(first, second), 1)
    np.testing.assert_allclose(first, 0.5, atol=0.05)


def test_gradients_of_what_is_dealt_out_are_means_over_processes(runs: dict[int, Path]) -> None:
    assert json.loads((runs[2] / "dealt" / "gradient.json").read_text()) == [[1.5] * 3] * 2


def test_a_method_dealt_out_goes_on_where_it_was_killed(runs: dict[int, Path]) -> None:
    traces = json.loads((runs[2] / "dealt" / "traces.json").read_text())
    assert traces["killed"] == traces["dino"]
    found, expected = (load_file(runs[2] / "dealt" / name / "encoder.safetensors") for name in ("killed/dino", "dino"))
    assert found.keys() == expected.keys() and all(torch.equal(found[k], v) for k, v in expected.items())


def test_dealing_out_is_refused_where_it_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    from scotoma.commands.pretrain import pretrain

    with pytest.raises(UsageError, match="`shard` deals a method out over several devices"):
        pretrain("phantom:8", shard=True, steps=1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for given in ({}, {"minutes": 1.0}, {"steps": 1, "compile": True}):
        with pytest.raises(UsageError, match="`shard` goes with `steps` or `epochs`"):
            pretrain("phantom:8", shard=True, **given)  # type: ignore[arg-type]


def test_one_process_passes_through() -> None:
    x = torch.randn(3, 2, requires_grad=True)
    assert collectives.world() == 1 and collectives.rank() == 0
    assert (
        collectives.all_reduce_mean(x) is x
        and collectives.all_gather(x) is x
        and torch.equal(collectives.local_shard(x), x)
        and collectives.broadcast(5) == 5
    )
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    assert type(collectives.share_norms(network)[1]) is nn.BatchNorm1d
    assert float(collectives.share(torch.tensor(6.0), torch.tensor(3))) == 2
    assert float(collectives.share(torch.tensor(0.0), torch.tensor(0))) == 0


def test_several_processes_are_asked_for_where_they_can_be_had() -> None:
    from scotoma.commands.pretrain import pretrain

    with pytest.raises(UsageError, match="torchrun --nproc_per_node 3"):
        pretrain("phantom:8", devices=3)
    with pytest.raises(UsageError, match="--devices 4096: this machine has"):
        launcher.start(4096, [])


@pytest.mark.parametrize(("names", "several"), [
    ({}, False), ({"WORLD_SIZE": "1"}, False), ({"WORLD_SIZE": "2"}, True), ({"SLURM_NTASKS": "4"}, False),
    ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_STEP_ID": "0"}, True),
])  # fmt: skip
def test_launchers_are_found_by_what_they_set(names: dict[str, str], several: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_STEP_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    assert launcher.several() == several


SLURM = """
import sys, torch, torch.distributed as dist
from scotoma.distributed import collectives, launcher
from scotoma.errors import stage

stage("before they have met")
launcher.join()
x = torch.tensor(float(collectives.rank() + 1))
print(collectives.rank(), collectives.world(), launcher.is_first(), float(collectives.all_reduce_mean(x)), flush=True)
"""


def test_processes_of_slurm_meet_by_what_srun_sets() -> None:
    """As two tasks of ``srun`` on one node see it (no SLURM here): rank, size, address and port are found, and they sum."""
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")}
    environment |= {"SLURM_NTASKS": "2", "SLURM_STEP_ID": "0", "SLURM_NNODES": "1", "SLURM_JOB_ID": f"9{os.getpid() % 10000:04}"}
    environment |= {"SLURM_NODELIST": "localhost", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SLURM]
    running = [
        subprocess.Popen(
            command,
            env=environment | {"SLURM_PROCID": rank, "SLURM_LOCALID": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    said = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [0, 0], said
    assert [out for out, _ in said] == ["0 2 True 1.5\n", "1 2 False 1.5\n"]
    assert [err.count("before they have met") for _, err in said] == [1, 0]
