"""Errors of a predicted number: of a study by share of the labels beside random weights and controls, of one model by metric."""

from __future__ import annotations

import pandas as pd

from scotoma import plugins
from scotoma.reporting import figures, svg
from scotoma.reporting.cells import Table, at, interval, is_same, missing, point
from scotoma.reporting.csv_tables import Sheets
from scotoma.reporting.naming import CONTROL, USES
from scotoma.reporting.sections.base import tabulate_models, tabulate_shares
from scotoma.reporting.verdicts import find_verdicts, kinds_of, name_pairs, nearest_tenth

HEADING = "Results: errors of the predicted number"
ORDER = 2
KEYS = ("unit", "use", "reference", "p_value", "p_holm")
TITLES = {
    "mae": "Mean absolute error",
    "mae_of_mean": "… of always predicting the mean",
    "rmse": "Root mean squared error",
    "bias": "Bias (predicted less true)",
    "r2": "R²",
    "pearson": "Correlation",
}
HEADLINE = ("mae", TITLES["mae"])
NAMES = {
    "linear": "Ridge regression on the frozen encoder",
    "pixels": "Pixels alone (32 px, PCA, ridge regression)",
    "majority": "Mean of the training labels",
}
TEXT = (
    "Here the model predicts a number. Errors are in the unit of {target}, as the table has it. The mean absolute error is the "
    "mean distance between prediction and true value; beside it stands the error of predicting the training images' mean for every "
    "image."
)
KEY = "R²: share of the numbers' spread that the model explains; 0 for the mean, negative for worse. Bias: above 0 it is too high."
KEY_OF_VALUES = "Lower is better. Means over the label draws. Brackets: 95 % interval."
KEY_OF_DIFFERENCES = (
    "Both models of a pair saw the same labels. ▲ pretraining helped, the error is smaller (Holm below 0.05). ▼ it harmed. ○ no "
    "difference shown, which does not prove that there is none. No mark: not tested. p: two-sided; Holm: corrected for the number "
    "of comparisons made. Differences over fewer than three draws have no interval."
)
KEY_OF_OTHERS = (
    "These pairs are no part of the comparisons that were corrected for: they have no verdict. Below zero the error is smaller."
)


def describe(rows: pd.DataFrame, sheets: Sheets) -> Table:
    """One model's errors, one column per metric; of a study the mean absolute error by share of the labels, and what it states."""
    if rows.empty:
        return {}
    table = tabulate_models(rows[rows["fraction"].isna()], TITLES, "errors of numbers", sheets)
    content: Table = {"text": TEXT.format(target=" and ".join(dict.fromkeys(rows["target"].dropna())) or "the number")}
    content["tables"] = [("Errors on the test images, with 95 % intervals", table, KEY)] if table else []
    study = rows[rows["fraction"].notna() & rows["seed"].isna()]
    if len(study):
        content |= _describe_study(study.assign(label=name_uses(study)), content["tables"], sheets)
        content["figures"] = _draw(study[study["metric"] == "mae"])
    return content if content["tables"] else {}


def name_uses(rows: pd.DataFrame) -> list[str]:
    """The name of each row's line: the control's, or the encoder's with its use; of a single model as it is."""
    names = plugins.titles("evaluators") | USES | NAMES
    found = []
    for label, method, use in zip(rows["label"], rows["method"], rows["use"], strict=True):
        title = names.get(str(use), str(use))
        found.append(str(label) if missing(use) else title if method == CONTROL else f"{label}, {title[0].lower()}{title[1:]}")
    return found


