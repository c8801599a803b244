"""Steps of a budget of tokens: pairs whose sources and answers are of like lengths stand together."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from melete.data.batch import Example
from melete.data.batching import BATCH_ORDER
from melete.data.sampling import permuted

# Steps that one window makes: the more, the less padding, and the less mixed an epoch's order. Padding in steps of
# 8,192 tokens of multi30k with 64 and with 256 (2026-11-22): 8.2 and 6.2 %.
WINDOW_STEPS = 128

# What an epoch reads: its pairs, and the tokens of each source and answer, int64 (N, 2).
Epoch = tuple[Sequence[Any], np.ndarray]


class PairBatches:
    """A source for the trainer: what a step reads follows from the step alone.

    A keyed permutation of the pairs is cut into windows; each is put in an order in which neighbours are alike in both
    lengths, and cut where one more pair would not fit into a step; all steps are permuted. An epoch reads each pair
    once.

    Args:
        read: the pairs of an epoch by its number, always as many: each becomes the data of an `Example`.
        step_tokens: most tokens of a step, sources, answers and padding together.
        budget: most tokens of a micro-batch, likewise; a longer pair has one to itself.
    """

    def __init__(self, read: Callable[[int], Epoch], step_tokens: int, budget: int, seed: int = 0) -> None:
        self.read, self.step_tokens, self.budget = read, step_tokens, min(budget, step_tokens)
        self.seed = seed
        self._open(0)
        self._ends = [len(self._plan)]  # of each epoch so far, in steps

    @property
    def steps(self) -> int:
        """Steps of the first epoch; others have about as many."""
        return self._ends[0]

    def micro_batches(self, step: int) -> list[list[Example]]:
        """The examples of one optimiser step, cut into micro-batches."""
        while step >= self._ends[-1]:  # how many steps an epoch has is known when it is planned
            self._open(len(self._ends))
            self._ends.append(self._ends[-1] + len(self._plan))
        epoch = int(np.searchsorted(self._ends, step, side="right"))
        if epoch != self._epoch:
            self._open(epoch)
        numbers = self._plan[step - (self._ends[epoch - 1] if epoch else 0)]
        return [
            [Example((self.seed, epoch, index), self._pairs[index]) for index in batch.tolist()]
            for batch in cut(numbers, self._lengths, self.budget)
        ]

    def _open(self, epoch: int) -> None:
        self._epoch, (self._pairs, self._lengths) = epoch, self.read(epoch)
        count, lengths = len(self._lengths), self._lengths
        order = permuted(np.arange(count), count, self.seed, epoch)
        window = max(1, int(WINDOW_STEPS * self.step_tokens / lengths.sum(1).mean()))
        steps: list[np.ndarray] = []
        for start in range(0, count, window):
            part = arranged(order[start : start + window], lengths, self.step_tokens)
            steps += cut(part, lengths, self.step_tokens)
        turn = permuted(np.arange(len(steps)), len(steps), self.seed, epoch | BATCH_ORDER)
        self._plan = [steps[i] for i in turn]


class AllPairs:
    """A source that reads every pair once in its one step, like lengths together: validation."""

    def __init__(self, pairs: Sequence[Any], lengths: np.ndarray, budget: int) -> None:
        self.pairs, self.lengths, self.budget = pairs, lengths, budget

    def micro_batches(self, step: int) -> list[list[Example]]:
        """All examples; the key of each ends in the number of its pair."""
        order = arranged(np.arange(len(self.lengths)), self.lengths, self.budget)
        every = cut(order, self.lengths, self.budget)
        return [[Example((0, 0, i), self.pairs[i]) for i in batch.tolist()] for batch in every]


def arranged(numbers: np.ndarray, lengths: np.ndarray, budget: int) -> np.ndarray:
    """Pairs in an order in which those that make a batch are alike: by answers in groups, in each group by sources.

    Args:
        numbers: of the pairs, int64 (M,).
        lengths: tokens of the source and answer of every pair, int64 (N, 2).
        budget: tokens of a batch: there are as many groups as batches in a group.
    """
    numbers = numbers[np.argsort(lengths[numbers, 1], kind="stable")]
    tokens = lengths[numbers].sum(1).cumsum()
    groups = max(1, math.isqrt(int(tokens[-1]) // budget))
    group = (tokens - 1) * groups // tokens[-1]
    return numbers[np.lexsort((lengths[numbers, 0], group))]


def cut(numbers: np.ndarray, lengths: np.ndarray, budget: int) -> list[np.ndarray]:
    """Pairs cut, in their order, where one more would not fit into the budget with padding; one beyond it is alone."""
    batches: list[np.ndarray] = []
    first, source, answer = 0, 0, 0
    for i, (one, other) in enumerate(lengths[numbers].tolist()):
        source, answer = max(source, one), max(answer, other)
        if i > first and (source + answer) * (i - first + 1) > budget:
            batches.append(numbers[first:i])
            first, source, answer = i, one, other
    return [*batches, numbers[first:]] if len(numbers) else []
