"""Drafters: what may come next, guessed so cheaply that a model can look at several tokens at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np

# Tokens that must have come before in the same order for what followed them to be guessed again.
_LONGEST_MATCH, _SHORTEST_MATCH = 4, 2


class Guess(NamedTuple):
    """A token that may come next.

    Attributes:
        token: its id.
        probability: with which it was drawn.
        chance: with which each token might have been drawn; None: nothing was.
    """

    token: int
    probability: float = 1.0
    chance: Callable[[int], float] | None = None


class Drafter(Protocol):
    """Guesses what comes next. It is told every token of the text, and may be wrong at no cost but time."""

    def begin(self) -> None:
        """A text begins, empty."""
        ...

    def push(self, token: int) -> None:
        """The text has one more token."""
        ...

    def guess(self, most: int, temperature: float, rng: np.random.Generator) -> list[Guess]:
        """What may come next, `most` tokens or fewer, each behind those before it.

        Args:
            temperature: at which the model draws; 0: the likeliest token is asked for.
            rng: what guesses are drawn with, if they are.
        """
        ...


class PromptDrafter:
    """Guesses that what followed the last few tokens before will follow them again. Saxena 2023, prompt look-up.

    The place behind each run of tokens is kept in a table, so a token costs the same however long the text is.
    """

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """See `Drafter.begin`."""
        self._text: list[int] = []
        self._behind: dict[tuple[int, ...], int] = {}  # run of tokens -> where it last ended
        self._found: int | None = None

    def push(self, token: int) -> None:
        """See `Drafter.push`."""
        self._text.append(token)
        self._found = None
        for length in range(_LONGEST_MATCH, _SHORTEST_MATCH - 1, -1):
            if length <= len(self._text):
                run = tuple(self._text[-length:])
                if self._found is None:
                    self._found = self._behind.get(run)
                self._behind[run] = len(self._text)

    def guess(self, most: int, temperature: float, rng: np.random.Generator) -> list[Guess]:
        """See `Drafter.guess`."""
        guesses: list[int] = []
        if self._found is not None:
            for place in range(
                self._found, self._found + most
            ):  # past the end: what was guessed for its beginning
                known = place < len(self._text)
                guesses.append(self._text[place] if known else guesses[place - len(self._text)])
        return [Guess(token) for token in guesses]
