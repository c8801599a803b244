"""Text from tokens as they come: never half a character, and cut before a stop text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

# What a decoder writes for bytes that are no character (yet).
_BROKEN = "\ufffd"
# A character has at most four bytes, so at most three of an unfinished one stand at the end.
_MOST_UNFINISHED = 3
# Tokens decoded again at each step if there has been no clean place to cut for so long: text that is no UTF-8.
_LONGEST_WINDOW, _KEPT_WINDOW = 64, 16


class Decodes(Protocol):
    """What this module asks of a tokenizer."""

    def decode(self, ids: Sequence[int], /) -> str: ...


class Piece(NamedTuple):
    """One token of one answer.

    Attributes:
        answer: `prompt * num_return_sequences + i` for the i-th answer to a prompt.
        token: its id.
        text: the text it completes; empty without a tokenizer, and while a character or a stop text is unfinished.
        last: the answer ends here.
    """

    answer: int
    token: int
    text: str
    last: bool


class Detokenizer:
    """Turns tokens into text one by one. The pieces joined are the decoding of all tokens together.

    A token may hold a part of a character, and a decoder may treat the first token of a text differently (its
    space). So a short window of tokens, starting at a place where the text was whole, is decoded again each time,
    and what it adds is given out: time is linear in the number of tokens.
    """

    def __init__(self, tokenizer: Decodes) -> None:
        self._decode = tokenizer.decode
        self._ids: list[int] = []  # the window
        self._whole = 0  # tokens of the window after which its text was whole
        self._given = ""  # the part of the window's text that was given out

    def push(self, token: int) -> str:
        """The text that this token completes; often a word, sometimes nothing."""
        self._ids.append(token)
        text = self._decode(self._ids)
        stable = _without_unfinished(text)
        if not stable.startswith(self._given):  # a decoder took back what it had shown: wait for more
            stable = self._given
        piece = stable[len(self._given) :]
        self._given = stable
        if stable == text and piece:  # without a piece the window might be left with nothing that is shown
            self._ids = self._ids[self._whole :]
            self._whole = len(self._ids)
            self._given = self._decode(self._ids)
        elif len(self._ids) > _LONGEST_WINDOW:
            self._ids, self._whole = self._ids[-_KEPT_WINDOW:], 0
            self._given = _without_unfinished(self._decode(self._ids))
        return piece

    def finish(self) -> str:
        """What was held back: nothing, if the text ends in a whole character."""
        piece = self._decode(self._ids)[len(self._given) :]
        self._ids, self._whole, self._given = [], 0, ""
        return piece


class TextStream:
    """A detokenizer that ends before the first of some stop texts, wherever the borders between tokens lie.

    Attributes:
        stopped: a stop text was met; nothing more will come.
    """

    def __init__(self, tokenizer: Decodes, stop: Sequence[str] = ()) -> None:
        self.stopped = False
        self._detokenizer = Detokenizer(tokenizer)
        self._stop = tuple(stop)
        self._held = ""  # may be the beginning of a stop text

    def push(self, token: int) -> str:
        """The text that is now certain not to belong to a stop text."""
        return "" if self.stopped else self._pass(self._detokenizer.push(token))

    def finish(self) -> str:
        """What was held back, when no more tokens come."""
        if self.stopped:
            return ""
        piece = self._pass(self._detokenizer.finish())
        rest = "" if self.stopped else self._held
        self._held = ""
        return piece + rest

    def _pass(self, piece: str) -> str:
        if not self._stop:
            return piece
        text = self._held + piece
        places = [place for place in map(text.find, self._stop) if place >= 0]
        if places:
            self.stopped = True
            return text[: min(places)]
        held = max(_overlap(text, stop) for stop in self._stop)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]


def _without_unfinished(text: str) -> str:
    """The text without what may still become a character."""
    whole = len(text.rstrip(_BROKEN)) if text.endswith(_BROKEN) else len(text)
    return text[: max(whole, len(text) - _MOST_UNFINISHED)]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest ending of `text` that begins `stop`, but is not all of it."""
    lengths = range(min(len(text), len(stop) - 1), 0, -1)
    return next((length for length in lengths if text.endswith(stop[:length])), 0)
