"""Steps of a fixed number of texts: every text once an epoch, little padding, and a pure function of the step."""

from __future__ import annotations

import numpy as np
import pytest

from melete.data.datasets import data_roots
from melete.data.labelled.sets import SETS, load_labelled
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


def padding(source: TextBatches) -> float:
    """Share of the places of an epoch that hold nothing."""
    real = places = 0
    for step in range(source.steps):
        for batch in source.micro_batches(step):
            lengths = source.lengths[[e.key[2] for e in batch]]
            assert len(batch) == 1 or lengths.max() * len(batch) <= source.budget
            real, places = real + lengths.sum(), places + lengths.max() * len(batch)
    return 1 - real / places


def test_texts_of_a_step_are_of_like_length_and_micro_batches_fit() -> None:
    assert padding(batches(count=5000, budget=600)) < 0.03


@pytest.mark.parametrize("name", ["sst2", "sts_b", "resume_ner", "trec", "chnsenticorp"])
def test_real_texts_are_padded_by_less_than_three_percent(name: str) -> None:
    if not any((root / name).is_dir() for root in data_roots()):
        pytest.skip(f"{name} is not on this machine")
    found = load_labelled(name, SETS[name].task, note=lambda _: None)
    letters = 1 if SETS[name].language == "zh" else 4  # of a token, about
    lengths = np.array([min(sum(map(len, row.texts)) // letters, 254) + 2 for row in found.train])
    assert padding(TextBatches(lengths, lengths, 32, 32 * 256)) < 0.03


@pytest.mark.parametrize("count", [1, 3, 31, 32, 33])
def test_few_texts_are_steps_too(count: int) -> None:
    source = batches(count=count)
    assert source.steps == -(-count // 32)
    assert sorted(i for step in read(source, range(source.steps)) for i in step) == list(range(count))
