"""Batches of ragged texts: like lengths together, cut to a budget of tokens; padded, or packed side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch

from melete.data.batch import Batch, Example
from melete.data.encoder_text import Samples
from melete.data.sampling import permuted, rng_for
from melete.errors import InputError

# Batches of like length that one window makes: the more, the less padding, and the less mixed an epoch's order.
WINDOW_BATCHES = 64
# Keys of what is drawn stand apart, and apart from those of the order of reading and of the trainer's noise.
BATCH_ORDER = 1 << 31  # set in an epoch: the order of its batches
_MASKS = 1 << 61  # added to a sample's number: which of its tokens are hidden
_PAIR = 1 << 62  # added to a sample's number: how it is made


def plan(seed: int, epoch: int, lengths: np.ndarray, budget: int, *, mixed: bool = False) -> list[np.ndarray]:
    """The batches of one epoch: each sample once, in an order that follows from the arguments alone.

    A keyed permutation is cut into windows, each is sorted by length and cut into batches, all batches are permuted.

    Args:
        lengths: tokens of each sample, int64 (N,).
        budget: most tokens of a batch, padding included.
        mixed: batches are cut from the permutation as it is, to be packed, and the budget counts no padding.

    Returns:
        Numbers of samples for each batch, ascending in length unless they are mixed.

    Raises:
        InputError: a sample is longer than the budget.
    """
    if lengths.max() > budget:
        raise InputError(
            f"a text of {lengths.max()} tokens is longer than a batch",
            expected=f"at most {budget} tokens",
            do="give a larger budget or a smaller context",
        )
    count = len(lengths)
    order = permuted(np.arange(count), count, seed, epoch)
    if mixed:
        return _filled(order, lengths, budget)
    window = max(1, int(WINDOW_BATCHES * budget / lengths.mean()))
    batches: list[np.ndarray] = []
    for start in range(0, count, window):
        batches += like_lengths(order[start : start + window], lengths, budget)
    turn = permuted(np.arange(len(batches)), len(batches), seed, epoch | BATCH_ORDER)
    return [batches[i] for i in turn]


def like_lengths(numbers: np.ndarray, lengths: np.ndarray, budget: int) -> list[np.ndarray]:
    """Samples sorted by length, and cut where one more would not fit into a batch of `budget` tokens with padding.

    Args:
        numbers: of the samples, int64 (M,).
        lengths: tokens of every sample, int64 (N,); one beyond the budget has a batch of its own.
    """
    numbers = numbers[np.argsort(lengths[numbers], kind="stable")]
    batches: list[np.ndarray] = []
    first = 0
    for i, size in enumerate(lengths[numbers].tolist()):
        if i > first and size * (i - first + 1) > budget:
            batches.append(numbers[first:i])
            first = i
    return [*batches, numbers[first:]] if len(numbers) else []


def _filled(order: np.ndarray, lengths: np.ndarray, budget: int) -> list[np.ndarray]:
    """Samples in their order, cut where one more would pass the budget."""
    ends = np.cumsum(lengths[order])
    cuts = [0]
    while cuts[-1] < len(order):
        before = int(ends[cuts[-1] - 1]) if cuts[-1] else 0
        cuts.append(int(np.searchsorted(ends, before + budget, side="right")))
    return [order[start:stop] for start, stop in pairwise(cuts)]


class SortedBatches:
    """A source of samples in batches of like length: what a step reads follows from the step alone.

    Args:
        samples: what is read, once an epoch.
        budget: most tokens of a micro-batch, padding and special tokens included.
        batches_per_step: micro-batches of one optimiser step, over all ranks.
        rate: masking rate of a step; None leaves it to the objective.
        mixed: batches of any lengths, for an objective that packs them; see `plan`.
        replace: makes `Sample.replaced` from the ids of a sample and its generator; None: there is none.

    Raises:
        InputError: a sample is longer than the budget.
    """

    def __init__(
        self,
        samples: Samples,
        budget: int,
        batches_per_step: int = 1,
        seed: int = 0,
        rate: Callable[[int], float] | None = None,
        *,
        mixed: bool = False,
        replace: Callable[[np.ndarray, np.random.Generator], np.ndarray] | None = None,
    ) -> None:
        self.samples, self.budget, self.batches_per_step = samples, budget, batches_per_step
        self.seed, self.rate, self.mixed, self.replace = seed, rate, mixed, replace
        self._lengths = samples.lengths
        self._epoch, self._plan = 0, plan(seed, 0, self._lengths, budget, mixed=mixed)
        self._ends = [len(self._plan)]  # of each epoch so far, in batches

    @property
    def batches(self) -> int:
        """Micro-batches of the first epoch."""
        return self._ends[0]

    def micro_batches(self, step: int) -> list[list[Example]]:
        """The examples of one optimiser step, cut into micro-batches."""
        first = step * self.batches_per_step
        rate = None if self.rate is None else self.rate(step)
        return [self._examples(place, rate) for place in range(first, first + self.batches_per_step)]

    def _examples(self, place: int, rate: float | None) -> list[Example]:
        while place >= self._ends[-1]:  # how many batches an epoch has is known when it is planned
            self._open(len(self._ends))
            self._ends.append(self._ends[-1] + len(self._plan))
        epoch = int(np.searchsorted(self._ends, place, side="right"))
        self._open(epoch)
        batch = self._plan[place - (self._ends[epoch - 1] if epoch else 0)]
        return [self._example(epoch, index, rate) for index in batch.tolist()]

    def _open(self, epoch: int) -> None:
        if epoch != self._epoch:
            self._epoch, self._plan = (
                epoch,
                plan(self.seed, epoch, self._lengths, self.budget, mixed=self.mixed),
            )

    def _example(self, epoch: int, index: int, rate: float | None) -> Example:
        rng = rng_for((self.seed, epoch, index + _PAIR))
        sample = self.samples.sample(index, rng, rate)
        if self.replace is not None:
            sample = replace(sample, replaced=self.replace(sample.ids, rng))
        return Example((self.seed, epoch, index + _MASKS), sample)


def lay_out(
    columns: Mapping[str, Sequence[np.ndarray]], fill: Mapping[str, int], width: int | None = None
) -> Batch:
    """Texts as a batch: one a row and padded, or side by side in rows of a width.

    Args:
        columns: "input_ids", perhaps "token_type_ids", and labels by name: int64 (N,) for each text, a number a token.
        fill: what stands at padding, by column; a column that is not named has -100.
        width: most tokens of a row that takes several texts (a longer text has a row of its own); None pads.

    Returns:
        `doc_starts` keeps the order of the texts.
    """
    lengths = [len(ids) for ids in columns["input_ids"]]
    places = [(row, 0) for row in range(len(lengths))] if width is None else _pack(lengths, width)
    shape = (
        1 + max(row for row, _ in places),
        max(column + length for (_, column), length in zip(places, lengths, strict=True)),
    )
    arrays = {name: np.full(shape, fill.get(name, -100), dtype=np.int64) for name in columns}  # (B, T)
    doc_ids, position_ids = np.zeros(shape, dtype=np.int32), np.zeros(shape, dtype=np.int64)  # (B, T)
    inside = [0] * shape[0]
    for i in sorted(range(len(places)), key=places.__getitem__):
        (row, column), length = places[i], lengths[i]
        here = slice(column, column + length)
        inside[row] += 1
        doc_ids[row, here] = inside[row]
        position_ids[row, here] = np.arange(length)
        for name, array in arrays.items():
            array[row, here] = columns[name][i]
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return Batch(
        input_ids=tensors.pop("input_ids"),
        token_type_ids=tensors.pop("token_type_ids", None),
        doc_ids=torch.from_numpy(doc_ids),
        position_ids=torch.from_numpy(position_ids),
        doc_starts=torch.tensor(places, dtype=torch.int64),
        labels=tensors,
    )


def _pack(lengths: Sequence[int], width: int) -> list[tuple[int, int]]:
    """Row and column of each text: the longest first, each into the fullest row that has room for it."""
    used: list[int] = []
    places = [(0, 0)] * len(lengths)
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        fitting = [row for row, full in enumerate(used) if full + lengths[i] <= width]
        row = max(fitting, key=used.__getitem__, default=len(used))
        if row == len(used):
            used.append(0)
        places[i] = (row, used[row])
        used[row] += lengths[i]
    return places
