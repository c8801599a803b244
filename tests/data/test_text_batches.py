"""Steps of a fixed number of texts: every text once an epoch, little padding, and a pure function of the step."""

from __future__ import annotations

import numpy as np
import pytest

from melete.data.text_batches import TextBatches


def batches(count: int = 1000, size: int = 32, budget: int = 4096, seed: int = 0) -> TextBatches:
    lengths = np.random.default_rng(5).integers(2, 60, count)
    return TextBatches([f"text {i}" for i in range(count)], lengths, size, budget, seed)


def read(source: TextBatches, steps: range) -> list[list[int]]:
    return [[e.key[2] for batch in source.micro_batches(step) for e in batch] for step in steps]


def test_an_epoch_reads_every_text_once_in_steps_of_one_size() -> None:
    source = batches()
    assert source.steps == 32
    for epoch in range(2):
        steps = read(source, range(epoch * 32, (epoch + 1) * 32))
        assert sorted(i for step in steps for i in step) == list(range(1000))
        assert sorted(map(len, steps)) == [8] + [32] * 31
    examples = [e for batch in source.micro_batches(40) for e in batch]
    assert all(e.data == f"text {e.key[2]}" and e.key[:2] == (0, 1) for e in examples)


def test_the_step_alone_decides_what_is_read() -> None:
    forward, backward = batches(), batches()
    expected = read(forward, range(70))
    assert [read(backward, range(step, step + 1))[0] for step in reversed(range(70))] == expected[::-1]
    assert expected[:32] != expected[32:64]
    assert expected[:32] != read(batches(seed=1), range(32))


def test_texts_of_a_step_are_of_like_length_and_micro_batches_fit() -> None:
    source = batches(count=5000, budget=600)
    real = places = 0
    for step in range(source.steps):
        for batch in source.micro_batches(step):
            lengths = source.lengths[[e.key[2] for e in batch]]
            assert len(batch) == 1 or lengths.max() * len(batch) <= 600
            real, places = real + lengths.sum(), places + lengths.max() * len(batch)
    assert 1 - real / places < 0.03


@pytest.mark.parametrize("count", [1, 3, 31, 32, 33])
def test_few_texts_are_steps_too(count: int) -> None:
    source = batches(count=count)
    assert source.steps == -(-count // 32)
    assert sorted(i for step in read(source, range(source.steps)) for i in step) == list(range(count))
