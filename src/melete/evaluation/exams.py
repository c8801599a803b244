"""How good answers to labelled rows are, by the usual figures of each task; how sure that is, and which is better.

An exam knows the right answers of some rows. It turns what a model or a baseline says of them into marks, an array with
a row for each row, so that every figure can be taken of any rows: of all, of those that a bootstrap draws, and of a
mixture of two models' answers.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from melete.data.labelled.rows import (
    CLASSIFICATION,
    QUESTIONS,
    SIMILARITY,
    TAGGING,
    WRITTEN_TASKS,
    LabelledRow,
    QuestionRow,
    ScoreRow,
    TagRow,
    TextRow,
    WrittenRow,
)
from melete.data.scripts import HAN
from melete.metrics.classification import accuracy, class_scores, confusion, matthews, roc_auc
from melete.metrics.intervals import Comparison, Interval, bootstrap, compare
from melete.metrics.question_answering import cmrc, squad
from melete.metrics.regression import pearson, ranks, spearman
from melete.metrics.tagging import entity_counts, f1_of_counts, marks_entities

Answer = Mapping[str, Any]


class Exam(ABC):
    """The right answers of some rows, and the figures of a task.

    Attributes:
        main: the figure that decides: it is better when it is higher.
        names: all figures, `main` first.
        scale: what a perfect `main` is.
        signatures: how figures were computed, by name, where others compute them in other ways.
    """

    names: tuple[str, ...]
    scale: ClassVar[float] = 1.0
    signatures: Mapping[str, str] = {}

    @property
    def main(self) -> str:
        """The figure that decides."""
        return self.names[0]

    def __init__(self, rows: Sequence[LabelledRow]) -> None:
        self.rows = rows

    @abstractmethod
    def mark(self, answers: Sequence[Answer]) -> np.ndarray:
        """Marks of the answers to all rows, in their order: (rows, ...)."""

    @abstractmethod
    def figure(self, name: str, marks: np.ndarray, rows: np.ndarray) -> float:
        """One figure of the marks of some rows; NaN where they give none.

        Args:
            marks: of these rows alone.
            rows: their numbers, int64 (R,), which may come several times.
        """

    @abstractmethod
    def each(self, marks: np.ndarray) -> np.ndarray:
        """How right each answer is by itself, float (N,): 1 where there is nothing to mend."""

    def figures(self, marks: np.ndarray) -> dict[str, float]:
        """Every figure of all rows."""
        every = np.arange(len(self.rows))
        return {name: self.figure(name, marks, every) for name in self.names}

    def interval(self, marks: np.ndarray, name: str = "") -> Interval:
        """A figure and its 95 % interval."""
        return bootstrap(lambda drawn: self.figure(name or self.main, marks[drawn], drawn), len(self.rows))

    def compare(self, first: np.ndarray, second: np.ndarray, name: str = "") -> Comparison:
        """Whether the second's answers are better than the first's, on the same rows."""
        both = np.stack([first, second])

        def figure(drawn: np.ndarray, which: np.ndarray) -> float:
            return self.figure(name or self.main, both[which, drawn], drawn)

        return compare(figure, len(self.rows))


class OneLabel(Exam):
    """Marks are the numbers of the labels that were said, and the probability of each: float (N, 1 + labels)."""

    def __init__(self, rows: Sequence[TextRow], labels: Sequence[str]) -> None:
        super().__init__(rows)
        self.labels = tuple(labels)
        self.number = {name: i for i, name in enumerate(self.labels)}
        self.truth = np.array([self.number[row.classes[0]] for row in rows])
        two = len(self.labels) == 2
        self.names = ("accuracy", "f1_macro", *(("f1", "auc") if two else ()), "mcc")

    def mark(self, answers: Sequence[Answer]) -> np.ndarray:
        """See `Exam.mark`; a label that the rows do not have counts as wrong."""
        marks = np.zeros((len(answers), 1 + len(self.labels)))
        for i, answer in enumerate(answers):
            marks[i, 0] = self.number.get(answer["label"], len(self.labels))
            shares = answer.get("probabilities") or {answer["label"]: 1.0}
            marks[i, 1:] = [shares.get(name, 0.0) for name in self.labels]
        return marks

    def figure(self, name: str, marks: np.ndarray, rows: np.ndarray) -> float:
        """See `Exam.figure`; f1 and auc are those of the second of two labels."""
        truth, said, count = self.truth[rows], marks[:, 0].astype(np.int64), len(self.labels)
        match name:
            case "accuracy":
                return accuracy(truth, said)
            case "auc":
                return roc_auc(marks[:, 2], truth == 1)
            case "mcc":
                return matthews(confusion(truth, said, count + 1))
        scores = class_scores(truth, said, count + 1)
        return scores.mean("macro")[2] if name == "f1_macro" else float(scores.f1[1])

    def each(self, marks: np.ndarray) -> np.ndarray:
        """See `Exam.each`."""
        return (marks[:, 0] == self.truth).astype(float)


class SeveralLabels(Exam):
    """Marks are which labels were said: bool (N, labels)."""

    names = ("f1", "f1_macro", "accuracy")

    def __init__(self, rows: Sequence[TextRow], labels: Sequence[str]) -> None:
        super().__init__(rows)
        self.labels = tuple(labels)
        self.truth = self._table([row.classes for row in rows])

    def mark(self, answers: Sequence[Answer]) -> np.ndarray:
        """See `Exam.mark`."""
        return self._table([answer["labels"] for answer in answers])

    def _table(self, said: Sequence[Sequence[str]]) -> np.ndarray:
        return np.array([[name in own for name in self.labels] for own in said], dtype=bool)

    def figure(self, name: str, marks: np.ndarray, rows: np.ndarray) -> float:
        """See `Exam.figure`; f1 counts every label of every text alike."""
        if name == "accuracy":
            return accuracy(self.truth[rows], marks)
        scores = class_scores(self.truth[rows], marks, len(self.labels))
        return scores.mean("micro" if name == "f1" else "macro")[2]

    def each(self, marks: np.ndarray) -> np.ndarray:
        """See `Exam.each`."""
        return (self.truth == marks).mean(1)


class Numbers(Exam):
    """Marks are the numbers that were said: float (N,)."""

    names = ("spearman", "pearson")

    def __init__(self, rows: Sequence[ScoreRow]) -> None:
        super().__init__(rows)
        self.truth = np.array([math.nan if row.score is None else row.score for row in rows])

    def mark(self, answers: Sequence[Answer]) -> np.ndarray:
        """See `Exam.mark`."""
        return np.array([float(answer["score"]) for answer in answers])

    def figure(self, name: str, marks: np.ndarray, rows: np.ndarray) -> float:
        """See `Exam.figure`."""
        return (spearman if name == "spearman" else pearson)(self.truth[rows], marks)

    def each(self, marks: np.ndarray) -> np.ndarray:
        """See `Exam.each`; by ranks, since a cosine has another scale than what people said."""
        return 1 - np.abs(ranks(self.truth) - ranks(marks)) / len(marks)


class Entities(Exam):
    """Marks are counts of entities found, there and said: int64 (N, 3)."""

    names = ("f1", "precision", "recall")

    def __init__(self, rows: Sequence[TagRow]) -> None:
        super().__init__(rows)
        self.truth = [row.classes for row in rows]

    def mark(self, answers: Sequence[Answer]) -> np.ndarray:
        """See `Exam.mark`."""
        return entity_counts(self.truth, [answer["tags"] for answer in answers])

    def figure(self, name: str, marks: np.ndarray, rows: np.ndarray) -> float:
        """See `Exam.figure`; an entity counts where both ends and the type are right."""
        if name == "f1":
            return f1_of_counts(marks)
        hits, there, said = marks.sum(0)
        return float(hits / max(said if name == "precision" else there, 1))

    def each(self, marks: np.ndarray) -> np.ndarray:
        """See `Exam.each`."""
        hits, both = marks[:, 0], marks[:, 1] + marks[:, 2]
        # Nothing there and nothing said is right.
        return np.where(both > 0, 2 * hits / np.maximum(both, 1), 1.0)


class Tags(Exam):
    """Marks are words that got the right tag, and words: int64 (N, 2)."""

    names = ("accuracy",)

    def __init__(self, rows: Sequence[TagRow]) -> None:
        super().__init__(rows)
        self.truth = [row.classes for row in rows]

    def mark(self, answers: Sequence[Answer]) -> np.ndarray:
        """See `Exam.mark`."""
        pairs = zip(self.truth, answers, strict=True)
        return np.array(
            [
                (sum(a == b for a, b in zip(tags, answer["tags"], strict=True)), len(tags))
                for tags, answer in pairs
            ]
        )

    def figure(self, name: str, marks: np.ndarray, rows: np.ndarray) -> float:
        """See `Exam.figure`."""
        right, words = marks.sum(0)
        return float(right / max(words, 1))

    def each(self, marks: np.ndarray) -> np.ndarray:
        """See `Exam.each`."""
        return np.where(marks[:, 1] > 0, marks[:, 0] / np.maximum(marks[:, 1], 1), 1.0)


class Answers(Exam):
    """Marks are exact match and F1 of each question: float (N, 2); by CMRC's rules where contexts are Chinese."""

    names = ("f1", "exact_match")

    def __init__(self, rows: Sequence[QuestionRow]) -> None:
        super().__init__(rows)
        self.truth = [row.answer or () for row in rows]
        chinese = sum(bool(re.search(f"[{HAN}]", row.context[:200])) for row in rows)
        self.rules = cmrc if chinese > len(rows) / 2 else squad

    def mark(self, answers: Sequence[Answer]) -> np.ndarray:
        """See `Exam.mark`."""
        exact, f1 = self.rules([answer["answer"] for answer in answers], self.truth)
        return np.stack([f1, exact.astype(float)], axis=1)

    def figure(self, name: str, marks: np.ndarray, rows: np.ndarray) -> float:
        """See `Exam.figure`."""
        return float(marks[:, self.names.index(name)].mean())

    def each(self, marks: np.ndarray) -> np.ndarray:
        """See `Exam.each`."""
        return marks[:, 0]


