"""The reporting checklists: complete, numbered as the guidelines are, filled in by what a run knows."""

from __future__ import annotations

import re
from pathlib import Path

from helpers.report_runs import SAID, finetuned, network, row, write

from scotoma.reporting.build import build
from scotoma.reporting.checklist import ITEMS, checklist
from scotoma.reporting.reading import frame, read
from scotoma.reporting.results import results
from scotoma.reporting.statements import facts


def test_no_item_is_missing() -> None:
    numbers = {g: [n for guideline, _, n, _, _ in ITEMS if guideline == g] for g in ("TRIPOD+AI", "CLAIM", "STARD-AI")}
    assert numbers["CLAIM"] == [str(n) for n in range(1, 45)]
    whole = [int(re.sub(r"\D", "", n)) for n in numbers["TRIPOD+AI"]]
    assert sorted(set(whole)) == list(range(1, 28)) and whole == sorted(whole)
    parts: dict[int, str] = {}
    for number in numbers["TRIPOD+AI"]:
        parts[int(re.sub(r"\D", "", number))] = parts.get(int(re.sub(r"\D", "", number)), "") + re.sub(r"\d", "", number)
    assert {n: p for n, p in parts.items() if p} == {
        3: "abc", 5: "ab", 6: "abc", 8: "abc", 9: "abc", 12: "abcdefg", 18: "abcdef", 20: "abc", 23: "ab", 27: "abc",
    }  # fmt: skip


def test_stard_ai_has_its_forty_items() -> None:
    numbers = [number for guideline, _, number, _, _ in ITEMS if guideline == "STARD-AI"]
    parts = {15: "abcd", 16: "abc", 17: "ab", 26: "ab", 40: "ab"}
    assert numbers == [f"{n}{part}" for n in range(1, 41) for part in parts.get(n, [""])] and len(numbers) == 48


def test_items_are_ticked_only_by_what_was_done(tmp_path: Path) -> None:
    """Subgroups, exclusions, quality checks, and how often a test set was used: what a run cannot know stays open."""
    rows = [
        {"evaluator": "data", "metric": "images", "split": "test", "value": 60},
        {
            "evaluator": "data",
            "metric": "tested",
            "split": "test",
            "value": 50,
            "n": 60,
            "unit": "patient",
            "patients": 20,
            "rule": "x",
        },
        {"evaluator": "data", "metric": "unreadable", "value": 2},
        row("metrics", "auroc", 0.871, n=50),
    ]
    folder = write(tmp_path / "run", rows, {"command": "evaluate", "target": ["label"]})
    network(folder / "model.safetensors", SAID)
    build([folder])
    text = (folder / "checklist.md").read_text()
    reached = "SimCLR, the trained classifier: AUROC 0.871 (95 % interval 0.851 to 0.891)."
    left_out = (
        "Unreadable files left out: 2. Test images without a label that is tested: 10 of 60. TO FILL: criteria of inclusion "
        "and exclusion, and what was left out before these data"
    )
    for line in (
        f"- [ ] **23a** (performance with intervals, in subgroups too): {reached} TO FILL: subgroups (scotoma evaluate --with "
        "subgroups)",
        f"- [ ] **8** (who and what was included and excluded): {left_out}",
        "- [ ] **20c** (test patients beside training patients): TO FILL",
        "- [ ] **30** (results of the index test against the reference standard, as counts): TO FILL",
        f"- [x] **31** (accuracy with its precision): {reached}",
    ):
        assert line in text.splitlines(), line
    assert "used once" not in text and "quality checks of the data (scotoma audit)" in text
    quartiles = {"lower_quartile": 40, "upper_quartile": 60}
    more = [
        row("subgroups", "auroc_gap", 0.2, column="sex", highest="F", lowest="M"),
        {"evaluator": "cohort", "metric": "median", "split": "test", "column": "age", "value": 50, "n": 20} | quartiles,
        row("operating", "sensitivity", 0.8, threshold=0.3, tp=8, fp=5, fn=2, tn=45, **{"class": "effusion"}),
    ]
    again = write(tmp_path / "again", [*rows, *more], {"command": "evaluate"})
    build([again])
    text = (again / "checklist.md").read_text()
    for words in (
        "- [x] **23a**",
        "- [x] **20c** (test patients beside training patients): The report's table",
        "beside counts: age.",
        "effusion: 8 true positive, 5 false positive, 2 false negative, 45 true negative.",
    ):
        assert words in text, words


def test_every_fact_that_an_item_asks_for_can_be_known(tmp_path: Path) -> None:
    folders = read([finetuned(tmp_path / "run")])
    rows = frame(folders)
    known = facts(folders, rows, results(rows, several=False))
    assert {key for *_, key in ITEMS if key} - set(known) == {
        "robustness",
        "composition",
        "cross_table",
        "stored",
    }, "of the run nothing was corrupted, compared, counted or kept"


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
