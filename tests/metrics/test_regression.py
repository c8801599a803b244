"""Correlations equal scipy's."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from melete.metrics.regression import pearson, spearman


@pytest.mark.parametrize("digits", [0, 1, 9])
def test_correlations(digits):
    rng = np.random.default_rng(1)
    one = (rng.random(300) * 5).round(digits)
    other = (one + rng.normal(0, 1, 300)).round(digits)
    assert pearson(one, other) == pytest.approx(stats.pearsonr(one, other)[0])
    assert spearman(one, other) == pytest.approx(stats.spearmanr(one, other)[0])


def test_a_constant_has_no_correlation():
    assert math.isnan(pearson(np.ones(5), np.arange(5.0)))
    assert math.isnan(spearman(np.arange(5.0), np.ones(5)))
    assert spearman(np.array([1.0, 2.0, 9.0]), np.array([3.0, 5.0, 7.0])) == 1.0
