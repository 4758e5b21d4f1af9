"""Files as everything here writes and opens them: whole or absent, one process at a time, regular files only.

All that a verb leaves goes through ``replacing``, ``write`` and ``locked``: a file is written under another name, forced onto the
disk and then renamed, so that neither a kill nor a power cut nor a full disk leaves half of one under its name.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from scotoma.errors import RunError, ScotomaError, UsageError

NEW = ".new"  # the end of a name under which something is being written
PATIENCE = 5.0  # seconds after which waiting for another process is reported
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_LIBRARIES = (
    "No space left",
    "os error",
    "PytorchStreamWriter",
    "File too large",
    "quota exceeded",
)  # what theirs say of a full disk


@contextmanager
def replacing(path: Path, mode: int = 0o666) -> Iterator[Path]:
    """A name beside ``path`` under which to write; when the block ends, the file takes the place of ``path``.

    Args:
        path: to be written.
        mode: its permissions, less those that the user's umask takes away, whatever a library gives its files.

    Raises:
        RunError: it cannot be written (the disk is full, the folder may not be written); nothing is left of it then.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(3)}{NEW}")
    try:
        temporary.touch(mode)
        permitted = stat.S_IMODE(temporary.stat().st_mode)
        yield temporary
        temporary.chmod(permitted)
        sync(temporary)
        rename(temporary, path)
        sync(path.parent)
    except Exception as error:
        temporary.unlink(missing_ok=True)
        reason = None if isinstance(error, ScotomaError) else why(error)
        if reason is None:
            raise
        raise RunError(f"cannot write {path} ({reason})") from error
    except BaseException:  # Ctrl-C
        temporary.unlink(missing_ok=True)
        raise


def write(path: Path, content: str | bytes) -> None:
    """Write a file that is whole or absent.

    Raises:
        RunError: as ``replacing``.
    """
    with replacing(path) as temporary:
        put(temporary, content.encode(errors="backslashreplace") if isinstance(content, str) else content)


def put(path: Path, content: bytes) -> None:
    """Write bytes, all of them."""
    path.write_bytes(content)


def sync(path: Path) -> None:
    """Force a file, or the names in a folder, onto the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:  # a file system that cannot do it for folders
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)


def rename(old: Path, new: Path) -> None:
    """Give a file or folder another name, in place of what had it."""
    os.replace(old, new)  # noqa: PTH105 (pathlib's goes through it)


def why(error: BaseException) -> str | None:
    """Why something could not be written, of whatever library; None where an error is about something else."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno:
            return os.strerror(seen.errno)
        text = str(seen)
        if any(words in text for words in _LIBRARIES):
            return "No space left on device" if "No space left" in text else (text.splitlines() or [""])[0]
        seen = seen.__cause__ or seen.__context__
    return str(error) if isinstance(error, OSError) else None


def sweep(folder: Path) -> None:
    """Remove what a killed process was writing; for who holds the folder's lock."""
    for left in folder.rglob(f"*{NEW}"):
        left.unlink(missing_ok=True)


class Busy(Exception):
    """Another process holds the lock."""


@contextmanager
def lock(path: Path, wait: bool = True, remove: bool = False, what: str = "") -> Iterator[None]:
    """Hold a lock file while the block runs; it goes with the process, however that ends.

    Args:
        path: of the lock file; made where it is not there.
        wait: for another process that holds it, with a notice after ``PATIENCE`` seconds; else raise ``Busy``.
        remove: take the file away at the end.
        what: that is waited for, in the line that states it.

    Raises:
        Busy: as ``wait`` states.
        OSError: the file cannot be made.
    """
    descriptor = acquire(path, wait, what)
    try:
        yield
    finally:
        if remove:
            path.unlink(missing_ok=True)
        os.close(descriptor)


def acquire(path: Path, wait: bool = True, what: str = "") -> int:
    """Take a lock as ``locked`` does; whoever closes the descriptor lets it go."""
    began, notified = time.monotonic(), False
    while True:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except OSError as error:
                    if error.errno not in (errno.EAGAIN, errno.EACCES):
                        raise
                    if not wait:
                        raise Busy from None
                    if not notified and time.monotonic() - began >= PATIENCE:
                        notified = True
                        print(f"waiting for another process that writes {what or path.parent}", file=sys.stderr)
                    time.sleep(0.05)
            if os.path.exists(path) and os.stat(path).st_ino == os.fstat(descriptor).st_ino:  # noqa: PTH110, PTH116
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # whoever held it has removed it since


def unfit(path: str | Path) -> str | None:
    """Why a path must not be opened and read as a file, in a word or two; None where it may.

    A pipe or a device can wait for ever or never end, and so can files of /proc; a link counts as what it leads to.

    Raises:
        OSError: nothing is there, or it may not be looked at.
    """
    entry = os.stat(path)  # noqa: PTH116 (thousands of them)
    if stat.S_ISDIR(entry.st_mode):
        return "a folder"
    if not stat.S_ISREG(entry.st_mode):
        return "no regular file"
    return "a file of the system" if entry.st_dev in _of_the_system() else None


def regular(path: Path) -> Path:
    """The path, where it may be opened and read.

    Raises:
        UsageError: it is no regular file; see ``unfit``.
        OSError: as ``unfit``.
    """
    if reason := unfit(path):
        raise UsageError(f"{path}: {reason}, which is not opened")
    return path


@lru_cache(maxsize=1)
def _of_the_system() -> frozenset[int]:
    return frozenset(Path(p).stat().st_dev for p in ("/proc", "/sys", "/dev") if Path(p).is_dir() and os.path.ismount(p))
