"""What is not finite, or far from usual, costs one step and never reaches the weights."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from kit import tiny
from melete.data.batch import Batch
from melete.errors import MeleteError
from melete.objectives.base import Context
from melete.objectives.causal_lm import CausalLM
from melete.training.guard import Guard
from melete.training.trainer import Trainer
from rig import checkpoint, digest, events, plain_state, run_config, trainer

STEPS = 30


class Poisoned(CausalLM):
    """Goes wrong at some steps, in one micro-batch of the four."""

    def __init__(self, places: dict[int, tuple[str, float]], **sizes: Any) -> None:
        super().__init__(tiny("gpt2", **sizes))
        self.places = places
        self._call = 0

    def forward(self, batch: Batch, ctx: Context) -> dict[str, Tensor]:
        self._call += 1
        where, value = self.places.get(ctx.step, ("", 0.0))
        if not self.training or not where or self._call % 4:
            return super().forward(batch, ctx)
        if where == "data":  # a broken value that comes in with an example
            hook = self.model.token_embeddings.register_forward_hook(  # pyright: ignore[reportCallIssue]
                lambda module, args, out: out.index_fill(1, torch.tensor([3]), value)
            )
            sums = super().forward(batch, ctx)
            hook.remove()
            return sums
        sums = super().forward(batch, ctx)
        if where == "gradient":  # the loss itself looks right
            weight = self.model.head_weight
            sums["causal_lm"] = sums["causal_lm"] + _only_gradient(weight) * value
        elif where == "loss":
            sums["causal_lm"] = sums["causal_lm"] + value
        elif where == "spike":
            sums["causal_lm"] = sums["causal_lm"] * value
        return sums


def _only_gradient(weight: Tensor) -> Tensor:
    """Zero, with a gradient of one everywhere."""
    return (weight - weight.detach()).sum()


def finite(folder: Path) -> bool:
    files = [*folder.rglob("*.safetensors")]
    assert files
    return all(bool(torch.isfinite(tensor).all()) for path in files for tensor in load_file(path).values())


def run(folder: Path, places: dict[int, tuple[str, float]], **changes: Any) -> Trainer:
    config = run_config(training__steps=STEPS, training__save_every=1, training__keep=STEPS, **changes)
    runner = trainer(folder, config, objective=Poisoned(places))
    runner.train()
    return runner


BAD = [math.nan, math.inf, -math.inf]
PLACES = {
    2 + 3 * i: (where, BAD[i % 3]) for i, where in enumerate(["loss", "gradient", "data"] * 3 + ["loss"])
}


def test_ten_bad_batches_cost_one_step_each(tmp_path: Path) -> None:
    assert len(PLACES) == 10
    runner = run(tmp_path, PLACES)
    skipped = events(tmp_path, "skip")
    assert [event["step"] for event in skipped] == list(PLACES)
    assert finite(tmp_path)
    assert not events(tmp_path, "rollback")
    # The weights stand still at exactly the bad steps.
    same = {
        step
        for step in range(1, STEPS)
        if digest(checkpoint(tmp_path, step), "model.safetensors")
        == digest(checkpoint(tmp_path, step + 1), "model.safetensors")
    }
    assert same == set(PLACES)
    assert all(map(math.isfinite, [*runner.guard.losses, *runner.guard.norms]))
    assert len(runner.guard.losses) == STEPS - len(PLACES)
    assert b"NaN" not in (tmp_path / "events.jsonl").read_bytes()


def test_later_steps_do_not_know_of_a_bad_batch(tmp_path: Path) -> None:
    """The same as a run whose optimiser never heard of that step: not even its moments moved."""
    run(tmp_path / "a", {4: ("loss", math.nan)})
    run(tmp_path / "b", {4: ("gradient", math.inf)})
    run(tmp_path / "c", {4: ("data", math.nan)})
    ends = {digest(checkpoint(tmp_path / name, STEPS)) for name in "abc"}
    assert len(ends) == 1
    before, after = (digest(checkpoint(tmp_path / "a", step)) for step in (4, 5))
    assert before == after


def test_a_spike_is_left_out_and_logged(tmp_path: Path) -> None:
    run(tmp_path, {25: ("spike", 100.0)}, guard__window=32)
    (skip,) = events(tmp_path, "skip")
    assert skip["step"] == 25
    assert "is above" in skip["reason"]
    assert "sigma" in skip["reason"]


def test_spikes_pass_where_they_are_not_looked_for(tmp_path: Path) -> None:
    run(tmp_path, {25: ("spike", 100.0)}, guard__sigma=0)
    assert not events(tmp_path, "skip")


def test_several_in_a_row_roll_back_and_the_data_goes_on(tmp_path: Path) -> None:
    bad = dict.fromkeys((12, 13, 14), ("loss", math.nan))
    config = run_config(
        training__steps=20,
        training__save_every=5,
        training__keep=9,
        guard__rollback_after=3,
        training__ema_decay=0.9,
    )
    runner = trainer(tmp_path, config, objective=Poisoned(bad))
    seen: list[int] = []
    inner = runner.train_source.micro_batches
    runner.train_source.micro_batches = lambda step: (seen.append(step), inner(step))[1]  # pyright: ignore[reportAttributeAccessIssue]
    assert runner.train() == "done"
    (rollback,) = events(tmp_path, "rollback")
    assert (rollback["step"], rollback["to"]) == (14, "step-00000010")
    assert seen == list(range(20))  # no batch is read twice, none is left out
    at, back = checkpoint(tmp_path, 10), checkpoint(tmp_path, 15)
    assert digest(at) == digest(back)  # weights, moments and average are those of step 10
    assert finite(tmp_path)
    # A resume from before repeats the rollback.
    again = trainer(tmp_path, config, objective=Poisoned(bad, seed=5))
    end = digest(checkpoint(tmp_path, 20))
    again.resume(checkpoint(tmp_path, 10))
    again.train()
    assert digest(checkpoint(tmp_path, 20)) == end


def test_too_many_rollbacks_end_the_run_with_one_line(tmp_path: Path) -> None:
    bad = dict.fromkeys(range(6, 30), ("loss", math.nan))
    config = run_config(
        training__steps=30, training__save_every=3, guard__rollback_after=2, guard__max_rollbacks=2
    )
    runner = trainer(tmp_path, config, objective=Poisoned(bad))
    with pytest.raises(MeleteError, match="went back 2 times and keeps failing; lower opt") as error:
        runner.train()
    assert "\n" not in str(error.value)
    assert len(events(tmp_path, "rollback")) == 2
    assert finite(tmp_path)


def test_failing_before_the_first_checkpoint_ends_with_one_line(tmp_path: Path) -> None:
    bad = dict.fromkeys(range(30), ("loss", math.nan))
    with pytest.raises(MeleteError, match="the first steps failed and there is no checkpoint"):
        trainer(tmp_path, run_config(), objective=Poisoned(bad)).train()
    assert not list((tmp_path / "checkpoints").iterdir())


def test_the_window_survives_a_resume(tmp_path: Path) -> None:
    places = {7: ("loss", math.nan), 25: ("spike", 100.0)}
    run(tmp_path, places, guard__window=32)
    end, state = digest(checkpoint(tmp_path, STEPS)), plain_state(checkpoint(tmp_path, STEPS))
    config = run_config(training__steps=STEPS, training__save_every=1, training__keep=STEPS, guard__window=32)
    again = trainer(tmp_path, config, objective=Poisoned(places, seed=9))
    again.resume(checkpoint(tmp_path, 24))
    assert len(again.guard.losses) == 23
    again.train()
    assert [event["step"] for event in events(tmp_path, "skip")] == [7, 25]
    assert (digest(checkpoint(tmp_path, STEPS)), plain_state(checkpoint(tmp_path, STEPS))) == (end, state)


def test_a_lasting_change_without_a_checkpoint_becomes_the_usual(tmp_path: Path) -> None:
    higher = dict.fromkeys(range(20, 30), ("spike", 30.0))
    config = run_config(training__steps=30, guard__window=16, guard__rollback_after=3)
    assert trainer(tmp_path, config, objective=Poisoned(higher)).train() == "done"
    assert [event["step"] for event in events(tmp_path, "skip")] == [20, 21, 22]
    assert "taken as usual now" in events(tmp_path, "note")[0]["text"]


# -- the guard alone --


def test_the_judge() -> None:
    guard = Guard(window=8, sigma=6.0, rollback_after=3, max_rollbacks=1)
    assert guard.judge(1000.0, 1.0) is None  # nothing is unusual at first
    for step in range(8):
        assert guard.judge(2.0 + 0.01 * step, 1.0) is None
    assert guard.judge(2.05, 1e6) is not None
    assert guard.judge(1e-9, 1e-9) is None  # what is better than usual is welcome
    assert list(guard.losses)[-1] == 1e-9
    assert not guard.must_roll_back
    for value in (math.nan, math.inf, -math.inf):
        assert guard.judge(value, 1.0) == f"loss is {value}"
        assert guard.judge(2.0, value) == f"gradient norm is {value}"
    assert guard.must_roll_back
    guard.rolled_back()
    assert not guard.losses
    with pytest.raises(MeleteError):
        guard.rolled_back()


def test_rollbacks_long_past_are_forgiven() -> None:
    guard = Guard(window=8, sigma=6.0, rollback_after=3, max_rollbacks=1)
    for _ in range(5):
        guard.rolled_back()
        assert [guard.judge(2.0, 1.0) for _ in range(8)] == [None] * 8


@pytest.mark.parametrize("window", [0, 1, 2])
def test_a_tiny_window_divides_by_nothing(window: int) -> None:
    guard = Guard(window, sigma=6.0, rollback_after=3, max_rollbacks=1)
    assert [guard.judge(2.0, 1.0) for _ in range(4)] == [None] * 4
