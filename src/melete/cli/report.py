"""`melete report`: write the page of a run again."""

from __future__ import annotations

import json
from pathlib import Path

import click

from melete.console import say


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--lang", type=click.Choice(["auto", "en", "zh"]), default="auto", help="Language the page opens in."
)
@click.option("--json", "as_json", is_flag=True, help="Print the page's path as JSON.")
def command(run: Path, lang: str, as_json: bool) -> None:
    """Write report.html of RUN (a run folder), from what the run has logged so far.

    \b
    Examples:
      melete report runs/demo
      melete report runs/demo --lang zh
    """
    from melete.evaluation.report import write_report

    page = write_report(run, lang)
    say(f"Wrote {page}")
    say(f"Open it in a browser: {page.resolve().as_uri()}")
    if as_json:
        click.echo(json.dumps({"report": str(page)}))
