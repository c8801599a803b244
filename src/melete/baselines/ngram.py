"""The n-gram language model every neural one has to beat: interpolated modified Kneser-Ney, in numpy.

Chen & Goodman 1998 ("An Empirical Study of Smoothing Techniques for Language Modeling", TR-10-98), section 3,
with the estimation order of Heafield et al. 2013 ("Scalable Modified Kneser-Ney Language Model Estimation").

The n-grams of one order are one sorted array of keys `context * vocab_size + word`, where `context` is the
index of the (n-1)-gram in the array of the order below. So every key fits in an int64 whatever the order,
counting is one sort an order, and scoring a stream is one binary search a token and order.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from melete.console import Progress
from melete.errors import InputError

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

# Used for an order whose counts of counts cannot give discounts (character unigrams have no singletons), as
# KenLM does under --discount_fallback.
FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)
FORMAT = "melete-ngram-1"
# Steps in which `NGram.score` says how far a context is to be trusted.
TRUST_LEVELS = 6


def discounts(counts: Ints) -> tuple[float, float, float]:
    """What is taken from n-grams seen once, twice, three times or more (Chen & Goodman 1998, equation 26).

    `FALLBACK_DISCOUNTS` where one of the first four counts of counts is zero, or where the estimate falls
    outside [0, count], as it may on very little or very repetitive text.
    """
    n1, n2, n3, n4 = (int((counts == k).sum()) for k in (1, 2, 3, 4))
    if min(n1, n2, n3, n4) == 0:
        return FALLBACK_DISCOUNTS
    y = n1 / (n1 + 2 * n2)
    estimate = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
    if any(not 0 <= d <= k for k, d in enumerate(estimate, start=1)):
        return FALLBACK_DISCOUNTS
    return estimate


@dataclass(frozen=True)
class _Order:
    """The n-grams of one order n >= 2, smoothed.

    Attributes:
        keys: sorted `context * vocab_size + word`, (n-grams,).
        counts: occurrences (highest order) or distinct left neighbours (lower orders), (n-grams,).
        discounted: share of the context's count that the n-gram keeps, (n-grams,).
        backoff: weight of the order below, by context, (contexts,); 1 where the context has no continuation.
        totals: sum of the counts of each context's n-grams, (contexts,).
    """

    keys: Ints
    counts: Ints
    discounted: Floats
    backoff: Floats
    totals: Ints

    @classmethod
    def smooth(cls, keys: Ints, counts: Ints, contexts: int, vocab_size: int) -> _Order:
        """Estimate the discounts of the order and share each context's count between n-grams and back-off."""
        context = keys // vocab_size
        taken = np.array((0.0, *discounts(counts)))[np.minimum(counts, 3)]
        totals = np.bincount(context, weights=counts, minlength=contexts)
        freed = np.bincount(context, weights=taken, minlength=contexts)
        backoff = np.divide(freed, totals, out=np.ones(contexts), where=totals > 0)
        return cls(keys, counts, (counts - taken) / totals[context], backoff, totals.astype(np.int64))

    def find(self, keys: Ints) -> Ints:
        """Index of each key, or -1: (queries,) -> (queries,)."""
        if not len(self.keys):
            return np.full(len(keys), -1)
        at = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[at] == keys, at, -1)


