"""Which text a model is measured on, in its own tokens."""

from __future__ import annotations

from typing import NamedTuple

from melete.console import say
from melete.data.datasets import resolve
from melete.data.splits import Documents, split_documents
from melete.data.streams import MAX_LINE_BYTES


class Text(NamedTuple):
    """Documents to score, and those of the same source that a baseline may learn from.

    Attributes:
        documents: what is scored.
        split: which part of the source that is: `train`, `valid` or `all`.
        train: the rest of the source; None where nothing is left, or where it is what is scored.
    """

    documents: Documents
    split: str
    train: Documents | None

    @property
    def scored(self) -> str:
        """How much of the source is scored, in words."""
        return "all" if self.split == "all" else f"the {self.split} part"


def choose_text(
    source: str,
    split: str | None = None,
    *,
    text_column: str | None = None,
    max_line_bytes: int = MAX_LINE_BYTES,
    valid_fraction: float = 0.05,
    seed: int = 0,
) -> Text:
    """The part of a named set, file or folder that is to be scored.

    Args:
        source: as `data.datasets.resolve` takes it.
        split: `valid` is the set's own part, or what training holds out of a file with this fraction and seed;
            `train` the other one; `all` everything but a set's own valid part. None: a set's own valid part, and
            all of anything else.
        text_column, max_line_bytes: of `data.readers.read_documents`.
        valid_fraction, seed: of `data.splits.split_documents`.

    Raises:
        InputError: no such source, or nothing to hold out of it.
    """
    found = resolve(source, text_column=text_column, max_line_bytes=max_line_bytes)
    for note in found.notes:
        say(note)
    split = split or ("valid" if found.valid is not None else "all")
    if split == "all":
        return Text(found.train, split, None)
    train, valid = found.train, found.valid
    if valid is None:
        parts = split_documents(found.train, valid_fraction, seed)
        say(parts.note)
        train, valid = parts.train, parts.valid
    return Text(train, split, None) if split == "train" else Text(valid, split, train)
