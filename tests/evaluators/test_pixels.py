from __future__ import annotations

from pathlib import Path

import numpy as np
from helpers.contexts import context
from sklearn.decomposition import PCA

from scotoma.data.labels.targets import Target
from scotoma.evaluators import pixels


def test_components_are_those_of_the_training_rows(tmp_path: Path) -> None:
    made = context(tmp_path, n=200)
    x = (made.store.pixels[made.dataset.table["row"]] / 255).reshape(200, -1)
    found = pixels.inputs(made)
    exact = PCA(60, svd_solver="full").fit(x[:100])
    assert found.shape == (200, 60)
    strongest = np.abs(np.corrcoef(found[:, 0], exact.transform(x)[:, 0])[0, 1])
    assert strongest > 0.9999
    np.testing.assert_allclose(found[:100].mean(0), 0, atol=1e-4)  # centred by the training rows alone


def test_few_images_have_few_components(tmp_path: Path) -> None:
    assert pixels.inputs(context(tmp_path, n=40)).shape == (40, 19)


def test_it_sees_a_difference_of_brightness_and_no_labels(tmp_path: Path) -> None:
    made = context(tmp_path, n=400)
    rows = pixels.evaluate(made)
    assert next(r["value"] for r in rows if r["metric"] == "auroc") > 0.95
    before = pixels.inputs(made)
    made.target = Target(("kind",), made.target.classes, made.target.y[::-1].copy())
    np.testing.assert_array_equal(pixels.inputs(made), before)
