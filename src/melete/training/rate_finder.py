"""Which learning rate is worth trying: a short training whose rate rises from too small to too large."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from melete import config as configs
from melete.config import RunConfig
from melete.console import Progress
from melete.training.job import Job
from melete.training.log import EventLog
from melete.training.trainer import Trainer

_LOWEST, _HIGHEST = 1e-6, 1e-1
_POINTS = 20  # of the rising rate, joined by straight lines
_SMOOTHING = 0.8
_DIVERGED = 3.0  # times the lowest loss: it will not come back


@dataclass(frozen=True)
class Found:
    """What came of it.

    Attributes:
        rate: a tenth of that at which the loss was lowest (Smith 2017, "Cyclical Learning Rates for Training Neural
            Networks", section 3.3, looks where it begins to rise; a pretrained model wants less).
        curve: rates and smoothed losses.
    """

    rate: float
    curve: tuple[tuple[float, float], ...]


def find_rate(config: RunConfig, job: Job, steps: int = 60) -> Found:
    """Train a new copy of the model for a few steps at ever higher rates; nothing of it is kept.

    Args:
        steps: from the lowest rate to the highest, unless the loss goes through the roof before.
    """
    span = math.log(_HIGHEST / _LOWEST)
    points = [(i / _POINTS, math.exp(span * (i / _POINTS - 1))) for i in range(_POINTS + 1)]
    changes: dict[str, Any] = {
        "optimizer.learning_rate": _HIGHEST,
        "training.steps": steps,
        "schedule.name": "piecewise",
        "schedule.points": points,
        "schedule.warmup_steps": 0,
        "guard.sigma": 0.0,
        "guard.rollback_after": steps,
    }
    config = configs.change(config, changes)
    seen: list[tuple[float, float]] = []

    def note(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["loss"] is not None:
            last = seen[-1][1] if seen else event["loss"]
            seen.append((event["lr"], _SMOOTHING * last + (1 - _SMOOTHING) * event["loss"]))

    with TemporaryDirectory() as folder, Progress("looking for a learning rate", "steps", steps) as progress:
        train = job.sources(config).train
        trainer = Trainer(config, job.build(config), train, folder=Path(folder), log=EventLog(None, note))
        for _ in range(steps):
            trainer.step()
            progress.advance(1)
            if seen and seen[-1][1] > _DIVERGED * min(loss for _, loss in seen):
                break
    best = min(seen, key=lambda point: point[1])[0] if seen else _LOWEST
    return Found(float(f"{best / 10:.1g}"), tuple(seen))
