"""Damage to texts: how much, in which pieces, and that nothing else is lost."""

from __future__ import annotations

import numpy as np
import pytest

from melete.data.denoising import Noise, corrupt_spans, fill_in_text, sentence_order

HOLES = np.arange(1000, 1100)
MASK = 999


def draws(count: int) -> list[np.random.Generator]:
    return [np.random.default_rng(seed) for seed in range(count)]


def test_spans_and_what_is_shown_make_up_the_text() -> None:
    for length in (1, 2, 5, 40):
        for rng in draws(50):
            ids = np.arange(length)
            source, target = corrupt_spans(ids, HOLES, Noise(0.5), rng)
            missing = dict(zip(*_pieces(target), strict=True))
            whole = [token for one in source.tolist() for token in missing.get(one, [one])]
            assert whole == ids.tolist()
            holes = source[source >= 1000]
            assert holes.tolist() == list(range(1000, 1000 + len(holes)))
            assert not (np.diff((source >= 1000).nonzero()[0]) == 1).any(), "two spans touch"


def _pieces(target: np.ndarray) -> tuple[list[int], list[list[int]]]:
    """Sentinels, and what stands behind each."""
    at = np.flatnonzero(target >= 1000)
    return target[at].tolist(), [part[1:].tolist() for part in np.split(target, at)[1:]]


def test_a_share_of_the_tokens_is_hidden_in_spans_of_a_mean_length() -> None:
    hidden, spans, first = 0, 0, 0
    for rng in draws(400):
        source, target = corrupt_spans(np.arange(100), HOLES, Noise(0.15), rng)
        hidden, spans = hidden + int((target < 1000).sum()), spans + int((target >= 1000).sum())
        first += source[0] >= 1000
    assert hidden / 40000 == pytest.approx(0.15, abs=0.001)
    assert hidden / spans == pytest.approx(3, abs=0.1)
    assert 20 < first < 100, "a span may open a text"


def test_runs_of_whole_words_become_one_mask_each() -> None:
    words = np.repeat(np.arange(60), 2)  # words of two tokens
    ids = np.arange(120)
    shown, masks, too_many = 0, 0, 0
    for rng in draws(400):
        source = fill_in_text(ids, words, MASK, Noise(0.3), rng)
        assert len(source) <= len(ids)
        rest = source[source != MASK]
        assert (np.diff(rest) > 0).all()
        assert (np.bincount(rest // 2, minlength=60) != 1).all(), "a word is half hidden"
        shown, masks = shown + len(rest) // 2, masks + int((source == MASK).sum())
        inner = np.flatnonzero(source[1:-1] == MASK) + 1
        too_many += int((source[inner + 1] == source[inner - 1] + 1).sum())
    assert 1 - shown / (400 * 60) == pytest.approx(0.3, abs=0.005)
    assert 18 * 400 / masks == pytest.approx(3, abs=0.35)  # the last run of a text is cut short
    assert 0.02 < too_many / masks < 0.09  # e ** -3 of the runs have no word
    assert fill_in_text(
        np.array([5]), np.array([0]), MASK, Noise(0.001), np.random.default_rng(0)
    ).tolist() == [5]


def test_sentences_change_places_whole() -> None:
    seen = set()
    for rng in draws(60):
        order = sentence_order(np.array([0, 2, 5]), 6, rng)
        assert sorted(order) == list(range(6))
        seen.add(tuple(order))
    parts = ([0, 1], [2, 3, 4], [5])
    assert seen == {
        tuple(token for i in turn for token in parts[i])
        for turn in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
    }
