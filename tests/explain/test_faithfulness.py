from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from scotoma.explain import faithfulness
from scotoma.explain.attributions import saliency

PIXEL = (2, 3)  # of an image of 4 rows and 5 columns: number 13


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_order_goes_down_the_map_and_ties_down_the_noise() -> None:
    maps = uniform(3, 4, 5)
    np.testing.assert_array_equal(faithfulness.order(maps, uniform(3, 4, 5, seed=1)), (-maps.flatten(1)).argsort(1))
    noise = uniform(3, 4, 5, seed=2)
    np.testing.assert_array_equal(faithfulness.order(torch.zeros(3, 4, 5), noise), noise.flatten(1).argsort(1))
    two = torch.tensor([[[0.0, 1.0, 0.0, 1.0]]])
    assert faithfulness.order(two, torch.tensor([[[0.4, 0.9, 0.1, 0.2]]])).tolist() == [[3, 1, 2, 0]]


@pytest.mark.parametrize("place", [0, 1, 7, 19])
def test_areas_of_a_model_that_looks_at_one_pixel_follow_from_its_place_in_the_order(place: int) -> None:
    images = uniform(2, 3, 4, 5)
    images[:, :, *PIXEL] = 1.0
    others = [p for p in range(20) if p != 13]
    pixels = torch.tensor([[*others[:place], 13, *others[place:]]] * 2)

    def probability(x: Tensor) -> Tensor:
        return x[:, 1, *PIXEL]

    deletion = faithfulness.curve(probability, images, torch.zeros_like(images), pixels)
    assert deletion.tolist() == [[1.0] * (place + 1) + [0.0] * (20 - place)] * 2
    np.testing.assert_allclose(faithfulness.area(deletion), (place + 0.5) / 20, rtol=1e-6)
    insertion = faithfulness.curve(probability, torch.zeros_like(images), images, pixels)
    np.testing.assert_allclose(faithfulness.area(insertion), 1 - (place + 0.5) / 20, rtol=1e-6)


def test_a_curve_in_fewer_steps_takes_several_pixels_at_once() -> None:
    images, pixels = torch.ones(1, 1, 2, 5), torch.arange(10)[None]
    shares = faithfulness.curve(lambda x: x.mean((1, 2, 3)), images, torch.zeros_like(images), pixels, steps=4)
    np.testing.assert_allclose(shares, [[1, 0.8, 0.5, 0.2, 0]], atol=1e-6)  # 2.5 and 7.5 are rounded to even numbers


def test_the_blur_is_gaussian_of_five_pixels_in_224() -> None:
    point = torch.zeros(1, 1, 224, 224)
    point[0, 0, 112, 112] = 1
    column = faithfulness.blur(point)[0, 0].sum(0)
    variance = float((column * (torch.arange(224) - 112) ** 2).sum())
    assert float(column.sum()) == pytest.approx(1, abs=1e-4) and variance == pytest.approx(25, rel=0.04)  # cut off at 3 deviations


def test_pointing_game_asks_whether_the_maximum_lies_in_the_mask_or_near_it() -> None:
    masks = torch.zeros(3, 6, 7, dtype=torch.bool)
    masks[:, 1:3, 1:4] = True
    pixels = torch.tensor([[2 * 7 + 3], [2 * 7 + 4], [5 * 7 + 6]])  # inside, one pixel beside it, sqrt(9 + 9) pixels from it
    assert faithfulness.pointing_game(pixels, masks, tolerance=0).tolist() == [True, False, False]
    assert faithfulness.pointing_game(pixels, masks, tolerance=1 / 7).tolist() == [True, True, False]
    assert faithfulness.pointing_game(pixels, masks, tolerance=4.2 / 7).tolist() == [True, True, False]
    assert faithfulness.pointing_game(pixels, masks, tolerance=4.3 / 7).tolist() == [True, True, True]
    wide = torch.zeros(2, 500, 500, dtype=torch.bool)
    wide[:, :, 100] = True
    assert faithfulness.pointing_game(torch.tensor([[115], [116]]), wide).tolist() == [True, False]  # the paper's 15 of 500


def test_mask_iou_compares_the_mask_with_as_many_pixels() -> None:
    masks = torch.zeros(3, 2, 3, dtype=torch.bool)
    masks[0, 0, :2] = masks[1, 0, :2] = masks[2, 0] = True
    pixels = torch.tensor([[1, 0, 2, 3, 4, 5], [1, 5, 0, 2, 3, 4], [3, 4, 5, 0, 1, 2]])
    np.testing.assert_allclose(faithfulness.mask_iou(pixels, masks), [1, 1 / 3, 0])


def test_an_empty_mask_is_refused() -> None:
    for score in (faithfulness.pointing_game, faithfulness.mask_iou):
        with pytest.raises(ValueError, match="empty"):
            score(torch.arange(6)[None], torch.zeros(1, 2, 3, dtype=torch.bool))


def test_rank_correlation_equals_scipys_and_is_unknown_of_a_constant_map() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 6, (2, 4, 5, 6)).astype(np.float32)
    found = faithfulness.rank_correlation(faithfulness.ranks(a), faithfulness.ranks(b))
    expected = [spearmanr(x.ravel(), y.ravel())[0] for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    a[2] = 3
    np.testing.assert_array_equal(
        np.isnan(faithfulness.rank_correlation(faithfulness.ranks(a), faithfulness.ranks(b))), [0, 0, 1, 0]
    )


def test_agreement_is_of_every_pair_once() -> None:
    maps = {name: uniform(2, 4, 5, seed=i).numpy() for i, name in enumerate("abc")}
    maps["c"] = -maps["a"]
    found = faithfulness.agreement({name: faithfulness.ranks(m) for name, m in maps.items()})
    assert list(found) == [("a", "b"), ("a", "c"), ("b", "c")]
    np.testing.assert_allclose(found["a", "c"], -1, atol=1e-6)
    np.testing.assert_allclose(found["b", "c"], -found["a", "b"], atol=1e-6)


def test_an_edge_detector_fails_the_randomisation_check_and_saliency_passes_it() -> None:
    images, target = uniform(4, 1, 12, 12), torch.zeros(4, dtype=torch.int64)

    def model(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(144, 2))

    def edges(classifier: nn.Module, x: Tensor, k: Tensor) -> Tensor:
        return x[:, 0].diff(dim=1, prepend=x[:, 0, :1]).abs() + x[:, 0].diff(dim=2, prepend=x[:, 0, :, :1]).abs()

    passed = {}
    for name, method in (("edges", edges), ("saliency", saliency.attribute)):
        ranked = [faithfulness.ranks(method(model(seed), images, target).abs().numpy()) for seed in (0, 1)]
        passed[name] = faithfulness.depends_on_weights(faithfulness.rank_correlation(*ranked)).tolist()
    assert passed == {"edges": [False] * 4, "saliency": [True] * 4}
