"""How methods stand to their controls: the one rule behind every verdict, every mark and the summary of the page.

A verdict is read off the corrected p-value (``p_holm``) that stands beside it, never off an interval or the values alone. A
difference without one (of fewer than three draws, or from a control that is not the method's own) is shown without verdict.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import pandas as pd

from scotoma import plugins
from scotoma.reporting.cells import Table, at, is_same, missing
from scotoma.reporting.naming import CONTROL, RANDOM, controls_of, name_of_method, phrase_of_use

LEVEL = 0.05
MARKS = {1: "▲", -1: "▼", 0: "○"}


def verdict(row: pd.Series, better: int = 1) -> int | None:
    """1 where a difference shows that the first is better, -1 where worse, 0 where neither is shown; None where it was not tested.

    Args:
        row: of a difference.
        better: 1 where a higher value is better, -1 where a lower one is.
    """
    if missing(row.get("p_holm")) or missing(row["value"]):
        return None
    return (1 if better * row["value"] > 0 else -1) if row["p_holm"] < LEVEL else 0


def mark_of(row: pd.Series, better: int = 1) -> str:
    """The mark of a difference; empty where it has no verdict."""
    found = verdict(row, better)
    return "" if found is None else MARKS[found]


def nearest_tenth(shares: Collection[float]) -> float:
    """The share of the labels at which the summary compares: that nearest to a tenth."""
    return min(shares, key=lambda f: abs(math.log(f / 0.1)), default=math.nan)


def kinds_of(rows: pd.DataFrame) -> list[str]:
    """What each row is about: "method", "random" or, of a control that uses no encoder, its evaluator."""
    return [
        RANDOM if m == RANDOM else str(use) if m == CONTROL else "method"
        for m, use in zip(rows["method"], rows["use"], strict=True)
    ]


def name_pairs(differences: pd.DataFrame, titles: Mapping[str, str] = {}) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Differences, named by both sides: those from the method's own random weights, and those from other controls.

    Args:
        differences: rows with ``label`` and ``reference``.
        titles: what references are called, where it is not what their modules are.
    """
    references = [RANDOM if missing(r) else str(r) for r in differences["reference"]]
    known = {RANDOM: name_of_method(RANDOM)} | plugins.titles("evaluators") | dict(titles)
    names = [f"{n[:1].lower()}{n[1:]}" if (n := known.get(r, r)) != r else r for r in references]
    named = differences.assign(label=[f"{n} minus {name}" for n, name in zip(differences["label"], names, strict=True)])
    own = pd.Series([r == RANDOM for r in references], differences.index, dtype=bool)
    return named[own], named[~own]


def own_control(values: pd.DataFrame, own: pd.Series) -> pd.Series | None:
    """The random weights of a method among the values of one share: before its own first step, else of the same network."""
    random = values[(values["method"] == RANDOM) & is_same(values["use"], own["use"])]
    mine = random[[own["method"] in controls_of(names) for names in random["control_of"]]]
    found = mine if len(mine) else random[random["control_of"].isna() & is_same(random["encoder"], own["encoder"])]
    found = found.assign(other=found["run"] != own["run"]).sort_values("other", kind="stable")  # its own run's, where it has one
    return found.iloc[0] if len(found) else None


def find_verdicts(
    values: pd.DataFrame, differences: pd.DataFrame, fraction: float, better: int = 1, chance: float | None = None
) -> list[Table]:
    """What the summary reports of each method at one share of the labels, beside its own random weights and every other control.

    A method without that share is reported at its own share nearest to a tenth, or as it was trained; ``at`` states that.

    Args:
        values: rows of the headline metric, with ``label``, ``kind`` ("method", "random" or a control's evaluator) and ``use``.
        differences: rows of its paired differences, with the same labels and uses.
        fraction: the share.
        better: 1 where a higher value is better, -1 where a lower one is.
        chance: the metric's value by chance, where it has one.
    """
    weights = set(differences["reference"].dropna()) & set(values.loc[values["kind"] == "method", "method"])  # given as controls
    methods, found = values[(values["kind"] == "method") & values["value"].notna()], []
    for _, mine in methods.groupby(["label", "use"], sort=False, dropna=False):
        shares = set(mine["fraction"].dropna())
        share = fraction if is_same(mine["fraction"], fraction).any() else nearest_tenth(shares)
        own = mine[is_same(mine["fraction"], share)].iloc[0]
        here = values[is_same(values["fraction"], share)]
        pairs = differences[(differences["label"] == own["label"]) & is_same(differences["use"], own["use"])]
        paired = pairs[pairs["reference"] == RANDOM]
        difference = _first(paired[is_same(paired["fraction"], share)])
        away: dict[tuple[bool, str], list[str]] = {}
        for other in sorted(set(values.loc[values["label"] == own["label"], "fraction"].dropna()) - {share}):
            for control in _as_good_at(values, pairs, own, other, weights, better):
                away.setdefault((control["sure"], control["short"]), []).append(f"{100 * other:g}\u00a0%")
        found.append(
            {
                "label": own["label"],
                "run": own["run"],
                "method": own["method"],
                "own": own,
                "at": "" if share == fraction or missing(fraction) else at(share) or "with the labels that it was trained on",
                "use": "" if missing(own["use"]) else phrase_of_use(own["use"]),
                "random": own_control(here, own),
                "given": own["method"] in weights,
                "difference": difference,
                "sign": None if difference is None else verdict(difference, better),
                "signs": [s for _, d in paired.iterrows() if (s := verdict(d, better)) is not None],
                "as_good": find_as_good(values, pairs, own, weights, better),
                "elsewhere": [
                    [(name, shares) for (is_sure, name), shares in away.items() if is_sure is sure] for sure in (True, False)
                ],
                "chance": chance is not None and not missing(own["low"]) and bool(own["low"] <= chance <= own["high"]),
            }
        )
    return found


