"""Keyed hashes: how patients, studies and files are named in anything Scotoma writes.

One secret key per installation, kept outside every run folder, turns an identifier into a pseudonym: equal identifiers
stay equal (so that overlap between two runs can be found on this installation), and nobody without the key can test a guess.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path

from scotoma.errors import UsageError

KEY_VARIABLE = "SCOTOMA_KEY_FILE"


def key_path() -> Path:
    """The file that holds this installation's key: ``$SCOTOMA_KEY_FILE``, else ``~/.config/scotoma/key``."""
    chosen = os.environ.get(KEY_VARIABLE)
    return Path(chosen) if chosen else Path.home() / ".config" / "scotoma" / "key"


def load_key(path: Path | None = None) -> bytes:
    """Read the key (32 bytes, hexadecimal in the file); made at first use, readable by its owner alone.

    Raises:
        UsageError: the file exists and holds no key.
    """
    path = path or key_path()
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{os.getpid()}")
        temporary.touch(mode=0o600)
        temporary.write_text(secrets.token_hex(32))
        try:
            os.link(temporary, path)  # whoever comes first wins: two processes must not use two keys
        except FileExistsError:
            pass
        finally:
            temporary.unlink()
    try:
        key = bytes.fromhex(path.read_text().strip())
    except ValueError:
        key = b""
    if len(key) != 32:
        raise UsageError(f"{path} holds no key (64 hexadecimal digits): name another with {KEY_VARIABLE}")
    return key


def pseudonym(value: object, key: bytes) -> str:
    """The keyed hash of one identifier: 32 hexadecimal digits (BLAKE2b with the key, 16 bytes)."""
    return hashlib.blake2b(str(value).encode(), key=key, digest_size=16).hexdigest()
