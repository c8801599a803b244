"""How far people who rate the same things agree. Pure functions."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np


def krippendorff_alpha(ratings: np.ndarray) -> float:
    """Agreement beyond chance of any number of raters on categories: 1 is perfect, 0 is that of dice.

    The share of disagreeing pairs of ratings, within things, to that among all ratings (Krippendorff 2011, "Computing
    Krippendorff's Alpha-Reliability", section C, nominal data).

    Args:
        ratings: category of each thing (row) by each rater (column), int (N, R), from 0; -1 where there is none. What
            one rater alone has rated counts for nothing.

    Returns:
        NaN where nothing was rated twice, or where there is one category only.
    """
    size = int(ratings.max(initial=0)) + 1
    pairs = np.zeros((size, size))  # ordered pairs of ratings of one thing
    for row in ratings:
        given = row[row >= 0]
        for one, other in permutations(given.tolist(), 2):
            pairs[one, other] += 1 / (len(given) - 1)
    counts = pairs.sum(1)
    total = counts.sum()
    apart = total**2 - (counts**2).sum()
    if not apart:
        return math.nan
    return float(1 - (total - 1) * (total - np.trace(pairs)) / apart)


def agreement(ratings: np.ndarray) -> float:
    """Share of the pairs of ratings of one thing that are equal; NaN where nothing was rated twice.

    Args:
        ratings: as in `krippendorff_alpha`.
    """
    equal = [one == other for row in ratings for one, other in permutations(row[row >= 0].tolist(), 2)]
    return float(np.mean(equal)) if equal else math.nan
