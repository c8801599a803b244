"""The learning rate over a run."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import transformers

from melete.config import SCHEDULES
from melete.training.schedule import rate

STEPS, WARMUP = 100, 10
POINTS = [(0.0, 0.2), (0.5, 1.0), (1.0, 0.1)]


def curve(name: str, steps: int = STEPS, warmup_steps: int = WARMUP, **other: object) -> list[float]:
    points = POINTS if name == "piecewise" else ()
    settings = {"name": name, "warmup_steps": warmup_steps, "points": points, **other}
    return [rate(step, steps, **settings) for step in range(steps)]  # pyright: ignore[reportArgumentType]


def witness(scheduler: torch.optim.lr_scheduler.LRScheduler) -> list[float]:
    """What transformers' schedule says of each step."""
    ratios = []
    for _ in range(STEPS):
        ratios.append(scheduler.get_last_lr()[0])
        scheduler.optimizer.step()
        scheduler.step()
    return ratios


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)


@pytest.mark.parametrize("name", ["linear", "cosine", "inverse-sqrt", "constant", "wsd"])
def test_after_the_warm_up_transformers_says_the_same(name: str) -> None:
    get, warm = transformers, {"num_warmup_steps": WARMUP}
    expected = {
        "linear": lambda o: get.get_linear_schedule_with_warmup(o, **warm, num_training_steps=STEPS),
        "cosine": lambda o: get.get_cosine_schedule_with_warmup(o, **warm, num_training_steps=STEPS),
        "inverse-sqrt": lambda o: get.get_inverse_sqrt_schedule(o, **warm),
        "constant": lambda o: get.get_constant_schedule_with_warmup(o, **warm),
        "wsd": lambda o: get.get_wsd_schedule(
            o, **warm, num_stable_steps=60, num_decay_steps=30, decay_type="linear"
        ),
    }[name](optimizer())
    # During the rise ours is (s + 1) / (w + 1): the first step is not one of rate zero.
    ours = curve(name, decay_fraction=0.3)
    assert ours[WARMUP:] == pytest.approx(witness(expected)[WARMUP:], abs=1e-12)


RISES_FIRST = [name for name in SCHEDULES if name != "linear-overlap"]


@pytest.mark.parametrize("name", RISES_FIRST)
def test_every_schedule_rises_evenly_to_its_peak(name: str) -> None:
    rise = [rate(step, STEPS, name=name, warmup_steps=WARMUP, points=POINTS) for step in range(WARMUP)]
    assert rise == pytest.approx([(step + 1) / (WARMUP + 1) for step in range(WARMUP)])


@pytest.mark.parametrize("name", [name for name in RISES_FIRST if name != "piecewise"])
@pytest.mark.parametrize("warmup_steps", [0, 1, 10, 60, 99])
def test_no_schedule_jumps_or_rises_after_the_warm_up(name: str, warmup_steps: int) -> None:
    ratios = curve(name, warmup_steps=warmup_steps)
    assert ratios[warmup_steps] == pytest.approx(1.0, abs=0.1 if name == "inverse-sqrt" else 1e-12)
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(ratios[warmup_steps:]))
    if name not in ("inverse-sqrt", "constant") and warmup_steps < 60:
        steepest = max(earlier - later for earlier, later in pairwise(ratios[warmup_steps:]))
        assert steepest < 0.05


@pytest.mark.parametrize("name", ["linear", "cosine", "wsd"])
@pytest.mark.parametrize("final_ratio", [0.0, 0.1])
def test_the_fall_ends_at_the_final_ratio(name: str, final_ratio: float) -> None:
    """The update after the last one would have it exactly."""
    assert rate(STEPS, STEPS, name=name, warmup_steps=WARMUP, final_ratio=final_ratio) == pytest.approx(
        final_ratio
    )
    last = curve(name, final_ratio=final_ratio)[-1]
    assert final_ratio < last < final_ratio + 0.03


def test_the_overlapping_fall_is_times_the_rise() -> None:
    """As the original code of ELECTRA multiplies them; only that its first step has the rate zero."""
    ratios = curve("linear-overlap")
    decay = [1.0 - step / STEPS for step in range(STEPS)]
    rise = [min(1.0, (step + 1) / (WARMUP + 1)) for step in range(STEPS)]
    assert ratios == pytest.approx([a * b for a, b in zip(decay, rise, strict=True)])
    assert max(ratios) == pytest.approx(1.0 - WARMUP / STEPS)
    assert curve("linear-overlap", final_ratio=0.5)[-1] == pytest.approx(0.505)


def test_wsd_holds_and_then_falls_over_its_share() -> None:
    ratios = curve("wsd", decay_fraction=0.2)
    assert ratios[WARMUP:81] == [1.0] * 71
    assert ratios[90] == pytest.approx(0.5)


def test_piecewise_joins_its_points_in_any_order() -> None:
    for points in (POINTS, POINTS[::-1]):
        ratios = [rate(step, 100, name="piecewise", points=points) for step in (0, 25, 50, 75, 100, 200)]
        assert ratios == pytest.approx([0.2, 0.6, 1.0, 0.55, 0.1, 0.1])


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_run_of_one_step_has_a_rate(name: str) -> None:
    assert 0.0 < rate(0, 1, name=name, points=POINTS) <= 1.0
