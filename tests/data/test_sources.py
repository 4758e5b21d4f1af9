"""Everything `--data` and `--labels` may name, read into the same kind of table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from scotoma.commands.prepare import prepare
from scotoma.data import dataset as dataset_
from scotoma.data import pseudonyms, sources
from scotoma.data.io import read as images
from scotoma.errors import UsageError


def names(dataset: dataset_.Dataset) -> list[str]:
    return [Path(p).name for p in dataset.table["image_path"]]


def draw_image(path: Path, value: int = 90, size: tuple[int, int] = (24, 20)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(size, value, np.uint8)).save(path)
    return path


def hashed(value: str) -> str:
    return pseudonyms.pseudonym(pseudonyms.canonical(value), pseudonyms.load_key())


def test_flat_folder_in_natural_order_without_what_is_no_image(tmp_path: Path) -> None:
    for name in ("scan10.png", "scan2.jpg", "scan1.png", ".hidden.png"):
        draw_image(tmp_path / "scans" / name)
    (tmp_path / "scans" / "notes.txt").write_text("none")
    dataset = sources.load(tmp_path / "scans")
    assert dataset.name == "scans"
    assert names(dataset) == ["scan1.png", "scan2.jpg", "scan10.png"]
    assert list(dataset.table.columns) == ["image_path"]
    assert all(Path(p).is_absolute() for p in dataset.table["image_path"])


def test_folder_of_classes(grey_folder) -> None:  # type: ignore[no-untyped-def]
    dataset = sources.load(str(grey_folder(3, ("left", "right"))))
    assert dataset.table["label"].value_counts().to_dict() == {"left": 3, "right": 3}
    assert all(Path(p).parent.name == label for p, label in zip(dataset.table["image_path"], dataset.table["label"], strict=True))
    assert "split" not in dataset.table


def test_folder_of_splits_and_classes(tmp_path: Path) -> None:
    for split in ("Training", "valid", "TEST"):
        for label in ("a", "b"):
            draw_image(tmp_path / split / label / "1.png")
    counts = sources.load(tmp_path).table.groupby(["split", "label"]).size().to_dict()
    assert counts == {(s, c): 1 for s in ("train", "val", "test") for c in ("a", "b")}


def test_pages_of_a_file_are_rows(tmp_path: Path) -> None:
    pages = [Image.fromarray(np.full((20, 20), 40 * k, np.uint8)) for k in range(3)]
    pages[0].save(tmp_path / "stack.tiff", save_all=True, append_images=pages[1:])
    dataset = sources.load(tmp_path)
    assert dataset.table["frame"].tolist() == [0, 1, 2]
    read = [
        int(images.read(p, int(f)).pixels.max()) for p, f in zip(dataset.table["image_path"], dataset.table["frame"], strict=True)
    ]
    assert read == [0, 40, 80]


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".xlsx"])
def test_table_with_paths_relative_to_it(tmp_path: Path, suffix: str) -> None:
    draw_image(tmp_path / "set" / "inner" / "a.png")
    frame = pd.DataFrame(
        {"image_path": ["inner/a.png", "/far/b.png"], "mask_path": ["m.png", None], "age": [61, None], "y": ["x", "z"]}
    )
    path = tmp_path / "set" / f"mine{suffix}"
    {".csv": frame.to_csv, ".parquet": frame.to_parquet, ".xlsx": frame.to_excel}[suffix](path, index=False)
    dataset = sources.load(path)
    assert dataset.name == "mine"
    assert dataset.table["image_path"].tolist() == [str(tmp_path / "set" / "inner" / "a.png"), "/far/b.png"]
    assert sources.values(dataset.table["mask_path"]) == [str(tmp_path / "set" / "m.png"), None]
    assert sources.values(dataset.table["age"]) == [61, None]
    assert dataset.table["y"].tolist() == ["x", "z"]


def test_data_frame_is_relative_to_the_working_folder_and_left_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    frame = pd.DataFrame({"image_path": [Path("a.png"), "b.png"], "patient": ["P1", "P2"]}, index=[7, 9])
    dataset = sources.load(frame)
    assert dataset.table["image_path"].tolist() == [str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    assert dataset.table.index.tolist() == [0, 1]
    assert frame["patient"].tolist() == ["P1", "P2"]


def test_patients_and_studies_are_hashed_at_once_and_alike_however_written(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"image_path": [f"{k}.png" for k in range(5)], "patient": ["007", "7", "7.0", "Doe^Jane", ""], "study": [1, 2, 3, None, 1]}
    )
    read = sources.load(frame).table
    assert sources.values(read["patient"]) == [hashed("7")] * 3 + [hashed("Doe^Jane"), None]
    assert sources.values(read["study"]) == [hashed("1"), hashed("2"), hashed("3"), None, hashed("1")]
    frame.to_csv(tmp_path / "t.csv", index=False)
    assert sources.values(sources.load(tmp_path / "t.csv").table["patient"]) == sources.values(read["patient"])
    assert "Jane" not in read.to_csv()


def test_nullable_columns_of_parquet(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"image_path": ["a.png", "b.png"], "patient": pd.array([5, None], "Int64"), "split": pd.array(["train", None], "string")}
    )
    frame.to_parquet(tmp_path / "t.parquet")
    read = sources.load(tmp_path / "t.parquet").table
    assert sources.values(read["patient"]) == [hashed("5"), None]
    assert sources.values(read["split"]) == ["train", None]


def test_medmnist_single_and_several_labels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    counts = {"train": 4, "val": 2, "test": 3}
    pixels = {s: rng.integers(0, 255, (n, 28, 28), dtype=np.uint8) for s, n in counts.items()}
    one = {s: rng.integers(0, 3, (n, 1)) for s, n in counts.items()}
    many = {s: rng.integers(0, 2, (n, 5)) for s, n in counts.items()}
    for name, labels in (("one", one), ("many", many)):
        arrays = {f"{s}_images": pixels[s] for s in counts} | {f"{s}_labels": labels[s] for s in counts}
        np.savez(tmp_path / f"{name}.npz", **arrays)
    single = sources.load(tmp_path / "one.npz").table
    assert single["split"].tolist() == ["train"] * 4 + ["val"] * 2 + ["test"] * 3
    assert single["label"].tolist() == np.concatenate([one[s][:, 0] for s in counts]).tolist()
    for i in (0, 5, 8):
        split, frame = single["split"][i], int(single["frame"][i])
        assert np.array_equal(images.read(single["image_path"][i], frame).pixels, pixels[split][frame])
    several = sources.load(tmp_path / "many.npz").table
    assert np.array_equal(several[[f"label_{k}" for k in range(5)]].to_numpy(), np.concatenate([many[s] for s in counts]))
    assert "label" not in several


def test_phantoms(tmp_path: Path) -> None:
    dataset = sources.load("phantom:9:4")
    assert len(dataset) == 9
    assert set(dataset.table["image_path"]) == {"phantom:4"}
    assert dataset.table["patient"].str.fullmatch("[0-9a-f]{32}").all()
    for wrong in ("phantom:", "phantom:0", "phantom:x", "phantom:5:a", "phantom:-3"):
        with pytest.raises(UsageError, match="phantom:N"):
            sources.load(wrong)


def test_prepared_store_gives_its_table_back(grey_folder, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    prepare(grey_folder(3), tmp_path / "store", size=32, quiet=True)
    dataset = sources.load(tmp_path / "store")
    assert dataset.store == tmp_path / "store"
    assert dataset.name == "scans"
    assert dataset.table["row"].tolist() == list(range(6))
    assert dataset.table["label"].tolist() == ["left"] * 3 + ["right"] * 3
    assert "image_path" not in dataset.table
    with pytest.raises(UsageError, match="no paths"):
        pd.DataFrame({"scan": ["scan_1"], "age": [4]}).to_csv(tmp_path / "l.csv", index=False)
        sources.load(tmp_path / "store", tmp_path / "l.csv", "scan")


@pytest.mark.parametrize("suffix", [".csv", ".xlsx"])
@pytest.mark.parametrize(
    ("paths", "keys", "expected"),
    [
        (["1042.png", "7.png", "8.png"], [8.0, 1042.0, None], [1042, None, 8]),  # stems; numbers with a gap
        (["00123.png", "00124.png"], ["00124", "00123"], ["00123", "00124"]),  # zeros that a spreadsheet eats
        (["a.png", "b.png"], ["b.png", "x.png"], [None, "b.png"]),  # names
        (["ACC1/i/1.png", "ACC1/i/2.png", "ACC2/i/1.png"], ["ACC2", "ACC1"], ["ACC1", "ACC1", "ACC2"]),  # accession folders
        (["s/1.png", "t/1.png"], ["t/1.png", "s/1.png"], ["s/1.png", "t/1.png"]),  # paths
    ],
)
def test_spreadsheet_joined_by_what_names_the_image(
    tmp_path: Path, suffix: str, paths: list[str], keys: list, expected: list
) -> None:
    for path in paths:
        draw_image(tmp_path / "scans" / path)
    sheet = pd.DataFrame(
        {"key": keys, "finding": [None if k is None else f"of {str(k).removesuffix('.0')}" for k in keys], "row": range(len(keys))}
    )
    path = tmp_path / f"labels{suffix}"
    (sheet.to_csv if suffix == ".csv" else sheet.to_excel)(path, index=False)
    dataset = sources.load(tmp_path / "scans", path, "key")
    found = dict(
        zip(
            [str(Path(p).relative_to(tmp_path / "scans")) for p in dataset.table["image_path"]],
            sources.values(dataset.table["finding"]),
            strict=True,
        )
    )
    assert found == {p: None if e is None else f"of {e}" for p, e in zip(paths, expected, strict=True)}
    assert "key" not in dataset.table


def test_spreadsheet_by_a_column_of_the_table_by_patient_and_by_image_path(tmp_path: Path) -> None:
    data = pd.DataFrame(
        {
            "image_path": ["a.png", "b.png", "c.png"],
            "patient": ["P1", "P2", "P1"],
            "accession": [11, 12, 13],
            "split": ["train", "test", None],
        }
    )
    by = {
        "accession": pd.DataFrame({"accession": ["013", "11"], "y": [3, 1]}),
        "image_path": pd.DataFrame({"image_path": ["c.png", "a.png"], "y": [3, 1]}),
    }
    for on, sheet in by.items():
        sheet.to_csv(tmp_path / f"{on}.csv", index=False)
        assert sources.values(sources.load(data, tmp_path / f"{on}.csv", on).table["y"]) == [1, None, 3]
    pd.DataFrame({"patient": ["P2", "P1"], "y": [5, 4], "split": [None, "val"]}).to_csv(tmp_path / "p.csv", index=False)
    joined = sources.load(data, tmp_path / "p.csv", "patient").table
    assert joined["y"].tolist() == [4, 5, 4]
    assert joined["patient"].tolist() == [hashed("P1"), hashed("P2"), hashed("P1")]
    assert sources.values(joined["split"]) == ["val", "test", "val"]  # what the spreadsheet leaves out, the table keeps


def test_patients_of_a_spreadsheet_named_by_folders_split_the_images(tmp_path: Path) -> None:
    for path in ("P1/1.png", "P1/2.png", "P2/1.png"):
        draw_image(tmp_path / "scans" / path)
    pd.DataFrame({"patient": ["P1", "P2"], "age": [50, 60]}).to_csv(tmp_path / "l.csv", index=False)
    joined = sources.load(tmp_path / "scans", tmp_path / "l.csv", "patient").table
    assert joined["patient"].tolist() == [hashed("P1"), hashed("P1"), hashed("P2")]
    assert joined["age"].tolist() == [50, 50, 60]


def test_a_spreadsheet_never_moves_the_images(tmp_path: Path) -> None:
    draw_image(tmp_path / "scans" / "a.png")
    pd.DataFrame({"stem": ["a"], "image_path": ["elsewhere.png"], "frame": ["left"], "mask_path": ["m/a.png"]}).to_csv(
        tmp_path / "l.csv", index=False
    )
    joined = sources.load(tmp_path / "scans", tmp_path / "l.csv", "stem").table
    assert joined["image_path"].tolist() == [str(tmp_path / "scans" / "a.png")]
    assert joined["mask_path"].tolist() == [str(tmp_path / "m" / "a.png")]
    assert "frame" not in joined


def test_wrong_input_is_refused_by_a_line_that_helps(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    draw_image(tmp_path / "scans" / "a.png")
    (tmp_path / "x.txt").write_text("")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no")
    (tmp_path / "broken.npz").write_bytes(b"no")
    (tmp_path / "broken.xlsx").write_bytes(b"no")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    pd.DataFrame({"where": ["a.png"]}).to_csv(tmp_path / "columns.csv", index=False)
    pd.DataFrame({"image_path": ["a.png", None], "y": [1, 2]}).to_csv(tmp_path / "gap.csv", index=False)
    pd.DataFrame({"image_path": [12, 13]}).to_csv(tmp_path / "numbers.csv", index=False)
    pd.DataFrame({"image_path": ["a"], "split": ["holdout"]}).to_csv(tmp_path / "split.csv", index=False)
    pd.DataFrame({"image_path": ["a"], "frame": ["left"]}).to_csv(tmp_path / "frame.csv", index=False)
    (tmp_path / "nothing.csv").write_text("")
    pd.DataFrame({"image_path": []}).to_csv(tmp_path / "norows.csv", index=False)
    expected = {
        "absent": "no such file or folder", "empty": "no images", "x.txt": "not a folder", "broken.parquet": "cannot be read",
        "broken.npz": "MedMNIST", "broken.xlsx": "cannot be read", "other.npz": "train_images", "columns.csv": "image_path.*where",
        "gap.csv": "1 rows have no image_path", "numbers.csv": "numbers that are no files",
        "split.csv": "'holdout'", "frame.csv": "frame",
        "nothing.csv": "cannot be read", "norows.csv": "holds no images",
    }  # fmt: skip
    for name, message in expected.items():
        with pytest.raises(UsageError, match=message) as error:
            sources.load(tmp_path / name)
        assert "\n" not in str(error.value), name


def test_a_wrong_join_is_refused_by_a_line_that_helps(tmp_path: Path) -> None:
    scans = draw_image(tmp_path / "scans" / "a.png").parent
    sheet = tmp_path / "l.csv"
    pd.DataFrame({"stem": ["a", "a"], "other": ["p", "q"], "void": [None, None]}).to_csv(sheet, index=False)
    for on, message in (
        (None, "--on.*stem, other"),
        ("stm", "'stem'"),
        ("stem", "rows 2 and 3 have one stem and differ in other"),
        ("other", "none of 2 values of other names an image.*'a', the files like 'a\\.aaa'"),
        ("void", "none of 0 values"),
    ):
        with pytest.raises(UsageError, match=message):
            sources.load(scans, sheet, on)
    with pytest.raises(UsageError, match="--labels"):
        sources.load(scans, None, "stem")
    with pytest.raises(UsageError, match="no such file"):
        sources.load(scans, tmp_path / "absent.xlsx", "stem")


def test_a_missing_column_names_the_nearest() -> None:
    dataset = sources.load("phantom:3")
    with pytest.raises(UsageError, match="did you mean 'effusion'"):
        dataset.column("efusion")
    with pytest.raises(UsageError, match=r"columns: .*nodule"):
        dataset.column("zzz")


def test_real_tables_are_read_whole(data_root: Path) -> None:
    for name, rows in (("brain_tumor_yesno", 253), ("covid_chestxray", 546)):
        dataset = sources.load(data_root / name / "table.csv")
        assert (dataset.name, len(dataset)) == (name, rows)
        assert Path(dataset.table["image_path"].iloc[-1]).is_file()


def test_rows_that_name_one_image_are_told_with_what_they_differ_in(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = pd.DataFrame(
        {"image_path": ["a", "b", "a", "c", "c"], "frame": [0, 0, 0, 0, 1], "label": ["x", "y", "z", "x", "y"], "box": [[1]] * 5}
    )
    assert len(sources.load(frame)) == 5
    text = (
        "table: 2 rows name 1 images between them, with different label: each row is an example of its own; `annotators` majority"
    )
    assert text in capsys.readouterr().err
    sources.load(frame.drop(index=2)), sources.load(frame.drop(columns="box"), annotators="majority")
    assert "between them" not in capsys.readouterr().err


def test_paths_written_on_windows_are_found_and_a_name_with_a_backslash_stays(tmp_path: Path) -> None:
    for name in ("ward/a.png", "ward/b.png", "c\\d.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / name)
    (tmp_path / "t.csv").write_text("image_path,mask_path\nward\\a.png,.\\ward\\b.png\nward\\b.png,\n")
    found = sources.load(tmp_path / "t.csv").table
    assert found["image_path"].tolist() == [str(tmp_path / "ward" / name) for name in ("a.png", "b.png")]
    assert found["mask_path"].iloc[0] == str(tmp_path / "ward" / "b.png")
    (tmp_path / "t.csv").write_text("image_path\nc\\d.png\n")
    assert sources.load(tmp_path / "t.csv").table["image_path"].tolist() == [str(tmp_path / "c\\d.png")]


def test_a_file_name_that_begins_with_a_blank_is_found_as_it_is_spelled(tmp_path: Path) -> None:
    """And where no file is spelled so, without the blanks."""
    for name in (" lead.png", "lead.png", "plain.png"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "t.csv").write_text('image_path,label\n" lead.png",a\nlead.png,b\n" plain.png ",a\n')
    found = sources.load(tmp_path / "t.csv").table["image_path"]
    assert [Path(path).name for path in found] == [" lead.png", "lead.png", "plain.png"]


def test_folders_are_no_label_beside_a_spreadsheet_whose_target_is_another(grey_folder, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    folder = grey_folder(2)
    sheet = tmp_path / "labels.csv"
    files = sorted(folder.rglob("*.png"))
    sheet.write_text("file,dx\n" + "".join(f"{path.relative_to(folder)},{'ab'[k % 2]}\n" for k, path in enumerate(files)))
    assert "label" not in sources.load(folder, sheet, "file", target=["dx"]).table.columns
    for options in ({}, {"labels": sheet, "on": "file"}, {"labels": sheet, "on": "file", "target": ["dx", "label"]}):
        assert sources.load(folder, **options).table["label"].nunique() == 2
    assert sources.load(folder, target=["dx"]).table["label"].nunique() == 2
