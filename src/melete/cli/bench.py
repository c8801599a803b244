"""`melete bench`: how fast a model is on this machine, and how far that is from what the machine can do."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from melete.console import say

if TYPE_CHECKING:
    from melete.bench.measuring import Figure, Measured, Report


@click.command()
@click.argument("model", required=False)
@click.option(
    "--only",
    type=click.Choice(["training", "decoding", "encoding"]),
    multiple=True,
    help="Measure this alone; may be repeated.",
)
@click.option("--rows", type=int, default=16, show_default=True, help="Training: rows of a step.")
@click.option("--context", type=int, help="Training: tokens of a row. [256, or as long as the model's]")
@click.option(
    "--batch",
    type=int,
    multiple=True,
    default=(1, 8),
    show_default=True,
    help="Decoding: texts at once; may be repeated.",
)
@click.option(
    "--repeats", type=int, default=5, show_default=True, help="Turns that count; one before warms up."
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, mps.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as one JSON object.")
def command(
    model: str | None,
    only: tuple[str, ...],
    rows: int,
    context: int | None,
    batch: tuple[int, ...],
    repeats: int,
    device: str,
    as_json: bool,
) -> None:
    """Measure how fast MODEL trains, decodes or encodes here, beside what this machine can do at most.

    MODEL is a run, a checkpoint, a Hugging Face folder or a Hub id, or family:preset with random weights. Without one a
    small decoder is trained and writes, and a small encoder reads. Decoders write in every number format there is.

    All take turns several times, and medians count. Operations are those of the model's matrices and of attention,
    beside the fastest product of two matrices; bytes are the weights that decoding reads, beside how fast memory is
    read; tokens are real ones. Nothing is kept.

    \b
    Examples:
      melete bench
      melete bench runs/demo --only decoding --batch 1
      melete bench gpt2:mini --only training --rows 16 --context 256 --repeats 5 --json
    """
    from melete.bench.measuring import bench
    from melete.bench.sides import Sizes

    sizes = Sizes(rows, context, batch)
    report = bench([model] if model else [], only, sizes=sizes, repeats=repeats, device=device)
    if as_json:
        click.echo(json.dumps(asdict(report)))
    else:
        _show(report)
    say(f"next: {_next(report)}")


def _show(report: Report) -> None:
    from melete.cli._table import table
    from melete.models import is_spec

    facts = report.machine
    gpus = "; ".join(facts["gpu"]) or "no GPU"
    click.echo(
        f"{facts['cpu']}, {facts['cores']} cores, {facts['threads']} threads; {gpus}; on {facts['device']}"
    )
    versions = ", ".join(f"{name} {facts[name]}" for name in ("melete", "torch", "python"))
    click.echo(f"{versions}, {facts['system']}; median of {report.repeats}, lowest to highest\n")
    rows = []
    for name, found in report.ceilings.items():
        unit = "GB/s" if name == "memory" else "GFLOP/s"
        kind = "  memory is read" if name == "memory" else f"  products in {name}"
        rows.append([kind, *_spread(found, 1e9, 1), unit])
    click.echo("this machine at most\n" + table(rows))
    for name, parameters in report.parameters.items():
        weights = ", random weights" if is_spec(name) else ""
        click.echo(f"\n{name}, {parameters:,} parameters{weights}")
        click.echo(table([_row(figure) for figure in report.figures if figure.model == name]))


def _row(figure: Figure) -> list[str]:
    first = [f"  {figure.what}", figure.dtype, figure.shape]
    if figure.tokens_per_second is None or figure.reached is None:
        return [*first, "", "", f"not here: {figure.refused}"]
    unit = "GB/s" if figure.of == "memory" else "GFLOP/s"
    said = f"tokens/s, {figure.reached / 1e9:,.1f} {unit}"
    if figure.share is not None:
        said += f", {figure.share:.0%} of " + ("memory" if figure.of == "memory" else "the fastest product")
    if figure.peak_bytes is not None:
        said += f", at most {figure.peak_bytes / 2**30:.2f} GiB"
    return [*first, *_spread(figure.tokens_per_second), said]


def _spread(found: Measured, unit: float = 1.0, digits: int = 0) -> list[str]:
    median, low, high = (
        f"{value / unit:,.{digits}f}" for value in (found.median, found.lowest, found.highest)
    )
    return [median, f"({low} to {high})"]


def _next(report: Report) -> str:
    """The peers beside it where there are benchmarks; else something to do with what was measured."""
    from melete.models import is_spec

    first, checkout = report.figures[0], Path(__file__).parents[3]
    script = checkout / "benchmarks" / f"{first.what}.py"
    if is_spec(first.model) and script.is_file():
        if Path.cwd() == checkout:
            script = script.relative_to(checkout)
        return f"python {shlex.quote(str(script))}   (the same beside other programs)"
    if is_spec(first.model):
        return f"melete pretrain {first.model.partition(':')[0]} --data FILE --minutes 10"
    if any(figure.what == "encoding" for figure in report.figures):
        return f"melete embed {shlex.quote(first.model)} --data FILE"
    return f"melete evaluate {shlex.quote(first.model)} --data FILE"
