"""Which columns a method reads that say the target: in a study they would show it labels that no draw gave it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scotoma import plugins
from scotoma.data.labels.targets import MASKS
from scotoma.data.splits.determined import find_determined
from scotoma.data.store.store import MASK_ROW
from scotoma.errors import UsageError, notice

if TYPE_CHECKING:
    import pandas as pd

    from scotoma.data.datamodule import DataModule
    from scotoma.methods.parts.inputs import Requirements

NEXT = "next:"


def pair_column(spec: str) -> tuple[str, str]:
    """The column of ``Requirements.pairs`` and the width of its bands, "" without: ``age:10`` is ``("age", "10")``."""
    name, _, width = spec.removeprefix(NEXT).partition(":")
    return name, width


def reads_target(requirements: Requirements, columns: tuple[str, ...]) -> bool:
    """Whether a method is given the target itself: as labels, as a column, or by pairs of images with equal labels."""
    return bool(requirements.labels or set(requirements.columns) & set(columns) or pair_column(requirements.pairs)[0] in columns)


def find_determining_columns(data_module: DataModule, requirements: Requirements) -> list[tuple[str, str]]:
    """Columns that a method reads and that determine the target: (column, target), with ``mask_path`` for its presence.

    The target itself is among them.
    """
    target, table = data_module.target, data_module.dataset.table
    if target is None or target.columns == (MASKS,):
        return []
    found: list[tuple[str, str]] = []
    for name, width in [*((column, "") for column in requirements.columns), pair_column(requirements.pairs)]:
        if name in target.columns:
            found.append((name, name))
        elif name and name in table.columns:
            said = find_determined(_band(table[name], width), target, data_module.split.units)
            found += [(name, said)] if said else []
    if requirements.masks and MASKS not in target.columns:
        there = table[MASK_ROW] >= 0 if MASK_ROW in table.columns else table[MASKS].notna() if MASKS in table.columns else None
        said = None if there is None else find_determined(there, target, data_module.split.units)
        found += [(MASKS, said)] if said else []
    return list(dict.fromkeys(found))


def refuse(data_module: DataModule, method: str) -> None:
    """Refuse a method of a study that reads columns which determine the target.

    Raises:
        UsageError: naming column and target.
    """
    chosen, given = plugins.variant(method)
    for column, target in find_determining_columns(data_module, chosen.requirements(chosen.settings(given))):
        if column == target:  # which a study shows the labels of each draw alone
            continue
        raise UsageError(
            f"--methods {method}: column {column!r} determines the target {target!r}: the method would be shown every label; leave "
            f"the column out, or name {target!r} itself, which a study shows the labels of each draw alone"
        )


def warn(data_module: DataModule, method: dict[str, Any]) -> None:
    """Say which columns that an encoder was pretrained on determine the target.

    Args:
        data_module: with the target.
        method: of the encoder's header: its name and settings.
    """
    try:
        chosen = plugins.method(str(method.get("name")))
        requirements = chosen.requirements({k: tuple(v) if isinstance(v, list) else v for k, v in method.items() if k != "name"})
    except UsageError:  # random weights, those of another program, or of a method that is no longer here
        return
    for column, target in find_determining_columns(data_module, requirements):
        notice(
            data_module.dataset.name,
            f"the encoder was pretrained on column {column!r}, which {'is' if column == target else 'determines'} the target "
            f"{target!r}: it has seen the labels of all its training images, however few are used now",
        )


def _band(cells: pd.Series, width: str) -> pd.Series:
    import pandas as pd

    try:
        return (pd.to_numeric(cells, errors="coerce") // float(width)).map(str, na_action="ignore") if width else cells
    except ValueError:  # refused where the pairs are made
        return cells
