"""Keyed hashes: how patients, studies and files are named in anything Scotoma writes.

One secret key per installation, kept outside every run folder, turns an identifier into a pseudonym: equal identifiers
stay equal (so that overlap between two runs can be found on this installation), and nobody without the key can test a guess.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import unicodedata
from pathlib import Path

from scotoma import files
from scotoma.errors import UsageError

KEY_VARIABLE = "SCOTOMA_KEY_FILE"


def key_path() -> Path:
    """The file that holds this installation's key: ``$SCOTOMA_KEY_FILE``, else ``~/.config/scotoma/key``."""
    chosen = os.environ.get(KEY_VARIABLE)
    return Path(chosen) if chosen else Path.home() / ".config" / "scotoma" / "key"


def load_key(path: Path | None = None) -> bytes:
    """Read the key (32 bytes, hexadecimal in the file); made at first use, readable by its owner alone.

    Raises:
        UsageError: the file exists and holds no key, it is no regular file, or it can be neither read nor made.
    """
    path = path or key_path()
    try:
        if not path.exists():
            _make_key(path)
        if reason := files.unfit(path):
            raise UsageError(f"{path}: {reason}, which is not opened: name another with {KEY_VARIABLE}")
        text = path.read_text()
    except OSError as error:
        raise UsageError(
            f"{path}: no key there, and none can be made ({error.strerror}): name another with {KEY_VARIABLE}"
        ) from None
    except ValueError:
        text = ""
    try:
        key = bytes.fromhex(text.strip())
    except ValueError:
        key = b""
    if len(key) != 32:
        raise UsageError(f"{path} holds no key (64 hexadecimal digits): name another with {KEY_VARIABLE}")
    return key


def _make_key(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.touch(mode=0o600)
    try:
        temporary.write_text(secrets.token_hex(32))
        os.link(temporary, path)  # whoever comes first wins: two processes must not use two keys
    except FileExistsError:
        pass
    finally:
        temporary.unlink()


def canonical(value: object) -> str | None:
    """An identifier as text, the same from a spreadsheet, a table and a DICOM header; None where it is missing or blank.

    1042.0 (a column of numbers with gaps), ``"1042 "`` and ``"001042"`` (zeros that a spreadsheet eats) are all ``"1042"``;
    ``"p 7"`` and ``"P  7"`` are one, as are composed and decomposed letters. In capitals, so that ids without small letters, as
    most are, keep the pseudonyms that earlier versions gave them.
    """
    if value is None or value != value:
        return None
    seen = "".join(c for c in unicodedata.normalize("NFC", str(value)) if unicodedata.category(c) != "Cf")  # no zero-width ones
    text = re.sub(r"^(\d+)\.0+$", r"\1", " ".join(seen.split()))
    return (text.lstrip("0") or "0") if text.isdecimal() else text.casefold().upper() or None


def pseudonym(value: object, key: bytes) -> str:
    """The keyed hash of one identifier: 32 hexadecimal digits (BLAKE2b with the key, 16 bytes)."""
    return hashlib.blake2b(str(value).encode(errors="surrogatepass"), key=key, digest_size=16).hexdigest()


def key_id(key: bytes) -> str:
    """A short name of the key, 12 hexadecimal digits, by which another installation's hashes are known as not comparable."""
    return pseudonym("the id of this key", key)[:12]
