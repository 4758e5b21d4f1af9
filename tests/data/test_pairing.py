"""Who stands beside whom."""

from __future__ import annotations

import numpy as np
import torch

from scotoma.data.pairing import GroupPairing, SuccessorPairing
from scotoma.rng import KeyedRNG


def draws(rows: np.ndarray, epoch: int = 0) -> KeyedRNG:
    return KeyedRNG(3, epoch, torch.from_numpy(rows))


def test_a_partner_is_another_of_the_group_and_each_is_as_likely() -> None:
    codes = np.array([5, 7, 5, 9, 5, 7])
    pairs, rows = GroupPairing(codes), np.arange(6)
    counts = np.zeros((6, 6), int)
    for epoch in range(600):
        found, follows = pairs.draw(rows, draws(rows, epoch))
        assert follows is None and (codes[found] == codes).all()
        counts[rows, found] += 1
    assert counts[3, 3] == 600  # alone
    assert (np.diag(counts)[[0, 1, 2, 4, 5]] == 0).all()
    assert counts[1, 5] == counts[5, 1] == 600
    assert np.abs(counts[0, [2, 4]] - 300).max() < 60  # five standard deviations


def test_partners_hang_on_epoch_and_row_alone() -> None:
    pairs, rows = GroupPairing(np.zeros(50, int)), np.arange(50)
    together = pairs.draw(rows, draws(rows))[0]
    some = np.array([31, 4, 4])
    assert np.array_equal(pairs.draw(some, draws(some))[0], together[some])
    assert (pairs.draw(rows, draws(rows, 1))[0] != together).any()


def test_half_of_the_images_see_their_successor_and_the_others_never() -> None:
    codes = np.array([1, 0, 1, 1, 0, 2, 1])
    order = np.array([3.0, 1, 1, 2, 0, 0, 4])  # study 1: rows 2, 3, 0, 6; study 0: rows 4, 1; study 2: row 5
    successor = {2: 3, 3: 0, 0: 6, 4: 1}
    pairs, rows = SuccessorPairing(codes, order), np.arange(7)
    share = np.zeros(7)
    others: dict[int, set[int]] = {k: set() for k in range(7)}
    for epoch in range(600):
        found, follows = pairs.draw(rows, draws(rows, epoch))
        share += follows / 600
        for row in range(7):
            if follows[row]:
                assert found[row] == successor[row]
            else:
                others[row].add(int(found[row]))
    assert np.abs(share[[0, 2, 3, 4]] - 0.5).max() < 0.11 and not share[[1, 5, 6]].any()
    assert others[2] == {0, 6} and others[3] == {6, 2} and others[0] == {2, 3} and others[6] == {2, 3, 0}
    assert others[4] == others[1] == {0, 2, 3, 5, 6}  # two images: the other one follows, so it is drawn elsewhere
    assert others[5] == {0, 1, 2, 3, 4, 6}
