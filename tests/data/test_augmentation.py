"""Texts changed a little: only where they may be, by the shares asked for, from the generator alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from melete.data.augmentation import Augmentation, augmented
from melete.errors import InputError

IDS = np.arange(100, 140)
# [CLS] 14 tokens in two sentences [SEP] 22 tokens in three sentences [SEP] and one more special token
SENTENCE = np.repeat([0, 1, 2, 0, 3, 4, 5, 0], [1, 8, 6, 1, 10, 4, 8, 2])
FIXED = SENTENCE == 0


def runs(count: int = 400, **shares: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    augmentation = Augmentation(**shares, ordinary=np.arange(500, 600), mask_id=9)
    rng = np.random.default_rng(3)
    return [augmented(IDS, SENTENCE, augmentation, rng) for _ in range(count)]


@pytest.mark.parametrize("kind", ["delete", "swap", "replace", "mask"])
def test_shares_are_kept_and_special_tokens_are_not_touched(kind: str) -> None:
    shares: dict[str, Any] = {kind: 0.2}
    found = runs(**shares)
    free = (~FIXED).sum()
    if kind == "delete":
        assert np.mean([len(IDS) - len(ids) for ids, _ in found]) == pytest.approx(0.2 * free, rel=0.05)
        assert all(np.array_equal(IDS[order], ids) for ids, order in found)
        assert all(set(IDS[FIXED]) <= set(ids) for ids, _ in found)
        return
    assert all(np.array_equal(ids[FIXED], IDS[FIXED]) and len(ids) == len(IDS) for ids, _ in found)
    if kind == "swap":
        assert all(sorted(ids) == IDS.tolist() for ids, _ in found)
        halves = [(SENTENCE > 0) & (SENTENCE < 3), SENTENCE >= 3]
        assert all(set(ids[half]) == set(IDS[half]) for ids, _ in found for half in halves)
    else:
        changed = np.mean([(ids != IDS).sum() for ids, _ in found])
        assert changed == pytest.approx(0.2 * free, rel=0.05)
        new = {int(i) for ids, _ in found for i in ids[ids != IDS]}
        assert new == {9} if kind == "mask" else new <= set(range(500, 600))


def test_sentences_move_as_wholes_within_their_text() -> None:
    orders = {tuple(order) for _, order in runs(shuffle=1.0)}
    assert len(orders) == 2 * 6
    for order in orders:
        moved = SENTENCE[list(order)]
        assert (moved == 0).tolist() == FIXED.tolist()
        assert set(moved[1:15]) == {1, 2}
        for number in range(1, 6):
            assert np.all(np.diff(np.flatnonzero(moved == number)) == 1)
            assert np.array_equal(np.array(order)[moved == number], np.flatnonzero(number == SENTENCE))
    assert len({tuple(order) for _, order in runs(shuffle=0.5)}) == 2 * 6


def test_a_token_is_always_left() -> None:
    assert all((SENTENCE[order] > 0).any() for _, order in runs(delete=0.99))


def test_the_generator_alone_decides() -> None:
    shares: dict[str, Any] = {"delete": 0.1, "swap": 0.1, "replace": 0.1, "mask": 0.1, "shuffle": 0.5}
    for (ids, order), (again, same) in zip(runs(20, **shares), runs(20, **shares), strict=True):
        assert np.array_equal(ids, again)
        assert np.array_equal(order, same)


def test_masking_without_a_mask_is_refused() -> None:
    with pytest.raises(InputError, match="no token for what is masked"):
        Augmentation(mask=0.1)
    assert not Augmentation().active
