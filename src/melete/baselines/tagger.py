"""A linear tagger: what surrounds a word, what it is made of, and the tag before it, each with a weight for each tag.

An averaged perceptron (Collins 2002) over whole sentences, decoded by Viterbi's algorithm. It knows nothing of words it
has not seen but their letters: what a neural tagger has to beat.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Self

import numpy as np

from melete.baselines.labelled import Answer, LabelledBaseline
from melete.console import Progress
from melete.data.labelled.rows import TagRow

_AFFIX = 4  # letters
_BORDER = "\x00"
_UNKNOWN = 0  # number of a feature that training did not have


class MostFrequentTag(LabelledBaseline[TagRow]):
    """Gives every word the tag it had most often in training, and words it has not seen the tag of most words."""

    name: ClassVar[str] = "most frequent tag"

    def __init__(self) -> None:
        self.tags: dict[str, str] = {}
        self.default = "O"

    def fit(self, rows: Sequence[TagRow]) -> Self:
        """See `LabelledBaseline.fit`."""
        counts: dict[str, Counter[str]] = {}
        for row in rows:
            for word, tag in zip(row.words, row.classes, strict=True):
                counts.setdefault(word, Counter())[tag] += 1
        self.tags = {word: own.most_common(1)[0][0] for word, own in counts.items()}
        self.default = Counter(tag for row in rows for tag in row.classes).most_common(1)[0][0]
        return self

    def predict(self, rows: Sequence[TagRow]) -> list[Answer]:
        """See `LabelledBaseline.predict`."""
        return [{"tags": [self.tags.get(word, self.default) for word in row.words]} for row in rows]


class LinearTagger(LabelledBaseline[TagRow]):
    """The averaged perceptron of this module.

    Args:
        epochs: how often the training sentences are read.
        seed: of the order in which they are.
    """

    name: ClassVar[str] = "linear tagger"

    def __init__(self, epochs: int = 8, seed: int = 0) -> None:
        self.epochs, self.seed = epochs, seed
        self.features: dict[str, int] = {}
        self.tags: tuple[str, ...] = ()
        self.weights = np.zeros((1, 0), np.float32)  # (features, tags)
        self.moves = np.zeros((1, 0), np.float32)  # (tags + 1, tags): from a tag, or from the start

    def fit(self, rows: Sequence[TagRow]) -> Self:
        """See `LabelledBaseline.fit`."""
        self.tags = tuple(sorted({tag for row in rows for tag in row.classes}))
        number = {tag: i for i, tag in enumerate(self.tags)}
        self.features = {}
        known = [self._known(row.words, grow=True) for row in rows]
        gold = [np.array([number[tag] for tag in row.classes]) for row in rows]
        weights = np.zeros((len(self.features) + 1, len(self.tags)), np.float32)
        moves = np.zeros((len(self.tags) + 1, len(self.tags)), np.float32)
        # The mean of all weights over time, by what each change contributes to it (Daume 2006, figure 2.3).
        weights_past, moves_past = np.zeros_like(weights), np.zeros_like(moves)
        rng, time = np.random.default_rng(self.seed), 1
        with Progress("linear tagger", "sentences", self.epochs * len(rows)) as progress:
            for _ in range(self.epochs):
                for i in rng.permutation(len(rows)):
                    self._learn(known[i], gold[i], (weights, moves), (weights_past, moves_past), time)
                    time += 1
                    progress.advance(1)
        self.weights, self.moves = weights - weights_past / time, moves - moves_past / time
        return self

    def _learn(
        self,
        known: np.ndarray,
        gold: np.ndarray,
        now: tuple[np.ndarray, np.ndarray],
        past: tuple[np.ndarray, np.ndarray],
        time: int,
    ) -> None:
        """Reward what leads to the right tags, and blame what led to the wrong ones."""
        if not len(gold):
            return
        said = best_path(now[0][known].sum(1), now[1])
        wrong = np.flatnonzero(said != gold)
        if not len(wrong):
            return
        start = len(self.tags)
        for path, sign in ((gold, 1.0), (said, -1.0)):
            before = np.concatenate([[start], path[:-1]])
            for target, step in ((now, sign), (past, sign * time)):
                np.add.at(target[0], (known[wrong], path[wrong, None]), step)
                np.add.at(target[1], (before, path), step)

    def predict(self, rows: Sequence[TagRow]) -> list[Answer]:
        """See `LabelledBaseline.predict`."""
        found: list[Answer] = []
        for row in rows:
            path: Any = []
            if row.words:
                path = best_path(self.weights[self._known(row.words)].sum(1), self.moves)
            found.append({"tags": [self.tags[i] for i in path]})
        return found

    def _known(self, words: Sequence[str], grow: bool = False) -> np.ndarray:
        """Numbers of the features of each word, (words, features of a word)."""
        features = self.features
        if grow:
            numbers = [
                [features.setdefault(name, len(features) + 1) for name in own] for own in word_features(words)
            ]
        else:
            numbers = [[features.get(name, _UNKNOWN) for name in own] for own in word_features(words)]
        return np.array(numbers, np.int64).reshape(len(words), -1)


def best_path(scores: np.ndarray, moves: np.ndarray) -> np.ndarray:
    """The tags of the highest sum of scores and moves (Viterbi 1967): int64 (N,).

    Args:
        scores: of each tag for each word, (N, C), at least one word.
        moves: of each tag after each tag, and last after the start, (C + 1, C).
    """
    count, tags = scores.shape
    best, back = scores[0] + moves[tags], np.zeros((count, tags), np.int64)
    for i in range(1, count):
        ways = best[:, None] + moves[:tags]  # (before, now)
        back[i] = ways.argmax(0)
        best = ways.max(0) + scores[i]
    path = np.zeros(count, np.int64)
    path[-1] = best.argmax()
    for i in range(count - 1, 0, -1):
        path[i - 1] = back[i, path[i]]
    return path


def word_features(words: Sequence[str]) -> Iterator[list[str]]:
    """What is looked at of each word of a sentence: as many features for each."""
    lower = [word.lower() for word in words]
    padded = [_BORDER, _BORDER, *lower, _BORDER, _BORDER]
    for i, word in enumerate(words):
        before2, before, own, after, after2 = padded[i : i + 5]
        window = [
            own, f"{before2}\n{before}", before, after, before2, after2, f"{after}\n{after2}", f"{before}\n{own}",
            f"{own}\n{after}", f"{before}\n{after}", f"{before}\n{own}\n{after}",
        ]  # fmt: skip
        ends = [part for n in range(1, _AFFIX + 1) for part in (own[:n], own[-n:])]
        look = [
            shape(word),
            shape(words[i - 1]) if i else "",
            shape(words[i + 1]) if i + 1 < len(words) else "",
        ]
        yield [f"{place}\t{what}" for place, what in enumerate([*window, *ends, *look, word])]


def shape(word: str) -> str:
    """Kinds of characters in a word, runs as one: `McDonald-3` is `XxXx-9`."""
    kinds = []
    for character in word:
        kind = (
            "X"
            if character.isupper()
            else "9"
            if character.isdigit()
            else "x"
            if character.isalpha()
            else character
        )
        if not kinds or kinds[-1] != kind:
            kinds.append(kind)
    return "".join(kinds[:8])
