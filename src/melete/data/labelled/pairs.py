"""Two files of lines that belong together: `train.en,train.de`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from itertools import zip_longest

from melete.data.labelled.columns import LANGUAGES
from melete.data.labelled.rows import WrittenRow
from melete.data.readers import read_lines
from melete.data.streams import Reading, missing
from melete.errors import InputError

_PACKED = re.compile(r"\.(gz|xz)$")


def two_files(source: str) -> tuple[str, str] | None:
    """The files of `FILE,FILE`; None: the name is that of one thing.

    Raises:
        InputError: one of two is not there.
    """
    if "," not in source or os.path.exists(source):
        return None
    cuts = [at for at, sign in enumerate(source) if sign == ","]
    pairs = [(source[:at], source[at + 1 :]) for at in cuts]
    for pair in pairs:
        if all(map(os.path.isfile, pair)):
            return pair
    lacking = next((name for name in pairs[0] if not os.path.isfile(name)), source)
    raise missing(lacking)


def language_of(file: str) -> str:
    """The language that a file is called after (`train.de.gz`); "": it is not."""
    ending = _PACKED.sub("", file).rpartition(".")[2].lower()
    return ending if ending in LANGUAGES else ""


def read_pairs(first: str, second: str, reading: Reading) -> Iterator[WrittenRow]:
    """Line beside line; a line that is empty in both files is left out.

    Raises:
        InputError: with file and line: a line that has none beside it, or an empty one; what `read_lines` raises.
    """
    for one, other in zip_longest(read_lines(first, reading), read_lines(second, reading)):
        if one is None or other is None:
            short, long, number = (first, second, other) if one is None else (second, first, one)
            assert number is not None
            what, lines = f"{long} goes on where this file ends", number[0] - 1
            expected = "as many lines in both files"
            raise InputError(what, where=f"{short}:{lines}", expected=expected)
        (number, source), (_, target) = one, other
        blank = [not text.strip() for text in (source, target)]
        if any(blank) and not all(blank):
            empty, beside = (first, second) if blank[0] else (second, first)
            what, expected = "an empty line", f"a text, as in {beside}:{number}"
            raise InputError(what, where=f"{empty}:{number}", expected=expected)
        if not any(blank):
            yield WrittenRow(source, (target,), file=first, line=number)
