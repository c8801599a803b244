"""Words and tags in columns: CoNLL, CoNLL-U, and a character a line."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, islice

from melete.data.labelled.columns import PEEK
from melete.data.labelled.rows import TagRow
from melete.data.readers import read_lines
from melete.data.streams import Reading, display_name
from melete.errors import InputError

_CONLLU_FIELDS = 10
_CONLLU_TAGS = {"upos": 3, "xpos": 4, "deprel": 7}
# A character (two, where a broken one left its halves) and its place in the word.
_NUMBERED = re.compile(r"(\S\D?)\d+")


def read_sentences(
    name: str, wanted: Mapping[str, str], labelled: bool, reading: Reading
) -> Iterator[TagRow]:
    """The sentences of a CoNLL or CoNLL-U file, streaming; arguments as in `files.read_labelled`.

    Raises:
        InputError: a line with another number of columns than the first; no tags; no such column of tags.
    """
    lines = read_lines(name, reading)
    file, first = display_name(name), list(islice(lines, PEEK))
    layout = _Layout(file, first, wanted, labelled, reading.note)
    words: list[str] = []
    tags: list[str] = []
    start = 0
    for number, line in chain(first, lines, [(0, "")]):
        if not line.strip(" \t"):
            if words:
                yield TagRow(
                    tuple(words), tuple(tags) if layout.tag is not None else None, file=file, line=start
                )
            words, tags = [], []
        elif (fields := layout.fields(number, line)) is not None:
            start = start if words else number
            words.append(fields[0])
            tags.append(fields[1])


class _Layout:
    """What the columns of a file of words are: found on its first lines.

    Attributes:
        word, tag: numbers of their columns, from 0; `tag` is None where there is none.
    """

    def __init__(
        self,
        file: str,
        first: Sequence[tuple[int, str]],
        wanted: Mapping[str, str],
        labelled: bool,
        note: Callable[[str], None],
    ) -> None:
        self.file = file
        self.tabs = any("\t" in line.strip() for _, line in first)
        records = [
            (number, self._cut(line))
            for number, line in first
            if line.strip(" \t") and not line.startswith("#")
        ]
        self.width = len(records[0][1]) if records else 0
        self.where = f"{file}:{records[0][0]}" if records else file
        self.universal = self.width == _CONLLU_FIELDS and all(
            re.fullmatch(r"\d+([-.]\d+)?", fields[0]) for _, fields in records
        )
        self.word = 1 if self.universal else 0
        last = _CONLLU_TAGS["upos"] if self.universal else self.width - 1 if self.width > 1 else None
        self.tag = self._named(wanted["tags"]) if "tags" in wanted else last
        if self.tag is None and labelled and records:
            raise InputError("no tag beside the word", where=self.where, expected="a word and its tag")
        words = [fields[self.word] for _, fields in records]
        # Some Chinese sets write each character with its place in the word behind it.
        self.numbered = bool(words) and all(map(_NUMBERED.fullmatch, words))
        dropped = "; the numbers behind the characters are dropped" if self.numbered else ""
        tag = "there are no tags" if self.tag is None else f"the tag in column {self.tag + 1}"
        kind = "CoNLL-U, " if self.universal else ""
        if records:
            note(f"{file}: {kind}the word in column {self.word + 1}, {tag} (of {self.width}){dropped}")

    def fields(self, number: int, line: str) -> tuple[str, str] | None:
        """Word and tag of a line, or None for a line that is neither.

        Raises:
            InputError: another number of columns than in the first line.
        """
        if self.universal and line.startswith("#"):
            return None
        fields = self._cut(line)
        if len(fields) != self.width:
            if line.startswith("# "):  # a comment; the word # has its tag behind it
                return None
            what, expected = f"{len(fields)} columns", f"{self.width} as in the first line of words"
            raise InputError(what, where=f"{self.file}:{number}", expected=expected)
        if fields[0] == "-DOCSTART-" or (self.universal and not fields[0].isdecimal()):
            return None
        word, numbered = fields[self.word], None
        if self.numbered:
            numbered = _NUMBERED.fullmatch(word)
        return numbered[1] if numbered else word, "" if self.tag is None else fields[self.tag]

    def _cut(self, line: str) -> list[str]:
        """Fields between tabs, else between single spaces (so that a word may be a wide space), else between runs."""
        if self.tabs:
            return line.split("\t")
        fields = line.strip(" ").split(" ")
        return fields if all(fields) else line.split()

    def _named(self, wanted: str) -> int:
        """The column of the tags that a person named."""
        if self.universal and wanted in _CONLLU_TAGS:
            return _CONLLU_TAGS[wanted]
        if wanted.isdecimal() and 1 <= int(wanted) <= self.width:
            return int(wanted) - 1
        names = ", ".join(_CONLLU_TAGS) + " or " if self.universal else ""
        expected = f"{names}a number from 1 to {self.width}"
        raise InputError(f"no column {wanted!r}", where=self.where, expected=expected)
