"""What is trained does learn: it repeats a batch, copies, reverses and adds; and a refactor leaves its curve alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from kit import tiny
from melete.data.batch import Batch, Example
from melete.data.sampling import PackedRow, PackedRows, rng_for
from melete.objectives.causal_lm import CausalLM
from melete.training.trainer import Trainer
from rig import CONTEXT, TextInMemory, checkpoint, events, run_config, trainer

FAMILIES = ["gpt2", "qwen3"]
GOLDEN = Path(__file__).parents[1] / "golden"


def last_loss(folder: Path) -> float:
    return events(folder, "step")[-1]["loss"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("optimizer", ["adamw", "muon", "rmsprop", "adafactor"])
def test_every_optimizer_overfits_a_batch(family: str, optimizer: str, tmp_path: Path) -> None:
    peak = {"adamw": 1e-2, "muon": 1e-2, "rmsprop": 3e-4, "adafactor": 0.1}[optimizer]
    config = run_config(
        training__steps=60,
        training__batch_tokens=4 * CONTEXT,
        training__micro_batch_rows=4,
        optimizer__name=optimizer,
        optimizer__learning_rate=peak,
    )
    one_batch = PackedRows(TextInMemory(4 * CONTEXT + 1), CONTEXT, 4, 4, shuffle=False)  # pyright: ignore[reportArgumentType]
    trainer(tmp_path, config, family=family, train=one_batch).train()
    first = events(tmp_path, "step")[0]["loss"]
    assert first > 3.5
    assert last_loss(tmp_path) < 0.5


# -- tasks whose rule is in the text --

DIGITS, EQUALS, PLUS = 10, 10, 11


def copy(draw: np.random.Generator, size: int) -> list[int]:
    """a b c = a b c"""
    word = draw.integers(0, DIGITS, size).tolist()
    return [*word, EQUALS, *word]


def reverse(draw: np.random.Generator, size: int) -> list[int]:
    """a b c = c b a"""
    word = draw.integers(0, DIGITS, size).tolist()
    return [*word, EQUALS, *word[::-1]]


def add(draw: np.random.Generator, size: int) -> list[int]:
    """a b + c d = e f g, all with the lowest digit first, as one adds by hand."""
    a, b = (int(draw.integers(0, 10**size)) for _ in range(2))
    low = lambda number, width: [int(digit) for digit in reversed(f"{number:0{width}d}")]  # noqa: E731
    return [*low(a, size), PLUS, *low(b, size), EQUALS, *low(a + b, size + 1)]


class Exercises:
    """New ones at every step: what is learned is the rule."""

    def __init__(self, task: Callable[[np.random.Generator, int], list[int]], size: int, count: int) -> None:
        self.task, self.size, self.count = task, size, count

    def micro_batches(self, step: int) -> list[list[Example]]:
        def one(index: int) -> Example:
            ids = np.array(self.task(rng_for((0, step, index)), self.size))
            return Example((0, step, index), PackedRow(ids, np.array([0])))

        return [[one(index) for index in range(self.count)]]


class AnswersOnly(CausalLM):
    """Questions are random: only what follows the equals sign is to be predicted."""

    def prepare(self, examples: Any, rng_for: Any) -> Batch:
        batch = super().prepare(examples, rng_for)
        asked = (batch.input_ids == EQUALS).cumsum(1) == 0
        batch.labels["causal_lm"][asked] = -100
        return batch


@torch.no_grad()
def right_answers(runner: Trainer, exercises: Exercises) -> float:
    """Share of new exercises of which every token is the likeliest."""
    runner.objective.eval()
    (examples,) = exercises.micro_batches(10**6)
    batch = runner.objective.prepare(examples, rng_for)
    guesses = runner.objective.model.logits(runner.objective.model.encode(batch)).argmax(-1)
    labels = batch.labels["causal_lm"]
    return float(((guesses == labels) | (labels == -100)).all(1).float().mean())


def learn(folder: Path, family: str, exercises: Exercises, steps: int, **sizes: Any) -> float:
    config = run_config(
        training__steps=steps,
        optimizer__learning_rate=5e-3,
        optimizer__weight_decay=0.0,
        schedule__warmup_steps=20,
    )
    objective = AnswersOnly(tiny(family, vocab_size=16, **sizes) if sizes else tiny(family))
    runner = trainer(folder, config, objective=objective, train=exercises)
    runner.train()
    return right_answers(runner, exercises)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("task", [copy, reverse, add])
def test_a_tiny_model_learns_a_rule(family: str, task: Any, tmp_path: Path) -> None:
    size, steps = {"copy": (5, 250), "reverse": (5, 250), "add": (1, 250)}[task.__name__]
    assert learn(tmp_path, family, Exercises(task, size, 32), steps) > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("task", [copy, reverse, add])
def test_a_tiny_model_learns_a_longer_rule(family: str, task: Any, tmp_path: Path) -> None:
    size, steps = {"copy": (12, 1500), "reverse": (12, 1500), "add": (3, 2500)}[task.__name__]
    assert learn(tmp_path, family, Exercises(task, size, 64), steps) > 0.95


# -- what must not change --


def golden_curve(folder: Path, family: str) -> list[float]:
    """Twenty steps in float64 on one thread, which no machine rounds visibly otherwise."""
    config = run_config(
        training__steps=20,
        training__precision="float64",
        objective__label_smoothing=0.05,
        schedule__warmup_steps=3,
    )
    trainer(folder, config, objective=CausalLM(tiny(family).double(), 0.05, 1e-4)).train()
    return [event["loss"] for event in events(folder, "step")]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_golden_curve(family: str, tmp_path: Path) -> None:
    expected = json.loads((GOLDEN / f"{family}.json").read_text())
    # Measured: a relative change of 1e-15 in the initial weights, which is how kernels differ, moves no loss by more
    # than 4e-15; a label smoothing of 0.0500001 moves the last one by 1e-7.
    assert golden_curve(tmp_path, family) == pytest.approx(expected, abs=1e-9)


# -- averages --


def test_the_moving_average_is_what_is_evaluated(tmp_path: Path) -> None:
    config = run_config(training__ema_decay=0.95, training__save_every=1, training__keep=20)
    runner = trainer(tmp_path, config, valid_text=TextInMemory(seed=5))
    name, parts = "model.norm.weight", []
    average = runner.masters.named[name].detach().clone()
    runner.train()
    for step in range(10):
        weight = load_file(checkpoint(tmp_path, step + 1) / "model.safetensors")["transformer.ln_f.weight"]
        decay = min(0.95, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * weight
        parts.append(weight)
    assert runner.ema is not None
    torch.testing.assert_close(runner.ema[name], average)
    (measured,) = events(tmp_path, "eval")
    assert measured["metrics"]["loss"] == pytest.approx(runner.validation()["loss"])
    runner.masters.load(runner.ema)
    runner.ema = None
    assert measured["metrics"]["loss"] == pytest.approx(runner.validation()["loss"])


def test_smoothing_and_z_loss_do_not_enter_validation(tmp_path: Path) -> None:
    losses = []
    for smoothing, z_loss in ((0.0, 0.0), (0.2, 1e-2)):
        runner = trainer(
            tmp_path,
            run_config(),
            objective=CausalLM(tiny("gpt2"), smoothing, z_loss),
            valid_text=TextInMemory(),
        )
        losses.append(runner.validation()["loss"])
    assert losses[0] == losses[1]


def test_a_validation_loss_that_is_not_a_number_is_never_the_best(tmp_path: Path) -> None:
    runner = trainer(tmp_path, run_config(), valid_text=TextInMemory())
    runner.valid_steps = 1
    losses = iter([float("nan"), 3.0, float("inf"), 2.0])
    runner.validation = lambda: {"loss": next(losses)}
    assert [runner._evaluate() for _ in range(4)] == [False, True, False, True]
    assert runner.counters.best_loss == 2.0


@pytest.mark.parametrize(
    "kind", ["hidden_dropout", "attention_dropout", "embedding_dropout", "weight_dropout"]
)
def test_each_dropout_acts_in_training_alone_and_repeats(kind: str, tmp_path: Path) -> None:
    def losses(name: str, **sizes: float) -> tuple[float, float]:
        config = run_config(training__steps=1)
        runner = trainer(tmp_path / name, config, valid_text=TextInMemory(), **sizes)
        before = runner.validation()["loss"]
        runner.train()
        return before, last_loss(tmp_path / name)

    plain, a, b = losses("plain"), losses("a", **{kind: 0.3}), losses("b", **{kind: 0.3})
    assert plain[0] == a[0]
    assert a == b
    assert plain[1] != a[1]
