"""Batches of ragged text: everything once an epoch, little padding, an order that follows from the step."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melete.data.batching import SortedBatches, lay_out, like_lengths, plan
from melete.data.encoder_text import EncoderText, Samples
from melete.errors import InputError


def ragged(count: int, seed: int = 0, longest: int = 128) -> np.ndarray:
    return np.clip(np.random.default_rng(seed).lognormal(3, 0.8, count), 3, longest).astype(np.int64)


@given(st.integers(1, 3000), st.integers(128, 4000), st.integers(0, 1000), st.integers(0, 50))
@settings(max_examples=25, deadline=None)
def test_every_sample_once_within_the_budget(count: int, budget: int, seed: int, epoch: int) -> None:
    lengths = ragged(count, seed)
    batches = plan(seed, epoch, lengths, budget)
    assert sorted(np.concatenate(batches).tolist()) == list(range(count))
    assert all(len(batch) and lengths[batch].max() * len(batch) <= budget for batch in batches)
    again = plan(seed, epoch, lengths.copy(), budget)
    assert all(np.array_equal(a, b) for a, b in zip(batches, again, strict=True))


def test_ragged_text_has_little_padding() -> None:
    lengths = ragged(50_000)
    batches = plan(0, 0, lengths, 4096)
    places = sum(int(lengths[batch].max()) * len(batch) for batch in batches)
    assert 1 - lengths.sum() / places < 0.03
    assert len(batches) < 1.06 * lengths.sum() / 4096  # and few batches are half empty


def test_epochs_and_batches_are_in_another_order() -> None:
    lengths = ragged(5000)
    first, second = plan(0, 0, lengths, 1024), plan(0, 1, lengths, 1024)
    assert {tuple(batch) for batch in map(np.sort, first)} & {tuple(b) for b in map(np.sort, second)} == set()
    means = np.array([lengths[batch].mean() for batch in first])
    assert abs(np.corrcoef(np.arange(len(means)), means)[0, 1]) < 0.2, "batches are still sorted by length"


def test_a_text_longer_than_the_budget_is_refused() -> None:
    with pytest.raises(InputError, match="a text of 300 tokens is longer than a batch"):
        plan(0, 0, np.array([20, 300]), 256)


def text(*documents: list[int]) -> EncoderText:
    """Documents given as the lengths of their sentences; every second token begins a word; the id is the place."""
    sizes = [sum(document) for document in documents]
    flat = [length for document in documents for length in document]
    return EncoderText(
        ids=np.arange(sum(sizes), dtype=np.uint32),
        begins=np.arange(sum(sizes)) % 2 == 0,
        sentences=np.cumsum([0, *flat[:-1]]),
        documents=np.cumsum([0, *sizes]),
    )


def test_a_source_follows_from_the_step() -> None:
    samples = Samples(text(*[[5, 7, 4 + i % 9] for i in range(60)]), 30, "nsp")
    source = SortedBatches(samples, 200, batches_per_step=3, seed=5)
    steps = [source.micro_batches(step) for step in range(12)]  # more than one epoch
    fresh = SortedBatches(samples, 200, batches_per_step=3, seed=5)
    for step in (11, 0, 7, 11):
        for ours, theirs in zip(steps[step], fresh.micro_batches(step), strict=True):
            assert [e.key for e in ours] == [e.key for e in theirs]
            assert all(np.array_equal(a.data.ids, b.data.ids) for a, b in zip(ours, theirs, strict=True))
    keys = [example.key for step in steps for batch in step for example in batch]
    assert len(set(keys)) == len(keys)
    for epoch in (0, 1):
        numbers = sorted(number for _, e, number in keys if e == epoch)
        assert numbers == list(range(numbers[0], numbers[0] + 60))
        assert numbers[0] >> 60, "an example shares its noise with the order of reading"
    for batch in (batch for step in steps for batch in step):
        assert max(len(e.data.ids) + 3 for e in batch) * len(batch) <= 200


def test_a_rate_of_the_step_reaches_the_samples() -> None:
    source = SortedBatches(Samples(text([9] * 20), 40), 100, rate=lambda step: 0.3 - step / 100)
    assert source.micro_batches(4)[0][0].data.rate == pytest.approx(0.26)


def test_singles_are_whole_sentences_and_lose_nothing() -> None:
    samples = Samples(text([10, 10, 10], [45], [3]), 25)
    assert samples.runs.tolist() == [[0, 20], [20, 30], [30, 55], [55, 75], [75, 78]]
    assert samples.lengths.tolist() == [22, 12, 27, 22, 5]
    one = samples.sample(1, np.random.default_rng(0))
    assert one.ids.tolist() == list(range(20, 30)) and (one.second, one.label) == (0, -100)


def test_next_sentences_are_half_of_them_from_another_document() -> None:
    corpus = text([6, 5, 7, 4], [8, 9], [3], [30, 40, 35])
    samples = Samples(corpus, 20, "nsp")
    document = np.repeat(np.arange(4), np.diff(corpus.documents))
    labels = []
    for seed in range(2000):
        index = seed % len(samples.runs)
        one = samples.sample(index, np.random.default_rng(seed))
        first, second = one.ids[: one.second], one.ids[one.second :]
        assert len(first) and len(second) and len(one.ids) + 3 <= samples.lengths[index]
        assert (np.diff(first) == 1).all() and (np.diff(second) == 1).all()
        assert second[0] in samples.sentences
        assert one.begins[0] and one.begins[one.second]
        labels.append(one.label)
        if one.label == 0:
            assert second[0] == first[-1] + 1
        else:
            assert document[second[0]] != document[first[0]]
        assert 2 not in document[first]  # a document of one sentence opens no pair
    assert np.mean(labels) == pytest.approx(0.5, abs=0.04)


def test_length_does_not_tell_a_random_next_sentence() -> None:
    samples = Samples(text(*[[12] * 30 for _ in range(20)]), 100, "nsp")
    drawn = [samples.sample(s % len(samples.runs), np.random.default_rng(s)) for s in range(600)]
    lengths = [[len(one.ids) for one in drawn if one.label == label] for label in (0, 1)]
    assert np.mean(lengths[0]) == pytest.approx(np.mean(lengths[1]), rel=0.02)


def test_sentence_order_swaps_half() -> None:
    samples = Samples(text([6, 5, 7, 4]), 30, "sop")
    drawn = [samples.sample(0, np.random.default_rng(seed)) for seed in range(400)]
    for one in drawn:
        second = np.roll(one.ids, -one.second) if one.label else one.ids
        assert second.tolist() == list(range(22))
    assert np.mean([one.label for one in drawn]) == pytest.approx(0.5, abs=0.1)


def test_documents_of_one_sentence_make_no_pairs() -> None:
    with pytest.raises(InputError, match="no document has two sentences, and NSP needs pairs"):
        Samples(text([6], [9], [3]), 20, "nsp")
    with pytest.raises(InputError, match="NSP needs a second document"):
        Samples(text([6, 6]), 20, "nsp")
    assert len(Samples(text([6, 6]), 20, "sop").runs) == 1
    with pytest.raises(InputError, match="unknown pair"):
        Samples(text([6, 6]), 20, "next")


def test_packed_texts_stand_side_by_side() -> None:
    columns = {
        "input_ids": [np.arange(1, n + 1) for n in (3, 6, 2, 4)],
        "mlm": [np.full(n, n) for n in (3, 6, 2, 4)],
    }
    batch = lay_out(columns, {"input_ids": 0}, width=8)
    assert batch.doc_ids.tolist() == [[1] * 6 + [2] * 2, [1] * 4 + [2] * 3 + [0]]
    assert batch.doc_starts.tolist() == [[1, 4], [0, 0], [0, 6], [1, 0]]  # in the order of the texts
    assert batch.input_ids.tolist() == [[1, 2, 3, 4, 5, 6, 1, 2], [1, 2, 3, 4, 1, 2, 3, 0]]
    assert batch.position_ids[1].tolist() == [0, 1, 2, 3, 0, 1, 2, 0]
    assert batch.labels["mlm"][1].tolist() == [4, 4, 4, 4, 3, 3, 3, -100]
    padded = lay_out(columns, {"input_ids": 0})
    assert padded.doc_starts.tolist() == [[0, 0], [1, 0], [2, 0], [3, 0]]
    assert padded.tokens == batch.tokens == 15


def test_a_batch_holds_like_lengths_and_no_more_than_its_budget() -> None:
    lengths = np.array([5, 100, 3, 3, 40, 7])
    batches = like_lengths(np.arange(6), lengths, 21)
    assert [batch.tolist() for batch in batches] == [[2, 3, 0], [5], [4], [1]]
    assert like_lengths(np.arange(0), lengths, 10) == []
