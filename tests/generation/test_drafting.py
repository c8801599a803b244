"""Guesses change how soon a text is there, and nothing in it."""

from __future__ import annotations

import numpy as np
import pytest

import kit
from melete.baselines.drafting import NGramDrafter
from melete.baselines.ngram import NGram
from melete.errors import InputError
from melete.generation.drafting import PromptDrafter
from melete.generation.generate import Decoding, Speculation, follow
from melete.generation.settings import GenerationSettings

PROMPT = [3, 1, 4, 1, 5, 9, 2, 6]


class Oracle:
    """Knows the whole text, and is wrong now and then."""

    def __init__(self, text: list[int]) -> None:
        self._text, self._at = text, 0

    def push(self, token: int) -> None:
        self._at += 1

    def guess(self, most: int) -> list[int]:
        guesses = self._text[self._at : self._at + most]
        return [token + (self._at % 3 == 0 and i == 1) for i, token in enumerate(guesses)]


def tokens_of(decoding: Decoding) -> list[int]:
    return [piece.token for piece in follow(decoding)]


@pytest.mark.parametrize("family", sorted(kit.SIZES))
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_text_is_the_same_whoever_guesses(family: str, temperature: float) -> None:
    """Past the end of the context too, where the newest half is read again; with penalties and an early end."""
    model = kit.tiny(family, seed=8).eval()
    other = {"repetition_penalty": 1.1, "top_k": 40} if temperature else {}
    settings = GenerationSettings(
        temperature=temperature, max_new_tokens=3 * kit.CONTEXT, seed=5, eos_ids=(7,), **other
    )
    plain = tokens_of(Decoding(model, [PROMPT], settings))
    ngram = NGram.train(np.array([*PROMPT, *plain] * 2), kit.VOCAB)
    for drafter in (Oracle([*PROMPT, *plain]), PromptDrafter(), NGramDrafter(ngram)):
        speculation = Speculation(model, [PROMPT], settings, None, drafter)
        assert tokens_of(speculation) == plain
    if len(plain) > 20:
        assert speculation.passes < 0.7 * len(plain), "what the 5-gram has read, it guesses"
        assert speculation.figures()["acceptance"] > 0.5


@pytest.mark.slow
def test_draws_keep_their_distribution() -> None:
    """Chi-square of the second and third token, over many seeds, against plain decoding and other seeds."""
    model = kit.tiny("gpt2", seed=1, vocab_size=8).eval()
    counts = np.zeros((2, 64))
    for seed in range(1500):
        for kind in range(2):
            settings = GenerationSettings(temperature=1.0, max_new_tokens=3, seed=seed + 10_000 * kind)
            drafter = Oracle([1, 2, 3, 3, 3, 3])
            decoding = Speculation(model, [[1, 2]], settings, None, drafter) if kind else None
            _, second, third = tokens_of(decoding or Decoding(model, [[1, 2]], settings))
            counts[kind, 8 * second + third] += 1
    seen = counts.sum(0) > 10
    chi_square = ((counts[0] - counts[1])[seen] ** 2 / counts.sum(0)[seen]).sum()
    freedom = int(seen.sum())
    assert chi_square < freedom + 4 * (2 * freedom) ** 0.5


def test_a_prompt_that_repeats_is_guessed_on_and_on() -> None:
    drafter = PromptDrafter()
    for token in (1, 2, 3, 1, 2, 3, 1, 2):
        drafter.push(token)
    assert drafter.guess(6) == [3, 1, 2, 3, 1, 2]
    drafter.push(9)
    assert drafter.guess(6) == []


def test_several_answers_have_no_draft() -> None:
    model = kit.tiny("gpt2")
    with pytest.raises(InputError, match="one answer at a time"):
        Speculation(model, [PROMPT, PROMPT], GenerationSettings(), None, PromptDrafter())
