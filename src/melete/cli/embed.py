"""`melete embed`: texts as vectors."""

from __future__ import annotations

import json
import shlex
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from melete.cli._table import table
from melete.console import Progress, printable, say
from melete.errors import InputError, StorageError


@click.command()
@click.argument("model")
@click.option("--text", "texts", multiple=True, help="A text; may be repeated.")
@click.option("--data", metavar="FILE", help="Texts, a line each (.txt, -), or rows with a column of texts.")
@click.option("--text-column", help="The column that holds the text; makes standard input JSON lines.")
@click.option("--out", metavar="FILE", help="Write vectors here: .npy (rows of an array) or .jsonl.")
@click.option("--pooling", help="mean, first or last token; default: what the folder says, else mean.")
@click.option(
    "--precision", default="float32", show_default=True, help="Numbers to compute with, or bfloat16."
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or mps.")
@click.option("--json", "as_json", is_flag=True, help="Print the vectors of --text too.")
def command(
    model: str, texts: tuple[str, ...], data: str | None, out: str | None, as_json: bool, **options: Any
) -> None:
    """One vector of length 1 for each text, from MODEL: a run, a Hugging Face folder or a Hub id; any will do.

    Good vectors come from a model that was trained for them: melete finetune sentence-similarity --bi-encoder. Two or
    more --text are compared: the cosine of each with each.

    \b
    Examples:
      melete embed runs/sts --text "A man plays the guitar." --text "Somebody makes music."
      melete embed runs/sts --data lines.txt --out vectors.npy --precision bfloat16
    """
    if bool(texts) == bool(data):
        raise InputError("give either --text, which may be repeated, or --data FILE")
    if out is not None and Path(out).suffix not in (".npy", ".jsonl"):
        raise InputError(f"--out {out}", expected="a file that ends in .npy or .jsonl")
    from melete.api import load
    from melete.tasks import FEATURES

    predictor: Any = load(model, task=FEATURES, device=options["device"], precision=options["precision"])
    if options["pooling"] is not None:
        predictor = predictor.with_settings(pooling=options["pooling"])
    if texts and out is None and not as_json:
        found = predictor.embed(texts)
        names = [printable(text)[:30] for text in texts]
        rows = [
            ["", *names],
            *([name, *(f"{x:.3f}" for x in row)] for name, row in zip(names, found @ found.T, strict=True)),
        ]
        click.echo(table(rows))
        count = len(texts)
    else:
        count = _write(predictor, texts, data, out, options["text_column"])
    say(f"{count:,} text{'s' if count != 1 else ''}" + (f", written to {out}" if out else ""))
    say(f"next: melete embed {shlex.quote(model)} --data FILE --out vectors.npy")


def _write(
    predictor: Any, texts: tuple[str, ...], data: str | None, out: str | None, column: str | None
) -> int:
    """Vectors of all texts, in their order: as JSON lines, or as one array."""
    from melete.data.readers import Row
    from melete.data.writing import whole_file
    from melete.tasks.base import read_inputs

    if data is not None:
        rows = read_inputs(data, ("text",), {"text": column})
    else:
        rows = (Row({"text": text}, "--text", i) for i, text in enumerate(texts, 1))
    array = out is not None and out.endswith(".npy")
    kept: list[Any] = []
    count = 0
    lines = whole_file(Path(out)) if out is not None and not array else nullcontext()
    with Progress("embedding", "texts") as progress, lines as file:
        texts_alone = (Row({"text": row.values["text"]}, row.file, row.line) for row in rows)
        for answer in predictor.stream(texts_alone, advance=progress.advance):
            count += 1
            if array:
                kept.append(answer["embedding"])
            elif file is not None:
                file.write(json.dumps(answer) + "\n")
            else:
                click.echo(json.dumps(answer))
    if array and out is not None:
        _save(Path(out), kept)
    return count


def _save(path: Path, vectors: list[Any]) -> None:
    import numpy as np

    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            np.save(file, np.array(vectors, dtype=np.float32))
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise StorageError(f"could not write: {error.strerror}", where=str(path)) from None
