"""The n-gram model as a drafter for a larger one: see `generation/drafting.py`."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from functools import partial

import numpy as np

from melete.baselines.ngram import Floats, Ints, NGram, discounts
from melete.generation.drafting import Guess
from melete.generation.sampling import GREEDY_BELOW

# The likeliest token is right with about the probability that the n-gram model gives it, and a wrong one costs time.
LEAST_PROBABILITY = 0.35
# Guesses at a lower temperature are drawn at this one: the powers of small numbers must stay numbers.
_COLDEST = 0.1
# How far the counts of two tokens, three, ... are believed when guesses are drawn. Models remember less than counts do.
_TRUST = (1.0, 0.4)
# Indices of the n-grams of one token, two tokens, ... that a text ends with.
Known = tuple[int, ...]


@dataclass(frozen=True)
class _Order:
    """What follows the contexts of one length, side by side, at some temperature.

    Views of arrays, since a single number is read from them several times as fast as by numpy.

    Attributes:
        keys: see `ngram`.
        first: where the n-grams of each context begin, (contexts + 1,).
        kept: probability of each n-gram beside what the context leaves to shorter ones, (n-grams,).
        reached: sum of `kept` up to and without each, (n-grams + 1,).
        left: what each context leaves to shorter ones, (contexts,).
    """

    keys: memoryview
    first: memoryview
    kept: memoryview
    reached: memoryview
    left: memoryview

    def place(self, context: int, key: int) -> int | None:
        """Where an n-gram stands; None: it is not known."""
        last = self.first[context + 1]
        at = bisect_left(self.keys, key, self.first[context], last)
        return at if at < last and self.keys[at] == key else None


class NGramDrafter:
    """Guesses what the n-gram model expects: the likeliest tokens, or tokens drawn from its distribution.

    What is known of the newest context is carried along, so a token costs one binary search an order. To draw one, too:
    the longest context gives one of its own tokens or leaves it to a shorter one, by their shares.
    """

    def __init__(self, ngram: NGram) -> None:
        self._ngram = ngram
        self._newest: Known = ()
        self._followers: dict[Known, tuple[int, Known] | None] = {}
        self._temperature = 0.0  # for which the following is
        self._orders: list[_Order] = []
        self._unigrams = self._reached = ngram.unigrams.data

    def begin(self) -> None:
        """See `Drafter.begin`."""
        self._newest = ()

    def push(self, token: int) -> None:
        """See `Drafter.push`."""
        self._newest = self._after(self._ending(self._newest, token))

    def guess(self, most: int, temperature: float, rng: np.random.Generator) -> list[Guess]:
        """See `Drafter.guess`."""
        if temperature >= GREEDY_BELOW:
            return self._draw(most, max(temperature, _COLDEST), rng)
        known, guesses = self._newest, []
        while len(guesses) < most and (next_ := self._likeliest(known)) is not None:
            token, known = next_
            guesses.append(Guess(token))
        return guesses

    def _draw(self, most: int, temperature: float, rng: np.random.Generator) -> list[Guess]:
        if temperature != self._temperature:
            self._set(temperature)
        known, guesses = self._newest[: len(self._orders)], []
        for _ in range(most):
            token = self._drawn(known, rng)
            chance, ending = self._weighed(known, token)
            guesses.append(Guess(token, chance, partial(self._chance, known)))
            known = self._after(ending)[: len(self._orders)]
        return guesses

    def _set(self, temperature: float) -> None:
        """What guesses are drawn from, at the temperature of the model.

        Occurrences are counted, of contexts of all lengths: the expectations of a model are nearer to them than to the
        numbers of left neighbours that predict a text best.
        """
        model, power = self._ngram, 1 / temperature
        self._temperature, self._orders = temperature, []
        counts = (model.higher[-1].counts if model.higher else model.unigram_counts).astype(np.float64)
        for i, level in reversed(list(enumerate(model.higher))):
            context, contexts = level.keys // model.vocab_size, len(level.backoff)
            totals = np.bincount(context, counts, contexts)
            if i < len(_TRUST):
                taken = np.array((0.0, *discounts(counts.astype(np.int64))))[
                    np.minimum(counts, 3).astype(int)
                ]
                kept = _TRUST[i] * (counts - taken) / np.maximum(totals, 1)[context]
                self._orders.insert(0, _order(level.keys, context, kept, contexts, power))
            counts = totals
        unigrams = (counts + 0.5) ** power
        unigrams = unigrams / unigrams.sum()
        self._unigrams, self._reached = unigrams.data, unigrams.cumsum().data

    def _drawn(self, known: Known, rng: np.random.Generator) -> int:
        """A token that follows."""
        size = self._ngram.vocab_size
        for order, context in zip(reversed(self._orders[: len(known)]), reversed(known), strict=True):
            draw, first, last = rng.random(), order.first[context], order.first[context + 1]
            if first < last and draw >= order.left[context]:
                at = order.reached[first] + draw - order.left[context]
                found = bisect_right(order.reached, at, first + 1, last) - 1
                return order.keys[found] - context * size
        return min(bisect_right(self._reached, rng.random() * self._reached[-1]), size - 1)

    def _chance(self, known: Known, token: int) -> float:
        """The probability of a token."""
        return self._weighed(known, token)[0]

    def _weighed(self, known: Known, token: int) -> tuple[float, Known]:
        """The probability of a token, and the indices of the n-grams that end with it, shortest first."""
        probability, found, size = self._unigrams[token], [token], self._ngram.vocab_size
        for order, context in zip(self._orders, known, strict=False):
            at = order.place(context, context * size + token)
            probability *= order.left[context]
            if at is not None:
                probability += order.kept[at]
                found.append(at)
        return probability, tuple(found)

    def _ending(self, known: Known, token: int) -> Known:
        """Indices of the n-grams that end with `token` behind such a context, shortest first."""
        found = [token]
        for level, context in zip(self._ngram.higher, known, strict=False):
            key = context * self._ngram.vocab_size + token
            at = int(level.keys.searchsorted(key))
            if at == len(level.keys) or level.keys[at] != key:
                break
            found.append(at)
        return tuple(found)

    def _after(self, ending: Known) -> Known:
        """Those of them that are contexts of what comes next."""
        model = self._ngram
        return ending[: 1 if ending[0] == model.boundary_id else max(model.order - 1, 1)]

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
                return token, self._after(self._ending(known, token))
        return None


def _order(keys: Ints, context: Ints, kept: Floats, contexts: int, power: float) -> _Order:
    """Each context's choice among its tokens and shorter contexts, sharpened or flattened."""
    left = np.maximum(1 - np.bincount(context, kept, contexts), 0)
    kept, left = kept**power, left**power
    whole = left + np.bincount(context, kept, contexts)
    kept = kept / whole[context]
    first = np.searchsorted(context, np.arange(contexts + 1))
    columns = keys, first, kept, np.append(0.0, kept.cumsum()), left / whole
    return _Order(*(np.ascontiguousarray(column).data for column in columns))
