"""In which order data is read: a pure function of the seed and the optimiser step.

Nothing here has state. What step `s` reads depends on `(seed, s)` alone, so a resumed run reads what the
uninterrupted one would have read, with any number of workers or ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from melete.data.batch import Example, ExampleKey
from melete.data.corpus import Corpus
from melete.errors import InputError

_MASK = np.uint64(0xFFFFFFFFFFFFFFFF)


def rng_for(key: ExampleKey) -> np.random.Generator:
    """The generator of one example: the same key gives the same noise, on any worker, after any resume."""
    return np.random.Generator(np.random.Philox(key=[(key[0] << 32) ^ key[1], key[2]]))


def permuted(index: np.ndarray, size: int, seed: int, epoch: int) -> np.ndarray:
    """Where a keyed permutation of `range(size)` sends `index`, without storing the permutation.

    A four-round Feistel network on the next power of four, walked until the value falls below `size`
    (Black & Rogaway 2002, "Ciphers with Arbitrary Finite Domains", section 3).

    Args:
        index: int64 (N,), each in [0, size).
    """
    half = np.uint64(max(1, (max(size - 1, 1).bit_length() + 1) // 2))
    low = np.uint64((1 << int(half)) - 1)
    keys = rng_for((seed, epoch, 0)).integers(0, 2**63, 4).astype(np.uint64)
    out = index.astype(np.uint64)
    outside = np.ones(len(out), dtype=bool)
    while outside.any():
        left, right = out[outside] >> half, out[outside] & low
        for key in keys:
            left, right = right, left ^ (_scramble(right ^ key) & low)
        out[outside] = (left << half) | right
        outside = out >= size
    return out.astype(np.int64)


def _scramble(x: np.ndarray) -> np.ndarray:
    """splitmix64's finaliser: every input bit reaches every output bit."""
    x = ((x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)) & _MASK
    x = ((x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)) & _MASK
    return x ^ (x >> np.uint64(31))


@dataclass(frozen=True)
class PackedRow:
    """`context + 1` consecutive tokens of a corpus, and the columns at which documents start."""

    ids: np.ndarray
    starts: np.ndarray


class PackedRows:
    """Rows of `context` tokens cut from a token stream: every epoch with another offset, in another order.

    Args:
        corpus: the token stream.
        context: tokens of a row.
        rows_per_step: rows of one optimiser step, over all micro-batches and ranks.
        micro_batch_rows: rows of one forward pass.
        shuffle: False reads the stream in order and without an offset (validation).

    Raises:
        InputError: the corpus is shorter than one row.
    """

    def __init__(
        self,
        corpus: Corpus,
        context: int,
        rows_per_step: int,
        micro_batch_rows: int,
        seed: int = 0,
        shuffle: bool = True,
    ) -> None:
        targets = len(corpus) - 1
        if targets < context:
            raise InputError(
                f"the text has {len(corpus):,} tokens, fewer than one row of training.context = {context}",
                do="give more text or a smaller context",
            )
        self.corpus, self.context, self.seed, self.shuffle = corpus, context, seed, shuffle
        self.rows_per_step, self.micro_batch_rows = rows_per_step, micro_batch_rows
        # One row fewer than fit leaves room for an offset of up to two rows.
        self.rows = max(1, targets // context - 1) if shuffle else targets // context

    def micro_batches(self, step: int) -> list[list[Example]]:
        """The examples of one optimiser step, cut into micro-batches."""
        place = np.arange(step * self.rows_per_step, (step + 1) * self.rows_per_step)
        examples = [self._example(epoch, index) for epoch, index in self._keys(place)]
        return [
            examples[i : i + self.micro_batch_rows] for i in range(0, len(examples), self.micro_batch_rows)
        ]

    def _keys(self, place: np.ndarray) -> list[tuple[int, int]]:
        epochs, index = place // self.rows, place % self.rows
        if self.shuffle:
            for epoch in np.unique(epochs):
                here = epochs == epoch
                index[here] = permuted(index[here], self.rows, self.seed, int(epoch))
        return [(int(epoch), int(i)) for epoch, i in zip(epochs, index, strict=True)]

    def _example(self, epoch: int, index: int) -> Example:
        slack = len(self.corpus) - 1 - self.rows * self.context
        # The epoch's offset has a key that no row has.
        offset = int(rng_for((self.seed, epoch, 2**62)).integers(slack + 1)) if self.shuffle else 0
        start = offset + index * self.context
        ids = self.corpus.read(start, start + self.context + 1)
        starts = self.corpus.document_starts(start, start + self.context) - start
        return Example((self.seed, epoch, index), PackedRow(ids, starts))


class Source(Protocol):
    """Where examples come from: a pure function of the step."""

    def micro_batches(self, step: int) -> list[list[Example]]:
        """The examples of one optimiser step over all ranks, cut into micro-batches."""
        ...


class Phases:
    """Sources that follow each other: the step alone says which one is read.

    Args:
        phases: the first step of each and its source, in order; the first begins at step 0.
    """

    def __init__(self, phases: Sequence[tuple[int, Source]]) -> None:
        assert phases and phases[0][0] == 0
        self.phases = phases

    def micro_batches(self, step: int) -> list[list[Example]]:
        """The examples of one optimiser step, from the phase that it lies in."""
        source = next(source for first, source in reversed(self.phases) if first <= step)
        return source.micro_batches(step)
