"""How far raters agree, against published figures."""

from __future__ import annotations

import math

import numpy as np
import pytest

from melete.metrics.agreement import agreement, krippendorff_alpha

# Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", section C: four observers, twelve units.
PUBLISHED = """
1 2 3 3 2 1 4 1 2 . . .
1 2 3 3 2 2 4 1 2 5 . 3
. 3 3 3 2 3 4 2 2 5 1 .
1 2 3 3 2 4 4 1 2 5 1 .
"""


def table(text: str) -> np.ndarray:
    """Units by raters; a dot is no rating."""
    return np.array(
        [[-1 if x == "." else int(x) for x in line.split()] for line in text.split("\n") if line]
    ).T


def test_alpha_is_the_published_one() -> None:
    assert krippendorff_alpha(table(PUBLISHED)) == pytest.approx(0.743, abs=5e-4)


def test_perfect_opposite_and_by_chance() -> None:
    same = table("0 1 2 1\n0 1 2 1")
    assert (krippendorff_alpha(same), agreement(same)) == (1.0, 1.0)
    opposite = table("0 1 0 1\n1 0 1 0")
    assert krippendorff_alpha(opposite) < -0.5
    assert agreement(opposite) == 0.0
    dice = np.random.default_rng(0).integers(0, 3, (4000, 2))
    assert krippendorff_alpha(dice) == pytest.approx(0.0, abs=0.05)
    assert agreement(dice) == pytest.approx(1 / 3, abs=0.03)


def test_what_cannot_be_told() -> None:
    assert math.isnan(krippendorff_alpha(table("0 1 .\n. . 1")))
    assert math.isnan(agreement(table("0 1 .\n. . 1")))
    assert math.isnan(krippendorff_alpha(table("1 1\n1 1")))
