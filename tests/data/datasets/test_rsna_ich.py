from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.lookalike import column, text, under
from helpers.public_sets import HEMORRHAGES, ct_slice, table_rows

from scotoma.data.datasets import rsna_ich
from scotoma.errors import UsageError

SLICES = {"ID_12cadc6af": (0, 0, 0, 0, 0, 0), "ID_38fd7baa0": (0, 0, 1, 1, 0, 1), "ID_6c5d82413": (1, 0, 0, 0, 0, 1)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rows = table_rows(SLICES)
    text(tmp_path / "stage_2_train.csv", "ID,Label", *rows, *rows[6:12])  # a few slices are listed twice
    for k, name in enumerate(SLICES):
        level = np.full((16, 16), 40)
        level[:8] = (0, 80, 180)[k]
        ct_slice(tmp_path / "stage_2_train" / f"{name}.dcm", f"ID_p{k // 2}", f"ID_s{k}", level)
    return tmp_path


def test_six_rows_become_one(root: Path) -> None:
    found = rsna_ich.load(root)
    assert under(found, root) == [f"stage_2_train/{name}.dcm" for name in SLICES]
    for k, finding in enumerate(HEMORRHAGES):
        assert column(found, finding) == [labels[k] for labels in SLICES.values()], finding
    assert "slice" not in found.table
    assert found.display.windows == ((40, 80), (80, 200), (400, 1800))


def test_a_finding_that_is_not_listed_is_missing(root: Path) -> None:
    path = root / "stage_2_train.csv"
    path.write_text(path.read_text().replace("ID_12cadc6af_subdural,0\n", ""))
    assert column(rsna_ich.load(root), "subdural") == [None, 0, 0]


@pytest.mark.parametrize(("row", "said"), [("ID_12cadc6af_subdural,1", "both 0 and 1"), ("ID_12cadc6af_stroke,1", "no finding")])
def test_another_table_is_refused(root: Path, row: str, said: str) -> None:
    with (root / "stage_2_train.csv").open("a") as file:
        file.write(f"{row}\n")
    with pytest.raises(UsageError, match=said):
        rsna_ich.load(root)
