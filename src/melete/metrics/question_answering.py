"""How well answers cut from a text agree with those of people: exact match and F1. Pure functions on texts.

Each question has several right answers, of which the nearest counts; none, where the text does not answer it.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
# The signs that the evaluation of CMRC 2018 leaves out, and its notion of a Chinese character.
_CMRC_SIGNS = str.maketrans("", "", "-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")
_CMRC_TOKEN = re.compile(r"[\u4e00-\u9fa5]|\d+(?:[.,]\d+)+|[^\W\u4e00-\u9fa5]+|[^\w\s]")


def squad(predicted: Sequence[str], answers: Sequence[Sequence[str]]) -> tuple[np.ndarray, np.ndarray]:
    """Exact match and F1 of each question, 0 to 1, as SQuAD 1.1 and 2.0 are evaluated: bool (N,), float (N,).

    Case, punctuation and articles do not count; F1 is that of the words. An empty prediction says that there is no
    answer, and no answers say the same.
    """
    return _nearest(predicted, answers, _squad_text, _squad_f1)


def cmrc(predicted: Sequence[str], answers: Sequence[Sequence[str]]) -> tuple[np.ndarray, np.ndarray]:
    """Exact match and F1 of each question, 0 to 1, as CMRC 2018 is evaluated: bool (N,), float (N,).

    Case and signs do not count; F1 is that of the longest common run of Chinese characters and foreign words. Foreign
    words are cut at spaces and signs, where the original asks NLTK.
    """
    return _nearest(predicted, answers, _cmrc_text, _cmrc_f1)


def _nearest(
    predicted: Sequence[str],
    answers: Sequence[Sequence[str]],
    plain: Callable[[str], str],
    overlap: Callable[[str, str], float],
) -> tuple[np.ndarray, np.ndarray]:
    exact, f1 = np.zeros(len(predicted), bool), np.zeros(len(predicted))
    for i, (said, right) in enumerate(zip(predicted, answers, strict=True)):
        right = right or [""]
        exact[i] = any(plain(said) == plain(answer) for answer in right)
        f1[i] = max(overlap(said, answer) for answer in right)
    return exact, f1


def _squad_text(text: str) -> str:
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def _squad_f1(said: str, answer: str) -> float:
    one, other = _squad_text(said).split(), _squad_text(answer).split()
    if not one or not other:
        return float(one == other)
    return _f1(sum((Counter(one) & Counter(other)).values()), len(one), len(other))


def _cmrc_text(text: str) -> str:
    return text.lower().strip().translate(_CMRC_SIGNS)


def _cmrc_f1(said: str, answer: str) -> float:
    one, other = _CMRC_TOKEN.findall(_cmrc_text(said)), _CMRC_TOKEN.findall(_cmrc_text(answer))
    if not one or not other:
        return float(one == other)
    return _f1(longest_run(one, other), len(one), len(other))


def _f1(common: int, said: int, answer: int) -> float:
    return 2 * common / (said + answer)


def longest_run(one: Sequence[str], other: Sequence[str]) -> int:
    """Length of the longest run of tokens that stands in both."""
    longest, row = 0, [0] * (len(other) + 1)
    for token in one:
        before = 0
        for j, candidate in enumerate(other, 1):
            row[j], before = (before + 1 if token == candidate else 0), row[j]
            longest = max(longest, row[j])
    return longest
