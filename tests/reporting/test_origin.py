"""Whether what was tested had been trained on the test images stands on the page, in the card and in the checklist."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.report_runs import auroc, make_study, write

from scotoma.data.provenance import Overlap
from scotoma.reporting.build import build
from scotoma.reporting.origin import origins
from scotoma.reporting.reading import read

COUNTS = [{"evaluator": "data", "metric": m, "split": "test", "value": v} for m, v in (("images", 40), ("patients", 20))]


@pytest.mark.parametrize(
    ("overlap", "words"),
    [
        (Overlap(40, 0, 0), "SimCLR: none of 40 test images (or their patients) were in its training."),
        (
            Overlap(40, 0, 0, (), 40, ((1, 90), (0, 40))),
            "were in its training; of the others that is not checked in full (no patient is known of 1 of 90 images of the",
        ),
        (Overlap(40, 7, 0), "SimCLR: 7 of 40 test images (or their patients) were in its training."),
        (
            Overlap(40, 0, 40, ("weights of a vendor",)),
            "whether it was trained on test images is not checked (weights of a vendor)",
        ),
        (
            Overlap(40, 7, 33, ("another key",)),
            "SimCLR: 7 of 40 test images (or their patients) were in its training; of the others",
        ),
    ],
)
def test_every_kind_is_told_everywhere(overlap: Overlap, words: str, tmp_path: Path) -> None:
    rows = [*auroc("simclr", "linear", (0.6, 0.7, 0.8, 0.9)), *COUNTS, overlap.row(method="simclr", encoder="resnet18")]
    folder = write(tmp_path / "run", rows, {"command": "evaluate", "data": "x.csv"})
    build([folder])
    for name in ("report.html", "model_card.md", "checklist.md"):
        assert words in (folder / name).read_text(), name


def test_rows_that_say_nothing_are_not_checked(tmp_path: Path) -> None:
    folder = make_study(tmp_path)
    build([folder])
    words = "Whether the weights were trained on test images is not checked: the runs do not state it."
    assert all(words in (folder / name).read_text() for name in ("report.html", "model_card.md"))
    from scotoma.reporting.reading import frame

    assert origins(frame(read([folder])), tested=False) == []
