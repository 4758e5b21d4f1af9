"""Whether what is tested was trained on the test images, in sentences: from the rows that state it."""

from __future__ import annotations

import pandas as pd

from scotoma.reporting.naming import label_of

NOT_CHECKED = "not checked"


def origins(rows: pd.DataFrame, tested: bool) -> list[str]:
    """A sentence for each tested network of which rows say how many test images it was trained on.

    Args:
        rows: all rows.
        tested: whether any network was tested; without rows that state it it is not checked.
    """
    data = rows[(rows["evaluator"] == "data") & (rows["metric"] == "overlap")]
    if data.empty:
        return [f"Whether the weights were trained on test images is {NOT_CHECKED}: the runs do not state it."] if tested else []
    last = data.drop_duplicates(["run", "method", "encoder"], keep="last")
    several = last["encoder"].nunique() > 1
    return list(dict.fromkeys(_sentence(row, label_of(row["method"], row["encoder"], several)) for _, row in last.iterrows()))


def _sentence(row: pd.Series, label: str) -> str:
    patients = " (or their patients)" if row.get("whose") == "patients" else ""
    of, reason = f"of {row['n']:,.0f} test images{patients}", row["reason"]
    if row["overlap"] == NOT_CHECKED:
        return f"{label}: whether it was trained on test images is {NOT_CHECKED} ({reason}), which does not mean that it was not."
    rest = f"; of the others that is {NOT_CHECKED} in full ({reason})" if isinstance(reason, str) else ""
    count = f"{row['value']:,.0f}" if row["value"] else "none"
    return f"{label}: {count} {of} were in its training{rest}."
