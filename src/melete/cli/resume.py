"""`melete resume`: go on with a run that was stopped."""

from __future__ import annotations

import time

import click

from melete.cli._run import close, json_option

BEGUN = time.monotonic()


@click.command()
@click.argument("run")
@json_option
def command(run: str, as_json: bool) -> None:
    """Go on with RUN from its newest whole checkpoint; the result is that of a run that was never stopped.

    \b
    Example:
      melete resume runs/qwen3-mini-my
    """
    from melete.evaluation.runs import run_folder
    from melete.training.run import resume

    close(resume(run_folder(run)), as_json, BEGUN)
