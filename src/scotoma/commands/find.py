"""``find``: which runs, stores and caches hold a patient."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from scotoma.arguments import check_arguments
from scotoma.errors import UsageError

Row = dict[str, Any]
WHERE = ["runs"]


@check_arguments
def find(patient: str, where: list[str] | None = None, quiet: bool = False) -> list[Row]:
    """List every run, store, cache, index and embeddings file with images of a patient, by the keyed hash of the identifier.

    Files made with another key cannot be searched.

    Args:
        patient: patient identifier as in the table or the header (of a folder per patient: its name), or - to read identifiers
            from standard input, one per line, which leaves none in the shell's history.
        where: folders to search recursively, separated by commas; by default runs. The cache is always searched.
        quiet: print nothing.

    Returns:
        A row for each finding: kind (run, store, cache, embeddings, weights, index), path, images, and splits (side -> images).

    Raises:
        UsageError: no identifier is given, or a folder is not there.
    """
    found, _ = located(patient, where)
    if not quiet:
        show(found, where)
    return [{"kind": h.kind, "path": str(h.path), "images": h.images, "splits": h.splits} for h in found]


def located(patient: str, where: list[str] | None) -> tuple[list[Any], set[str]]:
    """What `find` finds, and the keyed hashes that were searched for."""
    from scotoma.data.store.store import cache_folder
    from scotoma.data.withdrawal import pseudonyms, search

    folders = [Path(folder) for folder in where or WHERE]
    absent = next((folder for folder in folders if not folder.is_dir()), None)
    if absent is not None and where:
        raise UsageError(f"{absent}: no such folder")
    names = pseudonyms(sys.stdin.read().splitlines() if patient == "-" else [patient])
    return search(names, [folder for folder in folders if folder.is_dir()], cache_folder()), names


def show(found: list[Any], where: list[str] | None) -> None:
    """Print what was found, a line each, and what could not be searched."""
    from scotoma.data.pseudonyms import key_path
    from scotoma.data.store import caches
    from scotoma.data.store.store import cache_folder

    for holding in found:
        print(holding.text())
    if not found:
        print(f"nothing below {', '.join(where or WHERE)} and in the cache holds this patient")
    print(f"searched by the key {key_path()}: what was made with another key cannot be searched", file=sys.stderr)
    if left := caches.list_unfinished(cache_folder() / "stores"):
        print(f"{len(left)} unfinished stores in the cache are not searched: `scotoma purge` removes them", file=sys.stderr)