def find_as_good(values: pd.DataFrame, mine: pd.DataFrame, own: pd.Series, weights: Collection[str], better: int) -> list[Table]:
    """The controls that one method is not shown to be better than at its share of the labels, the best first.

    The method is no better where the control's value is at least its own (``sure``). Where its own value is better that is not
    shown if the paired difference has a p-value of 0.05 or more, an interval that holds 0, or none; without a pair, if the
    two own intervals meet or are not known (``by_intervals``).

    Args:
        values: as `find_verdicts` takes them.
        mine: the method's paired differences.
        own: the method's row.
        weights: methods whose weights were given as controls.
        better: 1 or -1.
    """
    here = values[is_same(values["fraction"], own["fraction"]) & values["value"].notna()]
    of_weights = (here["kind"] == "method") & here["method"].isin(weights) & is_same(here["use"], own["use"])
    controls = here[~here["kind"].isin(["method", RANDOM]) | (of_weights & (here["method"] != own["method"]))]
    beside = own_control(here, own)
    if beside is not None:
        controls = pd.concat([controls, beside.to_frame().T])
    found = []
    for _, control in controls.iterrows():
        reference = control["method"] if control["kind"] in ("method", RANDOM) else control["kind"]
        pair = _first(mine[(mine["reference"] == reference) & is_same(mine["fraction"], own["fraction"])])
        gap = better * (own["value"] - control["value"])
        if control["kind"] == RANDOM and pair is not None and (gap > 0 or verdict(pair) is not None):
            continue  # the verdict, or that there is none, speaks of it
        if gap <= 0 or (_reaches(control, own) if pair is None else _is_open(pair)):
            name = str(control["label"]).partition(" (")[0] if control["kind"] not in ("method", RANDOM) else control["label"]
            short = "its own random weights" if control["kind"] == RANDOM else f"{name[:1].lower()}{name[1:]}"
            found.append(
                {
                    "short": short if control["kind"] != "method" else name,
                    "row": control,
                    "pair": None if pair is None or missing(pair["low"]) or control["kind"] == RANDOM else pair,  # its stands there
                    "sure": bool(gap <= 0),
                    "by_intervals": bool(gap > 0 and pair is None),
                }
            )
    return sorted(found, key=lambda c: -better * c["row"]["value"])


def _as_good_at(
    values: pd.DataFrame, mine: pd.DataFrame, own: pd.Series, share: float, weights: Collection[str], better: int
) -> list[Table]:
    """The same at another share."""
    here = values[(values["label"] == own["label"]) & is_same(values["use"], own["use"]) & is_same(values["fraction"], share)]
    there = _first(here)
    return [] if there is None else find_as_good(values, mine, there, weights, better)


def _is_open(pair: pd.Series) -> bool:
    """Whether a paired difference leaves open which side is better: by its corrected p-value, else by its interval."""
    if not missing(pair.get("p_holm")):
        return bool(pair["p_holm"] >= LEVEL)
    return missing(pair["low"]) or bool(pair["low"] <= 0 <= pair["high"])


def _reaches(control: pd.Series, own: pd.Series) -> bool:
    """Whether two intervals overlap; without the method's own nothing is shown, so it may be.

    A control without one is a constant, whose AUROC is 0.5 in every sample: its value counts.
    """
    if missing(own["low"]):
        return True
    low, high = (control["value"] if missing(control[end]) else control[end] for end in ("low", "high"))
    return bool(low <= own["high"] and own["low"] <= high)


def _first(rows: pd.DataFrame) -> pd.Series | None:
    return rows.iloc[0] if len(rows) else None
