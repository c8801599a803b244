"""Which characters belong to the scripts that are written without spaces: ranges for a character class of `re`."""

from __future__ import annotations

import re

HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
KANA = "\u3040-\u30ff"
HANGUL = "\uac00-\ud7af"
CJK = HAN + KANA + HANGUL
# What no space stands beside: Korean words have spaces between them.
WIDE = HAN + KANA + "\u3000-\u303f\uff00-\uffef"

_BESIDE_WIDE = re.compile(rf"(?<=[{WIDE}]) | (?=[{WIDE}])")


def unspaced(text: str) -> str:
    """A text of words without the spaces beside characters that are written without any."""
    return _BESIDE_WIDE.sub("", text)
