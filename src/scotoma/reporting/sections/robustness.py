"""Robustness: what the classifiers lose on corrupted images."""

from __future__ import annotations

import pandas as pd

from scotoma import plugins
from scotoma.reporting import figures, svg
from scotoma.reporting.cells import Table, cell
from scotoma.reporting.csv_tables import Sheets

HEADING = "Robustness"
ORDER = 5
KEYS = ("corruption", "severity")
DROP = "auroc_relative_drop"
DRAWN = (DROP,)
WORDS = {"patches": "Patches painted over", "dropped_tokens": "Patches dropped", "all": "Mean over corruptions"}
HIDING = ("patches", "dropped_tokens")
BASELINES = ("random", "supervised")  # methods against whose errors the others are held, the first there is


def describe(rows: pd.DataFrame, sheets: Sheets) -> Table:
    """Mean relative drops by corruption, one column per classifier; and the drop by share of hidden patches, drawn."""
    labels = list(dict.fromkeys(rows["label"]))
    if not labels:
        return {}
    means = rows[(rows["metric"] == f"mean_{DROP}") & ~rows["corruption"].isin(HIDING)]
    clean = rows[(rows["metric"] == "auroc") & (rows["corruption"] == "clean")]
    baseline, relative = relative_errors(rows)
    names = sorted(dict.fromkeys(means["corruption"]), key=lambda c: c == "all")  # in the evaluator's order, the mean last
    by_name = [(c, means[means["corruption"] == c]) for c in names]
    lines = [(name_of(c), c == "all", [cell(of[of["label"] == n]) for n in labels]) for c, of in by_name]
    hidden = rows[(rows["metric"] == DROP) & rows["corruption"].isin(HIDING)]
    panels = [(name_of(c), part) for c, part in hidden.groupby("corruption", sort=False)]
    return {
        "heads": labels,
        "clean": [cell(clean[clean["label"] == n]) for n in labels],
        "lines": lines,
        "baseline": baseline,
        "relative": [cell(relative[relative["label"] == n]) for n in labels],
        "hidden": svg.uri(figures.hidden(panels, svg.styles(dict.fromkeys(labels, "method")))) if panels else "",
        "sheet": sheets.add("robustness", pd.concat([clean, means, relative.reindex(columns=rows.columns)])),
    }


def name_of(corruption: object) -> str:
    """What a corruption is called: the title of its module, its name where there is none."""
    name = str(corruption)
    return WORDS.get(name) or plugins.titles("corruptions").get(name) or name.replace("_", " ")


def relative_errors(rows: pd.DataFrame) -> tuple[str, pd.DataFrame]:
    """Corruption errors relative to a baseline, and its name; "" and no rows where only one classifier was tested.

    The mCE of Hendrycks and Dietterich (2019, section 4.2) with 1 - AUROC as the error: of each corruption the sum of errors over
    severities, divided by that of the baseline, and the mean over corruptions. Classifiers tested on other images than the
    baseline, or under other corruptions, have none.
    """
    kept = rows[(rows["metric"] == "auroc") & ~rows["corruption"].isin(["clean", *HIDING])]
    labels = list(dict.fromkeys(kept["label"]))
    if len(labels) < 2:
        return "", kept.iloc[:0]
    of_method = {m: kept.loc[kept["method"] == m, "label"].tolist() for m in BASELINES}
    baseline = next((found[0] for found in of_method.values() if found), labels[0])
    errors = kept.assign(error=1 - kept["value"]).pivot_table(index="corruption", columns="label", values="error", aggfunc="sum")
    tested = kept.groupby("label").agg({"n": "max", "target": "first"})
    alike = [n for n in labels if tested.loc[n].equals(tested.loc[baseline]) and errors[n].notna().equals(errors[baseline].notna())]
    ratios = errors[alike].div(errors[baseline].where(errors[baseline] > 0), axis=0).mean()
    found = kept.drop_duplicates("label").set_index("label").loc[alike].reset_index()
    found = found.assign(metric="relative_corruption_error", corruption="all", severity=None, reference=baseline)
    return baseline, found.assign(value=ratios[alike].to_numpy(), low=float("nan"), high=float("nan"))
