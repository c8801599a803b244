"""`melete predict`: what a model says of texts."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from melete.cli._generation import show_any_character
from melete.cli._labelled import COLUMNS, WRITING_SETTINGS, given, writing_options
from melete.console import Progress, printable, say
from melete.errors import InputError

if TYPE_CHECKING:
    from melete.data.readers import Row

# flags that are settings of a task, by the setting's name; those that were not given keep the task's default
_SETTINGS = (
    "top_k",
    "threshold",
    "max_answer_tokens",
    "no_answer",
    *WRITING_SETTINGS,
    "n_best",
    "beam_groups",
    "diversity_penalty",
    "required",
    "sentences",
)


@click.command()
@click.argument("model")
@click.option("--text", "texts", multiple=True, help="A text; may be repeated.")
@click.option(
    "--data",
    metavar="FILE",
    help="Texts, a line each (.txt, or - for standard input), or rows (.jsonl, .csv, .tsv, .parquet).",
)
@click.option("--text-column", help="The column that holds the text; makes standard input JSON lines.")
@COLUMNS
@click.option("--task", help="What the model is for, where its config.json does not say.")
@click.option("--top-k", type=int, help="Tokens for each mask (fill-mask) [5], answers to each question [1].")
@click.option("--threshold", type=float, help="Probability from which a label of several is given. [0.5]")
@click.option("--max-answer-tokens", type=int, help="Longest answer to a question. [64]")
@click.option(
    "--no-answer/--always-answer",
    default=None,
    help="Whether a context may not answer its question; default: as in training.",
)
@writing_options
@click.option("--n-best", type=int, help="So many written answers to each text, the best first. [1]")
@click.option(
    "--beam-groups", type=int, help="Beams in groups that avoid what others say: n best that differ. [1]"
)
@click.option("--diversity-penalty", type=float, help="How much groups of beams avoid one another. [0.5]")
@click.option("--require", "required", multiple=True, help="Words that are in every answer; may be repeated.")
@click.option("--sentences", type=int, help="So many sentences of each text make its summary. [the model's]")
@click.option("--out", metavar="FILE", help="Write the answers here, as JSON lines; nothing if one fails.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines for --text too.")
@click.option("--context", type=int, help="Resize the model's context to this many tokens.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or mps.")
def command(
    model: str, texts: tuple[str, ...], data: str | None, out: str | None, as_json: bool, **options: Any
) -> None:
    """What MODEL says of texts: a run, a checkpoint, a Hugging Face folder or a Hub id, which has a task.

    fill-mask: the likeliest tokens behind each [MASK], and the text filled with them. text-classification: labels and
    their probabilities. token-classification: a tag for each word, and names. question-answering: the part of each
    context that answers the question beside it. translation, summarization, text2text-generation: a text for each text.
    extractive-summarization: the sentences that say most of each text.

    An answer is a JSON object a line on standard output, in the order of the texts; for --text it is put in words.

    \b
    Examples:
      melete predict runs/bert --text "The capital of France is [MASK]."
      melete predict runs/bert --data lines.txt --top-k 3
      melete predict runs/bert --data table.csv --text-column review --out answers.jsonl
      melete predict runs/translator --data lines.en --beams 5 --out lines.jsonl
      melete predict runs/pairs --data pairs.tsv --column text=premise --column text_pair=hypothesis
    """
    if bool(texts) == bool(data):
        raise InputError("give either --text, which may be repeated, or --data FILE")

    from melete.api import load
    from melete.data.labelled.rows import LABELLED_TASKS
    from melete.data.readers import Row
    from melete.data.writing import whole_file
    from melete.tasks import EXTRACTION, FEATURES, GENERATION
    from melete.tasks.base import Predictor

    loaded = load(model, task=options["task"], context=options["context"], device=options["device"])
    if not isinstance(loaded, Predictor):
        do = f"continue a text with it: melete generate {shlex.quote(model)}"
        raise InputError(f"the model is for {GENERATION}", where=model, do=do)
    if texts and len(loaded.columns) > 1:
        do = f"give rows with {' and '.join(loaded.columns)}: --data FILE"
        raise InputError(f"--text is one text, and {loaded.task} reads several", do=do)
    predictor = loaded.with_settings(**given(options, _SETTINGS))
    rows: Iterator[Row]
    if data is not None:
        rows = predictor.read(data, {predictor.columns[0]: options["text_column"]} | options["columns"])
    else:
        rows = (Row({predictor.columns[0]: text}, "--text", i) for i, text in enumerate(texts, 1))
    in_words = data is None and out is None and not as_json
    if in_words:
        show_any_character()
    count = split = 0
    with Progress("predicting", "texts") as progress, whole_file(Path(out)) if out else nullcontext() as file:
        for answer in predictor.stream(rows, advance=progress.advance):
            line = (
                printable(predictor.in_words(answer)) if in_words else json.dumps(answer, ensure_ascii=False)
            )
            if file is not None:
                file.write(line + "\n")
            else:  # JSON is UTF-8, whatever the terminal is set to
                click.echo(line if in_words else line.encode())
            count, split = count + 1, split + ("parts" in answer)
    if split:
        say(f"{split:,} of them longer than the model reads: answered in parts, joined")
    answered = f"{count:,} text{'s' if count != 1 else ''} answered"
    say(f"{predictor.task}: {answered}" + (f", written to {out}" if out else ""))
    example = texts[0] if texts else "..."
    again = shlex.quote(data) if data not in (None, "-") else "FILE"
    if predictor.task in (*LABELLED_TASKS, FEATURES, EXTRACTION):
        say(f"next: melete evaluate {shlex.quote(model)} --data {again}")
    else:
        say(f"next: melete inspect {shlex.quote(model)} --text {shlex.quote(example)}")
