"""`melete report`: write the page of a run again."""

from __future__ import annotations

import json

import click

from melete.console import say


@click.command()
@click.argument("run")
@click.option(
    "--lang",
    type=click.Choice(["auto", "en", "zh"]),
    help="Language the page opens in. Default: evaluation.page_language of the run's config.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the page's path as JSON.")
def command(run: str, lang: str | None, as_json: bool) -> None:
    """Write report.html of RUN (a run folder), from what the run has logged so far.

    \b
    Examples:
      melete report runs/demo
      melete report runs/demo --lang zh
    """
    from melete.evaluation.report import write_report
    from melete.evaluation.runs import run_folder

    page = write_report(run_folder(run), lang)
    say(f"Wrote {page}")
    say(f"Open it in a browser: {page.resolve().as_uri()}")
    if as_json:
        click.echo(json.dumps({"report": str(page)}))
