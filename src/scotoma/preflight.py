"""What is refused before data are read or anything heavy is imported: run folders and weights files; and a run that is finished."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scotoma import files, packaged_weights
from scotoma.errors import UsageError
from scotoma.run_folder import RESUMED, read_config, refuse_other, status

ENCODER, MODEL = "encoder.safetensors", "model.safetensors"
_ENDINGS = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".tar")


def weights_file(source: str | Path) -> Path:
    """The weights file that a run folder or a path names.

    Raises:
        UsageError: there is none, or it is no regular file.
    """
    path = Path(source)
    found = next((p for p in (path / ENCODER, path / MODEL, path) if p.exists() and not p.is_dir()), None)
    if found is None:
        what = f"no {ENCODER} or {MODEL} there" if path.exists() else "there is no such folder or file"
        raise UsageError(f"{path}: {what}; name a finished run or a weights file")
    return files.regular(found)


def require(source: str) -> None:
    """Refuse a path at which nothing lies, before it is taken for a tag of timm's: these have no folder and no file's ending.

    Raises:
        UsageError: there is no such folder or file.
    """
    if packaged_weights.is_packaged(source):
        packaged_weights.find(source)
    if ("/" in source or Path(source).suffix in _ENDINGS) and ":" not in source and not Path(source).exists():
        raise UsageError(f"{source}: there is no such folder or file; name a finished run, a weights file or a tag of timm's")


def require_weights(source: str | Path) -> None:
    """Refuse what is neither a finished run nor a weights file nor, by its point, a tag of timm's pretrained networks.

    Raises:
        UsageError: there is none.
    """
    if Path(source).exists():
        weights_file(source)
    elif packaged_weights.is_packaged(source):
        packaged_weights.find(str(source))
    elif not ("." in str(source) or ":" in str(source)) and "/" not in str(source):
        raise UsageError(
            f"{source}: there is no such folder or file; name a finished run, a weights file, lite0, or weights of timm's by "
            "network and tag, such as resnet18.a1_in1k"
        )
    require(str(source))


def refuse_folder(out: Path, command: str, overwrite: bool = False, resume: bool = False) -> None:
    """Refuse a run folder that ``Run.open`` would refuse later.

    Raises:
        UsageError: it holds a finished run, or an interrupted one that is neither gone on with nor replaced.
    """
    state = status(out)
    if state == "finished" and not overwrite:
        raise UsageError(f"{out} holds a finished run: name another folder, or use --overwrite")
    if state == "running" and not (overwrite or resume):
        going_on = "use --resume to continue, or --overwrite" if command in RESUMED else "use --overwrite"
        raise UsageError(f"{out} holds an interrupted run: {going_on} to start anew")


def is_finished(out: Path, command: str, arguments: dict[str, Any], overwrite: bool, resume: bool) -> bool:
    """Whether a run that is to be gone on with is finished, with these arguments; ``resuming.confirm_finished`` compares the data.

    Every process of a training comes to the same answer: nobody changes a finished run that is not overwritten.

    Raises:
        UsageError: an argument is another than the finished run had.
    """
    if not resume or overwrite or status(out) != "finished":
        return False
    refuse_other(read_config(out), {"command": command, **arguments}, "finished")
    return True
