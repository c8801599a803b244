"""How alike two texts are by the words they share: a number, and features from which labels of pairs are learned."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import ClassVar, Self

import numpy as np

from melete.baselines.labelled import Answer, LabelledBaseline
from melete.data.labelled.rows import ScoreRow
from melete.data.scripts import CJK
from melete.metrics.question_answering import longest_run
from melete.metrics.regression import spearman

_TOKEN = re.compile(rf"[{CJK}]|[^\W{CJK}]+|[^\w\s]")


def tokens(text: str) -> list[str]:
    """Words and signs in lower case; each Chinese character is a word."""
    return _TOKEN.findall(text.lower())


def words_and_letters(text: str) -> list[str]:
    """Tokens, pairs of neighbours, and the runs of three letters in each word, so that plane and planes are alike."""
    own = tokens(text)
    pairs = [f"{one} {other}" for one, other in pairwise(own)]
    letters = [f"#{word}#"[i : i + 3] for word in own if len(word) > 2 for i in range(len(word))]
    return [*own, *pairs, *letters]


class Weights:
    """How much a shared part of a text says: the rarer it is in training texts, the more (Sparck Jones 1972)."""

    def __init__(self, texts: Iterable[str], parts: Callable[[str], list[str]]) -> None:
        self.parts = parts
        counts: Counter[str] = Counter()
        total = 0
        for text in texts:
            counts.update(set(parts(text)))
            total += 1
        self.idf = {part: math.log((1 + total) / (1 + count)) + 1 for part, count in counts.items()}
        self.unseen = math.log(1 + total) + 1

    def cosine(self, one: str, other: str) -> float:
        """Cosine of the two texts' weighted parts, 0 to 1."""
        first, second = self._vector(one), self._vector(other)
        if len(first) > len(second):
            first, second = second, first
        shared = sum(weight * second[part] for part, weight in first.items() if part in second)
        size = math.sqrt(sum(w * w for w in first.values()) * sum(w * w for w in second.values()))
        return shared / size if size else 0.0

    def _vector(self, text: str) -> dict[str, float]:
        return {
            part: (1 + math.log(count)) * self.idf.get(part, self.unseen)
            for part, count in Counter(self.parts(text)).items()
        }


class TfidfCosine(LabelledBaseline[ScoreRow]):
    """The TF-IDF cosine of two texts, brought to the scale of the scores by a line.

    Whether parts are words alone or also pairs of words and letters is decided by the correlation on training rows.
    """

    name: ClassVar[str] = "TF-IDF cosine"

    def __init__(self) -> None:
        self.weights = Weights((), tokens)
        self.line, self.range = (0.0, 0.0), (0.0, 0.0)

    def fit(self, rows: Sequence[ScoreRow]) -> Self:
        """See `LabelledBaseline.fit`."""
        scores = np.array([row.score for row in rows], dtype=np.float64)
        texts = [text for row in rows for text in row.texts]
        best = -math.inf
        for parts in (tokens, words_and_letters):
            weights = Weights(texts, parts)
            found = np.array([weights.cosine(*row.texts) for row in rows])
            agreement = spearman(scores, found)
            if agreement > best or math.isinf(best):
                best, self.weights = agreement, weights
                spread = found - found.mean()
                slope = float(spread @ scores) / (float(spread @ spread) or 1.0)
                self.line = slope, float(scores.mean() - slope * found.mean())
        self.range = float(scores.min()), float(scores.max())
        return self

    def predict(self, rows: Sequence[ScoreRow]) -> list[Answer]:
        """See `LabelledBaseline.predict`."""
        slope, offset = self.line
        low, high = self.range
        return [
            {"score": min(max(slope * self.weights.cosine(*row.texts) + offset, low), high)} for row in rows
        ]


FEATURES = (
    "shared of both", "shared of the first", "shared of the second", "shared pairs", "cosine", "lengths", "longest run",
    "numbers", "rare words of the first alone", "rare words of the second alone",
)  # fmt: skip


def overlap(one: str, other: str, weights: Weights) -> list[float]:
    """What two texts share: a number for each of `FEATURES`."""
    first, second = tokens(one), tokens(other)
    a, b = set(first), set(second)
    both = len(a & b)
    pairs = [set(pairwise(words)) for words in (first, second)]
    numbers = [{word for word in words if word[0].isdigit()} for words in (a, b)]
    shorter, longer = sorted((len(first), len(second)))
    return [
        both / max(len(a | b), 1),
        both / max(len(a), 1),
        both / max(len(b), 1),
        len(pairs[0] & pairs[1]) / max(len(pairs[0] | pairs[1]), 1),
        weights.cosine(one, other),
        shorter / max(longer, 1),
        longest_run(first, second) / max(shorter, 1),
        float(numbers[0] == numbers[1]),
        max((weights.idf.get(word, weights.unseen) for word in a - b), default=0.0),
        max((weights.idf.get(word, weights.unseen) for word in b - a), default=0.0),
    ]
