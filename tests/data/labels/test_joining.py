"""Which row of a spreadsheet labels which image: one level of the path, exact spelling first, errors where two would do."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scotoma.data import sources
from scotoma.data.labels import matching
from scotoma.errors import UsageError


def joined(tmp_path: Path, paths: Sequence[str], sheet: dict[str, list[object]], on: str, **columns: list[object]) -> list[object]:
    """The column ``y`` of images at these paths."""
    data = pd.DataFrame({"image_path": [f"/data/{p}" for p in paths], **columns})
    pd.DataFrame(sheet).to_csv(tmp_path / "s.csv", index=False)
    return sources.values(sources.load(data, tmp_path / "s.csv", on).table["y"])


def test_folders_of_patients_go_before_slices_that_look_like_them(tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    paths = [f"{p}/{s:03d}.png" for p in range(3, 15) for s in range(1, 8)]
    sheet = {"case": [str(p) for p in range(3, 15)], "y": [f"of {p}" for p in range(3, 15)]}
    assert joined(tmp_path, paths, sheet, "case") == [f"of {p.split('/')[0]}" for p in paths]
    assert (
        "joined by the folder 1 above the file: 84 of 84 images of table have a row; 12 of 12 rows name" in capsys.readouterr().err
    )


def test_files_numbered_without_zeros_in_the_sheet_go_before_a_folder_of_one_number(tmp_path: Path) -> None:
    paths = [f"batch/{k:04d}.png" for k in range(1, 13)]
    assert joined(tmp_path, paths, {"n": list(range(1, 13)), "y": list(range(1, 13))}, "n") == list(range(1, 13))


def test_an_image_that_answers_to_two_rows_is_refused_with_both(tmp_path: Path) -> None:
    paths = [f"{p}/{s}.png" for p in range(1, 5) for s in range(1, 4)]
    sheet = {"key": list(range(1, 5)), "y": list("abcd")}
    with pytest.raises(UsageError, match=r"images answer to two rows: by the folder 1 .* without suffix .*rows 2 and 3") as error:
        joined(tmp_path, paths, sheet, "key")
    assert "png" not in str(error.value)
    for name, expected in (("case folder", [p[0] for p in paths]), ("file name", None)):
        sheet = {name: list(range(1, 5)), "y": list("1234")}
        if expected:
            assert [str(v) for v in joined(tmp_path, paths, sheet, name)] == expected
        else:  # 1.png stands in four folders
            with pytest.raises(UsageError, match=r"3 values of file name name images in several folders .row 2: 4 of them"):
                joined(tmp_path, paths, sheet, name)


def test_folders_of_one_name_in_two_places(tmp_path: Path) -> None:
    paths = ["north/7/a.png", "south/7/b.png", "south/8/c.png"]
    with pytest.raises(UsageError, match=r"1 values of acc name folders of one name .row 2: 2 of them"):
        joined(tmp_path, paths, {"acc": ["7", "8"], "y": [1, 2]}, "acc")
    assert joined(tmp_path, paths, {"patient": ["7", "8"], "y": [1, 2]}, "patient") == [1, 1, 2]
    assert joined(tmp_path, paths, {"acc": ["north/7/a.png", "south/7/b.png"], "y": [1, 2]}, "acc") == [1, 2, None]


def test_spellings_are_looser_only_where_that_leaves_one(tmp_path: Path) -> None:
    paths = ["s/Größe.png", "s/Ab.png", "s/ab.png", "s/CD.png", "s/003.png", "s/3.png", "s/04.png", "s/e.png", "s/e.jpg", "s/f.png"]
    keys = [unicodedata.normalize("NFD", "Größe.png"), "AB.PNG", "cd.PNG", "003", "5", "4", "x:\\s\\f.png", "e"]
    found = joined(tmp_path, paths, {"key": keys, "y": [f"r{k}" for k in range(len(keys))]}, "key")
    assert found == ["r0", None, None, "r2", "r3", None, "r5", "r7", "r7", "r6"]  # Ab and ab, 3 and 003: no guess


@pytest.mark.parametrize("seed", range(4))
def test_as_a_slow_comparison_of_every_row_with_every_image(seed: int) -> None:
    rng = np.random.default_rng(seed)
    paths = sorted({f"/r/{rng.integers(0, 4)}/s{rng.integers(0, 9)}/{'iI'[rng.integers(0, 2)]}{k}.png" for k in range(60)})
    keys = [p.rpartition("/")[2] for p in paths if rng.random() < 0.8]
    keys = [key.swapcase() if rng.random() < 0.3 else key for key in keys]
    found = matching.match(keys, matching.levels(paths, "x"))
    assert found is not None
    for path, k in zip(paths, found.keys.tolist(), strict=True):
        name = path.rpartition("/")[2]
        same = [i for i, key in enumerate(keys) if key == name] or [i for i, key in enumerate(keys) if key.lower() == name.lower()]
        assert (same or [-1]) == [k]


def test_a_sheet_with_frames_labels_frames(tmp_path: Path) -> None:
    paths = ["a.dcm"] * 3 + ["b.dcm"] * 2
    frames: list[object] = [0, 1, 2, 0, 1]
    sheet = {"name": ["a", "a", "b", "b"], "frame": [0, 2, 0, 1], "y": ["p", "q", "r", "s"]}
    assert joined(tmp_path, paths, sheet, "name", frame=frames) == ["p", None, "q", "r", "s"]
    sheet = {"name": ["a", "b"], "frame": [None, 1], "y": ["p", "q"]}
    assert joined(tmp_path, paths, sheet, "name", frame=frames) == ["p", "p", "p", None, "q"]
    sheet = {"name": ["a", "a", "b", "b"], "frame": [1, 3, 1, 2], "y": ["p", "q", "r", "s"]}
    with pytest.raises(UsageError, match="frame counts from 1"):
        joined(tmp_path, paths, sheet, "name", frame=frames)
    with pytest.raises(UsageError, match="with and without a frame"):
        joined(tmp_path, paths, {"name": ["a", "a"], "frame": [None, 1], "y": ["p", "q"]}, "name", frame=frames)


def test_what_is_joined_is_counted_by_row_numbers_alone(tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    sheet = {"acc": ["A1", "Z8", "Z9", "Z7", "", "A2", "Z6"], "y": [1, 2, 3, 4, 5, 6, 7]}
    assert joined(tmp_path, ["A1.png", "A2.png", "A3.png"], sheet, "acc") == [1, 6, None]
    err = capsys.readouterr().err
    assert "2 of 3 images of table have a row; 2 of 6 rows name an image, 4 name none (rows 3, 4, 5, ...)" in err
    assert "1 have no value to join by" in err
    assert "Z8" not in err


def test_frames_without_a_row_are_counted_as_such(tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    paths, frames = ["u.nii.gz"] * 3 + ["w.nii.gz"] * 2, [0, 1, 2, 0, 1]
    sheet = {"name": ["u", "w", "w"], "frame": [2, 0, 5], "y": ["p", "q", "r"]}
    assert joined(tmp_path, paths, sheet, "name", frame=frames) == [None, None, "p", "q", None]
    assert "2 of 5 images of table have a row; 2 of 3 rows name an image, 1 name none (row 4)" in capsys.readouterr().err


def test_rows_that_repeat_one_another_and_rows_that_differ(tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    assert joined(tmp_path, ["a.png", "b.png"], {"n": ["a", "b", "a"], "y": [1, 2, 1]}, "n") == [1, 2]
    assert "1 rows repeat another and are left out" in capsys.readouterr().err
    with pytest.raises(UsageError, match="rows 2 and 4 have one n and differ in y"):
        joined(tmp_path, ["a.png", "b.png"], {"n": ["a", "b", "a"], "y": [1, 2, 3]}, "n")


def test_annotators_spell_one_image_in_several_ways(tmp_path: Path) -> None:
    data = pd.DataFrame({"image_path": ["/data/a.png", "/data/b.png"]})
    pd.DataFrame({"n": ["a.png", "A.PNG", "a.png ", "b.png"], "y": ["u", "v", "v", "u"]}).to_csv(tmp_path / "s.csv", index=False)
    found = sources.load(data, tmp_path / "s.csv", "n", "majority").table
    assert found["y"].tolist() == ["v", "u"]
    assert found["y_annotators"].tolist() == [3, 1]


def test_long_and_odd_ids_name_their_own_images(tmp_path: Path) -> None:
    ids = ["20230301181139587", "20230301181139588", "1E5", "100000", "2.10", "2.1", "007", "7"]
    sheet = {"acc": [*ids, ""], "y": [f"of {i}" for i in ids] + ["none"]}
    assert joined(tmp_path, [f"{i}/x.png" for i in ids], sheet, "acc") == [f"of {i}" for i in ids]


def test_nothing_in_common_is_said_by_what_the_values_look_like(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none of 1 values of acc .*'aa-9999'.*'aaa_99\.aaa'") as error:
        joined(tmp_path, ["img_07.png"], {"acc": ["QX-1042"], "y": [1]}, "acc")
    assert "1042" not in str(error.value)
    with pytest.raises(UsageError, match="has no column 'akc'; did you mean 'acc'"):
        joined(tmp_path, ["img_07.png"], {"acc": ["QX-1042"], "y": [1]}, "akc")
    assert joined(tmp_path, ["a.png"], {"Acc No": ["a"], "y": [1]}, "acc_no") == [1]
