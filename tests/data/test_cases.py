"""Small inputs that once went wrong: each comes out right, or is refused with a line that states what to do.

The inputs are written by the scripts that lie beside the real data (``$SCOTOMA_DATA/../cases``); none is a part of the project.
"""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scotoma.data import sources
from scotoma.data.labels import classes, masks, targets
from scotoma.data.store import store
from scotoma.errors import ScotomaError

SIZE = 64  # of a store of side 96, for which the expected values are
Case = Callable[[str], Path]


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Case:
    """The folder into which a case's script has written."""
    made: dict[str, Path] = {}

    def make(number: str) -> Path:
        if number not in made:
            scripts = sorted((data_root.parent / "cases").glob(f"{number}_*/make.py"))
            if not scripts:
                pytest.skip(f"no case {number} beside {data_root}")
            made[number] = tmp_path_factory.mktemp(f"case{number}")
            subprocess.run([sys.executable, "-P", str(scripts[0]), str(made[number])], check=True, capture_output=True)
        return made[number]

    return make


def labels_of(folder: Path, sheet: str, on: str, target: str) -> dict[str, str]:
    """Image name -> label, of the images that have one."""
    dataset, columns = classes.prepare_target(sources.load(folder / "scans", folder / sheet, on), [target])
    found = targets.read(dataset, columns)
    names = [str(Path(p).relative_to(folder / "scans")) for p in dataset.table["image_path"]]
    return {n: found.classes[k] for n, k in zip(names, found.y.tolist(), strict=True) if k >= 0}


def refused(action: Callable[[], object]) -> str:
    """The line with which something is refused."""
    with pytest.raises(ScotomaError) as caught:
        action()
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def far_off(folder: Path, rows: pd.DataFrame) -> dict[str, float]:
    """Name -> largest difference from the expected pixels, of the rows of one data set that differ by more than they may."""
    expected = np.load(folder / "expected.npy")[rows.index]
    frame = rows[["image_path", *(["frame"] if rows["frame"].notna().any() else [])]].reset_index(drop=True)
    frame["image_path"] = [str(folder / p) for p in frame["image_path"]]
    dataset, opened = store.prepare(sources.load(frame), SIZE, 3, quiet=True)
    pixels = opened.pixels[dataset.table["row"].to_numpy()].astype(int)
    assert len(pixels) == len(rows), "not all can be read"
    off = np.abs(pixels - expected).reshape(len(rows), -1).max(1)
    return {n: float(d) for n, d, t in zip(rows["name"], off, rows["tol"].fillna(1), strict=True) if d > t}


def read_rows(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "table.csv")


# One data set has one rule for its grey levels: files of other depths are data sets of their own.
@pytest.mark.parametrize("number", ["09", "53"])
def test_volumes_have_the_expected_grey_levels(case: Case, number: str) -> None:
    rows = read_rows(case(number))
    parts = [part for _, part in rows.groupby(rows["name"].str.partition("_")[0])] if number == "53" else [rows]
    assert [found for part in parts if (found := far_off(case(number), part))] == []


def test_images_have_the_expected_grey_levels(case: Case) -> None:
    rows = read_rows(case("10"))
    expected = np.load(case("10") / "expected.npy")
    deep = rows["name"].str.contains("16|32|64|float|int|stack|imagej")
    alike = [hash(expected[k].tobytes()) if "miniswhite" not in n else n for k, n in zip(rows.index, rows["name"], strict=True)]
    parts = [rows[~deep], *(part for _, part in rows[deep].groupby(pd.Series(alike)[deep]))]
    found = {k: v for part in parts for k, v in far_off(case("10"), part).items()}
    assert found == {}


def test_a_slide_is_one_image(case: Case) -> None:
    dataset = sources.load(case("13") / "slides")
    assert len(dataset) == 8
    assert dataset.table["label"].value_counts().to_dict() == {"benign": 4, "tumour": 4}


def test_a_folder_from_a_pacs_is_read_whole(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    root = case("14") / "scans"
    dataset = sources.load(root)
    names = [Path(p.split("#")[0]).name for p in dataset.table["image_path"]]
    counts = {name: names.count(name) for name in set(names)}
    assert counts == {
        "cine.dcm": 5, "CINE2": 5, "IM0001": 1, "IM0002": 1, "1.2.840.99.5": 1, "umlaut.dcm": 1, "a.png": 1, "b.webp": 1,
        "c.jfif": 1, "d.gif": 1, "e.jp2": 1, "f.JPG": 1, "v.nii.gz": 4, "cut.nii.gz": 4,
    }  # fmt: skip
    assert "left out" in capsys.readouterr().err
    readable, opened = store.prepare(dataset, SIZE, 1, quiet=True)
    assert len(readable) == len(dataset) - 4  # all but the truncated volume
    assert len(np.unique(opened.pixels[readable.table["row"].to_numpy()].reshape(len(readable), -1), axis=0)) == len(readable)


def test_a_number_names_a_patient_or_an_image_and_never_both(case: Case) -> None:
    found = labels_of(case("20"), "labels.csv", "patient", "diagnosis")
    assert len(found) == 60
    assert all(label == ("sick" if int(name.split("/")[0]) % 2 else "well") for name, label in found.items())


@pytest.mark.parametrize("sheet", ["labels.csv", "labels.xlsx"])
def test_none_and_na_are_classes(case: Case, sheet: str, capsys: pytest.CaptureFixture[str]) -> None:
    for column, words in (("finding", ["None", "Nodule", "Mass"]), ("region", ["NA", "EU", "AS"])):
        found = labels_of(case("21"), sheet, "file", column)
        assert found == {f"im{i:03d}.png": words[i % 3] for i in range(60)}
    assert "None" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["a", "b", "c"])
