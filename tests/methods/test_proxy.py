from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from helpers.learning import assert_learned, bars, inputs_of

from scotoma.errors import UsageError
from scotoma.methods.parts.inputs import Column, Inputs
from scotoma.methods.proxy import Proxy
from scotoma.rng import KeyedRNG

COLUMNS = (Column("age", (), 50.0, 20.0), Column("sex", ("F", "M")), Column("view", ("AP", "L", "PA")))


def method_of(columns: tuple[Column, ...]) -> Proxy:
    torch.manual_seed(0)
    inputs = Inputs(16, 1, (0.4,), (0.2,), images=8, columns=columns)
    return Proxy(timm.create_model("resnet10t", num_classes=0, in_chans=1), inputs, columns=tuple(c.name for c in columns))


def test_the_loss_is_the_sum_over_what_is_known_of_each_column() -> None:
    images, _ = bars(4)
    method = method_of(COLUMNS).eval()
    columns = torch.tensor([[0.5, 0, 2], [-1.0, 1, torch.nan], [torch.nan, torch.nan, 0], [2.0, 1, 1]])
    views = method.views(images, KeyedRNG(0, 0, torch.arange(4)))
    with torch.no_grad():
        found = method.loss(views, {"columns": columns})
        out = method.head(method.encoder(views["view"]))
    age = ((out[[0, 1, 3], 0] - columns[[0, 1, 3], 0]) ** 2).mean()
    sex = F.cross_entropy(out[[0, 1, 3], 1:3], torch.tensor([0, 1, 1]))
    view = F.cross_entropy(out[[0, 2, 3], 3:6], torch.tensor([2, 0, 1]))
    torch.testing.assert_close([found[f"loss of {c}"] for c in ("age", "sex", "view")], [age, sex, view])
    torch.testing.assert_close(found["loss"], age + sex + view)


def test_a_batch_that_knows_nothing_moves_nothing() -> None:
    images, _ = bars(4)
    method = method_of(COLUMNS)
    loss = method.loss(method.views(images, KeyedRNG(0, 0, torch.arange(4))), {"columns": torch.full((4, 3), torch.nan)})["loss"]
    loss.backward()
    assert loss == 0 and all(p.grad is None or not p.grad.any() for p in method.parameters())


def test_without_columns_it_says_what_to_do() -> None:
    with pytest.raises(UsageError, match=r"--method.columns"):
        method_of(())


def test_it_learns_the_column_and_nothing_collapses() -> None:
    images, targets = bars(64)
    inputs = Inputs(**{**vars(inputs_of(images)), "columns": (Column("kind", ("lying", "standing")), Column("place"))})
    torch.manual_seed(0)
    method = Proxy(timm.create_model("resnet10t", num_classes=0, in_chans=1), inputs, columns=("kind", "place"))
    place = (images[:, 0].float().mean(2) - images[:, 0].float().mean(1)).argmax(1).float()
    columns = torch.stack([targets.float(), (place - place.mean()) / place.std()], 1)
    columns[::5, 0] = torch.nan
    optimizer = torch.optim.AdamW(method.parameters(), lr=3e-3)
    losses = []
    for epoch in range(40):
        rows = torch.from_numpy(np.random.default_rng(epoch).permutation(64)[:32])
        loss = method.loss(method.views(images[rows], KeyedRNG(0, epoch, rows)), {"columns": columns[rows]})["loss of kind"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert_learned(method, images, losses, fall=0.5)
