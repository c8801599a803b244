"""Rows that somebody has answered: what the tasks of the field are trained on and measured by.

A row is a text (or a pair of texts, words, a question and its context), what somebody said of it, and where it stands.
`files.read_labelled` streams rows from files, `sets.load_labelled` gives the training and validation part of a set.
`row.inputs` is the row as a `Predictor` of the task reads it, without its answer.

What models and baselines say of a row is a dict of plain values, by task:

| task | answer |
|---|---|
| text-classification | `{"label": "b", "probabilities": {"a": 0.2, "b": 0.8}}`; multi-label: `{"labels": ["a"], ...}` |
| sentence-similarity | `{"score": 3.2}` |
| token-classification | `{"tags": ["O", "B-PER"]}`, one a word |
| question-answering | `{"answer": "1930s", "start": 17, "score": 0.7}`; none: `{"answer": "", "start": None, ...}` |
| translation, summarization, text2text-generation | `{"text": "Ein Haus.", "score": -0.4}` |
"""

from __future__ import annotations

import re
import unicodedata
from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from melete.data.readers import Row
from melete.data.splits import text_hash

CLASSIFICATION = "text-classification"
SIMILARITY = "sentence-similarity"
TAGGING = "token-classification"
QUESTIONS = "question-answering"
TRANSLATION, SUMMARIZATION, TEXT_TO_TEXT = "translation", "summarization", "text2text-generation"
# tasks whose answers are texts that somebody wrote
WRITTEN_TASKS = (TRANSLATION, SUMMARIZATION, TEXT_TO_TEXT)
LABELLED_TASKS = (CLASSIFICATION, SIMILARITY, TAGGING, QUESTIONS, *WRITTEN_TASKS)

_NOT_SAID = re.compile(r"[\W_]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledRow:
    """A row of some task.

    Attributes:
        file, line: where it stands; lines count from 1 (rows in a parquet file, questions in a SQuAD file).
    """

    file: str = ""
    line: int = 0

    @property
    def where(self) -> str:
        """The place, for messages: `file:line`."""
        return f"{self.file}:{self.line}"

    @property
    @abstractmethod
    def texts(self) -> tuple[str, ...]:
        """All that is read of the row."""

    @property
    @abstractmethod
    def answer(self) -> Any:
        """What was said of the row: `labels`, `score`, `tags` or `answers`; None where nothing was."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The labels or tags of the row; none where answers are no classes."""
        return ()

    @property
    def key(self) -> int:
        """Equal for rows that read the same but for case, punctuation and white space; 64 bits."""
        return same_text(self.texts)

    @property
    def group(self) -> int:
        """Rows of equal groups stay on one side of a split: the same text, or questions on the same context."""
        return self.key

    @property
    @abstractmethod
    def inputs(self) -> Row:
        """The row as a `Predictor` reads it, without its answer."""


@dataclass(frozen=True, slots=True)
class TextRow(LabelledRow):
    """text-classification: a text or a pair of texts, and its labels.

    Attributes:
        labels: exactly one, or any number (also none) in a multi-label set; None: unlabelled.
    """

    text: str
    text_pair: str | None = None
    labels: tuple[str, ...] | None = None

    @property
    def texts(self) -> tuple[str, ...]:
        """The text, or both texts."""
        return (self.text,) if self.text_pair is None else (self.text, self.text_pair)

    @property
    def answer(self) -> tuple[str, ...] | None:
        """The labels."""
        return self.labels

    @property
    def classes(self) -> tuple[str, ...]:
        """The labels; none where there are none."""
        return self.labels or ()

    @property
    def inputs(self) -> Row:
        """`text`, and `text_pair` if there is one."""
        return _pair(self)


@dataclass(frozen=True, slots=True)
class ScoreRow(LabelledRow):
    """sentence-similarity: two texts, and a number that says how much they are alike; None: not said."""

    text: str
    text_pair: str
    score: float | None = None

    @property
    def texts(self) -> tuple[str, ...]:
        """Both texts."""
        return (self.text, self.text_pair)

    @property
    def answer(self) -> float | None:
        """The score."""
        return self.score

    @property
    def inputs(self) -> Row:
        """`text` and `text_pair`."""
        return _pair(self)


@dataclass(frozen=True, slots=True)
class TagRow(LabelledRow):
    """token-classification: a sentence as words (single characters in most Chinese sets), and a tag for each."""

    words: tuple[str, ...]
    tags: tuple[str, ...] | None = None

    @property
    def texts(self) -> tuple[str, ...]:
        """The words in one line; single characters without spaces between."""
        return ("".join(self.words) if all(len(word) == 1 for word in self.words) else " ".join(self.words),)

    @property
    def answer(self) -> tuple[str, ...] | None:
        """The tags."""
        return self.tags

    @property
    def classes(self) -> tuple[str, ...]:
        """The tags; none where there are none."""
        return self.tags or ()

    @property
    def inputs(self) -> Row:
        """`words`, a list of strings."""
        return Row({"words": list(self.words)}, self.file, self.line)


@dataclass(frozen=True, slots=True)
class Span:
    """An answer as a file gives it.

    Attributes:
        text: the answer.
        start: first character in the context: where the text stands nearest to what the file says; None: nowhere.
        given: what the file says.
    """

    text: str
    start: int | None
    given: int | None


@dataclass(frozen=True, slots=True)
class QuestionRow(LabelledRow):
    """question-answering: a question, the text that may hold the answer, and answers that count as right.

    Attributes:
        answers: several are alternatives; none: the context does not answer the question; None: not said.
        id: as the file calls the question, else its number.
    """

    question: str
    context: str
    answers: tuple[Span, ...] | None = None
    id: str = ""

    @property
    def where(self) -> str:
        """The place, for messages: the file and the question's name, since such files have few lines."""
        return f"{self.file}, question {self.id}"

    @property
    def texts(self) -> tuple[str, ...]:
        """The question and its context."""
        return (self.question, self.context)

    @property
    def answer(self) -> tuple[str, ...] | None:
        """The texts of the answers."""
        return None if self.answers is None else tuple(span.text for span in self.answers)

    @property
    def group(self) -> int:
        """All questions on one context are one group."""
        return same_text([self.context])

    @property
    def inputs(self) -> Row:
        """`id`, `question` and `context`."""
        values = {"id": self.id, "question": self.question, "context": self.context}
        return Row(values, self.file, self.line)


@dataclass(frozen=True, slots=True)
class WrittenRow(LabelledRow):
    """translation, summarization, text2text-generation: a text, and what somebody wrote for it.

    Attributes:
        targets: several are alternatives, each as good as the others; None: not said.
    """

    source: str
    targets: tuple[str, ...] | None = None

    @property
    def texts(self) -> tuple[str, ...]:
        """The source."""
        return (self.source,)

    @property
    def answer(self) -> tuple[str, ...] | None:
        """The targets."""
        return self.targets

    @property
    def inputs(self) -> Row:
        """The source, as `text`."""
        return Row({"text": self.source}, self.file, self.line)


def _pair(row: TextRow | ScoreRow) -> Row:
    values = {"text": row.text} | ({} if row.text_pair is None else {"text_pair": row.text_pair})
    return Row(values, row.file, row.line)


def same_text(texts: Iterable[str]) -> int:
    """A hash of texts by their letters and digits alone; texts without any are taken as they are."""
    parts = []
    for text in texts:
        text = unicodedata.normalize("NFKC", text).casefold()
        parts.append(_NOT_SAID.sub("", text) or text.strip())
    return text_hash("\0".join(parts).encode("utf-8", "surrogatepass"), 0)
