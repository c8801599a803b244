"""`melete doctor`: what this machine has, and what will be slow and why."""

from __future__ import annotations

import json

import click

from melete.console import say


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(as_json: bool) -> None:
    """Look at this machine, measure it for a second, and say what will be slow and why.

    \b
    Examples:
      melete doctor
      melete doctor --json
    """
    from melete.cli._table import table
    from melete.training.doctor import examine

    say("Measuring ...")
    facts = examine()
    if as_json:
        click.echo(json.dumps(facts.plain()))
        return
    speeds = ", ".join(f"{dtype} {speed:,.0f} GFLOP/s" for dtype, speed in facts.gflops.items())
    extras = ", ".join(f"{extra} {'yes' if there else 'no'}" for extra, there in facts.extras.items())
    rows = [
        ("melete", facts.melete),
        ("python", facts.python),
        ("torch", facts.torch),
        ("system", facts.platform),
        ("cpu", f"{facts.cpu}, {facts.cores} cores, {facts.threads} threads used"),
        ("load", f"{facts.load} of {facts.cores} cores busy in the last minute"),
        ("cpu features", ", ".join(facts.cpu_features) or "none of those that matter here"),
        ("gpu", "; ".join(facts.gpus) or "none"),
        ("memory", f"{facts.memory_free_gib} GiB free of {facts.memory_gib}"),
        ("disk", f"{facts.disk_free_gib} GiB free here"),
        ("extras", extras),
        ("measured", f"matrix product: {speeds}"),
    ]
    click.echo(table(rows))
    for advice in facts.advice:
        click.echo(f"\n- {advice.what}: {advice.why}\n  {advice.do}")
    say("next: melete demo")