class NGram:
    """A modified Kneser-Ney model over token ids. Built by `NGram.train` or `NGram.load`.

    Attributes:
        order: the longest n-gram; a token is predicted from `order - 1` tokens before it.
        vocab_size: number of ids; every one of them has a probability above zero, seen or not.
        boundary_id: id at which contexts start anew (they hold it, but nothing before it), or None:
            contexts run through the whole stream.
    """

    family = "ngram"

    def __init__(
        self, counts: list[Ints], keys: list[Ints], vocab_size: int, boundary_id: int | None = None
    ) -> None:
        self.order, self.vocab_size, self.boundary_id = len(counts), vocab_size, boundary_id
        self.unigram_counts = counts[0]
        taken = np.array((0.0, *discounts(counts[0])))[np.minimum(counts[0], 3)]
        # The order below the unigrams is the uniform distribution: it is where unseen ids get their share.
        self.unigrams: Floats = (counts[0] - taken + taken.sum() / vocab_size) / counts[0].sum()
        sizes = [vocab_size, *(len(k) for k in keys)]
        self.higher = [
            _Order.smooth(k, c, contexts, vocab_size)
            for k, c, contexts in zip(keys, counts[1:], sizes[:-1], strict=True)
        ]

    @classmethod
    def train(cls, ids: np.ndarray, vocab_size: int, order: int = 5, boundary_id: int | None = None) -> NGram:
        """Count and smooth a stream of token ids, int (N,); its first id is context only.

        Raises:
            InputError: fewer than two tokens, an id outside [0, vocab_size), or an order below 1.
        """
        if order < 1:
            raise InputError(f"order {order} is too small", expected="1 or more")
        if len(ids) < 2:
            raise InputError(f"{len(ids)} tokens are too few for an n-gram model", expected="at least 2")
        ids = _checked(ids, vocab_size)
        if order == 1:
            return cls([np.bincount(ids[1:], minlength=vocab_size)], [], vocab_size, boundary_id)
        reach = _reach(ids, boundary_id)
        counts: list[Ints] = []
        keys: list[Ints] = []
        below = ids  # index of the (n-1)-gram that ends at each position, where there is one
        with Progress("counting n-grams", "tokens", len(ids) * (order - 1)) as progress:
            for n in range(2, order + 1):
                ends = np.flatnonzero(reach >= n)
                unique, index, occurrences, somewhere = _group(below[ends - 1] * vocab_size + ids[ends])
                # A lower order counts the distinct left neighbours of an n-gram. One that begins where contexts
                # begin has none: each occurrence counts (position 0 is never predicted: not a unigram).
                suffixes = below[ends[somewhere]]
                lower = np.bincount(suffixes, minlength=len(keys[-1]) if keys else vocab_size)
                if n > 2:
                    lower += np.bincount(below[reach == n - 1], minlength=len(lower))
                counts.append(lower)
                keys.append(unique)
                if n == order:
                    counts.append(occurrences)
                below = np.full(len(ids), -1)
                below[ends] = index
                progress.advance(len(ids))
        return cls(counts, keys, vocab_size, boundary_id)

    def token_log_probs(self, ids: np.ndarray) -> Floats:
        """Natural log-probability of each of ids[1:] given what precedes it: int (N,) -> (N-1,).

        Raises:
            InputError: an id outside [0, vocab_size).
        """
        return self.score(ids)[0]

    def score(self, ids: np.ndarray) -> tuple[Floats, Ints]:
        """`token_log_probs`, and how far to trust each: (N-1,) each.

        Trust is `TRUST_LEVELS * length + level`: the length of the longest context seen in training (0..order-1),
        and how much of the probability that context leaves to shorter ones, in TRUST_LEVELS steps. It looks only
        at the context, never at the token predicted, so a weight may depend on it and a mixture remains a
        distribution.
        """
        ids = _checked(ids, self.vocab_size)
        reach = _reach(ids, self.boundary_id)
        probability = self.unigrams[ids[1:]]
        trust = np.zeros(len(probability), dtype=np.int64)
        below = ids
        for n, level in enumerate(self.higher, start=2):
            ends = np.flatnonzero((reach[1:] >= n) & (below[:-1] >= 0)) + 1
            context = below[ends - 1]
            found = level.find(context * self.vocab_size + ids[ends])
            kept = np.where(found >= 0, level.discounted[found] if len(level.keys) else 0.0, 0.0)
            probability[ends - 1] = kept + level.backoff[context] * probability[ends - 1]
            known = level.totals[context] > 0
            left = (level.backoff[context[known]] * TRUST_LEVELS).astype(np.int64)
            trust[ends[known] - 1] = TRUST_LEVELS * (n - 1) + np.minimum(left, TRUST_LEVELS - 1)
            below = np.full(len(ids), -1)
            below[ends] = found
        return np.log(probability), trust

    def next_log_probs(self, context: np.ndarray | list[int]) -> Floats:
        """Natural log-probabilities of every id after `context` (any length, 0 too): int (T,) -> (V,).

        Raises:
            InputError: an id outside [0, vocab_size).
        """
        probability = self.unigrams.copy()
        for level, at in self._contexts(_checked(np.asarray(context, dtype=np.int64), self.vocab_size)):
            first, last = np.searchsorted(level.keys, (at * self.vocab_size, (at + 1) * self.vocab_size))
            probability *= level.backoff[at]
            probability[level.keys[first:last] - at * self.vocab_size] += level.discounted[first:last]
        return np.log(probability)

    def _contexts(self, ids: Ints) -> Iterator[tuple[_Order, int]]:
        """Each higher order whose context was seen, with the index of that context, shortest first."""
        ids = ids[-(self.order - 1) :] if self.order > 1 else ids[:0]
        if self.boundary_id is not None and self.boundary_id in ids:
            ids = ids[np.flatnonzero(ids == self.boundary_id)[-1] :]
        for length, level in enumerate(self.higher[: len(ids)], start=1):
            suffix = ids[len(ids) - length :]
            at = int(suffix[0])
            for below, word in zip(self.higher, suffix[1:], strict=False):
                at = int(below.find(np.array([at * self.vocab_size + word]))[0])
                if at < 0:
                    return
            yield level, at

    def save(self, folder: Path) -> Path:
        """Write `ngram.json` and `ngram.safetensors` into a new folder, all or nothing.

        Raises:
            InputError: the folder exists.
        """
        from safetensors.numpy import save_file

        folder = Path(folder)
        if folder.exists():
            raise InputError("already exists", where=str(folder), do="choose another folder")
        tensors = {"counts.1": self.unigram_counts}
        for n, level in enumerate(self.higher, start=2):
            tensors |= {f"keys.{n}": level.keys, f"counts.{n}": level.counts}
        header = {
            "format": FORMAT,
            "order": self.order,
            "vocab_size": self.vocab_size,
            "boundary_id": self.boundary_id,
        }
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished = folder.with_name(f".{folder.name}.{os.getpid()}")
        unfinished.mkdir()
        try:
            save_file(tensors, unfinished / "ngram.safetensors")
            (unfinished / "ngram.json").write_text(json.dumps(header, indent=2) + "\n", encoding="utf-8")
            unfinished.rename(folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        return folder

    @classmethod
    def load(cls, folder: Path) -> NGram:
        """Read what `save` wrote.

        Raises:
            InputError: not such a folder, or a damaged one.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        folder = Path(folder)
        try:
            header = json.loads((folder / "ngram.json").read_text(encoding="utf-8"))
            if header["format"] != FORMAT:
                raise InputError(
                    f"format {header['format']!r} is unknown", where=str(folder), expected=FORMAT
                )
            tensors = load_file(folder / "ngram.safetensors")
            orders = range(1, header["order"] + 1)
            counts, keys = (
                [tensors[f"counts.{n}"] for n in orders],
                [tensors[f"keys.{n}"] for n in orders[1:]],
            )
            return cls(counts, keys, header["vocab_size"], header["boundary_id"])
        except FileNotFoundError as error:
            raise InputError(f"no {Path(error.filename).name} in it", where=str(folder)) from error
        except (ValueError, KeyError, SafetensorError) as error:
            raise InputError(
                f"damaged n-gram model ({error})", where=str(folder), do="train it again"
            ) from error


def _checked(ids: np.ndarray, vocab_size: int) -> Ints:
    """The ids as int64, all of them inside the vocabulary."""
    if len(ids) and (ids.min() < 0 or ids.max() >= vocab_size):
        outside = int(ids.min() if ids.min() < 0 else ids.max())
        raise InputError(
            f"token id {outside} is outside the vocabulary",
            expected=f"ids from 0 to {vocab_size - 1}",
            do="use the tokenizer of this model",
        )
    return ids.astype(np.int64, copy=False)


def _reach(ids: Ints, boundary_id: int | None) -> Ints:
    """Length of the longest n-gram that ends at each position: back to the last boundary before it, (N,)."""
    places = np.arange(len(ids))
    if boundary_id is None:
        return places + 1
    opened = np.maximum.accumulate(np.where(ids == boundary_id, places, 0))
    # A boundary closes what precedes it: its own start is the last one.
    start = np.concatenate(([0], opened[:-1]))
    return places - start + 1


def _group(keys: Ints) -> tuple[Ints, Ints, Ints, Ints]:
    """Distinct keys, sorted; index of each key among them; how often each occurs; a position of each."""
    order = np.argsort(keys)
    ordered = keys[order]
    first = np.ones(len(keys), dtype=bool)
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    index = np.empty(len(keys), dtype=np.int64)
    index[order] = np.cumsum(first) - 1
    at = np.flatnonzero(first)
    return ordered[at], index, np.diff(np.append(at, len(keys))), order[at]
