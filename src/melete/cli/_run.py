"""What the verbs that train have in common: options, the dry run, and the closing lines."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from melete.cli._table import table
from melete.console import duration, say

if TYPE_CHECKING:
    from melete.config import RunConfig
    from melete.training.run import Finished

json_option = click.option("--json", "as_json", is_flag=True, help="Print the figures as one JSON object.")


def run_options(command: Callable[..., None]) -> Callable[..., None]:
    """Options of every verb that starts a run."""
    options = [
        click.option("--name", help="Name of the run folder; default: from model and data."),
        click.option("--steps", type=int, help="Optimiser steps."),
        click.option("--context", type=int, help="Tokens of a row."),
        click.option("--batch-tokens", type=int, help="Tokens of an optimiser step."),
        click.option("--seed", type=int, help="Default: 0."),
        click.option("--device", help="auto, cpu, cuda, mps."),
        click.option("--precision", help="auto, float32, bfloat16, float16."),
        click.option(
            "--set",
            "changes",
            multiple=True,
            metavar="KEY=VALUE",
            help="Change a config key; may be repeated.",
        ),
        click.option("--no-baseline", is_flag=True, help="Skip the 5-gram that is scored beside the model."),
        click.option(
            "--dry-run",
            is_flag=True,
            help="Show the recipe, parameters, FLOPs, memory and time; train nothing.",
        ),
        json_option,
    ]
    for option in reversed(options):
        command = option(command)
    return command


# flag -> the config key it is a shorthand for
FLAGS = {
    "name": "name",
    "seed": "seed",
    "steps": "training.steps",
    "context": "training.context",
    "batch_tokens": "training.batch_tokens",
    "device": "training.device",
    "precision": "training.precision",
}


def finish(
    config: RunConfig,
    changes: tuple[str, ...],
    *,
    begun: float,
    no_baseline: bool,
    dry_run: bool,
    as_json: bool,
    beginning: Callable[[RunConfig], dict[str, Any]] | None = None,
    **flags: Any,
) -> None:
    """Put the flags into the config, train, and say what came of it.

    Args:
        beginning: keys that follow from what was asked for, unless they were asked for themselves.
    """
    from melete import config as configs

    asked = {FLAGS[flag]: value for flag, value in flags.items() if value is not None}
    if no_baseline:
        asked["evaluation.baseline"] = False
    config = configs.change_by_text(configs.change(config, asked), changes)
    if beginning is not None:
        config = configs.change_by_text(configs.change(config, beginning(config)), changes)
    if dry_run:
        from melete.training.run import rehearse

        config, figures = rehearse(config, begun)
        if as_json:
            print(json.dumps(figures))
        else:
            say(configs.dump(config))
            for key, value in figures.items():
                say(f"{key.replace('_', ' ')}: {_readable(value)}")
        return
    from melete.training.run import start

    close(start(config, begun), as_json, begun)


def _readable(value: Any) -> str:
    if isinstance(value, float) and value >= 1e9:
        return f"{value:.2e}"
    return f"{value:,}" if isinstance(value, int | float) else str(value)


def close(finished: Finished, as_json: bool, begun: float) -> None:
    """Score a finished run and print its table; or say how to go on with a stopped one."""
    if finished.reason == "signal":
        say(f"saved; go on with: melete resume {finished.folder}")
        sys.exit(128 + (finished.signal or signal.SIGINT))
    from melete.training.run import score

    card = score(finished)
    seconds = time.monotonic() - begun
    say(table(card.rows))
    say(card.below)
    if as_json:
        import msgspec

        figures = {"run": str(finished.folder), **card.figures, "seconds": seconds}
        click.echo(msgspec.json.encode(figures))  # a figure that is not finite is null: JSON has no NaN
    say(f"{duration(seconds)} in all; the page: {finished.folder / 'report.html'}")
    say(f"next: {card.next}")
