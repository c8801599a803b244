"""Encoders on the one trainer: ten steps are five and five more, however a step is cut, whatever is measured."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from encoder_examples import LENGTH, TEXTS, likeliest, vocabulary
from kit import tiny_encoder
from melete.data.batch import Example
from melete.data.batching import SortedBatches
from melete.data.corruption import linear_rate, replace_tokens
from melete.data.encoder_text import EncoderText, Samples
from melete.models.electra_pair import build_generator
from melete.objectives import replaced_token
from melete.objectives.base import Objective
from melete.objectives.masked_lm import MaskedLM
from melete.objectives.replaced_token import ReplacedToken
from melete.training.log import EventLog
from melete.training.trainer import Trainer
from rig import checkpoint, digest, events, plain_state, run_config

BUDGET = 128
KINDS = ("masked-lm", "replaced-token")
FREQUENCIES = np.full(97, 1 / 97)


def text() -> EncoderText:
    return EncoderText.tokenise(TEXTS * 3, vocabulary()[0])


def objective(kind: str, seed: int = 0, **other: Any) -> Objective:
    """With dropout; a masked one reads pairs."""
    dropout = {"hidden_dropout": 0.1, "attention_dropout": 0.1, **other}
    if kind == "masked-lm":
        model = tiny_encoder("bert", task="pretraining", seed=seed, **dropout)
        return MaskedLM(model, vocabulary()[1], pair="nsp", frequencies=FREQUENCIES)
    model = tiny_encoder("electra", task="pretraining", seed=seed, **dropout)
    pair = model, build_generator(model, share=0.5, seed=seed)
    first = 0.7 if kind == "restore-first" else 0.0
    return ReplacedToken(*pair, vocabulary()[1], frequencies=FREQUENCIES, restore_first=first)


def source(kind: str, per_step: int = 2, **other: Any) -> SortedBatches:
    """Four epochs in ten steps, at a rate that falls."""
    samples = Samples(text(), LENGTH, "nsp" if kind == "masked-lm" else "")
    return SortedBatches(samples, BUDGET, per_step, rate=linear_rate(0.3, 0.15, 10), **other)


def held_out(kind: str) -> SortedBatches:
    def replaced(ids: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return replace_tokens(ids, vocabulary()[1], FREQUENCIES[: vocabulary()[0].vocab_size], 0.15, rng)

    samples = Samples(text(), LENGTH, "nsp" if kind == "masked-lm" else "")
    return SortedBatches(samples, BUDGET, replace=replaced)


def trainer(
    folder: Path, kind: str, *, seed: int = 0, train: Any = None, valid: bool = True, **changes: Any
) -> Trainer:
    torch.set_num_threads(1)
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    dropout = changes.pop("dropout", {})
    config = run_config(**{"training__eval_every": 5, "optimizer__learning_rate": 3e-3, **changes})
    valid_source = held_out(kind) if valid else None
    return Trainer(
        config,
        objective(kind, seed, **dropout),
        train or source(kind),
        folder=folder,
        log=EventLog(folder / "events.jsonl"),
        valid=valid_source,
        valid_steps=2 if valid else 0,
    )


EVERYTHING = {"training__ema_decay": 0.9, "training__save_every": 5, "training__keep": 10}


@pytest.mark.parametrize("kind", [*KINDS, "restore-first"])
def test_ten_steps_are_five_and_five_more(kind: str, tmp_path: Path) -> None:
    assert source(kind).batches < 10  # an epoch ends inside
    whole = tmp_path / "whole"
    trainer(whole, kind, **EVERYTHING).train()
    again = tmp_path / "again"
    (again / "checkpoints").mkdir(parents=True)
    shutil.copytree(checkpoint(whole, 5), checkpoint(again, 5))
    shutil.copyfile(whole / "events.jsonl", again / "events.jsonl")
    second = trainer(again, kind, seed=99, **EVERYTHING)  # all that counts must come from the checkpoint
    second.resume(checkpoint(again, 5))
    second.train()
    names = ["model.safetensors", "train_state.safetensors"]
    names += ["generator/model.safetensors"] * (kind != "masked-lm")
    assert digest(checkpoint(again, 10), *names) == digest(checkpoint(whole, 10), *names)
    assert plain_state(checkpoint(again, 10)) == plain_state(checkpoint(whole, 10))
    for event in ("step", "eval"):
        first, last = (
            [{**e, "elapsed": 0, "seconds": 0, "tokens_per_second": 0} for e in events(folder, event)]
            for folder in (whole, again)
        )
        assert first == last


class Cut:
    """The same examples a step, in other micro-batches."""

    def __init__(self, source: SortedBatches, parts: int) -> None:
        self.source, self.parts = source, parts

    def micro_batches(self, step: int) -> list[list[Example]]:
        examples = [one for batch in self.source.micro_batches(step) for one in batch]
        return [part for i in range(self.parts) if (part := examples[i :: self.parts])]


@pytest.mark.parametrize("kind", KINDS)
def test_how_a_step_is_cut_changes_nothing(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Draws belong to the micro-batch, as dropout does; without chance the cut must change nothing.
    monkeypatch.setattr(replaced_token, "sampled_cross_entropy", likeliest)
    none = {"hidden_dropout": 0.0, "attention_dropout": 0.0}
    curves = []
    for parts in (1, 2, 5):
        folder = tmp_path / str(parts)
        trainer(
            folder,
            kind,
            train=Cut(source(kind), parts),
            valid=False,
            dropout=none,
            training__steps=5,
            training__precision="float64",
            optimizer__name="adamw",
        ).train()
        curves.append([event["loss"] for event in events(folder, "step")])
    for other in curves[1:]:
        assert other == pytest.approx(curves[0], rel=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_measured_changes_no_weight(kind: str, tmp_path: Path) -> None:
    ends = []
    for every in (0, 1):
        folder = tmp_path / str(every)
        trainer(folder, kind, valid=bool(every), training__eval_every=every, training__steps=6).train()
        ends.append(digest(checkpoint(folder, 6)))
    assert ends[0] == ends[1]


def test_figures_are_logged_beside_the_loss(tmp_path: Path) -> None:
    trainer(tmp_path / "m", "masked-lm").train()
    metrics = events(tmp_path / "m", "eval")[-1]["metrics"]
    assert metrics["loss"] == pytest.approx(metrics["mlm"] + metrics["nsp"])
    assert metrics["unigram"] == pytest.approx(np.log(97))
    assert 0 <= metrics["restored"] <= 1 and 0 <= metrics["nsp_accuracy"] <= 1
    trainer(tmp_path / "r", "replaced-token").train()
    metrics = events(tmp_path / "r", "eval")[-1]["metrics"]
    assert metrics["loss"] == pytest.approx(metrics["mlm"] + 50 * metrics["rtd"])
    assert metrics["generator_ratio"] == pytest.approx(metrics["mlm"] / np.log(97))
    assert 0 < metrics["auc"] < 1 and 0 < metrics["auc_generator"] < 1


def test_the_best_pair_is_that_of_the_best_discriminator(tmp_path: Path) -> None:
    """Its loss may rise while it learns: the generator replaces better and better."""
    runner = trainer(tmp_path, "replaced-token", training__eval_every=1)
    runner.train()
    areas = [event["metrics"]["auc"] for event in events(tmp_path, "eval")]
    assert runner.counters.best_step == 1 + areas.index(max(areas))


def test_alarms_are_notes_but_not_while_warming_up(tmp_path: Path) -> None:
    idle = {"optimizer__learning_rate": 1e-9, "optimizer__matrix_learning_rate": 0.0, "training__steps": 3}
    for warmup, count in ((3, 0), (2, 1)):
        folder = tmp_path / str(warmup)
        runner = trainer(
            folder, "replaced-token", training__eval_every=1, schedule__warmup_steps=warmup, **idle
        )
        runner.objective.take_notes = lambda: ["the generator is no better"]  # pyright: ignore[reportAttributeAccessIssue]
        runner.train()
        notes = [event["text"] for event in events(folder, "note")]
        assert notes == ["step 3: the generator is no better"] * count


def test_a_discriminator_first_restores_hidden_tokens(tmp_path: Path) -> None:
    changes = {"training__steps": 10, "training__eval_every": 1, "guard__window": 4, "guard__sigma": 1.0}
    runner = trainer(tmp_path, "restore-first", **changes)
    waits = runner.objective.generator.layers[0].feed_forward.up.weight.clone()  # pyright: ignore
    runner.objective.take_notes = lambda: ["an alarm"]  # pyright: ignore[reportAttributeAccessIssue]
    for step in range(10):
        runner.step()
        runner._evaluate()
        now = runner.masters.named["generator.layers.0.feed_forward.up.weight"]
        assert torch.equal(now, waits) == (step < 7)
    terms = [{name for name, value in event["terms"].items() if value} for event in events(tmp_path, "step")]
    assert terms == [{"restore"}] * 7 + [{"mlm", "rtd"}] * 3
    assert [event["text"] for event in events(tmp_path, "note")] == [
        "step 8: an alarm",
        "step 9: an alarm",
        "step 10: an alarm",
    ]
    # Another loss is no spike.
    assert not [event for event in events(tmp_path, "skip") if event["step"] == 7]


# -- learning --


class OneBatch:
    """The same examples at every step, hidden alike."""

    def __init__(self, source: SortedBatches) -> None:
        self.examples = source.micro_batches(0)

    def micro_batches(self, step: int) -> list[list[Example]]:
        return self.examples


def test_a_tiny_bert_overfits_a_batch(tmp_path: Path) -> None:
    trainer(
        tmp_path,
        "masked-lm",
        train=OneBatch(source("masked-lm")),
        valid=False,
        training__steps=60,
        optimizer__learning_rate=1e-2,
        dropout={"hidden_dropout": 0.0, "attention_dropout": 0.0},
    ).train()
    first, last = events(tmp_path, "step")[0]["terms"], events(tmp_path, "step")[-1]["terms"]
    assert first["mlm"] > 3.5
    assert last["mlm"] < 0.5
    assert last["nsp"] < 0.1


def test_a_tiny_discriminator_beats_chance(tmp_path: Path) -> None:
    runner = trainer(
        tmp_path,
        "replaced-token",
        training__steps=90,
        training__eval_every=0,
        optimizer__learning_rate=1e-2,
        dropout={"hidden_dropout": 0.0, "attention_dropout": 0.0},
    )
    runner.train()
    metrics = events(tmp_path, "eval")[-1]["metrics"]
    assert metrics["auc"] > 0.75
    assert metrics["generator_ratio"] < 0.9
