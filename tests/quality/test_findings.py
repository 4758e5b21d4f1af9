"""What the audit rests on: groups on both sides, contradictions, odd and inverted images, burned-in text, shortcuts, headers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageDraw, ImageFont
from sklearn.metrics import roc_auc_score

from scotoma.data import sources
from scotoma.data.io import burned_in_text
from scotoma.data.labels.targets import Target
from scotoma.data.phantom import phantom
from scotoma.data.store import store
from scotoma.quality import findings, outliers, shortcuts


def draw_images(of: list[str], other: list[bool] | None = None) -> findings.ImageSet:
    second = np.array(other or [False] * len(of))
    return findings.ImageSet([(int(k), i) for i, k in enumerate(second)], np.array(of, "U5"), second)


def test_groups_within_across_and_in_both_tables() -> None:
    of = ["train", "train", "train", "test", "train", "", "", "train"]
    other = [False] * 5 + [True, True, False]
    shared = draw_images(of, other).sides(np.array([0, 0, 1, 1, 2, 2, 3, 4]))
    assert np.flatnonzero(shared["within"]).tolist() == [0, 1]
    assert np.flatnonzero(shared["splits"]).tolist() == [2, 3]
    assert np.flatnonzero(shared["tables"]).tolist() == [4, 5]
    everyone = draw_images(["", "", ""]).sides(np.array([0, 0, 0]))
    assert everyone["within"].all()  # rows outside a split are on no side
    assert not everyone["splits"].any()


def test_a_coarser_group_tells_only_what_a_finer_one_did_not() -> None:
    of = ["train", "test", "test", "train", "train"]
    contents = np.array([0, 0, 1, 2, 3])
    near = np.array([0, 0, 0, 1, 2])
    altered = np.array([0, 0, 0, 1, 1])
    found = {f.check: f for f in findings.find_repeated(draw_images(of), contents, near, altered, False, np.full(5, None))}
    assert list(found) == ["identical_across_splits", "near_duplicate_across_splits", "altered_copy"]
    assert [p[1] for p in found["identical_across_splits"].images] == [0, 1]
    assert [p[1] for p in found["near_duplicate_across_splits"].images] == [2]
    assert found["near_duplicate_across_splits"].groups == (((0, 0), (0, 1), (0, 2)),)  # shown beside what it is like
    assert found["near_duplicate_across_splits"].severity == "error"
    assert [p[1] for p in found["altered_copy"].images] == [3, 4]
    known = {f.check: f for f in findings.find_repeated(draw_images(of), contents, near, altered, True, np.full(5, None))}
    assert known["near_duplicate_across_splits"].severity == "warning"


def test_contradicting_labels() -> None:
    target = Target(("label",), ("a", "b"), np.array([0, 1, 0, -1, 1, 1]))
    groups = (("identical", np.array([0, 0, 1, 1, 2, 3])), ("near-duplicate", np.array([0, 0, 1, 1, 1, 2])))
    found = findings.contradictions(draw_images([""] * 6), target, groups)
    assert [(f.severity, [p[1] for p in f.images]) for f in found] == [("error", [0, 1]), ("warning", [2, 4])]


def test_small_classes_count_patients() -> None:
    y = np.array([0] * 40 + [1] * 12)
    units = np.r_[np.arange(40), np.repeat(40 + np.arange(3), 4)]
    found = findings.small_classes(Target(("label",), ("a", "b"), y), np.array([""] * 52), units, "patient")
    assert [(f.severity, f.text) for f in found] == [("warning", "label 'b' has 12 images of 3 patients")]


def opened(folder: Path, made: list[np.ndarray]) -> store.Store:
    folder.mkdir()
    for i, pixels in enumerate(made):
        Image.fromarray(pixels).save(folder / f"{i:03}.png")
    return store.prepare(sources.load(folder), 40, out=folder / "store", quiet=True)[1]


def test_inverted_images_are_told_from_their_peers(tmp_path: Path) -> None:
    drawn = [phantom.render("phantom:3", i, 64) for i in range(40)]
    negatives = [4, 17, 30]
    for i in negatives:
        drawn[i] = 255 - drawn[i]
    noise = list(np.random.default_rng(0).integers(0, 256, (30, 64, 64), dtype=np.uint8))
    made = opened(tmp_path / "films", [*drawn, *noise])
    rows, kinds = np.arange(70), np.array(["film"] * 40 + ["noise"] * 30)
    assert np.flatnonzero(outliers.find_inverted(made, rows, kinds)).tolist() == negatives
    assert not outliers.find_inverted(made, rows[:15], kinds[:15]).any()  # too few peers to say what is usual


def test_blank_and_odd_images() -> None:
    rng = np.random.default_rng(0)
    specks = np.zeros((50, 50), np.uint8)
    specks[3, :5] = 255
    made = [np.full((50, 50), 9, np.uint8), specks, rng.integers(0, 256, (50, 50), dtype=np.uint8)]
    constant, nearly = outliers.find_blank([Image.fromarray(m) for m in made])
    assert constant.tolist() == [True, False, False]
    assert nearly.tolist() == [False, True, False]
    facts = pd.DataFrame(
        {"format": ["PNG"] * 99 + ["BMP"], "bits": 8, "width": [500] * 98 + [60, 500], "height": [400] * 97 + [60, 48, 400]}
    )
    odd = outliers.find_rare(facts)
    assert {k: np.flatnonzero(v).tolist() for k, v in odd.items()} == {
        "format BMP": [99],
        "size far from the usual 500 px": [98],
        "shape far from the usual 1.25": [97],
    }


WORDS = ("DOE^JANE", "12.03.1961", "ID 448120", "ST MARY HOSPITAL", "MUELLER ANNA", "F 058Y")


def test_text_on_phantoms_is_found_and_their_markers_are_none() -> None:
    """The rates that docs/results/audit.md gives; a phantom has a side marker of its own, and every second has a tube."""
    rng = np.random.default_rng(0)
    found, wrong = 0, 0
    for i in range(24):
        pixels = phantom.render("phantom:5", i, 512)
        wrong += bool(burned_in_text.text_lines(pixels))
        image, size = Image.fromarray(pixels), int(rng.integers(16, 30))
        place = int(rng.integers(4, 160)), (4, 512 - size - 8)[i % 2]
        ImageDraw.Draw(image).text(place, WORDS[i % len(WORDS)], fill=255, font=ImageFont.load_default(size))
        lines = burned_in_text.text_lines(np.asarray(image))
        found += any(abs(top - place[1]) < 1.5 * size for _, top, _, _ in lines)
    assert wrong <= 1
    assert found >= 12


def test_letters_in_a_row_are_text_and_fewer_are_not() -> None:
    image = Image.new("L", (300, 200), 60)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(22)
    draw.text((20, 20), "L", fill=255, font=font)
    draw.rectangle((200, 100, 280, 103), fill=255)
    assert burned_in_text.text_lines(np.asarray(image)) == []
    draw.text((40, 150), "SMITH 61", fill=255, font=font)
    ((left, top, right, bottom),) = burned_in_text.text_lines(np.asarray(image))
    assert 38 <= left <= 46
    assert 148 <= top < bottom <= 178
    assert 120 <= right <= 160
    assert burned_in_text.text_lines(255 - np.asarray(image)) == [(left, top, right, bottom)]  # dark on light
    wide = np.pad(np.asarray(image), ((0, 0), (0, 1200)), constant_values=60)  # 1500 px: shrunk before, boxes in its own pixels
    assert all(abs(a - b) <= 3 for a, b in zip((left, top, right, bottom), burned_in_text.text_lines(wide)[0], strict=True))


def test_what_header_facts_and_borders_predict() -> None:
    rng = np.random.default_rng(0)
    n = 240
    y, groups = np.arange(n) % 2, np.arange(n) // 2
    rng.shuffle(y)
    target = Target(("label",), ("a", "b"), y)
    width = np.where(rng.random(n) < 0.8, 100 + 50 * y, 150 - 50 * y)
    columns = {"width": width.astype(float), "log width": np.log(width), "height": rng.normal(100, 9, n)}
    x = np.stack(list(columns.values()), 1)
    found = shortcuts.predictability(x, target, groups, trees=True)
    assert found is not None
    exact = roc_auc_score(y, width)
    assert found["value"] == pytest.approx(exact, abs=0.05)
    assert 0.5 < shortcuts.CLEARLY < found["low"] < found["value"] < found["high"]
    name, area = shortcuts.rank_facts(columns, target)[0]
    assert (name, area) == ("width", pytest.approx(max(exact, 1 - exact)))
    chance = shortcuts.predictability(rng.normal(size=(n, 40)), target, groups, trees=False)
    assert chance is not None
    assert chance["low"] < 0.5 < chance["high"] + 0.05
    assert shortcuts.predictability(np.ones((n, 2)), target, groups, trees=True) is None  # nothing varies
    few = Target(("label",), ("a", "b"), np.r_[np.zeros(n - 8, int), np.ones(8, int)])
    assert shortcuts.predictability(x, few, groups, trees=True) is None  # four groups of b: fewer than folds


def test_a_patient_in_one_fold_only_cannot_be_learned_by_heart() -> None:
    """Twenty images a patient, with a size of its own: split by image the size tells the patient and so the label."""
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(40), 20)
    target = Target(("label",), ("a", "b"), rng.permutation(np.arange(40) % 2)[patients])
    x = rng.permutation(40)[patients].astype(float)[:, None]
    by_image = shortcuts.predictability(x, target, np.arange(len(x)), trees=True)
    by_patient = shortcuts.predictability(x, target, patients, trees=True)
    assert by_image is not None
    assert by_patient is not None
    assert by_image["value"] > 0.95
    assert by_patient["value"] < 0.75


def test_the_border_is_the_border(tmp_path: Path) -> None:
    inner = np.zeros((64, 64), np.uint8)
    inner[12:52, 12:52] = 200
    made = opened(tmp_path / "frames", [inner, np.full((64, 64), 50, np.uint8)])
    ring = shortcuts.border(made, np.array([0, 1]))
    assert ring.shape == (2, 32 * 32 - 26 * 26)
    assert ring[0].max() == 0
    assert np.allclose(ring[1], 50 / 255)


def test_a_finding_names_its_groups_in_its_row() -> None:
    groups = (((0, 1), (0, 2)), ((0, 4), (1, 7)))
    row = findings.Finding("error", "altered_copy", "text", 3, ((0, 1), (0, 2), (0, 4), (1, 7)), groups).row()
    assert (row["rows"], row["groups"]) == ([1, 2, 4], [[1, 2], [4]])
    assert (row["against_rows"], row["against_groups"]) == ([7], [[], [7]])
    alone = findings.Finding("note", "constant", "text", 1, ((0, 3),)).row()
    assert "groups" not in alone and "against_groups" not in alone


def test_units_on_several_sides_are_named_by_what_they_are_made_of() -> None:
    images = findings.ImageSet([(0, i) for i in range(5)], np.array(["train", "test", "train", "test", ""]), np.zeros(5, bool))
    (found,) = findings.find_shared_units(images, np.array([0, 0, 1, 2, 2]), "patient + study")
    assert (found.check, found.count, found.extra["unit"]) == ("patient_across_splits", 1, "patient + study")
    assert found.text == "1 unit (patient + study) on several sides of the split (2 images)"
    (found,) = findings.find_shared_units(images, np.array([0, 0, 1, 1, 2]), "study")
    assert found.text == "2 studies on several sides of the split (4 images)"
    assert findings.find_shared_units(images, np.arange(5), "patient") == []


@pytest.mark.parametrize(
    ("unit", "words"), [("study", "1 study"), ("study", "3 studies"), ("series", "3 series"), ("unit", "3 units")]
)
def test_units_of_a_small_class_are_counted_in_words(unit: str, words: str) -> None:
    count = int(words[0])
    target = Target(("label",), ("a", "b"), np.array([0] * count + [1] * 20))
    (found,) = findings.small_classes(target, np.array([""] * len(target.y)), np.arange(len(target.y)), unit)
    assert found.text == f"label 'a' has {count} image{'s' * (count > 1)} of {words}"


def test_images_of_one_patient_that_look_alike_are_no_copies() -> None:
    near = np.array([0, 0, 1, 1, 2, 2, 3, 4])
    altered = np.array([0, 0, 1, 1, 2, 2, 3, 3])
    owners = np.array(["a", "a", "a", "b", None, "b", "c", "c"], object)
    found = {f.check: f for f in findings.find_repeated(draw_images([""] * 8), np.arange(8), near, altered, True, owners)}
    assert {name: [p[1] for p in f.images] for name, f in found.items()} == {
        "near_duplicate_of_one_patient": [0, 1], "near_duplicate": [2, 3, 4, 5], "altered_copy_of_one_patient": [6, 7],
    }  # fmt: skip
    told = found["near_duplicate_of_one_patient"]
    assert (told.severity, told.text) == ("note", "2 neighbouring or registered images of one patient look alike, in 1 group")
    assert found["near_duplicate"].text == "4 near-duplicates (recompressed or resized copies) repeat one another, in 2 groups"


def test_images_of_one_patient_alone_cannot_be_split() -> None:
    (told,) = findings.one_unit(np.zeros(4, int), "patient")
    assert told.text.startswith("all images are of 1 patient: no split can be drawn; to pretrain on all images, name a table")
    assert told.severity == "warning"
    assert findings.one_unit(np.array([0, 0, 1]), "patient") == []
