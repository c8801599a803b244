"""Text into sentences, English and Chinese and both mixed."""

from __future__ import annotations

import re

# What may stand between the end of a sentence and the next one: it belongs to the sentence that it closes.
_CLOSING = "\"'”’」』）)】》〉\\]"
_END = re.compile(
    rf"(?P<wide>[。！？；…‼⁇⁈⁉｡]+[{_CLOSING}]*)"  # Chinese: no space follows
    rf"|(?P<narrow>[.!?]+[{_CLOSING}]*)(?=\s|$|[\u3400-\u9fff])"  # 3.14 and melete.data have none either
    r"|(?P<line>\s*\n\s*)"
)
_BEFORE = re.compile(r"[^\s(\[\"'“‘]+$")
_ABBREVIATIONS = """
    mr mrs ms dr prof rev hon st sr jr gen col sgt capt lt cmdr gov sen rep pres vs cf al fig figs eq no nos vol vols
    pp ed eds approx ca e.g i.e jan feb mar apr jun jul aug sep sept oct nov dec dept inc ltd co corp mt
"""
_NOT_AT_END = frozenset(_ABBREVIATIONS.split())
_INITIALS = re.compile(r"(?:[^\W\d_]\.)*[^\W\d_]", re.UNICODE)


def split_sentences(text: str) -> list[tuple[int, int]]:
    """Where sentences begin and end: [start, stop) of each, without the white space around it, none empty.

    A sentence ends at 。！？；… and at . ! ? before white space, with the quotes and brackets that close there, and at
    the end of a line. A point ends none behind an abbreviation (`Dr.`, `e.g.`), behind a capital that is an initial
    (`J. Smith`, `U.S. troops`), or before a small letter.
    """
    spans: list[tuple[int, int]] = []
    start = 0
    for match in _END.finditer(text):
        if match["narrow"] is None or not _goes_on(text, start, match):
            _append(spans, text, start, match.end())
            start = match.end()
    _append(spans, text, start, len(text))
    return spans


def _goes_on(text: str, start: int, match: re.Match[str]) -> bool:
    after = text[match.end() : match.end() + 8].lstrip(" \t")
    if after[:1].islower():
        return True
    if match[0] != ".":
        return False
    before = _BEFORE.search(text, max(start, match.start() - 24), match.start())
    word = before[0] if before else ""
    if word.lower() in _NOT_AT_END:
        return True
    # "I." and the last letter of an enumeration end sentences; a capital before a capital is a name.
    return bool(_INITIALS.fullmatch(word)) and word[-1].isupper() and word != "I" and after[:1].isupper()


def _append(spans: list[tuple[int, int]], text: str, start: int, stop: int) -> None:
    piece = text[start:stop]
    begin = start + len(piece) - len(piece.lstrip())
    end = begin + len(piece.strip())
    if end > begin:
        spans.append((begin, end))
