"""Keyed hashes: one key an installation, the same name however an identifier was written."""

from __future__ import annotations

import hashlib
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from scotoma.data import pseudonyms
from scotoma.errors import UsageError


def test_the_key_is_made_once_and_readable_by_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "inner" / "key"
    key = pseudonyms.load_key(path)
    assert len(key) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert pseudonyms.load_key(path) == key == bytes.fromhex(path.read_text())
    assert pseudonyms.load_key(tmp_path / "other") != key
    assert [p.name for p in path.parent.iterdir()] == ["key"]


def test_processes_that_start_at_once_share_one_key(tmp_path: Path) -> None:
    load = f"pseudonyms.load_key(Path({str(tmp_path / 'key')!r}))"
    code = f"from pathlib import Path; from scotoma.data import pseudonyms; print({load}.hex())"
    processes = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(4)]
    (key,) = {p.communicate()[0].strip() for p in processes}
    assert len(key) == 64


def test_the_variable_names_the_key_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCOTOMA_KEY_FILE", str(tmp_path / "mine"))
    assert pseudonyms.load_key() == bytes.fromhex((tmp_path / "mine").read_text())


@pytest.mark.parametrize("content", [b"", b"abc", b"zz" * 32, b"00" * 31, b"\xff\xfe"])
def test_a_file_that_holds_no_key_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(UsageError, match="SCOTOMA_KEY_FILE"):
        pseudonyms.load_key(tmp_path / "key")
    assert (tmp_path / "key").read_bytes() == content


def test_a_key_that_can_be_neither_read_nor_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "key"):
        with pytest.raises(UsageError, match="SCOTOMA_KEY_FILE"):
            pseudonyms.load_key(path)


def test_pseudonym_is_keyed_blake2b() -> None:
    key = bytes(range(32))
    assert pseudonyms.pseudonym("Jane", key) == hashlib.blake2b(b"Jane", key=key, digest_size=16).hexdigest()
    assert pseudonyms.pseudonym("Jane", key) != pseudonyms.pseudonym("Jane", bytes(32))


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1042, "1042"), (1042.0, "1042"), ("1042", "1042"), (" 1042 ", "1042"), ("001042", "1042"),
     ("1042.0", "1042"), (0, "0"), ("000", "0"),
     (1.5, "1.5"), ("A-007", "A-007"), ("007a", "007A"), ("p  7 ", "P 7"), ("P\t7", "P 7"),
     ("Mu\u0308ller", "MÜLLER"), ("Straße", "STRASSE"),
     ("1E5", "1E5"), ("K-01", "K-01"), ("", None), ("  ", None), (None, None), (float("nan"), None)],
)  # fmt: skip
def test_canonical(value: object, expected: str | None) -> None:
    assert pseudonyms.canonical(value) == expected


def test_signs_that_nobody_sees_do_not_part_a_patient() -> None:
    for spelled in ("Müller 7", "MU\u0308LLER  7", "\u00a0müller\u200b 7\u2060", "\ufeffMüller\u00ad 7"):
        assert pseudonyms.canonical(spelled) == pseudonyms.canonical("MÜLLER 7")
    assert pseudonyms.canonical("\u200b") is None
