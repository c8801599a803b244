"""Intervals hold the truth as often as they say; a better model is told from chance."""

from __future__ import annotations

import math

import numpy as np
import pytest

from melete.metrics.intervals import bootstrap, compare
from melete.metrics.regression import spearman


def test_the_interval_of_a_share_is_the_binomial_one():
    right = np.arange(400) < 320
    found = bootstrap(lambda rows: right[rows].mean(), 400)
    half = 1.96 * math.sqrt(0.8 * 0.2 / 400)
    assert found.value == 0.8
    assert found.low == pytest.approx(0.8 - half, abs=0.008)
    assert found.high == pytest.approx(0.8 + half, abs=0.008)
    assert bootstrap(lambda rows: right[rows].mean(), 400) == found


def test_intervals_cover():
    rng = np.random.default_rng(5)
    inside = 0
    for trial in range(100):
        right = rng.random(150) < 0.7
        found = bootstrap(lambda rows, right=right: right[rows].mean(), 150, resamples=300, seed=trial)
        inside += found.low <= 0.7 <= found.high
    assert 88 <= inside <= 99


def test_a_figure_that_is_not_a_sum():
    rng = np.random.default_rng(0)
    truth = rng.random(200)
    said = truth + rng.normal(0, 0.2, 200)
    found = bootstrap(lambda rows: spearman(truth[rows], said[rows]), 200, resamples=200)
    assert 0 < found.low < found.value < found.high < 1


def test_no_figure_has_no_interval():
    found = bootstrap(lambda rows: math.nan, 5, resamples=10)
    assert math.isnan(found.value)
    assert math.isnan(found.low)


def right_of(*shares: float, rows: int = 500, seed: int = 0) -> np.ndarray:
    """Which rows each model gets right, (models, rows); what is hard is hard for all."""
    hard = np.random.default_rng(seed).random(rows)
    return np.stack([hard < share for share in shares])


def test_a_better_model_is_told_from_an_equal_one():
    better, equal = right_of(0.8, 0.84), right_of(0.8, 0.8)
    found = compare(lambda rows, model: better[model, rows].mean(), 500)
    assert found.first == better[0].mean()
    assert found.difference.value == pytest.approx(better[1].mean() - better[0].mean())
    assert 0 < found.difference.low < found.difference.value < found.difference.high
    assert found.p_value < 0.01
    found = compare(lambda rows, model: equal[model, rows].mean(), 500)
    assert (found.difference.low, found.difference.high, found.p_value) == (0.0, 0.0, 1.0)


def test_chance_is_seldom_taken_for_a_difference():
    rng = np.random.default_rng(3)
    p_values = []
    for trial in range(60):
        right = rng.random((2, 100)) < 0.8
        p_values.append(
            compare(
                lambda rows, model, right=right: right[model, rows].mean(), 100, resamples=200, seed=trial
            ).p_value
        )
    assert sum(p < 0.05 for p in p_values) <= 8
