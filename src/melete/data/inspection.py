"""What a text is like, before anything is trained on it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from melete.console import Progress
from melete.data.readers import Document
from melete.data.scripts import CJK
from melete.data.splits import Distinct, text_hash
from melete.errors import InputError

_EXAMPLES, _EXAMPLE_CHARACTERS, _PROBLEMS = 3, 80, 5
_SLICE = 1 << 20  # characters looked at together
_OTHER, _LETTER, _CJK, _SPACE = range(4)


@dataclass
class TextReport:
    """Figures of a text.

    Attributes:
        documents, bytes, characters, lines: sizes; a document without a line end is a line.
        words: what white space separates, plus line ends, as the language-modelling literature counts.
        cjk_share: Chinese, Japanese and Korean characters among all letters, 0 to 1.
        longest: bytes, file and line of the longest document.
        duplicates: documents seen before; exact up to half a million different ones, then estimated.
        bad_bytes: places that are not text (invalid UTF-8, NUL); `problems` tells of the first few.
        examples: how the first documents begin.
    """

    documents: int = 0
    bytes: int = 0
    characters: int = 0
    lines: int = 0
    words: int = 0
    cjk_share: float = 0.0
    longest: dict[str, Any] = field(default_factory=dict)
    duplicates: int = 0
    bad_bytes: int = 0
    problems: list[str] = field(default_factory=list)
    examples: list[str] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """The report as JSON values."""
        return asdict(self)


def inspect_documents(read: Callable[[Callable[[InputError], None]], Iterable[Document]]) -> TextReport:
    """Read a text once, in flat memory, and describe it.

    Args:
        read: gives the documents; what it is given takes reports of bytes that are not text.

    Raises:
        InputError, StorageError: as `read` does.
    """
    report, distinct, kinds = TextReport(), Distinct(), _Kinds()

    def problem(error: InputError) -> None:
        report.bad_bytes += 1
        if len(report.problems) < _PROBLEMS:
            report.problems.append(str(error).split(";")[0])

    with Progress("reading", "MB") as progress:
        for document in read(problem):
            text = document.text
            encoded = text.encode()
            report.documents += 1
            report.bytes += len(encoded)
            report.characters += len(text)
            report.lines += text.count("\n") + (not text.endswith("\n"))
            report.words += kinds.add(text) + text.count("\n")
            distinct.add(text_hash(encoded, 0))
            if len(encoded) > report.longest.get("bytes", 0):
                report.longest = {"bytes": len(encoded), "file": document.file, "line": document.line}
            if len(report.examples) < _EXAMPLES:
                report.examples.append(
                    " ".join(text[: 4 * _EXAMPLE_CHARACTERS].split())[:_EXAMPLE_CHARACTERS]
                )
            progress.advance(len(encoded) / 1e6)
    report.duplicates = distinct.duplicates
    report.cjk_share = kinds.cjk_share
    return report


class _Kinds:
    """Counts kinds of characters by table, without making an object of each word."""

    def __init__(self) -> None:
        self.table = np.fromiter(map(_kind, range(0x110000)), np.uint8, 0x110000)
        for first, last in re.findall("(.)-(.)", CJK):
            self.table[ord(first) : ord(last) + 1] = _CJK
        self.counts = np.zeros(4, np.int64)

    def add(self, text: str) -> int:
        """Count a text, and return its words: how many `text.split()` has."""
        words, before = 0, _SPACE
        for start in range(0, len(text), _SLICE):
            codes = np.frombuffer(text[start : start + _SLICE].encode("utf-32-le"), np.uint32)
            kinds = self.table[codes]
            self.counts += np.bincount(kinds, minlength=4)
            space = kinds == _SPACE
            words += int((space[:-1] & ~space[1:]).sum()) + int(before == _SPACE and not space[0])
            before = kinds[-1]
        return words

    @property
    def cjk_share(self) -> float:
        """CJK characters among all letters."""
        letters = int(self.counts[_LETTER] + self.counts[_CJK])
        return float(self.counts[_CJK] / letters) if letters else 0.0


def _kind(code: int) -> int:
    character = chr(code)
    return _SPACE if character.isspace() else _LETTER if character.isalpha() else _OTHER
