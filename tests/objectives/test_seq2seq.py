"""Answers to sources: what is read and predicted, the loss, and that it teaches a rule."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import kit
from exercises import END, IDS, PAD, RULES, START, learn, right_answers
from melete.data.batch import Example
from melete.data.sampling import rng_for
from melete.errors import InputError
from melete.objectives.base import Context
from melete.objectives.seq2seq import Pair, SequenceToSequence

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


def test_a_tiny_model_learns_to_copy(tmp_path: Path) -> None:
    model, exercises = learn(tmp_path, "marian", "copy", 2, 150, 5e-3)
    assert right_answers(model, exercises, 100) > 0.9


# Muon's usual rate for matrices keeps BART from it (60 % after 2,000 steps).
@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("family", ["marian", "bart", "t5"])
def test_a_tiny_model_learns_a_rule_without_a_slip(family: str, rule: str, tmp_path: Path) -> None:
    model, exercises = learn(tmp_path, family, rule, 8, 1500, 3e-3, optimizer__name="adamw")
    assert right_answers(model, exercises, 1000, held_out=True) == 1.0
    assert right_answers(model, exercises, 1000, beams=5, held_out=True) == 1.0
