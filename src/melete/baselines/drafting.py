"""The n-gram model as a drafter for a larger one: see `generation/drafting.py`."""

from __future__ import annotations

import numpy as np

from melete.baselines.ngram import NGram

# A guess is right with about the probability that the n-gram model gives it, and a wrong one still costs time.
LEAST_PROBABILITY = 0.35


class NGramDrafter:
    """Guesses the likeliest continuation of the longest context that the n-gram model knows.

    What is known of the newest context is carried along, so a token costs one binary search an order; contexts that
    come again cost nothing.
    """

    def __init__(self, ngram: NGram) -> None:
        self._ngram = ngram
        # Indices of the n-grams that end with the newest token, shortest first.
        self._newest: tuple[int, ...] = ()
        self._followers: dict[tuple[int, ...], tuple[int, tuple[int, ...]] | None] = {}

    def push(self, token: int) -> None:
        """See `Drafter.push`."""
        self._newest = self._after(self._newest, token)

    def guess(self, most: int) -> list[int]:
        """See `Drafter.guess`."""
        known, guesses = self._newest, []
        while len(guesses) < most and (next_ := self._likeliest(known)) is not None:
            token, known = next_
            guesses.append(token)
        return guesses

    def _after(self, known: tuple[int, ...], token: int) -> tuple[int, ...]:
        """Indices of the n-grams up to one token short of the order that end with `token` behind such a context."""
        model = self._ngram
        found = [token]
        if token != model.boundary_id:
            for level, context in zip(model.higher[: model.order - 2], known, strict=False):
                key = context * model.vocab_size + token
                at = int(np.searchsorted(level.keys, key))
                if at == len(level.keys) or level.keys[at] != key:
                    break
                found.append(at)
        return tuple(found[: max(model.order - 1, 1)])

    def _likeliest(self, known: tuple[int, ...]) -> tuple[int, tuple[int, ...]] | None:
        """The token that most probably follows, and what is known behind it; None if none is probable enough."""
        if known not in self._followers:
            self._followers[known] = self._search(known)
        return self._followers[known]

    def _search(self, known: tuple[int, ...]) -> tuple[int, tuple[int, ...]] | None:
        model = self._ngram
        for level, context in reversed(list(zip(model.higher, known, strict=False))):
            first, last = np.searchsorted(
                level.keys, (context * model.vocab_size, (context + 1) * model.vocab_size)
            )
            if first < last:
                best = first + int(level.discounted[first:last].argmax())
                if level.discounted[best] < LEAST_PROBABILITY:
                    return None
                token = int(level.keys[best] - context * model.vocab_size)
                return token, self._after(known, token)
        return None
