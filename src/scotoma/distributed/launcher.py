"""Several processes: those that torchrun or SLURM started, or that ``--devices`` starts here."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from scotoma import processes
from scotoma.errors import UsageError

PATIENCE = timedelta(hours=12)  # for which the others wait while process 0 decodes the images


def several() -> bool:
    """Whether a launcher started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 or _tasks() > 1


def is_first() -> bool:
    """Whether this is process 0, which alone writes and talks; known once they have met."""
    return os.environ.get("RANK", "0") == "0"


def _tasks() -> int:
    """How many tasks ``srun`` started; an interactive shell is one, whatever was allocated."""
    return int(os.environ.get("SLURM_NTASKS", "1")) if "SLURM_PROCID" in os.environ and "SLURM_STEP_ID" in os.environ else 1


def start(devices: int, arguments: list[str]) -> int:
    """Run ``scotoma`` with these arguments in so many processes on this machine; the exit code of the first that failed.

    Raises:
        UsageError: there are fewer GPUs, or, without any, fewer cores.
    """
    import logging

    import torch
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    gpus, cores = torch.cuda.device_count(), len(os.sched_getaffinity(0))
    if devices > (gpus or cores):
        raise UsageError(f"--devices {devices}: this machine has {f'{gpus} GPUs' if gpus else f'no GPU and {cores} cores'}")
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // devices)))
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # of a failure each process has said its line
    config = LaunchConfig(1, 1, devices, run_id="scotoma", rdzv_endpoint="localhost:0", rdzv_backend="c10d", max_restarts=0)
    os.environ |= processes.environment()
    try:
        elastic_launch(config, processes.COMMAND[0])(*processes.COMMAND[1:], "-m", "scotoma.cli", *arguments)
    except SignalException as error:  # torch's own handlers make this of SIGINT and SIGTERM
        processes.interrupt(error.sigval)
    except ChildFailedError as error:
        return max(1, min(failure.exitcode for failure in error.failures.values()))
    return 0


def join() -> None:
    """Meet the other processes, once; nothing to do where there is one."""
    if not several():
        return
    import atexit

    import torch
    import torch.distributed as dist

    if dist.is_initialized():
        return
    if "WORLD_SIZE" not in os.environ:
        job = int(os.environ.get("SLURM_JOB_ID", "0")[-4:])
        nodes = re.sub(r"\[(\d+)[^]]*\]", r"\1", os.environ.get("SLURM_NODELIST", "127.0.0.1"))  # node[03-07,9] -> node03
        found = {
            "RANK": os.environ["SLURM_PROCID"],
            "LOCAL_RANK": os.environ["SLURM_LOCALID"],
            "WORLD_SIZE": _tasks(),
            "LOCAL_WORLD_SIZE": _tasks() // int(os.environ.get("SLURM_NNODES", "1")),
            "MASTER_ADDR": os.environ.get("MASTER_ADDR") or re.split(r"[ ,]", nodes)[0],
            "MASTER_PORT": os.environ.get("MASTER_PORT") or 15000 + job,
        }
        os.environ |= {name: str(value) for name, value in found.items()}
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)
    atexit.register(dist.destroy_process_group)


@contextmanager
def first_here() -> Iterator[None]:
    """The first process of each machine goes ahead, then the others: what it prepared lies in the cache."""
    if not several():
        yield
        return
    import torch.distributed as dist

    ahead = os.environ["LOCAL_RANK"] == "0"
    if not ahead:
        dist.barrier()
    yield
    if ahead:
        dist.barrier()
