"""`melete runs`: list and compare runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from melete.console import duration, say

if TYPE_CHECKING:
    from melete.evaluation.runs import RunSummary


@click.group(invoke_without_command=True)
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    default=Path("runs"),
    show_default=True,
    help="Where runs are.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def command(context: click.Context, folder: Path, as_json: bool) -> None:
    """List runs, the latest at the end; `compare` puts some side by side.

    \b
    Examples:
      melete runs
      melete runs --folder /other/disk/runs --json
      melete runs compare first second
    """
    from melete.evaluation.runs import find_runs, summarise

    context.obj = folder
    if context.invoked_subcommand is not None:
        return
    runs = [summarise(run) for run in find_runs(folder)]
    if as_json:
        click.echo(json.dumps({"runs": [run.plain() for run in runs]}))
    elif not runs:
        say(f"No runs in {folder}/ yet. Begin one: melete demo")
    else:
        click.echo(_summaries(runs))
        last = runs[-1]
        say(f"next: melete {'resume' if last.state in ('stopped', 'interrupted') else 'report'} {last.path}")


@command.command()
@click.argument("runs", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_obj
def compare(folder: Path, runs: tuple[str, ...], as_json: bool) -> None:
    """Put RUNS (names or run folders) side by side, with the config keys in which they differ.

    \b
    Examples:
      melete runs compare first second
      melete runs compare runs/first /other/disk/runs/second --json
    """
    from melete.cli._table import table
    from melete.evaluation.runs import differing_keys, read_config, summarise

    folders = [Path(run) if Path(run).is_dir() else folder / run for run in runs]
    summaries = [summarise(run) for run in folders]
    differences = differing_keys([read_config(run) for run in folders])
    if as_json:
        click.echo(
            json.dumps({"runs": [run.plain() for run in summaries], "differences": differences}, default=str)
        )
        return
    click.echo(_summaries(summaries))
    if differences:
        rows = [[key, *map(_plain, values)] for key, values in differences.items()]
        click.echo("\n" + table([["differs in", *(run.name for run in summaries)], *rows]))
    elif len(runs) > 1:
        click.echo("\nTheir configs are the same.")
    say(f"next: melete report {summaries[0].path}")


def _summaries(runs: list[RunSummary]) -> str:
    from melete.cli._table import table

    head = [
        "run",
        "state",
        "model",
        "parameters",
        "step",
        "training loss",
        "on held-out text",
        "time",
        "written",
    ]
    return table([head, *([*_row(run)] for run in runs)])


def _row(run: RunSummary) -> list[str]:
    return [
        run.name,
        run.state,
        run.family or "",
        f"{run.parameters:,}" if run.parameters is not None else "",
        f"{run.step:,}" + (f"/{run.steps:,}" if run.steps else ""),
        f"{run.loss:.3f}" if run.loss is not None else "",
        f"{run.best:.4f} {run.metric.replace('_', ' ')}" if run.best is not None and run.metric else "",
        duration(run.elapsed),
        f"{duration(run.age)} ago",
    ]


def _plain(value: Any) -> str:
    """A config value as it is typed; a key that a run does not have is a dash."""
    if value is None or isinstance(value, str):
        return "-" if value is None else value
    return json.dumps(value, ensure_ascii=False)
