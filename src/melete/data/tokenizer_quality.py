"""How well a tokenizer suits a text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from melete.data.scripts import CJK
from melete.data.tokenizer_training import sample
from melete.data.tokenizers import Tokenizer
from melete.errors import InputError

_MOST = 16_000_000  # characters looked at
_UNIT = 2_000  # characters of one language decision
_SHOWN = 60  # characters of a sample segmentation
_CJK = re.compile(f"[{CJK}]")
_LATIN = re.compile("[A-Za-z\u00c0-\u024f]")
_LETTER = re.compile(r"[^\W\d_]")


@dataclass
class Part:
    """Counts over the text of one script.

    Attributes:
        lossless: characters in stretches of text which decode to exactly themselves.
    """

    characters: int = 0
    bytes: int = 0
    tokens: int = 0
    unknown: int = 0
    lossless: int = 0

    def plain(self) -> dict[str, float]:
        """Figures by name; rates are shares in [0, 1]."""
        return {
            "characters": self.characters,
            "bytes": self.bytes,
            "tokens": self.tokens,
            "characters_per_token": self.characters / max(self.tokens, 1),
            "bytes_per_token": self.bytes / max(self.tokens, 1),
            "unknown_rate": self.unknown / max(self.tokens, 1),
            "lossless": self.lossless / max(self.characters, 1),
        }

    def add(self, other: Part) -> None:
        """Count another part too."""
        for name, value in asdict(other).items():
            setattr(self, name, getattr(self, name) + value)


@dataclass
class Quality:
    """A tokenizer beside a text.

    Attributes:
        vocab_size: ids of the tokenizer.
        used: different ids that occur in the text.
        whole: all of the text.
        parts: by script of the stretch of text: "Latin", "CJK", "other".
        longest: the tokens of most characters among those that occur, longest first.
        samples: a short text in tokens, by script.
        dropped: what no text keeps that goes through this tokenizer ("capitals").
    """

    vocab_size: int
    used: int = 0
    whole: Part = field(default_factory=Part)
    parts: dict[str, Part] = field(default_factory=dict)
    longest: list[str] = field(default_factory=list)
    samples: dict[str, list[str]] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {
            "vocab_size": self.vocab_size,
            "vocabulary_used": self.used / self.vocab_size,
            **self.whole.plain(),
            "by_script": {name: part.plain() for name, part in self.parts.items()},
            "longest_tokens": self.longest,
            "samples": self.samples,
            "dropped": self.dropped,
        }


def inspect(tokenizer: Tokenizer, texts: Iterable[str]) -> Quality:
    """Measure a tokenizer on texts, cut at line ends; above 16 million characters on an even sample of them.

    Raises:
        InputError: there is no text.
    """
    quality = Quality(tokenizer.vocab_size)
    pieces, _ = sample(texts, _MOST)
    counts = np.zeros(tokenizer.vocab_size, dtype=np.int64)  # (V,)
    for piece in pieces:
        units = list(_units(piece))
        for unit, ids in zip(units, tokenizer.encode_batch(units), strict=True):
            script = script_of(unit)
            quality.parts.setdefault(script, Part()).add(_measure(tokenizer, unit, ids))
            quality.samples.setdefault(script, segments(tokenizer, unit.strip()[:_SHOWN]))
            np.add.at(counts, ids, 1)
    if not pieces:
        raise InputError("no text to look at")
    quality.dropped = _dropped(tokenizer, re.sub(r"\W.*", "", pieces[0].strip(), flags=re.DOTALL))
    for part in quality.parts.values():
        quality.whole.add(part)
    quality.used = int((counts > 0).sum())
    seen = {tokenizer.decode([id_]) for id_ in np.flatnonzero(counts).tolist()}
    quality.longest = sorted(seen, key=lambda token: (-len(token), token))[:10]
    return quality


def _dropped(tokenizer: Tokenizer, word: str) -> list[str]:
    """What does not come back, tried on a word."""
    tried = {
        "line ends": f"{word}\n{word}",
        "runs of spaces": f"{word}  {word}",
        "capitals": word.upper(),
        "accents": "é",
    }
    found = []
    for name, text in tried.items():
        ids = tokenizer.encode(text)
        if tokenizer.unk_id not in ids and tokenizer.decode(ids, skip_special_tokens=False) != text:
            found.append(name)
    return found


def script_of(text: str) -> str:
    """The script of most of its letters; a CJK character counts double, for it says as much as several letters."""
    cjk, latin = 2 * len(_CJK.findall(text)), len(_LATIN.findall(text))
    other = len(_LETTER.findall(text)) - latin - cjk // 2
    if max(cjk, latin) < other or not (cjk or latin):
        return "other"
    return "CJK" if cjk > latin else "Latin"


def segments(tokenizer: Tokenizer, text: str) -> list[str]:
    """The text of each token; tokens that only together make characters stand together: `字[3]`."""
    shown: list[str] = []
    waiting: list[int] = []
    for id_ in tokenizer.encode(text):
        waiting.append(id_)
        piece = tokenizer.decode(waiting, skip_special_tokens=False)
        if "\ufffd" in piece and len(waiting) < 8:
            continue
        shown.append(piece if len(waiting) == 1 else f"{piece}[{len(waiting)}]")
        waiting = []
    return shown


def _measure(tokenizer: Tokenizer, text: str, ids: np.ndarray) -> Part:
    # A byte-level tokenizer knows everything; its unk token is only a name for the end token.
    has_unknown = tokenizer.unk_id is not None and tokenizer.unk_id != tokenizer.eos_id
    return Part(
        characters=len(text),
        bytes=len(text.encode()),
        tokens=len(ids),
        unknown=int((ids == tokenizer.unk_id).sum()) if has_unknown else 0,
        lossless=len(text) if tokenizer.decode(ids.tolist(), skip_special_tokens=False) == text else 0,
    )


def _units(text: str) -> Iterator[str]:
    start = 0
    while start < len(text):
        stop = min(start + _UNIT, len(text))
        if stop < len(text):
            cut = text.rfind("\n", start, stop) + 1
            stop = cut if cut > start else stop
        yield text[start:stop]
        start = stop
