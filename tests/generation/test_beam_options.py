"""Groups of beams, required tokens and coverage, beside references that are slow and plain."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch

import kit
from melete.errors import InputError
from melete.evaluation.inspection_attention import attention_to_source
from melete.generation.beam import Hypothesis, beam_search
from melete.generation.requirements import Progress, Requirements
from melete.generation.settings import GenerationSettings

VOCAB, START, END = 7, 0, 1


@pytest.fixture(scope="module")
def model() -> Any:
    return kit.tiny_network("gpt2", "text-generation", seed=3, vocab_size=VOCAB, initializer_range=0.5)


@torch.no_grad()
def next_scores(model: Any, row: list[int]) -> list[float]:
    """Log-probabilities of what follows."""
    hidden = model.encode(kit.Batch.from_rows([row]))
    return model.logits(hidden[0, -1]).log_softmax(-1).tolist()


def found(model: Any, rows: list[list[int]], **settings: Any) -> list[list[Hypothesis]]:
    return beam_search(model, rows, GenerationSettings(temperature=0, **settings))


def grouped(
    model: Any, row: list[int], groups: int, size: int, penalty: float, steps: int
) -> dict[tuple[int, ...], float]:
    """Answers and log-probabilities of groups of beams that never end."""
    beams: list[list[tuple[list[int], float]]] = [[([], 0.0)] for _ in range(groups)]
    for _ in range(steps):
        said: Counter[int] = Counter()
        for number, group in enumerate(beams):
            longer = []
            for tokens, score in group:
                scores = next_scores(model, row + tokens)
                longer += [
                    ([*tokens, t], score + s, score + s - penalty * said[t]) for t, s in enumerate(scores)
                ]
            longer.sort(key=lambda one: -one[2])
            beams[number] = [(tokens, score) for tokens, score, _ in longer[:size]]
            said.update(tokens[-1] for tokens, _ in beams[number])
    return {tuple(tokens): score for group in beams for tokens, score in group}


@pytest.mark.parametrize(("groups", "size", "penalty"), [(3, 2, 0.7), (2, 2, 5.0), (4, 1, 1.5)])
def test_groups_avoid_what_those_before_them_say(model, groups: int, size: int, penalty: float) -> None:
    rows = [row.tolist() for row in kit.token_rows(3, 5, vocab=VOCAB)]
    options = {"num_beams": groups * size, "num_return_sequences": groups * size, "length_penalty": 0.0}
    options |= {"num_beam_groups": groups, "max_new_tokens": 4}
    answers = found(model, rows, diversity_penalty=penalty, **options)
    for row, answered in zip(rows, answers, strict=True):
        expected = grouped(model, row, groups, size, penalty, 4)
        assert {tuple(answer.tokens) for answer in answered} == set(expected)
        for answer in answered:
            assert answer.score == pytest.approx(expected[tuple(answer.tokens)], abs=1e-4)
    alike = found(model, rows, **options)
    assert len({tuple(answer.tokens) for answer in alike[0]}) == size, "without a penalty groups are equal"


def test_groups_end_each_for_itself(model) -> None:
    rows = [row.tolist() for row in kit.token_rows(2, 6, 4, vocab=VOCAB)]
    options = {"num_beams": 6, "num_beam_groups": 3, "diversity_penalty": 1.0, "eos_ids": (END,)}
    together = found(model, rows, num_return_sequences=6, max_new_tokens=8, **options)
    for row, answers in zip(rows, together, strict=True):
        (alone,) = found(model, [row], num_return_sequences=6, max_new_tokens=8, **options)
        assert [answer.tokens for answer in alone] == [answer.tokens for answer in answers]
        assert [answer.score for answer in answers] == sorted((a.score for a in answers), reverse=True)


def contains(tokens: tuple[int, ...], phrases: tuple[tuple[int, ...], ...]) -> bool:
    requirements, progress = Requirements(phrases), Progress()
    for token in tokens:
        progress = requirements.after(progress, token)
    return requirements.met(progress) == requirements.tokens


@pytest.mark.parametrize("phrases", [((5,),), ((4, 2),), ((3,), (5,)), ((2, 2),)])
def test_the_best_answer_with_the_required_tokens_is_found(model, phrases) -> None:
    row, steps = [2, 4], 3
    scores: dict[tuple[int, ...], float] = {(): 0.0}
    best = (-float("inf"), ())
    for _ in range(steps):
        longer = {}
        for tokens, score in scores.items():
            for token, more in enumerate(next_scores(model, [*row, *tokens])):
                longer[(*tokens, token)] = score + more
        ended = {
            tokens: score for tokens, score in longer.items() if tokens[-1] == END or len(tokens) == steps
        }
        whole = [(score, tokens) for tokens, score in ended.items() if contains(tokens, phrases)]
        best = max([best, *whole])
        scores = {tokens: score for tokens, score in longer.items() if tokens[-1] != END}
    options = {"max_new_tokens": steps, "eos_ids": (END,), "length_penalty": 0.0, "required_ids": phrases}
    ((answer,),) = found(model, [row], num_beams=100, early_stopping="never", **options)
    assert (tuple(answer.tokens), answer.score) == (best[1], pytest.approx(best[0], abs=1e-4))
    for beams in (2, 4):  # few beams find it less well, but always whole
        ((answer,),) = found(model, [row], num_beams=beams, **options)
        assert contains(tuple(answer.tokens), phrases)


def test_a_phrase_that_breaks_off_may_begin_another() -> None:
    requirements = Requirements([(1, 1, 2), (2, 3)])
    for tokens in product((1, 2, 3), repeat=6):
        text = "".join(map(str, tokens))
        apart = any("112" in text[:i] + "|" + text[i + 2 :] for i in range(5) if text[i : i + 2] == "23")
        if contains(tokens, ((1, 1, 2), (2, 3))):
            assert apart, text
    progress = Progress()
    for token in (1, 1, 1, 2, 2, 3):
        progress = requirements.after(progress, token)
    assert requirements.met(progress) == 5


@torch.no_grad()
def covered_answers(
    model: Any, source: list[int], steps: int, penalty: float
) -> dict[tuple[int, ...], float]:
    """Every answer that ends within some steps: log-probability over length, and what equation 14 adds."""
    scores: dict[tuple[int, ...], float] = {(): 0.0}
    found = {}
    read = kit.Batch.from_rows([source])
    for step in range(1, steps + 1):
        longer = {}
        for tokens, score in scores.items():
            batch = replace(kit.Batch.from_rows([[START, *tokens]]), source=read)
            logits = model.logits(model.encode(batch)[0, -1]).log_softmax(-1).tolist()
            attended = attention_to_source(model, batch).mean((0, 1, 2)).sum(0)  # (S,)
            lacking = penalty * attended.clamp(max=1).log().sum().item()
            for token, more in enumerate(logits):
                longer[*tokens, token] = score + more
                if token == END or step == steps:
                    found[*tokens, token] = (score + more) / step + lacking
        scores = {tokens: score for tokens, score in longer.items() if tokens[-1] != END}
    return found


@pytest.mark.parametrize("family", ["marian", "t5", "lstm"])
def test_what_was_left_out_of_the_source_counts_against_an_answer(family: str) -> None:
    wide = {
        "vocab_size": VOCAB,
        "initializer_range": 0.5,
        "decoder_start_token_id": START,
        "eos_token_id": END,
    }
    model: Any = kit.tiny_network(family, "text2text-generation", seed=3, **wide)
    sources = [row.tolist() for row in kit.token_rows(5, 3, vocab=VOCAB)]
    options = {"num_beams": 40, "num_return_sequences": 3, "max_new_tokens": 3, "eos_ids": (END,)}
    settings = GenerationSettings(temperature=0, early_stopping="never", coverage_penalty=0.4, **options)
    answers = beam_search(model, [[START]] * len(sources), settings, sources=sources)
    for source, answered in zip(sources, answers, strict=True):
        expected = covered_answers(model, source, 3, 0.4)
        best = sorted(expected, key=lambda tokens: -expected[tokens])[:3]
        assert [tuple(answer.tokens) for answer in answered] == best
        assert [answer.score for answer in answered] == pytest.approx(
            [expected[tokens] for tokens in best], abs=1e-4
        )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_beam_groups": 2}, "num_beam_groups is 2; expected a divisor of num_beams, 3"),
        ({"diversity_penalty": 1.0}, "diversity_penalty is 1.0; expected 0 without num_beam_groups"),
        ({"required_ids": ((),)}, "phrases of at least one token"),
        ({"num_beams": 1, "required_ids": ((3,),)}, "nothing without num_beams above 1"),
        ({"num_beams": 1, "coverage_penalty": 0.2}, r"0 \(off\) without num_beams above 1"),
        ({"required_ids": ((3, 4),), "max_new_tokens": 1}, "at most max_new_tokens tokens"),
    ],
)
def test_what_cannot_be_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        GenerationSettings(**{"temperature": 0, "num_beams": 3, **fields})
