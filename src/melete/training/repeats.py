"""The same run several times, with other seeds or with other rows held out: what it comes to on average."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from melete import config as configs
from melete.config import RunConfig
from melete.console import say
from melete.training.job import Card
from melete.training.run import Finished, default_name, score, start


@dataclass(frozen=True)
class Repeated:
    """Several finished runs.

    Attributes:
        runs: each, and what it is worth.
        stopped: one that a signal ended; none came after it.
    """

    runs: tuple[tuple[Finished, Card], ...]
    stopped: Finished | None = None


def variants(config: RunConfig, seeds: int, folds: int) -> list[RunConfig]:
    """The configs of several runs; a linear model stands beside the first seed of each fold alone."""
    name = config.name or default_name(config)
    found: list[RunConfig] = []
    for fold in range(max(folds, 1)):
        for seed in range(config.seed, config.seed + seeds):
            parts = [name, *([f"fold{fold}"] if folds else []), *([f"seed{seed}"] if seeds > 1 else [])]
            changes: dict[str, Any] = {"name": "-".join(parts), "seed": seed}
            if folds:
                changes |= {"finetuning.folds": folds, "finetuning.fold": fold}
            if seed > config.seed:
                changes["evaluation.baseline"] = False
            found.append(configs.change(config, changes))
    return found


def repeat(config: RunConfig, seeds: int, folds: int) -> Repeated:
    """Train and score each variant, one after the other.

    Raises:
        InputError: as `run.start`.
    """
    runs: list[tuple[Finished, Card]] = []
    several = variants(config, seeds, folds)
    for number, one in enumerate(several, 1):
        say(f"run {number} of {len(several)}: {one.name}")
        finished = start(one, time.monotonic())
        if finished.reason == "signal":
            return Repeated(tuple(runs), finished)
        runs.append((finished, score(finished)))
    return Repeated(tuple(runs))


def summary(runs: Sequence[tuple[Finished, Card]]) -> Card:
    """Mean and standard deviation of each figure of the models, over the runs; the means of the baselines beside them.

    Returns:
        Figures: `runs` (those of each), `summary` (`mean` and `sd` by name), and `baselines` (means by name, of each).
    """
    tables = [card.figures["table"] for _, card in runs]
    names = [
        key
        for key, value in tables[0][0].items()
        if isinstance(value, float) and key not in ("low", "high", "p_value")
    ]
    means = {name: _mean([table[0][name] for table in tables]) for name in names}
    rows = [["", *names]]
    for (finished, _), table in zip(runs, tables, strict=True):
        rows.append([finished.folder.name, *(f"{table[0][name]:.4f}" for name in names)])
    rows.append(["mean", *(f"{means[name]['mean']:.4f}" for name in names)])
    rows.append(["standard deviation", *(f"{means[name]['sd']:.4f}" for name in names)])
    beside: dict[str, list[Mapping[str, Any]]] = {}
    for row in (row for table in tables for row in table[1:]):
        beside.setdefault(row["name"], []).append(row)
    baselines = {
        own: {name: statistics.fmean(row[name] for row in found) for name in names}
        for own, found in beside.items()
    }
    rows += [[own, *(f"{value:.4f}" for value in found.values())] for own, found in baselines.items()]
    figures = {
        "runs": [{"run": str(finished.folder), **card.figures} for finished, card in runs],
        "summary": means,
        "baselines": baselines,
    }
    below = f"{len(runs)} runs; each is measured on the rows that decided which of its weights are kept"
    return Card(figures, rows, below, runs[0][1].next)


def _mean(values: Sequence[float]) -> dict[str, float]:
    return {
        "mean": statistics.fmean(values),
        "sd": statistics.stdev(values) if len(values) > 1 else 0.0,
    }
