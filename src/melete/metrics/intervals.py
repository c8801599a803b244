"""How sure a figure is, and whether one model is better than another on the same rows. Pure functions.

A figure is whatever a function makes of row numbers, so that accuracy, F1 and correlations are all treated alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Interval:
    """A figure, and the bounds of its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """Two models on the same rows.

    Attributes:
        first, second: their figures.
        difference: second minus first, with the bounds of its 95 % interval.
        p_value: how often a difference as large as this comes about where each row's answers are dealt to the two
            models by chance; two-sided.
    """

    first: float
    second: float
    difference: Interval
    p_value: float


def bootstrap(
    figure: Callable[[np.ndarray], float], rows: int, *, resamples: int = 1000, seed: int = 0
) -> Interval:
    """95 % interval of a figure, by the percentile bootstrap over rows (Efron and Tibshirani 1993, section 13.3).

    Args:
        figure: of row numbers, int64 (R,), which may come several times. NaN, where they give none, is left out.
        rows: how many there are, at least 1.
    """
    rng = np.random.default_rng(seed)
    values = np.array([figure(rng.integers(0, rows, rows)) for _ in range(resamples)])
    return Interval(figure(np.arange(rows)), *_bounds(values))


def compare(
    figure: Callable[[np.ndarray, np.ndarray], float], rows: int, *, resamples: int = 1000, seed: int = 0
) -> Comparison:
    """Whether the second model is better than the first: paired bootstrap, and a paired permutation test.

    Both models are measured on the same drawn rows (Koehn 2004), so that what is hard for both cancels out. The
    permutation test swaps their answers on a random half of the rows (Noreen 1989).

    Args:
        figure: of row numbers, int64 (R,), and of the number of the model, 0 or 1, whose answer counts for each,
            int64 (R,).
        rows: how many there are, at least 1.
    """
    rng = np.random.default_rng(seed)
    everything, first, second = np.arange(rows), np.zeros(rows, np.int64), np.ones(rows, np.int64)

    def difference(drawn: np.ndarray, one: np.ndarray, other: np.ndarray) -> float:
        return figure(drawn, other) - figure(drawn, one)

    draws = (rng.integers(0, rows, rows) for _ in range(resamples))
    values = np.array([difference(drawn, first, second) for drawn in draws])
    seen = difference(everything, first, second)
    deals = (rng.integers(0, 2, rows) for _ in range(resamples))
    chance = np.array([difference(everything, deal, 1 - deal) for deal in deals])
    # Rounding must not make a permutation that changes nothing smaller than what was seen.
    as_large = int((np.abs(chance) >= abs(seen) - 1e-12).sum())
    return Comparison(
        figure(everything, first),
        figure(everything, second),
        Interval(seen, *_bounds(values)),
        (as_large + 1) / (resamples + 1),
    )


def _bounds(values: np.ndarray) -> tuple[float, float]:
    """The middle 95 % of the values that are numbers; NaN where none is."""
    values = values[np.isfinite(values)]
    if not len(values):
        return float("nan"), float("nan")
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)
