"""Answers to questions without any understanding: the place that shares most with the question, less what it shares."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import product
from typing import ClassVar, NamedTuple, Self

import numpy as np

from melete.baselines.labelled import Answer, LabelledBaseline
from melete.baselines.similarity import Weights, tokens
from melete.console import Progress
from melete.data.labelled.rows import QuestionRow
from melete.data.scripts import CJK, HAN
from melete.metrics.question_answering import cmrc, squad

_SENTENCE = re.compile(r"[^。！？!?；;\n]+?(?:[。！？!?；;\n]+|\.(?=\s|$)|$)")
_CLAUSE = re.compile(r"[^，,。！？!?；;：:\n（）()]+")
_TOKEN = re.compile(rf"[{CJK}]|[^\W{CJK}]+|[^\w\s]")
_TRIED = 600  # training questions that the choice is made on
_LONGEST = (5, 12, 25, 60)  # tokens of an answer


class Rule(NamedTuple):
    """How an answer is cut from the best place.

    Attributes:
        place: what is looked for: a sentence or a clause of one.
        part: the longest run that the question does not have ("rest"), what follows the longest run that it has
            ("after"), or the whole.
        most: tokens, at most.
    """

    place: re.Pattern[str]
    part: str
    most: int


_RULES = [Rule(*rule) for rule in product((_SENTENCE, _CLAUSE), ("rest", "after", "all"), _LONGEST)]


class LongestMatch(LabelledBaseline[QuestionRow]):
    """Finds the sentence or clause with the most weight of words of the question, and answers with a part of it.

    Which part it is, and how long, is decided by F1 on training questions; so is how little has to be shared for it to
    say that there is no answer, where the training questions have such cases.
    """

    name: ClassVar[str] = "longest match"

    def __init__(self) -> None:
        self.weights = Weights((), tokens)
        self.rule = _RULES[0]
        self.least = -1.0  # share of the question's weight below which there is no answer

    def fit(self, rows: Sequence[QuestionRow]) -> Self:
        """See `LabelledBaseline.fit`."""
        self.weights = Weights(dict.fromkeys(row.context for row in rows), tokens)
        tried = rows[:: -(-len(rows) // _TRIED)]
        judge = cmrc if re.search(f"[{HAN}]", "".join(row.question for row in tried[:20])) else squad
        right = [row.answer or () for row in tried]
        best = -1.0
        with Progress("longest match", "rules", len(_RULES)) as progress:
            for rule in _RULES:
                found = [self._answer(row, rule) for row in tried]
                shared = np.array([share for _, _, share in found])
                said = judge([text for text, _, _ in found], right)[1]
                silent = np.array([not own for own in right], dtype=float)
                bars = np.quantile(shared, np.linspace(0, 1, 21)) if silent.any() else [-1.0]
                for bar in bars:
                    figure = float(np.where(shared < bar, silent, said).mean())
                    if figure > best:
                        best, self.rule, self.least = figure, rule, float(bar)
                progress.advance(1)
        return self

    def predict(self, rows: Sequence[QuestionRow]) -> list[Answer]:
        """See `LabelledBaseline.predict`; the score is the share of the question's weight that the place has."""
        found: list[Answer] = []
        for row in rows:
            text, start, share = self._answer(row, self.rule)
            said = bool(text) and share >= self.least
            found.append({"answer": text if said else "", "start": start if said else None, "score": share})
        return found

    def _answer(self, row: QuestionRow, rule: Rule) -> tuple[str, int, float]:
        """Answer, its place in the context, and how much of the question stands there."""
        weight = {word: self.weights.idf.get(word, self.weights.unseen) for word in tokens(row.question)}
        total = sum(weight.values()) or 1.0
        best, place = -1.0, (0, 0)
        for match in rule.place.finditer(row.context):
            share = sum(weight.get(word, 0.0) for word in set(tokens(match[0]))) / total
            if share > best:
                best, place = share, match.span()
        start, stop = _part(row.context, place, set(weight), rule)
        return row.context[start:stop], start, max(best, 0.0)


def _part(context: str, place: tuple[int, int], asked: set[str], rule: Rule) -> tuple[int, int]:
    """The part of a place that the rule takes, without signs at its ends."""
    spans = [match.span() for match in _TOKEN.finditer(context, *place)]
    words = [context[start:stop].lower() for start, stop in spans]
    known = [word in asked for word in words]
    if rule.part == "all" or all(known) or not any(known):
        first, last = 0, len(words)
    elif rule.part == "rest":
        first, last = _longest(known, False)
    else:
        first, last = _longest(known, True)[1], len(words)
    signs = [not word[0].isalnum() for word in words]
    while first < last and signs[first]:
        first += 1
    last = min(last, first + rule.most)
    while first < last and signs[last - 1]:
        last -= 1
    return (spans[first][0], spans[last - 1][1]) if first < last else (place[0], place[0])


def _longest(flags: Sequence[bool], wanted: bool) -> tuple[int, int]:
    """Where the longest run of a value begins and ends."""
    best, start = (0, 0), 0
    for i, flag in enumerate([*flags, not wanted]):
        if flag != wanted:
            if i - start > best[1] - best[0]:
                best = start, i
            start = i + 1
    return best
