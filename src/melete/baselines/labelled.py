"""What is computed beside every fine-tuned model: the contract of baselines on labelled rows, and which there are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Generic, Self, TypeVar

from melete.data.labelled.rows import (
    CLASSIFICATION,
    SIMILARITY,
    SUMMARIZATION,
    TAGGING,
    WRITTEN_TASKS,
    LabelledRow,
)
from melete.data.labelled.sets import LabelledSet

Answer = dict[str, Any]
R = TypeVar("R", bound=LabelledRow)


class LabelledBaseline(ABC, Generic[R]):
    """Learns from labelled rows and answers others, in the form that models answer in (see `data.labelled.rows`).

    Attributes:
        name: what it is called in tables.
    """

    name: ClassVar[str]

    @abstractmethod
    def fit(self, rows: Sequence[R]) -> Self:
        """Learn from rows, all of which have answers; choices are made on a part of them.

        Raises:
            InputError: a library is missing that it needs; the message names the extra.
        """

    @abstractmethod
    def predict(self, rows: Sequence[R]) -> list[Answer]:
        """An answer to each row, in order; theirs are not looked at."""


def baselines_for(found: LabelledSet) -> list[LabelledBaseline[Any]]:
    """The baselines of a set, weakest first, each still to be fitted: the last is the column to beat."""
    if found.task == SIMILARITY:
        from melete.baselines.similarity import TfidfCosine

        return [TfidfCosine()]
    if found.task == TAGGING:
        from melete.baselines.tagger import LinearTagger, MostFrequentTag

        return [MostFrequentTag(), LinearTagger()]
    if found.task == CLASSIFICATION:
        from melete.baselines.linear import LinearTexts, Majority, PairOverlap

        pairs = len(found.train[0].texts) > 1
        return [Majority(found.multi_label), (PairOverlap if pairs else LinearTexts)(found.multi_label)]
    if found.task in WRITTEN_TASKS:
        from melete.baselines.written import Copy, Lead, Longest

        return [Lead(), Longest()] if found.task == SUMMARIZATION else [Copy()]
    from melete.baselines.longest_match import LongestMatch

    return [LongestMatch()]
