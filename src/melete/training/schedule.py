"""The learning rate over a run, as a share of its peak."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise


def rate(
    step: int,
    steps: int,
    *,
    name: str = "wsd",
    warmup_steps: int = 0,
    decay_fraction: float = 0.5,
    final_ratio: float = 0.0,
    points: Sequence[tuple[float, float]] = (),
) -> float:
    """Share of the peak learning rate that the update of `step` (0 .. steps - 1) uses.

    `linear-overlap` is a straight fall over all steps, times the rise of the warm-up (ELECTRA's `optimization.py`).
    After `warmup_steps` of linear rise, `linear` and `cosine` fall to `final_ratio` at the end; `wsd` holds, then falls
    linearly over the last `decay_fraction` (Hägele et al. 2024, "Scaling Laws and Compute-Optimal Training Beyond Fixed
    Training Durations"); `inverse-sqrt` falls as 1 / sqrt(step) (Vaswani et al. 2017, section 5.3); `piecewise` joins
    `(progress, ratio)` points with straight lines.

    Args:
        name: one of `config.SCHEDULES`.
    """
    rise = min(1.0, (step + 1) / (warmup_steps + 1))
    if name == "linear-overlap":
        return rise * (1.0 - (1.0 - final_ratio) * step / max(steps, 1))
    if step < warmup_steps:
        return rise
    progress = (step - warmup_steps) / max(steps - warmup_steps, 1)  # 0 .. just below 1
    fall = 1.0 - final_ratio
    match name:
        case "linear":
            return 1.0 - fall * progress
        case "cosine":
            return final_ratio + fall * 0.5 * (1.0 + math.cos(math.pi * progress))
        case "wsd":
            # The fall never begins before the rise is over.
            span = max(min(decay_fraction * steps, steps - warmup_steps), 1.0)
            return final_ratio + fall * min(1.0, (steps - step) / span)
        case "inverse-sqrt":
            return math.sqrt(max(warmup_steps, 1) / max(step, 1)) if step >= max(warmup_steps, 1) else 1.0
        case "piecewise":
            return _interpolate(points, step / max(steps, 1))
        case "constant":
            return 1.0
    raise AssertionError(name)


def _interpolate(points: Sequence[tuple[float, float]], progress: float) -> float:
    ordered = sorted(points)
    if progress <= ordered[0][0]:
        return ordered[0][1]
    for (x0, y0), (x1, y1) in pairwise(ordered):
        if progress <= x1:
            return y0 + (y1 - y0) * (progress - x0) / max(x1 - x0, 1e-12)
    return ordered[-1][1]
