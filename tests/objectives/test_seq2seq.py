"""Answers to sources: what is read and predicted, the loss, and that it teaches a rule."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import kit
from melete.data.batch import Example
from melete.data.sampling import rng_for
from melete.errors import InputError
from melete.generation.generate import generate
from melete.generation.settings import GenerationSettings
from melete.models.base import EncoderDecoder
from melete.objectives.base import Context
from melete.objectives.seq2seq import Pair, SequenceToSequence
from rig import run_config, trainer

START, END, PAD = 0, 1, 2
IDS = {"decoder_start_token_id": START, "eos_token_id": END, "pad_token_id": PAD}
FAMILIES = sorted(kit.ENCODER_DECODER_SIZES)


def examples(*lengths: tuple[int, int]) -> list[Example]:
    draw = np.random.default_rng(0)
    pairs = [Pair(draw.integers(3, kit.VOCAB, a), draw.integers(3, kit.VOCAB, b)) for a, b in lengths]
    return [Example((0, 0, i), pair) for i, pair in enumerate(pairs)]


def test_what_is_read_and_what_is_predicted() -> None:
    objective = SequenceToSequence(kit.tiny_encoder_decoder("marian", **IDS))
    drawn = examples((3, 2), (1, 4))
    batch = objective.prepare(drawn, rng_for)
    assert batch.source is not None
    one, other = (example.data for example in drawn)
    assert batch.source.input_ids.tolist() == [[*one.source, END], [*other.source, END, PAD, PAD]]
    assert batch.input_ids.tolist() == [[START, *one.target, PAD, PAD], [START, *other.target]]
    assert batch.labels["seq2seq"].tolist() == [[*one.target, END, -100, -100], [*other.target, END]]
    assert objective.counts(batch) == {"seq2seq": 8}
    assert batch.tokens == 4 + 2 + 3 + 5


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_is_a_smoothed_cross_entropy_in_training_and_a_plain_one_else(family: str) -> None:
    objective = SequenceToSequence(kit.tiny_encoder_decoder(family, **IDS), label_smoothing=0.1)
    batch = objective.prepare(examples((3, 2), (9, 7)), rng_for)
    with torch.no_grad():
        logits = objective.model.logits(objective.model.encode(batch)).flatten(0, 1)
        labels = batch.labels["seq2seq"].flatten()
        for training, smoothing in ((True, 0.1), (False, 0.0)):
            objective.train(training)
            expected = F.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="sum")
            assert objective(batch, Context())["seq2seq"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_sums_do_not_depend_on_how_a_batch_is_cut() -> None:
    objective = SequenceToSequence(kit.tiny_encoder_decoder("t5", **IDS))
    drawn = examples((3, 2), (9, 7), (5, 5))
    whole = objective(objective.prepare(drawn, rng_for), Context())["seq2seq"]
    parts = [objective(objective.prepare([one], rng_for), Context())["seq2seq"] for one in drawn]
    assert sum(part.item() for part in parts) == pytest.approx(whole.item(), rel=1e-5)


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    objective = SequenceToSequence(kit.tiny_encoder_decoder("bart", **IDS))
    masters = {name: p.detach() for name, p in objective.named_parameters()}
    objective.save(tmp_path, masters, None)
    again = objective.load(tmp_path)
    assert again.keys() == masters.keys()
    assert all(torch.equal(again[name], masters[name]) for name in masters)


def test_a_model_that_ends_no_text_is_refused() -> None:
    with pytest.raises(InputError, match="eos_token_id is None; expected the token that ends a text"):
        SequenceToSequence(kit.tiny_encoder_decoder("marian"))


# -- rules that are learned --

RULES: dict[str, Callable[[np.ndarray], np.ndarray]] = {"copy": lambda x: x, "reverse": lambda x: x[::-1]}


class Exercises:
    """New words at every step: what is learned is the rule."""

    def __init__(self, rule: str, longest: int, count: int) -> None:
        self.rule, self.longest, self.count = RULES[rule], longest, count

    def drawn(self, step: int, count: int) -> list[Example]:
        found = []
        for index in range(count):
            draw = rng_for((0, step, index))
            word = draw.integers(3, 13, draw.integers(1, self.longest + 1))
            found.append(Example((0, step, index), Pair(word, self.rule(word).copy())))
        return found

    def micro_batches(self, step: int) -> list[list[Example]]:
        return [self.drawn(step, self.count)]


def right_answers(model: EncoderDecoder, exercises: Exercises, count: int, beams: int = 1) -> float:
    """Share of new words whose greedy or best answer is right."""
    pairs = [example.data for example in exercises.drawn(10**6, count)]
    settings = GenerationSettings(temperature=0, max_new_tokens=20, eos_ids=(END,), num_beams=beams)
    sources = [[*pair.source.tolist(), END] for pair in pairs]
    answers = generate(model, [[START]] * len(sources), settings, sources=sources)
    hits = [answer == [*pair.target.tolist(), END] for answer, pair in zip(answers, pairs, strict=True)]
    return sum(hits) / len(hits)


def learn(
    folder: Path, family: str, rule: str, longest: int, steps: int, rate: float
) -> tuple[EncoderDecoder, Exercises]:
    exercises = Exercises(rule, longest, 64)
    model = kit.tiny_network(family, "text2text-generation", vocab_size=16, initializer_range=0.1, **IDS)
    config = run_config(
        training__steps=steps,
        optimizer__learning_rate=rate,
        optimizer__weight_decay=0.0,
        schedule__warmup_steps=50,
    )
    runner = trainer(folder, config, objective=SequenceToSequence(model, 0.05), train=exercises)
    runner.train()
    return runner.objective.model.eval(), exercises


def test_a_tiny_model_learns_to_copy(tmp_path: Path) -> None:
    model, exercises = learn(tmp_path, "marian", "copy", 2, 150, 5e-3)
    assert right_answers(model, exercises, 100) > 0.9


# Seen after these steps: words reversed without a slip by Marian, 99.3 % of them by T5, 54 % by BART.
@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
def test_a_tiny_model_learns_a_rule_without_a_slip(rule: str, tmp_path: Path) -> None:
    model, exercises = learn(tmp_path, "marian", rule, 10, 2000, 3e-3)
    assert right_answers(model, exercises, 1000) == 1.0
    assert right_answers(model, exercises, 1000, beams=5) == 1.0
