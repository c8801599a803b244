"""Mask-predict: how many are hidden when, which ones, and that an answer is its own."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import encoder_models
from melete.data.corruption import Vocabulary
from melete.errors import InputError
from melete.generation.mask_predict import mask_predict
from melete.generation.settings import MaskPredictSettings

MASK, CLS, SEP, SIZE = 3, 1, 2, 20
WORDS = Vocabulary(MASK, CLS, SEP, 0, np.arange(SIZE) > 3, np.arange(4, SIZE))


class Oracle:
    """Knows the text to write, and is surer of each token the more of its neighbours it sees."""

    config = SimpleNamespace(vocab_size=SIZE)
    mlm_weight = torch.zeros(1)

    def __init__(self, text: list[int]) -> None:
        self.text, self.seen = torch.tensor(text), []

    def encode(self, batch):
        self.seen.append(batch.input_ids.clone())
        shown = (batch.input_ids != MASK).float()
        near = shown.roll(1, 1) + shown.roll(-1, 1)  # (B, T)
        sure = 0.3 + 0.3 * near[..., None] + 0.01 * torch.arange(shown.shape[1])[:, None]
        return torch.cat([self.text.expand_as(shown)[..., None].float(), sure], -1)  # (B, T, 2)

    def mlm_logits(self, states):
        logits = torch.zeros(len(states), SIZE)
        logits[:, MASK] = 99.0  # what must never be put in
        return logits.scatter_(1, states[:, :1].long(), 5 * states[:, 1:])


def written(text: list[int], **settings):
    oracle = Oracle(text)
    hidden = [token if i in (0, len(text) - 1) else MASK for i, token in enumerate(text)]
    return mask_predict(oracle, hidden, WORDS, MaskPredictSettings(**settings)), oracle  # pyright: ignore


TEXT = [CLS, *range(5, 17), SEP]


def test_the_number_of_masks_falls_linearly_and_the_least_certain_are_filled_again() -> None:
    answers, oracle = written(TEXT, iterations=4, temperature=0.0)
    assert answers == [TEXT]
    hidden = [(ids == MASK).sum().item() for ids in oracle.seen]
    assert hidden == [12, 9, 6, 3]
    # At first both ends are surest of their token, then those to the right.
    assert (oracle.seen[1][0] != MASK).nonzero().flatten().tolist() == [0, 1, 11, 12, 13]


def test_more_iterations_than_masks_and_one_alone_end() -> None:
    for iterations, calls in ((1, 1), (50, 50)):
        answers, oracle = written([*TEXT[:4], SEP], iterations=iterations, temperature=0.0)
        assert answers == [[*TEXT[:4], SEP]]
        assert len(oracle.seen) <= calls


def test_drawn_answers_differ_and_each_is_what_it_is_alone() -> None:
    three, _ = written(TEXT, temperature=5.0, num_return_sequences=3, seed=2)
    again, _ = written(TEXT, temperature=5.0, num_return_sequences=3, seed=2)
    one, _ = written(TEXT, temperature=5.0, seed=2)
    other, _ = written(TEXT, temperature=5.0, seed=3)
    assert three == again
    assert three[:1] == one != other
    assert len(set(map(tuple, three))) == 3
    assert all(token > 3 for answer in three for token in answer[1:-1])


def test_a_text_without_masks_is_refused() -> None:
    with pytest.raises(InputError, match="there is no mask to fill; give a length"):
        mask_predict(Oracle(TEXT), TEXT, WORDS, MaskPredictSettings())  # pyright: ignore


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    from melete.tasks.fill_mask import FillMask

    return FillMask.load(encoder_models.write(tmp_path_factory.mktemp("m"), "bert"))


def test_a_text_is_written_behind_the_prompt_and_its_masks_are_filled(bert) -> None:
    text = bert.generate("The  king [MASK] in", length=3, temperature=0.0)
    assert text.startswith("The  king ")
    assert "[MASK]" not in text
    assert " in" in text
    assert len(bert.tokenizer.encode(text)) >= 7
    assert bert.generate("我[MASK]", temperature=0.0, seed=5) == bert.generate("我[MASK]", temperature=0.0)
    assert len(bert.generate(length=2, num_return_sequences=2)) == 2


def test_spaces_stand_between_words_only(bert) -> None:
    text = ""
    for token in ["the", "walk", "##ing", "king", ",", "我", "喜", "a", "."]:
        text = bert._joined(text, token)
    assert text == "the walking king,我喜a."
    assert bert._joined("The king ", "was") == "The king was"


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"length": 40}, "3 tokens of prompt and a length of 40; expected at most 30 together"),
        ({"length": -1}, "length is -1; expected 0 or more"),
        ({"iterations": 0, "length": 1}, "iterations is 0; expected 1 or more"),
        ({"max_new_tokens": 1}, "unknown setting 'max_new_tokens'; expected one of temperature"),
        ({"iteration": 1}, "unknown setting 'iteration'; expected one like 'iterations'"),
        ({}, "there is no mask to fill"),
    ],
)
def test_what_cannot_be_written_is_one_line(bert, settings, line) -> None:
    with pytest.raises(InputError) as caught:
        bert.generate("the king was", **settings)
    assert str(caught.value).startswith(line)
