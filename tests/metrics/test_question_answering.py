"""Exact match and F1 as the evaluations of SQuAD and CMRC 2018 define them."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest

from melete.metrics.question_answering import cmrc, squad


@pytest.mark.parametrize(
    ("said", "answers", "exact", "f1"),
    [
        ("The Denver Broncos!", ["Denver broncos", "Carolina"], True, 1.0),
        ("a cat", ["the dog"], False, 0.0),
        ("in the year 1066", ["1066", "in 1066 AD"], False, 2 / 3),
        ("cat cat dog", ["cat dog dog"], False, 2 / 3),
        ("U.S.", ["us"], True, 1.0),
        ("", [], True, 1.0),
        ("", ["Paris"], False, 0.0),
        ("Paris", [], False, 0.0),
        ("the", [], True, 1.0),
    ],
)
def test_squad(said, answers, exact, f1):
    em, f = squad([said], [answers])
    assert (bool(em[0]), f[0]) == (exact, pytest.approx(f1))


@pytest.mark.parametrize(
    ("said", "answers", "exact", "f1"),
    [
        ("光荣和ω-force", ["光荣和Ω-Force"], True, 1.0),
        ("《村雨城》", ["任天堂游戏谜之村雨城", "村雨城。"], True, 1.0),
        ("村雨城", ["任天堂游戏谜之村雨城"], False, 2 * 3 / 13),
        ("我有猫和狗", ["我没有狗"], False, 2 * 1 / 9),  # the longest run, not all that they share
        ("1963年", ["1963 年"], False, 1.0),
        ("New York 市", ["New Jersey 市"], False, 2 * 1 / 6),
        ("北京", ["上海"], False, 0.0),
    ],
)
def test_cmrc(said, answers, exact, f1):
    em, f = cmrc([said], [answers])
    assert (bool(em[0]), f[0]) == (exact, pytest.approx(f1))


def longest_run(one: list[str], other: list[str]) -> int:
    """By trying every run."""
    joined = {tuple(other[i:j]) for i in range(len(other)) for j in range(i + 1, len(other) + 1)}
    runs = (one[i:j] for i in range(len(one)) for j in range(i + 1, len(one) + 1))
    return max((len(run) for run in runs if tuple(run) in joined), default=0)


def test_random_chinese_answers():
    rng = np.random.default_rng(0)
    said, answers = (["".join(rng.choice(list("天地人和，"), 8)) for _ in range(200)] for _ in range(2))
    _, f1 = cmrc(said, [[answer] for answer in answers])
    for text, answer, value in zip(said, answers, f1, strict=True):
        one, other = list(re.sub("，", "", text)), list(re.sub("，", "", answer))
        common = longest_run(one, other)
        expected = 2 * (p := common / len(one)) * (r := common / len(other)) / (p + r) if common else 0
        assert value == pytest.approx(expected)


def test_random_english_answers():
    rng = np.random.default_rng(0)
    said, answers = ([" ".join(rng.choice(list("abcde"), 4)) for _ in range(100)] for _ in range(2))
    _, f1 = squad(said, [[answer] for answer in answers])
    for text, answer, value in zip(said, answers, f1, strict=True):
        one, other = ([word for word in each.split() if word != "a"] for each in (text, answer))
        common = sum((Counter(one) & Counter(other)).values())
        empty = float(one == other) if not one or not other else None
        assert value == pytest.approx(2 * common / (len(one) + len(other)) if empty is None else empty)
