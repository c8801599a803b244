"""Tokens that an answer must contain, one phrase whole and then another, in any order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Progress(NamedTuple):
    """How much of them an answer has.

    Attributes:
        done: numbers of the phrases that stand in it.
        phrase, place: the one that its end begins, and how many tokens of it are there; place 0: none.
    """

    done: frozenset[int] = frozenset()
    phrase: int = 0
    place: int = 0


class Requirements:
    """What must come, and how far an answer is."""

    def __init__(self, phrases: Sequence[Sequence[int]]) -> None:
        self.phrases = [tuple(phrase) for phrase in phrases]
        self.tokens = sum(map(len, self.phrases))

    def after(self, progress: Progress, token: int) -> Progress:
        """With one token more. A phrase that breaks off counts for nothing, but its end may begin another."""
        recent = (*self.phrases[progress.phrase][: progress.place], token)
        for size in range(len(recent), 0, -1):
            for number, phrase in enumerate(self.phrases):
                if number not in progress.done and phrase[:size] == recent[-size:]:
                    if size == len(phrase):
                        return Progress(progress.done | {number})
                    return Progress(progress.done, number, size)
        return Progress(progress.done)

    def met(self, progress: Progress) -> int:
        """How many of the tokens it has."""
        return sum(len(self.phrases[number]) for number in progress.done) + progress.place

    def wanted(self, progress: Progress) -> set[int]:
        """Tokens that would bring it further."""
        if progress.place:
            return {self.phrases[progress.phrase][progress.place]}
        return {phrase[0] for number, phrase in enumerate(self.phrases) if number not in progress.done}
