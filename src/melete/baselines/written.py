"""Written answers without any learning: the source as it stands, or a part of it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Self

from melete.baselines.labelled import Answer, LabelledBaseline
from melete.data.labelled.rows import WrittenRow
from melete.data.sentences import split_sentences

_SENTENCES = 3


class Extract(LabelledBaseline[WrittenRow]):
    """Answers with what stands in the source, and learns nothing."""

    def fit(self, rows: Sequence[WrittenRow]) -> Self:
        """See `LabelledBaseline.fit`."""
        return self

    def predict(self, rows: Sequence[WrittenRow]) -> list[Answer]:
        """See `LabelledBaseline.predict`."""
        return [{"text": self.extract(row.source)} for row in rows]

    @abstractmethod
    def extract(self, source: str) -> str:
        """The part of a source that answers."""


class Copy(Extract):
    """The source itself."""

    name = "copy of the source"

    def extract(self, source: str) -> str:
        """See `Extract.extract`."""
        return source


class Lead(Extract):
    """The first three sentences; of a text in lines, as dialogues are, its first three lines."""

    name = "lead-3"

    def extract(self, source: str) -> str:
        """See `Extract.extract`."""
        return "\n".join(_parts(source)[:_SENTENCES])


class Longest(Extract):
    """The three longest sentences or lines, in their order."""

    name = "longest-3"

    def extract(self, source: str) -> str:
        """See `Extract.extract`."""
        parts = _parts(source)
        longest = sorted(range(len(parts)), key=lambda i: -len(parts[i]))[:_SENTENCES]
        return "\n".join(parts[i] for i in sorted(longest))


def _parts(source: str) -> list[str]:
    lines = [line.strip() for line in source.splitlines() if line.strip()]
    if len(lines) > 1:
        return lines
    return [source[start:stop].strip() for start, stop in split_sentences(source)]