# task -> the type of its rows
_ROWS: dict[str, type[LabelledRow]] = {
    CLASSIFICATION: TextRow,
    SIMILARITY: ScoreRow,
    TAGGING: TagRow,
    QUESTIONS: QuestionRow,
    **dict.fromkeys(WRITTEN_TASKS, WrittenRow),
}


def exam_of(
    task: str,
    rows: Sequence[Any],
    labels: Sequence[str] = (),
    multi_label: bool = False,
    language: str = "",
) -> Exam:
    """The exam of a task over labelled rows.

    Args:
        rows: of the task's type, each with its answer.
        labels, multi_label, language: see `LabelledSet`.

    Raises:
        InputError: figures that need a package which is not installed.
    """
    kind = _ROWS[task]
    assert all(isinstance(row, kind) for row in rows)
    if task in WRITTEN_TASKS:
        from melete.evaluation.written_exams import written_exam

        return written_exam(task, rows, language)
    if task == CLASSIFICATION:
        return (SeveralLabels if multi_label else OneLabel)(rows, labels)
    if task == SIMILARITY:
        return Numbers(rows)
    if task == QUESTIONS:
        return Answers(rows)
    tags = {tag for row in rows for tag in row.classes}
    return Entities(rows) if marks_entities(tags) else Tags(rows)
