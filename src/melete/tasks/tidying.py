"""What may be mended in a written text: spaces of a tokeniser, capitals, and phrases said again and again."""

from __future__ import annotations

import re
from collections.abc import Sequence

from melete.data.scripts import CJK
from melete.data.sentences import split_sentences
from melete.errors import InputError

WAYS = ("detokenize", "truecase", "repetition")
_SPACED = re.compile(rf"(?<=[{CJK}，。！？；：、]) +(?=[{CJK}，。！？；：、])")
_BEGIN = re.compile(r"(?<!\S)\w")
_UNSPACED = ("zh", "ja")
_ENDS = ".,;:!?，。；：！？"
# A phrase is written once where it stands at least so often in a row; a long one, of so many words, twice.
_OFTEN, _LONG = 3, 4


def tidied(text: str, ways: Sequence[str], language: str = "") -> str:
    """The text, mended in some of `WAYS`.

    Args:
        language: two letters; "" is English.

    Raises:
        InputError: an unknown way; detokenizing without sacremoses.
    """
    for way in ways:
        if way not in WAYS:
            raise InputError(f"tidy is {way!r}", expected=f"some of {', '.join(WAYS)}")
    if "detokenize" in ways:
        text = detokenized(text, language)
    if "repetition" in ways:
        text = said_once(text, language)
    return capitalised(text) if "truecase" in ways else text


def detokenized(text: str, language: str = "") -> str:
    """Without the spaces that a tokeniser put before points and between Chinese characters; Moses's rules elsewhere.

    Raises:
        InputError: sacremoses is not installed.
    """
    if language in _UNSPACED:
        return _SPACED.sub("", text)
    try:
        import sacremoses
    except ImportError:
        raise InputError("detokenizing needs sacremoses", do="pip install 'melete[translation]'") from None
    return sacremoses.MosesDetokenizer(lang=language or "en").detokenize(text.split())


def capitalised(text: str) -> str:
    """Each sentence begun with a capital, for models that write small letters there."""
    # Before a small letter no sentence ends: borders are those of the text with a capital at every word.
    for start, stop in split_sentences(_BEGIN.sub(lambda found: _capital(found[0]), text)):
        first = next((i for i in range(start, stop) if text[i].isalnum()), start)
        text = text[:first] + _capital(text[first]) + text[first + 1 :]
    return text


def _capital(letter: str) -> str:
    """The same where it has none of one letter: ß."""
    return letter.upper() if len(letter.upper()) == 1 else letter


def said_once(text: str, language: str = "") -> str:
    """Phrases that follow on themselves written once: three times or more in a row, long ones twice.

    Words are told apart without case and the points behind them; of Chinese, characters are, and a phrase has two or
    more. The last of the repeats stays, with what ends it.
    """
    unspaced = language in _UNSPACED
    units = list(text) if unspaced else text.split()
    least, length = (2, 2 * _LONG) if unspaced else (1, _LONG)
    keys = units.copy() if unspaced else [unit.casefold().strip(_ENDS) or unit for unit in units]
    at = 0
    while at < len(units):
        for size in range((len(units) - at) // 2, least - 1, -1):
            phrase, times = keys[at : at + size], 1
            while keys[at + times * size : at + (times + 1) * size] == phrase:
                times += 1
            if times >= (2 if size >= length else _OFTEN):
                del units[at : at + (times - 1) * size], keys[at : at + (times - 1) * size]
                break
        else:
            at += 1
    return ("" if unspaced else " ").join(units)
