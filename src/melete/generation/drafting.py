"""Drafters: what may come next, guessed so cheaply that a model can look at several tokens at once."""

from __future__ import annotations

from typing import Protocol

# Tokens that must have come before in the same order for what followed them to be guessed again.
_LONGEST_MATCH, _SHORTEST_MATCH = 4, 2


class Drafter(Protocol):
    """Guesses what comes next. It is told every token of the text, and may be wrong at no cost but time."""

    def push(self, token: int) -> None:
        """The text has one more token."""
        ...

    def guess(self, most: int) -> list[int]:
        """What may come next, `most` tokens or fewer."""
        ...


class PromptDrafter:
    """Guesses that what followed the last few tokens before will follow them again. Saxena 2023, prompt look-up.

    The place behind each run of tokens is kept in a table, so a token costs the same however long the text is.
    """

    def __init__(self) -> None:
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

    def guess(self, most: int) -> list[int]:
        """See `Drafter.guess`."""
        guesses: list[int] = []
        if self._found is not None:
            for place in range(
                self._found, self._found + most
            ):  # past the end: what was guessed for its beginning
                known = place < len(self._text)
                guesses.append(self._text[place] if known else guesses[place - len(self._text)])
        return guesses
