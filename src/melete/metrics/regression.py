"""How well numbers follow other numbers. Pure functions on arrays of floats, (N,)."""

from __future__ import annotations

import math

import numpy as np


def pearson(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Correlation of two series; NaN where one of them is constant."""
    one, other = truth - truth.mean(), predicted - predicted.mean()
    scale = math.sqrt(float(one @ one) * float(other @ other))
    if not scale:
        return math.nan
    return float(np.clip((one @ other) / scale, -1.0, 1.0))


def spearman(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Correlation of ranks, equal values sharing their mean rank; NaN where a series is constant."""
    return pearson(ranks(truth), ranks(predicted))


def ranks(values: np.ndarray) -> np.ndarray:
    """Place of each value in order of size, from 1; equal values in the middle of their places."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]
