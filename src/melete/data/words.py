"""Which tokens make a word: what is masked as a whole, and what a span is counted in.

A word is a run of letters and digits, with the apostrophes and decimal points inside it (`don't`, `3.14`); every other
character that is not white space stands alone, so `Hello,` is two words. Han characters are written without spaces:
their runs go to a segmenter, `rjieba` (extra `melete[zh]`) or one learned from the text itself.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from melete.console import say
from melete.data.scripts import HAN, KANA
from melete.errors import InputError

# The words of a run of Han characters, in order; joined they are the run.
Cut = Callable[[str], list[str]]

_HAN = re.compile(f"[{HAN}]+")
_LETTER = rf"[^\W_{HAN}{KANA}]"
# Japanese: runs of kana are left whole.
_WORD = re.compile(
    rf"(?P<han>[{HAN}]+)|[{KANA}]+|{_LETTER}(?:{_LETTER}|[\u0300-\u036f]|['’.,](?={_LETTER}))*|\S"
)
_INSIDE = re.compile(r"['’.,]")


def word_starts(text: str, cut: Cut | None = None) -> np.ndarray:
    """Where words begin: positions in the text, int64, ascending.

    Args:
        cut: how runs of Han characters are cut; None takes each character for a word.
    """
    starts: list[int] = []
    for match in _WORD.finditer(text):
        begin = match.start()
        if match["han"] is None:
            starts += [begin + at for at in _plain(match[0])]
            continue
        pieces = list(match[0]) if cut is None else cut(match[0])
        for piece in pieces:
            starts.append(begin)
            begin += len(piece)
        assert begin == match.end()
    return np.array(starts, dtype=np.int64)


def _plain(run: str) -> list[int]:
    """Where words begin in a run of letters: points and commas hold numbers together, apostrophes letters."""
    starts = [0]
    for match in _INSIDE.finditer(run, 1):
        at = match.start()
        number = run[at - 1].isdigit() and run[at + 1].isdigit()
        if number if match[0] in ".," else not number:
            continue
        starts += [at, at + 1]
    return starts


def token_words(text: str, offsets: np.ndarray, cut: Cut | None = None) -> np.ndarray:
    """The word that each token is part of: int64 (N,), never falling.

    A token belongs to the word of its first character that is not white space: the space before a byte-level token is
    nobody's, and a token that reaches over two words belongs to the first.

    Args:
        offsets: where tokens begin in the text, int64 (N,); `Tokenizer.encode_offsets`.
    """
    starts = word_starts(text, cut)
    # White space leads to the word after it, so a token that begins with it does too.
    blank = np.array([match.start() for match in re.finditer(r"\s", text)], dtype=np.int64)
    place = np.arange(len(text) + 1)
    for at in blank[::-1]:
        place[at] = place[at + 1]
    return np.maximum(np.searchsorted(starts, place[np.minimum(offsets, len(text))], side="right") - 1, 0)


def han_cutter(texts: Iterable[str]) -> tuple[str, Cut]:
    """The name of a way to cut Han characters into words, and the way: `rjieba`, else learned from the texts.

    Which one it is is said in a line.
    """
    try:
        cut = rjieba_cut()
    except InputError:
        say("Chinese words are learned from the text itself: pip install 'melete[zh]' brings a dictionary")
        return "learned", LearnedWords.learn(texts).cut
    return "rjieba", cut


def rjieba_cut() -> Cut:
    """Cutting by the dictionary of jieba.

    Raises:
        InputError: it is not installed.
    """
    try:
        import rjieba
    except ImportError:
        raise InputError(
            "Chinese words need the package rjieba", do="install it with `pip install 'melete[zh]'`"
        ) from None
    library: Any = rjieba
    return library.cut


@dataclass(frozen=True)
class LearnedWords:
    """Words that a text shows to be words: their characters meet far more often than by chance.

    A string of two to four characters is a word if it is frequent, and at its weakest joint stands `cohesion` times as
    often as its two halves would by chance (pointwise mutual information). A run is cut into the words of the highest
    joint probability. From 1.5 million characters of news this finds 60 % of the dictionary's words (F1); single
    characters are 24 %.

    Attributes:
        scores: log-probability of each word.
        unknown: log-probability of a character that was never seen.
    """

    scores: dict[str, float]
    unknown: float

    LONGEST = 4

    @classmethod
    def learn(
        cls, texts: Iterable[str], *, least: int = 5, cohesion: float = 10.0, characters: int = 4_000_000
    ) -> LearnedWords:
        """Count the strings of the first `characters` Han characters and keep those that are words.

        Args:
            least: occurrences that make a string frequent; in a long text once in 200,000 characters.
            cohesion: how far above chance.
        """
        counts: list[Counter[str]] = [Counter() for _ in range(cls.LONGEST)]
        total = 0
        for text in texts:
            for match in _HAN.finditer(text):
                run = match[0]
                total += len(run)
                for size in range(1, cls.LONGEST + 1):
                    counts[size - 1].update(run[i : i + size] for i in range(len(run) - size + 1))
            if total >= characters:
                break
        least = max(least, total // 200_000)
        known = dict(counts[0])
        for longer in counts[1:]:
            known |= {word: count for word, count in longer.items() if count >= least}
        words = {
            word: count
            for word, count in known.items()
            if len(word) == 1 or count * total >= cohesion * _by_chance(word, known)
        }
        mass = sum(words.values())
        scores = {word: math.log(count / mass) for word, count in words.items()}
        return cls(scores, -math.log(mass + 1.0))

    def cut(self, run: str) -> list[str]:
        """The most probable words of a run of characters; joined they are the run."""
        best = [0.0] + [-math.inf] * len(run)
        back = [0] * (len(run) + 1)
        for stop in range(1, len(run) + 1):
            for start in range(max(0, stop - self.LONGEST), stop):
                score = self.scores.get(run[start:stop])
                if score is None:
                    if stop - start > 1:
                        continue
                    score = self.unknown
                if best[start] + score > best[stop]:
                    best[stop], back[stop] = best[start] + score, start
        cuts = [len(run)]
        while cuts[-1]:
            cuts.append(back[cuts[-1]])
        return [run[start:stop] for start, stop in pairwise(reversed(cuts))]


def _by_chance(word: str, known: dict[str, int]) -> int:
    """The product of the counts of two halves, at the joint where it is largest."""
    return max(known.get(word[:at], 0) * known.get(word[at:], 0) for at in range(1, len(word)))
