"""In which order text is read: everything once an epoch, from the step alone."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melete.data.batch import Example
from melete.data.sampling import PackedRows, permuted, rng_for
from melete.errors import InputError
from rig import CONTEXT, TextInMemory


def packed(length: int = 420, rows_per_step: int = 8, micro: int = 2, **other: object) -> PackedRows:
    return PackedRows(TextInMemory(length), CONTEXT, rows_per_step, micro, **other)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("size", [*range(1, 70), 255, 256, 257, 1000, 4095, 4097, 65_537])
def test_permuted_meets_every_index_once(size: int) -> None:
    index = np.arange(size)
    out = permuted(index, size, seed=3, epoch=1)
    assert np.array_equal(np.sort(out), index)
    assert np.array_equal(permuted(index[::-1], size, 3, 1), out[::-1])  # each alone, in any company


@given(st.integers(1, 10_000), st.integers(0, 2**31 - 1), st.integers(0, 2**20))
@settings(max_examples=40, deadline=None)
def test_permuted_is_a_bijection_for_any_key(size: int, seed: int, epoch: int) -> None:
    assert len(set(permuted(np.arange(size), size, seed, epoch).tolist())) == size


def test_permuted_reaches_far_beyond_what_could_be_stored() -> None:
    size = 10**15
    index = np.array([0, 1, 2, size // 2, size - 1])
    out = permuted(index, size, 0, 0)
    assert len(set(out.tolist())) == 5
    assert ((out >= 0) & (out < size)).all()


def test_another_epoch_or_seed_is_another_order() -> None:
    index = np.arange(1000)
    orders = [permuted(index, 1000, seed, epoch) for seed in range(3) for epoch in range(3)]
    for i, a in enumerate(orders):
        assert abs(np.corrcoef(index, a)[0, 1]) < 0.15
        for b in orders[:i]:
            assert (a == b).mean() < 0.02


def test_keys_have_generators_of_their_own() -> None:
    keys = [(seed, epoch, index) for seed in (0, 1, 2**31 - 1) for epoch in (0, 1) for index in (0, 1, 2**62)]
    draws = [int(rng_for(key).integers(2**62)) for key in keys]
    assert len(set(draws)) == len(keys)
    assert draws == [int(rng_for(key).integers(2**62)) for key in keys]


def read(source: PackedRows, steps: int) -> list[Example]:
    return [example for step in range(steps) for part in source.micro_batches(step) for example in part]


def test_every_row_of_an_epoch_is_read_once() -> None:
    source = packed()
    assert source.rows % source.rows_per_step  # epochs end inside a step
    epochs = 4
    examples = read(source, -(-epochs * source.rows // source.rows_per_step))[: epochs * source.rows]
    assert Counter(example.key for example in examples) == Counter(
        {(0, epoch, index): 1 for epoch in range(epochs) for index in range(source.rows)}
    )


def test_an_epoch_covers_the_text_from_an_offset_of_its_own() -> None:
    source, firsts = packed(), set()
    for epoch in range(4):
        rows = [source._example(epoch, index).data.ids for index in range(source.rows)]
        for row, following in pairwise(rows):
            # The last label of a row is the first input of the next: none is lost.
            assert row[-1] == following[0]
        firsts.add(tuple(rows[0]))
    assert len(firsts) > 1


def test_order_does_not_depend_on_the_micro_batch() -> None:
    whole = read(packed(micro=8), 7)
    for micro in (1, 3, 5, 100):
        other = read(packed(micro=micro), 7)
        assert [example.key for example in other] == [example.key for example in whole]
        assert all(np.array_equal(a.data.ids, b.data.ids) for a, b in zip(whole, other, strict=True))


def test_a_step_is_known_without_those_before_it() -> None:
    source = packed()
    one_after_another = [[e.key for part in source.micro_batches(step) for e in part] for step in range(9)]
    assert [e.key for part in packed().micro_batches(8) for e in part] == one_after_another[8]


def test_validation_reads_in_order_from_the_start() -> None:
    source = packed(shuffle=False)
    ids = np.concatenate([example.data.ids[:-1] for example in read(source, 3)])
    assert np.array_equal(ids, source.corpus.read(0, 24 * CONTEXT))
    assert source.rows == 419 // CONTEXT


@pytest.mark.parametrize("length", [17, 18, 32, 33, 34, 49])
def test_the_shortest_texts_have_their_rows(length: int) -> None:
    for shuffle in (True, False):
        source = packed(length, 4, 2, shuffle=shuffle)
        for example in read(source, 5):
            assert len(example.data.ids) == CONTEXT + 1


@pytest.mark.parametrize("length", [0, 1, 16])
def test_a_text_shorter_than_a_row_is_refused(length: int) -> None:
    with pytest.raises(InputError, match=r"fewer than one row of training\.context = 16; give more text or"):
        packed(length)


def test_document_starts_are_columns_of_the_row() -> None:
    source = packed()
    starts = set(source.corpus.starts.tolist())  # pyright: ignore[reportAttributeAccessIssue]
    for example in read(packed(shuffle=False), 3):
        begin = example.key[2] * CONTEXT
        inside = {begin + column for column in range(CONTEXT)} & starts
        assert {begin + int(column) for column in example.data.starts} == inside
