"""``purge``: take a patient who withdraws out of caches, stores and embeddings, and say what must be trained anew."""

from __future__ import annotations

from typing import Any

from scotoma import files
from scotoma.arguments import check_arguments
from scotoma.errors import RunError, UsageError

Row = dict[str, Any]


@check_arguments
def purge(
    patient: str | None = None,
    where: list[str] | None = None,
    cache: bool = False,
    runs: bool = False,
    yes: bool = False,
    quiet: bool = False,
) -> list[Row]:
    """Remove a patient from everything that `scotoma find` lists; without `--yes` the actions are printed and nothing changes.

    Cached stores are removed and made anew at their next use; so are unfinished ones. From a prepared store and an embeddings file
    the patient's rows are removed, pixels zeroed; other images keep their row ids. Weights cannot forget: a run that contains the
    patient is marked, and pages and figures that may show the images are removed; with `--runs` the run is removed. Remove the
    images from your own data first.

    Args:
        patient: patient identifier as in the table or the header, or - to read identifiers from standard input, one per line.
        where: folders to search recursively, separated by commas; by default runs. The cache is always searched.
        cache: empty the whole cache; excludes a patient.
        runs: remove runs and other weights that were trained on the patient, instead of marking the runs.
        yes: carry it out; by default the actions are only listed.
        quiet: print nothing.

    Returns:
        A row for each thing done, or to be done: kind, path, images and action.

    Raises:
        UsageError: neither a patient nor `cache` is given, or both, or a folder is not there.
        RunError: something could not be removed, as another process uses it; all else was.
    """
    if patient is None and not cache:
        raise UsageError("name a patient, or use --cache to empty the cache")
    if patient is not None and cache:
        raise UsageError("--cache empties the whole cache and excludes a patient, of whom the cache is always searched")
    from scotoma.commands.find import located
    from scotoma.data.store import caches, image_index
    from scotoma.data.store.store import cache_folder
    from scotoma.data.withdrawal import CACHE, INDEX, RUN, UNFINISHED, Holding
    from scotoma.run_folder import REPLACED, read_config

    found, names = located(patient, where) if patient is not None else ([], set())
    if cache:
        found = [Holding(CACHE, path, 0) for path in caches.stores(cache_folder() / "stores")]
        found += [Holding(INDEX, path, 0) for path in sorted((cache_folder() / image_index.FOLDER).glob("*.csv"))]
    found += [
        Holding(UNFINISHED, path, 0) for path in caches.list_unfinished(cache_folder() / "stores")
    ]  # whose images is not known
    retrain = []
    for holding in (h for h in found if h.kind == RUN and h.path.name != REPLACED and (h.path / "config.yaml").exists()):
        config = read_config(holding.path)
        config_file = holding.path / "config.yaml"
        retrain.append(f"scotoma {config.get('command', 'pretrain')} --config {config_file} --out {holding.path} --overwrite")
    words = _words(yes, runs) | ({INDEX: "removed" if yes else "remove"} if cache else {})
    rows, busy = [], []
    caches.release()
    for holding in found:
        action = words[holding.kind]
        if yes:
            try:
                _take_out(holding, names, runs)
            except files.Busy:
                busy.append(holding.path)
                action = "left: another process uses it"
        rows.append({"kind": holding.kind, "path": str(holding.path), "images": holding.images, "action": action})
    if not quiet:
        for holding, row in zip(found, rows, strict=True):
            print(f"{holding.text()}: {row['action']}")
        if not found:
            print("nothing to be removed")
        for command in retrain:
            print(f"train anew, once the patient is out of the table: {command}")
        if found and not yes:
            print("nothing was changed: use --yes to do it")
    if busy:
        raise RunError(f"{len(busy)} of {len(rows)} are in use ({busy[0]}): purge again when those runs have ended")
    return rows


def _words(done: bool, runs: bool) -> dict[str, str]:
    """What is to be done with each kind of finding, or what was done."""
    from scotoma.data.withdrawal import CACHE, EMBEDDINGS, INDEX, RUN, STORE, UNFINISHED, WEIGHTS

    removing, rewriting = ("removed", "rewritten without the patient") if done else ("remove", "rewrite without the patient")
    pages = "pages and figures that may show the patient"
    marking = f"marked as holding a withdrawn patient, {pages} removed" if done else ""
    marking = marking or f"mark as holding a withdrawn patient, and remove {pages}"
    words = dict.fromkeys((CACHE, UNFINISHED), removing) | dict.fromkeys((STORE, EMBEDDINGS, INDEX), rewriting)
    return words | {RUN: removing if runs else marking, WEIGHTS: removing if runs else "left: weights cannot forget"}


def _take_out(holding: Any, names: set[str], runs: bool) -> None:
    """Do what is to be done with one finding.

    Raises:
        Busy: another process uses it.
    """
    from scotoma.data import withdrawal
    from scotoma.data.store import caches, image_index

    if not holding.path.exists():
        return  # went with the run that it lay in
    if holding.kind == withdrawal.CACHE:
        caches.remove(holding.path)
    elif holding.kind == withdrawal.UNFINISHED:
        caches.remove_unfinished(holding.path)
    elif holding.kind == withdrawal.INDEX and not names:
        holding.path.unlink()
    elif holding.kind == withdrawal.INDEX:
        image_index.take_out(holding.path, holding.rows)
    elif holding.kind == withdrawal.EMBEDDINGS:
        withdrawal.take_out_of_embeddings(holding)
    elif holding.kind == withdrawal.STORE:
        withdrawal.take_out_of_store(holding)
    elif holding.kind == withdrawal.WEIGHTS:
        if runs:
            holding.path.unlink()
    elif runs:
        withdrawal.remove_run(holding.path)
    else:
        withdrawal.mark_run(holding.path, names, holding.contents)
