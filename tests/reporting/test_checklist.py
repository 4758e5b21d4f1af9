"""The reporting checklists: complete, numbered as the guidelines are, filled in by what a run knows."""

from __future__ import annotations

import re
from pathlib import Path

from helpers.report_runs import finetuned, write

from scotoma.reporting.build import build
from scotoma.reporting.checklist import ITEMS, checklist
from scotoma.reporting.reading import frame, read
from scotoma.reporting.results import results
from scotoma.reporting.statements import facts


def test_no_item_is_missing() -> None:
    numbers = {g: [n for guideline, _, n, _, _ in ITEMS if guideline == g] for g in ("TRIPOD+AI", "CLAIM")}
    assert numbers["CLAIM"] == [str(n) for n in range(1, 45)]
    whole = [int(re.sub(r"\D", "", n)) for n in numbers["TRIPOD+AI"]]
    assert sorted(set(whole)) == list(range(1, 28)) and whole == sorted(whole)
    parts: dict[int, str] = {}
    for number in numbers["TRIPOD+AI"]:
        parts[int(re.sub(r"\D", "", number))] = parts.get(int(re.sub(r"\D", "", number)), "") + re.sub(r"\d", "", number)
    assert {n: p for n, p in parts.items() if p} == {
        3: "abc", 5: "ab", 6: "abc", 8: "abc", 9: "abc", 12: "abcdefg", 18: "abcdef", 20: "abc", 23: "ab", 27: "abc",
    }  # fmt: skip


def test_every_fact_that_an_item_asks_for_can_be_known(tmp_path: Path) -> None:
    folders = read([finetuned(tmp_path / "run")])
    rows = frame(folders)
    known = facts(folders, rows, results(rows, several=False))
    assert {key for *_, key in ITEMS if key} - set(known) == {"robustness"}, "of the made run nothing was corrupted"


def test_items_are_ticked_where_nothing_is_open(tmp_path: Path) -> None:
    folder = finetuned(tmp_path / "run")
    build([folder])
    text = (folder / "checklist.md").read_text()
    for line in (
        "- [x] **20** (what keeps these apart: patient, study, image): By patient: none is in two sets. "
        "Whether the weights were trained on test images is not checked: the runs do not state it.",
        "- [ ] **14** (what counts as the truth): Labels: effusion. TO FILL: how and by whom they were made",
        "- [ ] **30** (robustness): TO FILL",
        "- [ ] **17** (ethical approval and consent): TO FILL",
    ):
        assert line in text.splitlines(), line
    assert text.count("\n- [") == len(ITEMS)
    bare = write(tmp_path / "bare", [{"evaluator": "pretrain", "metric": "loss", "value": 1.0}], {"command": "pretrain"})
    build([bare])
    assert "- [ ] **37** (performance and its uncertainty): TO FILL" in (bare / "checklist.md").read_text()
    assert "\n### Results: performance\n" in checklist("x", {})
