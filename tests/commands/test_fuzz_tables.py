"""Random small tables through the verbs: each gives its rows or one clear line, never a traceback, and nothing half-written.

Tables are drawn from what people's spreadsheets hold: ids with zeros, gaps, blanks and exponents, labels in several spellings,
splits that are none, columns twice, other separators and encodings, paths that name nothing. The images are ten small files.
"""

from __future__ import annotations

import csv
import importlib
import io
import itertools
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from PIL import Image

from scotoma import cli
from scotoma.data.store import builder, decode_worker
from scotoma.data.store.store import PROTOCOL
from scotoma.run_folder import read_rows, status

IMAGES = [*(f"{k:03d}.png" for k in range(6)), "a b.png", "7.png", "Größe.png", "sub/001.png"]
NUMBERS_OF_SORTS = [
    "0",
    "1",
    "-1",
    "1.0",
    "2.50",
    "1E5",
    "007",
    "20230301181139587",
    "3,5",
    "inf",
    "1e400",
    "=1+1",
    "058Y",
    "2024-01-03",
]
WORDS = ["a", "b", "A", "b ", "a|b", "left", "right", "Yes", "yes", "NA", "None", "n/a", "nan", "true", "[1]", "ü", "x" * 300]
CELLS = st.sampled_from(["", " ", "\t", "\x00", *NUMBERS_OF_SORTS, *WORDS])
PATHS = st.sampled_from(
    [*IMAGES, "broken.png", "absent.png", "./000.png", ".\\001.png", "000.PNG", "", "sub", "/etc/passwd", "000.png#1"]
)
CLASSES = st.lists(st.sampled_from(["a", "b", "0", "1", "1.0", "", "Yes", "yes ", "None", "-1", "a|b"]), min_size=2, max_size=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images, each with a look of its own."""
    root, rng = tmp_path_factory.mktemp("tables"), np.random.default_rng(0)
    (root / "sub").mkdir()
    for name in IMAGES:
        coarse = Image.fromarray(rng.integers(0, 255, (6, 6), dtype=np.uint8))
        coarse.resize((40, 40), Image.Resampling.BICUBIC).save(root / name)
    (root / "more").mkdir()
    for k in range(30):
        coarse = Image.fromarray(rng.integers(0, 255, (6, 6), dtype=np.uint8))
        coarse.resize((40, 40), Image.Resampling.BICUBIC).save(root / "more" / f"{k}.png")
    (root / "broken.png").write_bytes(b"no image")
    return root


@pytest.fixture(scope="module", autouse=True)
def _decoded_here() -> Iterator[None]:
    """Decode in this process: starting others is most of what a small table costs."""

    def run(partial: Path, n: int, workers: int, quiet: bool) -> None:
        (partial / "workers.log").touch()
        decode_worker.decode(partial, 0, 1, decode_worker.SECONDS)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builder, "_run_workers", run)
        importlib.import_module("scotoma.quality.audit")
        patch.setattr(sys.modules["scotoma.quality.audit"], "MOST_DETECTED", 1)  # nor is this about burned-in text
        yield


def column(n: int, cells: Any) -> Any:
    """A column of n cells; often of few different ones, as real ones are."""
    few = st.lists(cells, min_size=1, max_size=3).flatmap(lambda some: st.lists(st.sampled_from(some), min_size=n, max_size=n))
    return few | st.lists(cells, min_size=n, max_size=n)


def some(n: int) -> Any:
    """A few rows."""
    return st.lists(st.integers(0, n - 1), min_size=1, max_size=4)


@st.composite
def tables(draw: Any) -> dict[str, list[str]]:
    """Names -> cells, as text: a table that is right, with as many as four changes that people make."""
    n = draw(st.integers(16, 30))
    found = {
        "image_path": [IMAGES[k % len(IMAGES)] if k < len(IMAGES) or draw(st.booleans()) else f"more/{k}.png" for k in range(n)],
        "patient": [f"P{k % len(IMAGES)}" if k < len(IMAGES) else f"Q{k // 2}" for k in range(n)],
        "label": [draw(st.sampled_from("ab")) for _ in range(n)],
    }
    for change in draw(st.lists(st.sampled_from(CHANGES), max_size=4)):
        found = change(draw, found, n)
    return found


def rename(draw: Any, table: dict[str, list[str]], n: int) -> dict[str, list[str]]:
    old = draw(st.sampled_from(sorted(table)))
    new = {"image_path": ["Image_Path", "file", "path"], "patient": ["Patient", "patient_id", "PatientID", "pat"]}
    name = draw(st.sampled_from(new.get(old, [old.upper(), f" {old}", f"{old} "])))
    return {name if k == old else k: v for k, v in table.items()}


def odd_cells(draw: Any, table: dict[str, list[str]], n: int) -> dict[str, list[str]]:
    name = draw(st.sampled_from(sorted(table)))
    cells = list(table[name])
    for row in draw(some(n)):
        cells[row] = draw(PATHS if name == "image_path" else CELLS)
    return table | {name: cells}


def another_column(draw: Any, table: dict[str, list[str]], n: int) -> dict[str, list[str]]:
    names = [
        "study",
        "group",
        "frame",
        "mask_path",
        "row",
        "fold",
        "age",
        "sex",
        "note",
        "label_shares",
        "",
        "label.1",
        "embedding",
    ]
    return table | {draw(st.sampled_from(names)): draw(column(n, CELLS))}


def a_split(draw: Any, table: dict[str, list[str]], n: int) -> dict[str, list[str]]:
    sides = st.sampled_from(
        draw(st.sampled_from([["train", "test"], ["Train", "valid", "TEST", ""], ["train", "holdout"], ["0", "1"]]))
    )
    of = {patient: draw(sides) for patient in dict.fromkeys(table.get("patient", map(str, range(n))))}
    kept = draw(st.booleans())  # patients on one side each
    return table | {draw(st.sampled_from(["split", "split", "Split"])): [
        of[p] if kept else draw(sides) for p in table.get("patient", map(str, range(n)))]}  # fmt: skip


def other_labels(draw: Any, table: dict[str, list[str]], n: int) -> dict[str, list[str]]:
    return table | {"label": draw(st.lists(st.sampled_from(draw(CLASSES)), min_size=n, max_size=n))}


def other_patients(draw: Any, table: dict[str, list[str]], n: int) -> dict[str, list[str]]:
    ids = st.sampled_from(["P1", "P2", "p3", "P3 ", "04", "4", "", "5.0", "K-6", "1E5", "100000", "20230301181139587"])
    return table | {"patient": draw(st.lists(ids, min_size=n, max_size=n))}


def once_a_block(draw: Any, table: dict[str, list[str]], n: int) -> dict[str, list[str]]:
    name = draw(st.sampled_from(sorted(table)))
    return table | {name: [cell if k % 3 == 0 else "" for k, cell in enumerate(table[name])]}


def without(draw: Any, table: dict[str, list[str]], n: int) -> dict[str, list[str]]:
    name = draw(st.sampled_from(sorted(table)))
    return {k: v for k, v in table.items() if k != name} or table


ONCE = (rename, other_patients, once_a_block, without)
TWICE = (odd_cells, another_column, a_split, other_labels)
CHANGES = (*ONCE, *TWICE, *TWICE)  # as often as people make them


def as_csv(table: dict[str, list[str]], separator: str, encoding: str) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=separator)
    writer.writerow(table)
    writer.writerows(zip(*table.values(), strict=True))
    return text.getvalue().encode(encoding, "replace")


FORMS = st.sampled_from([(",", "utf-8")] * 4 + [(";", "utf-8-sig"), ("\t", "utf-16"), (",", "latin-1")])
NUMBERS = itertools.count()


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> int:
    """The exit code of a command: 0, or an error of one line."""
    capsys.readouterr()
    code = cli.main(list(arguments))
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    if code:
        last = said.err.splitlines()[-1]
        assert code in (1, 2), code
        assert last.startswith("scotoma: "), said.err
        assert len(last) < 1500, last
    return code


def split_of(capsys: pytest.CaptureFixture[str], source: Path, table: dict[str, list[str]]) -> Path | None:
    """A table through reader and `split`: the table that was written, whole and unharmed, or None."""
    out = source.with_name(f"split-{source.name}")
    code = run(capsys, "split", str(source), "--target", "label", "--out", str(out), "--quiet")
    assert (code == 0) == out.exists()
    assert not [p for p in out.parent.iterdir() if p.name.startswith(out.name) and p != out]
    if code:
        return None
    sides = pd.read_csv(out, dtype=str, keep_default_na=False)
    full = [any(cell.strip() for cell in row) for row in zip(*table.values(), strict=True)]  # a row without a cell is none
    table = {name: [cell for cell, kept in zip(cells, full, strict=True) if kept] for name, cells in table.items()}
    assert len(sides) == sum(full)
    assert set(sides["split"]) <= {"train", "val", "test", ""}
    for name in {"patient", "group"} & set(table):  # whoever has one id, in whatever case, stands on one side
        of = pd.DataFrame({"id": [i.strip().casefold() for i in table[name]], "side": sides["split"]})
        of = of[~of["id"].isin(["", "na", "none", "n/a", "nan"]) & (of["side"] != "")]
        assert (of.groupby("id")["side"].nunique() <= 1).all(), name
    return out


@pytest.fixture
def written(folder: Path) -> Iterator[Callable[..., Path]]:
    """Writes a table under a name of its own; what lies beside it goes with it."""
    made: list[Path] = []

    def write(table: dict[str, list[str]], form: tuple[str, str]) -> Path:
        made.append(folder / f"table{next(NUMBERS)}.csv")
        made[-1].write_bytes(as_csv(table, *form))
        return made[-1]

    yield write


def clear(source: Path) -> None:
    for path in source.parent.glob(f"*{source.stem}*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def through_all_verbs(capsys: pytest.CaptureFixture[str], source: Path, table: dict[str, list[str]], encoder: Path) -> int:
    """A table through `split`, `audit`, `finetune` and `evaluate`; how many of them gave rows."""
    beside = {verb: source.with_name(f"{verb}-{source.stem}") for verb in ("audit", "finetune", "evaluate")}
    data = split_of(capsys, source, table) or source
    found = data is not source
    usual = ("--data", str(data), "--quiet", "--target", "label", "--out")
    for verb, more in (
        ("audit", ()),
        ("finetune", ("--encoder", str(encoder), "--steps", "2", "--batch_size", "4", "--precision", "32-true")),
        ("evaluate", ("--run", str(beside["finetune"]))),
    ):
        if verb == "evaluate" and status(beside["finetune"]) != "finished":
            continue
        code = run(capsys, verb, *usual, str(beside[verb]), *more)
        assert (code == 0) == (status(beside[verb]) == "finished"), verb
        assert code == 0 or not beside[verb].exists(), verb  # nothing half-written
        if code == 0:
            rows = read_rows(beside[verb])
            assert rows, verb
            assert all(np.isfinite(row["value"]) for row in rows if isinstance(row.get("value"), float))
            found += 1
    return found


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network of random weights."""
    from scotoma.data import encoder_header
    from scotoma.models import encoders

    info = encoder_header.EncoderInfo("test_efficientnet", {}, 1, 32, (0.5,), (0.25,), {"protocol": PROTOCOL})
    path = tmp_path_factory.mktemp("encoder") / encoder_header.FILE
    encoders.save(path, encoders.build(info), info)
    return path


SHORT: dict[str, Any] = {"deadline": None, "derandomize": True, "phases": (Phase.generate,), "database": None}
SHORT["suppress_health_check"] = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]


@settings(max_examples=500, **SHORT)
@given(table=tables(), form=FORMS)
def test_split_writes_a_whole_table_or_says_one_line(
    capsys: pytest.CaptureFixture[str], written: Callable[..., Path], table: dict[str, list[str]], form: tuple[str, str]
) -> None:
    source = written(table, form)
    try:
        split_of(capsys, source, table)
    finally:
        clear(source)


CHUNKS = [(0, 20), *(pytest.param(k, 500, marks=pytest.mark.long) for k in range(1, 11))]


@pytest.mark.parametrize(("number", "count"), CHUNKS)
def test_four_verbs_give_rows_or_say_one_line(
    capsys: pytest.CaptureFixture[str], written: Callable[..., Path], encoder: Path, number: int, count: int
) -> None:
    done = []

    @seed(number)
    @settings(max_examples=count, **SHORT | {"derandomize": False})
    @given(table=tables(), form=FORMS)
    def check(table: dict[str, list[str]], form: tuple[str, str]) -> None:
        source = written(table, form)
        try:
            done.append(through_all_verbs(capsys, source, table, encoder))
        finally:
            clear(source)

    check()
    assert sum(n == 4 for n in done) >= count // 10  # the fuzz is no use where nothing comes to its end
