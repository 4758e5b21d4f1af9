from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np

from scotoma.visualization import overlays
from scotoma.visualization.overlays import Case

VALUES = np.array([[0.0, 1.0], [-1.0, 0.5]])


def case(row: int, **maps: np.ndarray) -> Case:
    return Case(row, "right", "50 $ of $it", 0.934, np.zeros((2, 2)), maps)


def test_colours_are_transparent_where_the_map_is_zero_and_have_two_hues_where_it_is_signed() -> None:
    plain, signed = overlays.colour(abs(VALUES)), overlays.colour(VALUES)
    assert plain[0, 0, 3] == signed[0, 0, 3] == 0 and 0 < signed[1, 1, 3] < signed[0, 1, 3]
    np.testing.assert_array_equal(plain[0, 1], plain[1, 0])
    assert signed[0, 1, 0] > signed[0, 1, 2] and signed[1, 0, 0] < signed[1, 0, 2]  # orange for, purple against
    assert (overlays.colour(np.zeros((2, 2)))[..., 3] == 0).all()


def test_blended_is_the_image_where_the_map_is_zero_and_three_quarters_colour_where_it_is_strongest() -> None:
    image = np.array([[0.2, 0.4], [1.0, 0.0]])
    found = overlays.blend(image, abs(VALUES))
    assert found.dtype == np.uint8 and found[0, 0].tolist() == [51, 51, 51]
    yellow = np.array(matplotlib.colormaps["cividis"](1.0)[:3])
    np.testing.assert_array_equal(found[0, 1], np.rint(255 * (0.25 * 0.4 + 0.75 * yellow)))


def test_a_colour_image_lies_beneath_its_map_in_colour() -> None:
    image = np.zeros((2, 2, 3))
    image[0, 0] = (1.0, 0.6, 0.2)
    assert overlays.blend(image, abs(VALUES))[0, 0].tolist() == [255, 153, 51]
    figure = overlays.overlay(image, VALUES, "x")
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), image)


def test_an_overlay_is_the_image_alone_and_below_its_map() -> None:
    figure = overlays.overlay(np.eye(2), VALUES, "50 $ of it")
    assert [len(axis.images) for axis in figure.axes] == [1, 2]
    np.testing.assert_array_equal(figure.axes[1].images[1].get_array(), overlays.colour(VALUES))


def test_a_sheet_has_a_row_a_case_and_a_column_a_method(tmp_path: Path) -> None:
    figure = overlays.sheet([case(7, grad_cam=VALUES, occlusion=VALUES), case(9, grad_cam=VALUES, occlusion=-VALUES)])
    figure.savefig(tmp_path / "sheet.png")  # a class named with dollars is no formula
    assert len(figure.axes) == 6
    assert [a.get_title() for a in figure.axes[:3]] == ["image", "grad\ncam", "occlusion"]
    assert [figure.axes[i].get_xlabel() for i in (0, 3)] == ["row 7\n50 $ of $it: 0.93", "row 9\n50 $ of $it: 0.93"]
    np.testing.assert_array_equal(figure.axes[5].images[1].get_array(), overlays.colour(-VALUES))


def test_files_are_named_by_row_and_method(tmp_path: Path) -> None:
    overlays.save([case(7, grad_cam=VALUES, occlusion=VALUES), case(9, grad_cam=VALUES)], tmp_path / "new")
    assert {p.name for p in (tmp_path / "new").iterdir()} == {
        "explain-7-grad_cam.png",
        "explain-7-occlusion.png",
        "explain-9-grad_cam.png",
    }