def _describe_study(study: pd.DataFrame, tables: list[tuple[str, Table, str]], sheets: Sheets) -> Table:
    """Tables, figure and verdicts of a study."""
    mae, differences = study[study["metric"] == "mae"], study[study["metric"] == "mae_difference"]
    shares = sorted(set(mae["fraction"]))
    tenth = nearest_tenth(shares)
    pairs, beside = name_pairs(differences, NAMES)
    others = study[is_same(study["fraction"], tenth) & ~study["metric"].isin(["mae", "mae_difference"])]
    found = (
        ("Mean absolute error by share of the labels", tabulate_shares(mae, shares, "", sheets.add("mae", mae)), KEY_OF_VALUES),
        (
            "Difference from random weights, same labels and test images",
            tabulate_shares(pairs, sorted(set(pairs["fraction"])), "", sheets.add("mae difference", pairs), better=-1),
            KEY_OF_DIFFERENCES,
        ),
        (
            "Difference from other controls, without verdict",
            tabulate_shares(
                beside, sorted(set(beside["fraction"])), "", sheets.add("mae difference from other controls", beside), -1
            ),
            KEY_OF_OTHERS,
        ),
        (f"Other measures {at(tenth)}", tabulate_models(others, TITLES, "other errors", sheets), KEY),
    )
    tables += [(f"{caption}, with 95 % intervals", table, key) for caption, table, key in found if table]
    here = mae[is_same(mae["fraction"], tenth)]
    findings = find_verdicts(mae.assign(kind=kinds_of(mae)), differences, tenth, better=-1)
    for finding in findings:
        finding["use"] = ""  # the line's name has it
    controls = {use: row for use in ("majority", "pixels", "header") for _, row in here[here["use"] == use].head(1).iterrows()}
    told = {
        "majority": "Predicting the mean of the training labels errs by",
        "pixels": "A control that sees thumbnails of 32 pixels and uses no network errs by",
    }
    n, labels, target = here["n"].max(), here["labels"].max(), here["target"].iloc[0]
    scope = f"What follows holds for the {n:,.0f} test images with a number in {target}, {at(tenth)} (n = {labels:,.0f} labelled "
    scope += f"training images), measured by the mean absolute error in the unit of {target} (0 is perfect, lower is better)."
    scope = " ".join([scope, *(f"{words} {_estimate(controls[use])}." for use, words in told.items() if use in controls)])
    return {"scope": scope, "metric": TITLES["mae"], "unit": "labels", "findings": findings, "warning": _warn(controls)}


def _warn(controls: dict[str, pd.Series]) -> str:
    """A warning where image sizes and headers predict the number; empty where they do not."""
    header, mean = controls.get("header"), controls.get("majority")
    if header is None or mean is None or not header["high"] < mean["low"]:
        return ""
    return (
        f"Image size and header facts alone, without one pixel, err by {_estimate(header)}: clearly less than the mean of the "
        "training labels. Part of what any model here does may be to recognise where or how an image was made. Check where the "
        "numbers come from before trusting any result on this page."
    )


def _estimate(row: pd.Series) -> str:
    """A value with its interval, in a sentence."""
    return point(row) + (f" ({interval(row)})" if interval(row) else "")


def _draw(mae: pd.DataFrame) -> list[Table]:
    """The mean absolute error by share of the labels, one panel per use of encoders, with the controls; nothing of one share."""
    if mae["fraction"].nunique() < 2:
        return []
    control = mae["method"] == CONTROL
    named = mae.assign(label=mae["label"].where(~control, pd.Series(name_uses(mae), mae.index)))
    kinds = kinds_of(mae)
    names = plugins.titles("evaluators") | USES | NAMES
    uses = dict.fromkeys(mae.loc[~control, "use"]) or {"": None}
    panels = [(names.get(use, "Controls"), named[control | (named["use"] == use)]) for use in uses]
    drawing = svg.uri(figures.curve(panels, svg.styles(dict(zip(named["label"], kinds, strict=True))), TITLES["mae"], perfect=0.0))
    shows = "How far predictions lie off when only part of the training labels may be used. Controls stand in every panel."
    read = "lower is better; a line that is already low on the left needs few labels."
    return [{"uri": drawing, "title": "Mean absolute error by share of labels", "shows": shows, "read": read}]