def test_ids_are_text(case: Case, kind: str) -> None:
    folder = case("22")
    dataset = sources.load(folder / kind, folder / f"{kind}.csv", "accession")
    sheet = pd.read_csv(folder / f"{kind}.csv", dtype=str, keep_default_na=False)
    wanted = dict(zip(sheet["accession"], sheet["label"], strict=True))
    found = {Path(p).stem: str(v) for p, v in zip(dataset.table["image_path"], dataset.table["label"], strict=True)}
    assert found == {k: v for k, v in wanted.items() if k}


def test_text_in_label_columns(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    folder = case("23")
    source = pd.read_csv(folder / "table.csv", dtype=str, keep_default_na=False)
    dataset = sources.load(folder / "table.csv")

    def read(*names: str, separator: str | None = None) -> tuple[targets.Target, str]:
        """A target as the verbs read it, and what they say of it."""
        capsys.readouterr()
        ready, columns = classes.prepare_target(dataset, names, separator=separator)
        return targets.read(ready, columns), capsys.readouterr().err

    joined, said = read("case")
    assert [c.casefold() for c in joined.classes] == ["normal", "pneumonia"]
    assert [joined.classes[k].casefold() for k in joined.y] == source["case"].str.strip().str.casefold().tolist()
    assert "case" in said
    assert "-1" in refused(lambda: read("uncertain"))
    floats, _ = read("floats")
    assert [floats.classes[k] for k in floats.y] == [v[0] for v in source["floats"]]
    blankish, said = read("blankish")
    assert (blankish.y[source["blankish"].str.strip() == ""] == -1).all()
    assert "blankish" in said
    assert "`separator`" in read("findings")[1]
    several, _ = read("findings", separator="|")
    assert several.classes == ("Effusion", "Mass", "No Finding")
    assert several.y[:5].tolist() == [[0, 0, 1], [1, 0, 0], [1, 1, 0], [0, 1, 0], [1, 1, 0]]


SHEETS = {  # sheet -> image name -> class, or a word of the line that refuses it
    "text_ids": lambda i: "ba"[i % 2],
    "hidden_first": lambda i: "ba"[i % 2],
    "title_rows": lambda i: "ba"[i % 2],
    "header_blank": lambda i: "ba"[i % 2],
    "merged": lambda i: "ba"[(i // 4) % 2],
    "yes_no": lambda i: "yes" if i % 8 < 4 else "no",
    "error_cells": lambda i: None if i % 6 == 5 else "ba"[i % 2],
    "ids_as_dates": lambda i: None if i < 3 else "ba"[i % 2],
    "formulas_no_cache": "formula",
    "dup_conflict": "one row per image",
    "expo": "names",
}


@pytest.mark.parametrize("sheet", SHEETS)
def test_spreadsheets_as_people_keep_them(case: Case, sheet: str) -> None:
    expected = SHEETS[sheet]
    if isinstance(expected, str):
        assert expected in refused(lambda: labels_of(case("25"), f"{sheet}.xlsx", "acc", "dx"))
        return
    found = labels_of(case("25"), f"{sheet}.xlsx", "acc", "dx")
    wanted = {f"{i + 1:04d}.png": expected(i) for i in range(24)}
    assert {k: v.casefold() for k, v in found.items()} == {k: v for k, v in wanted.items() if v}


PLAIN_FORMS = ("comma", "semicolon", "semicolon_bom_crlf", "comma_bom_crlf", "latin1", "utf16", "tab", "labels.tsv", "sep_line",
               "comment_rows", "cr_only")  # fmt: skip
FORMS = {"dup_columns.csv": "befund", "ragged.csv": "row", "dup_rows_same.csv": ""}


@pytest.mark.parametrize("form", [*PLAIN_FORMS, "decimal_comma", *FORMS])
def test_one_table_as_programs_write_it(case: Case, form: str) -> None:
    folder, sheet = case("26"), form if "." in form else f"{form}.csv"
    if form in ("dup_columns.csv", "ragged.csv"):
        assert FORMS[form] in refused(lambda: labels_of(folder, sheet, "datei", "befund"))
        return
    names = [*(f"a{i:02d}.png" for i in range(12)), "Größe.png"]
    wanted = {n: ["krank", "gesund"][i % 2] for i, n in enumerate(names)}
    try:
        assert labels_of(folder, sheet, "datei", "befund") == wanted
    except ScotomaError as error:
        assert form == "dup_rows_same.csv", error  # twice the same row: once, or refused
    if form in PLAIN_FORMS:  # decimal commas between commas: text, which a regression refuses
        dataset = sources.load(folder / "scans", folder / sheet, "datei")
        ages = targets.read(dataset, ["alter"], numbers=True).numbers
        found = {Path(p).name: a for p, a in zip(dataset.table["image_path"], ages, strict=True)}
        assert found == pytest.approx({n: 40.5 + i if i < 12 else 61.5 for i, n in enumerate(names)})


def test_names_in_other_spellings_are_matched_and_counted(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    found = labels_of(case("28"), "labels.csv", "file", "diagnosis")
    number = {name: int(name.rpartition("_")[2].removesuffix(".png")) for name in found}
    assert all(label == ["well", "sick"][number[name] % 2] for name, label in found.items())
    assert set(number.values()) >= {i for i in range(48) if i % 8 != 4}  # i % 8 == 4 names .dcm files that are not there
    said = capsys.readouterr().err
    assert "48" in said or "42" in said


@pytest.mark.parametrize("column", ["block", "ways"])
def test_a_patient_stands_on_one_side(case: Case, column: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from scotoma.commands.split import split

    folder = case("29")
    try:
        out = split(folder / f"{column}.csv", tmp_path / "split.csv", ["dx"], quiet=True)
    except ScotomaError as error:
        assert "patient" in str(error)
        return
    sides = pd.read_csv(out, dtype=str).groupby("true_patient")["split"].nunique()
    leaking = int((sides > 1).sum())
    assert leaking == 0 or (column == "ways" and "alike" in capsys.readouterr().err), leaking


# The images of these state no place (no pixel spacing; frames of which the segmentation knows nothing): no guess is made.
NO_PLACE = {"multi": "refers to no frame of this image", "slices_with_nifti_mask": "states where it lies, and its image does not"}


@pytest.mark.long
def test_masks_lie_on_their_images(case: Case) -> None:
    folder = case("50")
    rows = read_rows(folder)
    expected = np.load(folder / "expected_masks.npy")
    wrong = {}
    for kind, part in rows.groupby(rows["name"].str.replace(r"_\d+$", "", regex=True)):
        frame = part[["image_path", "mask_path", "patient", *(["frame"] if part["frame"].notna().any() else [])]]
        dataset = sources.load(replace_paths(frame.reset_index(drop=True), folder))
        readable, opened = store.prepare(dataset, SIZE, 1, quiet=True)
        if kind in NO_PLACE:
            said = refused(functools.partial(masks.read, readable, opened.side))
            wrong |= {kind: said} if NO_PLACE[kind] not in said else {}
            continue
        maps = masks.read(readable, opened.side).maps(np.arange(len(part)))
        truth = expected[part.index]
        if not np.array_equal(maps, truth):
            wrong[kind] = f"{int((maps != truth).sum())} pixels"
    assert wrong == {}


def replace_paths(frame: pd.DataFrame, folder: Path) -> pd.DataFrame:
    return frame.assign(**{c: [str(folder / p) for p in frame[c]] for c in ("image_path", "mask_path")})


@pytest.mark.long
def test_weights_of_other_programs_are_loaded_whole_or_refused(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    from scotoma.data import encoder_header
    from scotoma.models import encoders, pretrained_weights

    folder = case("30")
    plain = {
        name: torch.load(folder / file, weights_only=True) for name, file in (("vit", "plain.pth"), ("resnet", "tv_resnet18.pth"))
    }
    for path in sorted(folder.iterdir()):
        resnet = "resnet" in path.name or path.name == "mocov2.pth"
        timm_name, kwargs = encoders.resolve("resnet18" if resnet else "vit_tiny_patch16", 224)
        info = encoder_header.EncoderInfo(timm_name, kwargs, 3, 224, (0.5,) * 3, (0.5,) * 3)
        network = encoders.build(info)
        try:
            pretrained_weights.start(network, info, str(path))
        except ScotomaError as error:
            assert path.name in str(error)
            continue
        source = plain["resnet" if resnet else "vit"]
        off = [name for name, tensor in network.state_dict().items()
               if name in source and not torch.allclose(tensor.float(), source[name].float(), atol=1e-3)]  # fmt: skip
        assert off == [], path.name
        assert set(network.state_dict()) <= set(source)


def test_every_case_is_tested(data_root: Path) -> None:
    folders = [p.parent.name[:2] for p in (data_root.parent / "cases").glob("*/make.py")]
    text = Path(__file__).read_text()
    assert [n for n in sorted(folders) if f'"{n}"' not in text] == []
