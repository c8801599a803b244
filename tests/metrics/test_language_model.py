"""Figures of a language model, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from melete.metrics.language_model import bits_per_byte, interval, perplexity


def test_a_uniform_model_is_as_perplexed_as_it_has_choices() -> None:
    assert perplexity(10 * math.log(50), 10) == pytest.approx(50)


def test_per_word_perplexity_spreads_all_nats_over_the_words() -> None:
    assert perplexity(6 * math.log(4), 3) == pytest.approx(16)


def test_a_byte_of_noise_takes_eight_bits() -> None:
    assert bits_per_byte(1000 * math.log(256), 1000) == pytest.approx(8)


def test_nothing_to_divide_by_and_too_much_to_hold_are_infinite() -> None:
    assert perplexity(1.0, 0) == perplexity(1e6, 1) == bits_per_byte(1.0, 0) == math.inf


def test_interval_covers_the_mean_nineteen_times_in_twenty() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(100):
        low, high = interval(rng.normal(3, 2, 2000), resamples=200, seed=seed)
        covered += low < 3 < high
    assert 86 <= covered <= 100


def test_interval_is_wider_where_neighbours_are_alike() -> None:
    independent = np.random.default_rng(0).normal(0, 1, 8000)
    alike = np.repeat(independent[:160], 50)
    widths = [high - low for low, high in (interval(independent), interval(alike))]
    assert widths[1] > 3 * widths[0]


def test_interval_of_one_value_is_that_value() -> None:
    assert interval(np.array([2.0])) == (2.0, 2.0)
