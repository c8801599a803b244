"""Text that can be read again, and the part of it that is held out for validation."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache

from melete.console import Progress, counted
from melete.data.readers import Document
from melete.errors import InputError, StorageError

MOST_HELD_OUT = 0.5  # more is hardly meant

_CUTTING = 1  # raised when the same files begin to give other documents, so that no old tokens are taken for new ones
_AROUND = " \t\n\r\f\v"  # what `bytes.strip` takes away


@dataclass(frozen=True)
class Documents:
    """A source of documents; each iteration reads it from the start.

    Attributes:
        read: gives the documents.
        files: the files they come from: their content is what `source_hash` stands for.
        cut: what is done to the files, as far as it changes the documents.
        owned: kept alive as long as the source is (the temporary file of standard input).
        counted: UTF-8 bytes of the text, if they have been counted.
    """

    read: Callable[[], Iterator[Document]]
    files: tuple[str, ...]
    cut: str = ""
    owned: object = field(default=None, repr=False, compare=False)
    counted: int | None = field(default=None, compare=False)

    def __iter__(self) -> Iterator[Document]:
        return self.read()

    @property
    def expected_bytes(self) -> int | None:
        """About how many bytes of text there are: counted, or the size of the files; None if those are packed."""
        if self.counted is not None:
            return self.counted
        if not self.files or any(name.endswith((".gz", ".xz", ".parquet")) for name in self.files):
            return None
        return sum(os.path.getsize(name) for name in self.files if os.path.exists(name))

    @property
    def source_hash(self) -> str:
        """SHA-256 over the content of the files and `cut`: equal hashes, equal documents.

        Raises:
            StorageError: a file cannot be read.
        """
        total = hashlib.sha256(f"{_CUTTING} {self.cut}".encode())
        for name in self.files:
            try:
                seen = os.stat(name)
                total.update(_digest(name, seen.st_size, seen.st_mtime_ns))
            except OSError as error:
                raise StorageError(error.strerror or str(error), where=name) from error
        return total.hexdigest()


@lru_cache(maxsize=4096)  # training and validation text are mostly the same files
def _digest(name: str, size: int, changed: int) -> bytes:
    with open(name, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()


@dataclass
class Size:
    """Documents, and UTF-8 bytes of their text."""

    documents: int = 0
    bytes: int = 0

    def add(self, length: int) -> None:
        """Count one document of `length` bytes."""
        self.documents += 1
        self.bytes += length


@dataclass(frozen=True)
class Split:
    """Documents in two parts, and what went where.

    Attributes:
        train, valid: the parts.
        note: the counts in one line, to be printed.
        train_size, valid_size: documents and bytes; a document that was cut counts in both.
        duplicates: documents whose text had been seen before; exact up to half a million different documents, then
            estimated from a sample of that size.
    """

    train: Documents
    valid: Documents
    note: str
    train_size: Size
    valid_size: Size
    duplicates: int


def split_documents(documents: Documents, valid_fraction: float, seed: int) -> Split:
    """Hold out about `valid_fraction` of the text, by document: duplicates are on one side, order does not matter.

    A document goes whole to the side that a hash of its text, keyed by the seed, says. One that alone is more than
    `valid_fraction` of all bytes (a single book) is cut instead: its end is held out, from a line start where there is
    one. Of few documents, the one of the smallest hash is held out. The text is read once (with a cut, twice) to
    count, in bounded memory.

    Args:
        documents: what to split.
        valid_fraction: more than 0, at most `MOST_HELD_OUT`.
        seed: another seed, another split.

    Raises:
        InputError: the fraction is out of range, or one side would be empty.
    """
    if not 0.0 < valid_fraction <= MOST_HELD_OUT:
        raise InputError(
            f"valid_fraction is {valid_fraction}", expected=f"more than 0 and at most {MOST_HELD_OUT:g}"
        )
    survey = _survey(documents, valid_fraction, seed)
    rule = survey.rule(valid_fraction, seed)
    train, valid = survey.sides
    if rule.large or not valid.documents:  # the survey counted by the plain rule
        train, valid = (_count(Documents(_Side(documents, rule, held_out), ())) for held_out in (False, True))
    different = survey.documents - survey.duplicates
    if not train.documents or not valid.documents:
        side = "validation" if train.documents else "training"
        what = (
            f"no text is left for {side} ({counted(survey.documents, 'document')}, {different:,} different)"
        )
        raise InputError(what, do="give more text, or validation text of your own")
    share = valid.bytes / (train.bytes + valid.bytes)
    note = (
        f"held out {valid.documents:,} of {counted(survey.documents, 'document')} "
        f"({valid.bytes:,} bytes, {share:.1%}), by content hash, seed {seed}"
    )
    if survey.duplicates:
        note += f"; {counted(survey.duplicates, 'duplicate')}, each on the side of its first"
    if rule.large:
        note += f"; a document of more than {rule.large:,} bytes is cut at a line end, and its end held out"
    parts = (
        replace(
            documents,
            read=_Side(documents, rule, held_out),
            cut=f"{documents.cut}|{rule}|{held_out}",
            counted=(train, valid)[held_out].bytes,
        )
        for held_out in (False, True)
    )
    return Split(next(parts), next(parts), note, train, valid, survey.duplicates)


@dataclass(frozen=True)
class _Rule:
    """Where a document goes: by its hash, up to `limit`; or in two, if it has more than `large` bytes (0: none has)."""

    seed: int
    fraction: float
    limit: int
    large: int

    def __call__(self, text: str) -> tuple[str, str]:
        """What of the text is for training, and what is held out."""
        encoded = text.encode()
        if self.large and len(encoded) > self.large:
            at = _cut_at(text, self.fraction)
            return text[:at], text[at:]
        return ("", text) if text_hash(encoded, self.seed) <= self.limit else (text, "")


@dataclass(frozen=True)
class _Side:
    documents: Documents
    rule: _Rule
    held_out: bool

    def __call__(self) -> Iterator[Document]:
        for document in self.documents:
            train, valid = self.rule(document.text)
            text = valid if self.held_out else train
            if text and not text.isspace():
                line = document.line + (train.count("\n") if self.held_out else 0)
                yield replace(document, text=text, line=line)


def text_hash(encoded: bytes, seed: int) -> int:
    """64 bits of the text; white space around it makes no difference, so that near-copies stay together."""
    key = seed.to_bytes(8, "little", signed=True)
    return int.from_bytes(hashlib.blake2b(encoded.strip(), digest_size=8, key=key).digest(), "little")


def _cut_at(text: str, fraction: float) -> int:
    """Where the held-out end begins: after a line end, else a space, so that it is 1 to 2 times the fraction long."""
    body = text.strip(_AROUND)  # so that copies with other white space around them are cut at the same place
    target, earliest = int(len(body) * (1 - fraction)), int(len(body) * (1 - 2 * fraction))
    skipped = len(text) - len(text.lstrip(_AROUND))
    for boundary in ("\n", " "):
        at = body.rfind(boundary, earliest, target)
        if at > 0:
            return skipped + at + 1
    return skipped + target


class Distinct:
    """Counts repeated hashes in bounded memory.

    Hashes below a bar are kept; the bar is halved whenever they are too many. Those below it are a fair sample of all
    documents and counted exactly, so the count is exact until the first halving.
    """

    def __init__(self, most: int = 1 << 19) -> None:
        self.most, self.bar = most, 2**64
        self.seen: dict[int, int] = {}

    def add(self, hashed: int) -> None:
        """Count one document by its 64-bit hash."""
        if hashed >= self.bar:
            return
        self.seen[hashed] = self.seen.get(hashed, 0) + 1
        if len(self.seen) > self.most:
            self.bar //= 2
            self.seen = {key: times for key, times in self.seen.items() if key < self.bar}

    @property
    def duplicates(self) -> int:
        """How many documents had been seen before."""
        return (sum(self.seen.values()) - len(self.seen)) * (2**64 // self.bar)


@dataclass
class _Survey:
    """What one reading tells; `sides` as the plain rule (by hash, nothing cut) has them."""

    sides: tuple[Size, Size]
    largest: int
    smallest_hash: int
    duplicates: int

    @property
    def documents(self) -> int:
        return self.sides[0].documents + self.sides[1].documents

    def rule(self, fraction: float, seed: int) -> _Rule:
        too_large = int(fraction * (self.sides[0].bytes + self.sides[1].bytes))
        limit = int(fraction * 2**64)
        if self.largest > too_large:
            return _Rule(seed, fraction, limit, too_large)
        return _Rule(seed, fraction, max(limit, self.smallest_hash), 0)


def _survey(documents: Documents, fraction: float, seed: int) -> _Survey:
    sides, distinct = (Size(), Size()), Distinct()
    largest, smallest, limit = 0, 2**64, int(fraction * 2**64)
    with Progress("counting", "MB") as progress:
        for document in documents:
            encoded = document.text.encode()
            hashed = text_hash(encoded, seed)
            distinct.add(hashed)
            sides[hashed <= limit].add(len(encoded))
            largest, smallest = max(largest, len(encoded)), min(smallest, hashed)
            progress.advance(len(encoded) / 1e6)
    return _Survey(sides, largest, smallest, distinct.duplicates)


def _count(documents: Documents) -> Size:
    size = Size()
    for document in documents:
        size.add(len(document.text.encode()))
    return size
