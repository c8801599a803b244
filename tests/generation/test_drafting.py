"""Guesses change how soon a text is there, and nothing in it, or nothing in how likely it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import kit
from melete.baselines.drafting import NGramDrafter
from melete.baselines.ngram import NGram
from melete.errors import InputError
from melete.generation.drafting import Guess, PromptDrafter
from melete.generation.generate import Decoding, Speculation, follow
from melete.generation.sampling import Sampler, settle
from melete.generation.settings import GenerationSettings

PROMPT = [3, 1, 4, 1, 5, 9, 2, 6]


class Oracle:
    """Knows the whole text, and is wrong now and then."""

    def __init__(self, text: list[int]) -> None:
        self._text, self._at = text, 0

    def begin(self) -> None:
        self._at = 0

    def push(self, token: int) -> None:
        self._at += 1

    def guess(self, most: int, temperature: float, rng: np.random.Generator) -> list[Guess]:
        guesses = self._text[self._at : self._at + most]
        return [Guess(token + (self._at % 3 == 0 and i == 1)) for i, token in enumerate(guesses)]


def tokens_of(decoding: Decoding) -> list[int]:
    return [piece.token for piece in follow(decoding)]


@pytest.mark.parametrize("family", sorted(kit.SIZES))
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_text_is_the_same_where_guesses_are_certain(family: str, temperature: float) -> None:
    """Past the end of the context too, where the newest half is read again; with penalties and an early end."""
    model = kit.tiny(family, seed=8).eval()
    other = {"repetition_penalty": 1.1, "top_k": 40} if temperature else {}
    settings = GenerationSettings(
        temperature=temperature, max_new_tokens=3 * kit.CONTEXT, seed=5, eos_ids=(7,), **other
    )
    plain = tokens_of(Decoding(model, [PROMPT], settings))
    ngram = NGramDrafter(NGram.train(np.array([*PROMPT, *plain] * 2), kit.VOCAB))
    drafters = [Oracle([*PROMPT, *plain]), PromptDrafter(), *([] if temperature else [ngram])]
    for drafter in drafters * 2:  # one that is used again begins anew
        speculation = Speculation(model, [PROMPT], settings, None, drafter)
        assert tokens_of(speculation) == plain
    if len(plain) > 20 and not temperature:
        assert speculation.passes < 0.7 * len(plain), "what the 5-gram has read, it guesses"
        assert speculation.figures()["acceptance"] > 0.5


@pytest.mark.parametrize("forbidden", [(), (0, 3)])
def test_what_stands_for_a_drawn_guess_has_the_distribution_of_the_model(forbidden: tuple[int, ...]) -> None:
    """Chi-square of tokens that were accepted or drawn again against the softmax of the logits."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1.5, 300).astype(np.float32)  # more than one block of what is summed
    q = rng.dirichlet(np.full(300, 0.3))
    settings = GenerationSettings(temperature=0.7, forbidden_ids=forbidden, seed=3)
    sampler = Sampler(settings, [[0]], [0], 300, torch.device("cpu"))
    (p,) = sampler.probabilities(torch.from_numpy(logits)[None])
    counts = np.zeros(300)
    for token in rng.choice(300, 12_000, p=q).tolist():
        counts[settle(p, Guess(token, q[token], q.__getitem__), rng)] += 1
    logits[list(forbidden)] = -np.inf
    due = 12_000 * np.exp(logits / 0.7) / np.exp(logits / 0.7).sum()
    assert counts[due == 0].sum() == 0
    often = due > 5
    chi_square = ((counts - due)[often] ** 2 / due[often]).sum()
    assert chi_square < often.sum() + 4 * (2 * often.sum()) ** 0.5
    assert abs(counts[~often].sum() - due[~often].sum()) < 5 * due[~often].sum() ** 0.5


@pytest.mark.parametrize("order", [1, 2, 5])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_guesses_are_drawn_with_the_chances_they_name(order: int, temperature: float) -> None:
    rng = np.random.default_rng(0)
    text = rng.integers(0, 12, 2000) % rng.integers(1, 12, 2000)
    drafter = NGramDrafter(NGram.train(text, 12, order=order))
    for token in text[:50].tolist():
        drafter.push(token)
    drawn = [drafter.guess(1, temperature, rng)[0] for _ in range(4000)]
    assert drawn[0].chance is not None
    chances = np.array([drawn[0].chance(token) for token in range(12)])
    assert np.isclose(chances.sum(), 1)
    assert all(np.isclose(guess.probability, chances[guess.token]) for guess in drawn)
    counts = np.bincount([guess.token for guess in drawn], minlength=12)
    assert np.allclose(counts / 4000, chances, atol=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"top_k": 5, "repetition_penalty": 1.3, "temperature": 0.8}])
def test_texts_keep_their_distribution(settings: dict[str, Any]) -> None:
    """Chi-square of the second and third token, over many seeds, against plain decoding and other seeds."""
    model = kit.tiny("gpt2", seed=1, vocab_size=8).eval()
    drafter = NGramDrafter(NGram.train(np.random.default_rng(0).integers(0, 8, 300), 8))
    counts = np.zeros((2, 64))
    for seed in range(1500):
        for kind in range(2):
            asked = {"temperature": 1.0, "max_new_tokens": 3, "seed": seed + 10_000 * kind, **settings}
            request = model, [[1, 2]], GenerationSettings(**asked), None
            decoding = Speculation(*request, drafter) if kind else Decoding(*request)
            _, second, third = tokens_of(decoding)
            counts[kind, 8 * second + third] += 1
    seen = counts.sum(0) > 10
    chi_square = ((counts[0] - counts[1])[seen] ** 2 / counts.sum(0)[seen]).sum()
    freedom = int(seen.sum())
    assert chi_square < freedom + 4 * (2 * freedom) ** 0.5


def test_equal_seeds_draw_equal_texts() -> None:
    model, drafter = kit.tiny("gpt2").eval(), NGramDrafter(NGram.train(np.array(PROMPT * 9), kit.VOCAB))
    settings = GenerationSettings(temperature=1.0, max_new_tokens=20, seed=4)
    first, again = (tokens_of(Speculation(model, [PROMPT], settings, None, drafter)) for _ in range(2))
    assert first == again


def test_a_prompt_that_repeats_is_guessed_on_and_on() -> None:
    drafter, rng = PromptDrafter(), np.random.default_rng(0)
    for token in (1, 2, 3, 1, 2, 3, 1, 2):
        drafter.push(token)
    assert [guess.token for guess in drafter.guess(6, 0.0, rng)] == [3, 1, 2, 3, 1, 2]
    drafter.push(9)
    assert drafter.guess(6, 0.0, rng) == []


def test_several_answers_have_no_draft() -> None:
    model = kit.tiny("gpt2")
    with pytest.raises(InputError, match="one answer at a time"):
        Speculation(model, [PROMPT, PROMPT], GenerationSettings(), None, PromptDrafter())
