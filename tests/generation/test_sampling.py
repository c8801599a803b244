"""Each filter and penalty against the class of the reference implementation that has its name."""

from __future__ import annotations

import pytest
import torch
from transformers.generation import logits_process as reference

from melete.generation import rules, sampling
from melete.generation.sampling import Sampler, sample
from melete.generation.settings import GenerationSettings

NO_IDS = torch.zeros((1, 0), dtype=torch.int64)


def random_logits(rows: int = 4, vocab: int = 3000, seed: int = 0) -> torch.Tensor:
    return 3 * torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("value", [1, 7, 2999, 3000, 10_000])
def test_top_k_keeps_what_the_reference_keeps(value):
    logits = random_logits()
    assert torch.equal(sampling.top_k(logits, value), reference.TopKLogitsWarper(value)(NO_IDS, logits))


@pytest.mark.parametrize("value", [1e-6, 0.1, 0.5, 0.9, 0.99, 0.9999])
@pytest.mark.parametrize("scale", [0.02, 1.0, 5.0])  # flat distributions need more than the narrow search
def test_top_p_keeps_what_the_reference_keeps(value, scale):
    logits = random_logits().double() * scale  # at 0.9999 the order of summing shows in float32
    assert torch.equal(sampling.top_p(logits, value), reference.TopPLogitsWarper(value)(NO_IDS, logits))


@pytest.mark.parametrize("value", [0.001, 0.05, 0.5, 1.0])
def test_min_p_keeps_what_the_reference_keeps(value):
    logits = random_logits()
    assert torch.equal(sampling.min_p(logits, value), reference.MinPLogitsWarper(value)(NO_IDS, logits))


@pytest.mark.parametrize("value", [0.01, 0.2, 0.9, 0.99])
@pytest.mark.parametrize("scale", [0.02, 1.0])
def test_typical_p_keeps_what_the_reference_keeps(value, scale):
    logits = random_logits() * scale
    assert torch.equal(
        sampling.typical_p(logits, value), reference.TypicalLogitsWarper(value)(NO_IDS, logits)
    )


def test_filters_in_a_row_keep_what_the_reference_keeps():
    logits = random_logits()
    expected = logits / 0.7
    for warper in (
        reference.TopKLogitsWarper(40),
        reference.TopPLogitsWarper(0.9),
        reference.MinPLogitsWarper(0.02),
        reference.TypicalLogitsWarper(0.95),
    ):
        expected = warper(NO_IDS, expected)
    settings = GenerationSettings(temperature=0.7, top_k=40, top_p=0.9, min_p=0.02, typical_p=0.95)
    sampler = Sampler(settings, [[0]] * 4, [0] * 4, 3000, torch.device("cpu"))
    assert torch.equal(sampler._filter(logits), expected)


@pytest.mark.parametrize("penalty", [0.5, 1.3])
def test_repetition_penalty_equals_the_reference(penalty):
    logits, history = random_logits(), torch.randint(0, 3000, (4, 50))
    seen = torch.zeros(4, 3000, dtype=torch.bool).scatter_(1, history, True)
    expected = reference.RepetitionPenaltyLogitsProcessor(penalty)(history, logits)
    assert torch.equal(rules.repetition_penalty(logits, seen, penalty), expected)


def test_frequency_counts_each_occurrence_and_presence_one():
    penalised = rules.occurrence_penalty(torch.zeros(1, 3), torch.tensor([[0, 1, 4]]), 0.5, 0.25)
    assert penalised.tolist() == [[0.0, -0.75, -2.25]]


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_no_repeat_ngram_equals_the_reference(size):
    logits = random_logits(vocab=12)
    for length in (1, 2, 4, 40):
        history = torch.randint(
            0, 12 if size > 1 else 6, (4, length), generator=torch.Generator().manual_seed(length)
        )
        expected = reference.NoRepeatNGramLogitsProcessor(size)(history, logits)
        assert torch.equal(rules.no_repeat_ngram(logits, history, size), expected)
        padded = torch.cat([torch.full((4, 3), -1), history], dim=1)
        assert torch.equal(rules.no_repeat_ngram(logits, padded, size), expected)


def test_no_repeat_ngram_never_forbids_everything():
    logits = torch.zeros(1, 3)
    assert torch.equal(rules.no_repeat_ngram(logits, torch.tensor([[0, 1, 2]]), 1), logits)


def test_a_sample_follows_its_distribution():
    logits = torch.tensor([0.1, 0.2, 0.7, 0.0]).log().expand(1, 4)
    generator = torch.Generator().manual_seed(0)
    counts = torch.bincount(torch.cat([sample(logits, [generator]) for _ in range(4000)]), minlength=4)
    assert counts[3] == 0
    assert torch.allclose(counts[:3] / 4000, torch.tensor([0.1, 0.2, 0.7]), atol=0.03)


def test_a_row_draws_the_same_alone_and_in_company():
    logits = random_logits(rows=3)
    settings = GenerationSettings(temperature=1.0, seed=5, presence_penalty=0.5, no_repeat_ngram_size=2)

    def draw(rows: list[int]) -> list[list[int]]:
        sampler = Sampler(settings, [[row] for row in rows], rows, 3000, torch.device("cpu"))
        return torch.stack([sampler(logits[rows]) for _ in range(20)], 1).tolist()

    together = draw([0, 1, 2])
    assert draw([1]) == [together[1]]
    assert draw([2, 0]) == [together[2], together[0]]
    assert len({tuple(row) for row in together}) == 3


def test_penalties_keep_up_with_what_was_drawn_and_with_rows_that_leave():
    prompts = [[1, 2, 3], [4]]
    settings = GenerationSettings(
        temperature=0, repetition_penalty=2.0, frequency_penalty=0.3, no_repeat_ngram_size=2
    )
    sampler = Sampler(settings, prompts, [0, 0], 20, torch.device("cpu"))
    logits = random_logits(rows=2, vocab=20) + 5
    history = torch.tensor([[0, *prompts[1]], [0, *prompts[1]]])[:, 1:]  # of the row that stays
    counts = torch.zeros(1, 20)
    for step in range(15):
        if step == 4:
            sampler.select([1])
            logits = logits[1:]
        token = int(sampler(logits)[-1])
        expected = reference.RepetitionPenaltyLogitsProcessor(2.0)(history[:1], logits[-1:]) - 0.3 * counts
        expected = reference.NoRepeatNGramLogitsProcessor(2)(history[:1], expected)
        assert token == int(expected.argmax())
        counts[0, token] += 1
        history = torch.cat([history, torch.full((2, 1), token)], dim=1)


def test_a_tiny_temperature_takes_the_likeliest_token():
    logits = random_logits()
    sampler = Sampler(GenerationSettings(temperature=1e-40), [[0]] * 4, [0] * 4, 3000, torch.device("cpu"))
    assert torch.equal(sampler(logits), logits.argmax(-1))
