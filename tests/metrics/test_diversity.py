from __future__ import annotations

import pytest

from melete.metrics.diversity import distinct_n, diversity, repetition_rate


def test_distinct_n_counts_over_all_sequences():
    assert distinct_n([["the", "cat", "the", "cat"]], 1) == 2 / 4
    assert distinct_n([["the", "cat", "the", "cat"]], 2) == 2 / 3
    assert distinct_n([[1, 2], [1, 2]], 2) == 1 / 2


def test_repetition_is_counted_inside_each_sequence():
    assert repetition_rate([[1, 2, 3, 4, 1, 2, 3, 4]], 4) == pytest.approx(1 / 5)
    assert repetition_rate([[1, 2, 3, 4], [1, 2, 3, 4]], 4) == 0
    assert repetition_rate(["aaaaaaaa", "abcdefgh"], 4) == pytest.approx((4 / 5 + 0) / 2)


def test_sequences_without_an_ngram_count_nothing():
    assert distinct_n([[], [1]], 2) == 0
    assert repetition_rate([[1, 2, 3], [1] * 5], 4) == 0.5
    assert diversity([]) == {"distinct_1": 0, "distinct_2": 0, "distinct_3": 0, "repetition": 0}
