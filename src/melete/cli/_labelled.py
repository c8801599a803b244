"""What commands on labelled rows share."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from melete.console import printable, say
from melete.errors import InputError

if TYPE_CHECKING:
    from melete.data.labelled.rows import LabelledRow
    from melete.data.labelled.sets import LabelledSet
    from melete.data.lint import Report
    from melete.tasks.labelled import RowPredictor

_LABELS = 20  # shown of more
_TEXTS, _CHARACTERS = 2, 100


def _columns(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """ROLE=NAME as a dict."""
    pairs = [value.partition("=") for value in values]
    wrong = next((value for value, (_, sign, _) in zip(values, pairs, strict=True) if not sign), None)
    if wrong is not None:
        raise InputError(f"--column {wrong}", expected="ROLE=NAME, as in --column label=stars")
    return {role: name for role, _, name in pairs}


COLUMNS = click.option(
    "--column",
    "columns",
    multiple=True,
    metavar="ROLE=NAME",
    callback=_columns,
    help="The column of a role (text, text_pair, label, labels, score, words, tags, question, context, answers, "
    "source, target); may be repeated. Default: found by name and content.",
)

# How a model writes: settings of its task by the setting's name.
WRITING_SETTINGS = (
    "beams",
    "length_penalty",
    "max_new_tokens",
    "no_repeat_ngram_size",
    "coverage_penalty",
    "long",
    "tidy",
)
_WRITING = (
    click.option(
        "--beams",
        type=int,
        help="Written answers that grow side by side; 1 is quickest. Default: the model's.",
    ),
    click.option(
        "--length-penalty", type=float, help="The higher, the longer written answers. [the model's]"
    ),
    click.option("--max-new-tokens", type=int, help="Longest written answer. [the model's]"),
    click.option("--no-repeat-ngram-size", type=int, help="No run of so many tokens is written twice."),
    click.option(
        "--coverage-penalty",
        type=float,
        help="The higher, the less of a text may be passed over. [the model's]",
    ),
    click.option(
        "--long",
        type=click.Choice(["stop", "cut", "split"]),
        help="A text longer than the model reads is refused, loses its end, or is answered in parts. "
        "[predict: stop, evaluate: cut]",
    ),
    click.option(
        "--tidy",
        multiple=True,
        type=click.Choice(["detokenize", "truecase", "repetition"]),
        help="Mend written answers: spaces before points, capitals, phrases said again and again; may be repeated.",
    ),
)


def writing_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of `WRITING_SETTINGS`."""
    for option in reversed(_WRITING):
        command = option(command)
    return command


def given(options: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The options that were given; what was not keeps the default of the task."""
    return {name: options[name] for name in names if options[name] not in (None, ())}


def labelled_rows(
    data: str,
    task: str,
    columns: dict[str, str],
    *,
    part: str = "valid",
    split: str | None = None,
    seed: int = 0,
) -> list[LabelledRow]:
    """All rows of a file or of standard input, or a part of a named set or of a folder.

    Args:
        split: train, valid or all, where a person asked for it: then a file is split as in training.
    """
    from melete.data.labelled.files import read_labelled
    from melete.data.labelled.pairs import two_files
    from melete.data.labelled.rows import WRITTEN_TASKS
    from melete.data.labelled.sets import SETS, load_labelled
    from melete.data.streams import STDIN

    pair = task in WRITTEN_TASKS and data not in SETS and two_files(data) is not None
    alone = data == STDIN or (os.path.isfile(data) and data not in SETS) or pair
    split = split or (None if alone else part)
    if split is None:
        return list(read_labelled(data, task, columns=columns))
    found = load_labelled(data, task, columns=columns, seed=seed)
    return {"train": found.train, "valid": found.valid, "all": [*found.train, *found.valid]}[split]


def unstopped(predictor: RowPredictor) -> RowPredictor:
    """One that cuts what is too long instead of refusing it: rows are to be scored, as in training."""
    return predictor.with_settings(long="cut") if "long" in predictor.settings else predictor


def language_of(predictor: RowPredictor) -> str:
    """What the model writes in, where its folder says so."""
    return getattr(predictor, "language", "")


def check_labels(rows: list[LabelledRow], predictor: RowPredictor, model: str) -> None:
    """Refuse rows that are for another model.

    Raises:
        InputError: a label that the model does not have.
    """
    known = set(predictor.labels)
    for row in rows:
        if unknown := next((name for name in row.classes if name not in known), None):
            names = ", ".join(predictor.labels[:20]) + (", ..." if len(known) > 20 else "")
            raise InputError(f"label {unknown!r}", where=row.where, expected=f"one that {model} has: {names}")


def inspect(source: tuple[str, ...], task: str, as_json: bool, options: dict[str, Any]) -> None:
    """`melete data inspect --task`: what labelled rows are like, and what is wrong with them."""
    from melete.data.labelled.sets import load_labelled
    from melete.data.lint import drop_leaks, lint
    from melete.data.tokenizers import Tokenizer

    if len(source) != 1:
        raise InputError(f"{len(source)} sources", expected="one, with --task")
    name = source[0]
    reading = ("valid", "columns", "label_file", "valid_fraction", "seed")
    found = load_labelled(name, task, **{key: options[key] for key in reading if options[key] is not None})
    tokenizer = Tokenizer.load(options["tokenizer"]) if options["tokenizer"] else None

    def look() -> Report:
        return lint(found, tokenizer=tokenizer, max_length=options["max_length"])

    report = look()
    if options["drop_leaks"] and report.leaked:
        before = len(found.valid)
        found = drop_leaks(found, report)
        say(f"{before - len(found.valid):,} of {before:,} validation rows dropped: they stand in train")
        report = look()
    if as_json:
        click.echo(json.dumps({"source": name, "task": task, **report.plain()}, ensure_ascii=False))
    else:
        _show(found, report)
    report.stop(options["strict"])
    words = ["melete", "finetune", task, "--model", "bert:tiny", "--data", "FILE" if name == "-" else name]
    words += ["--valid", options["valid"]] if options["valid"] else []
    words += ["--label-file", options["label_file"]] if options["label_file"] else []
    words += [word for role, name in options["columns"].items() for word in ("--column", f"{role}={name}")]
    words += ["--drop-leaks"] if report.leaked or options["drop_leaks"] else []
    say(f"next: {shlex.join(words)}")


def _show(found: LabelledSet, report: Report) -> None:
    from melete.cli._table import table
    from melete.data.labelled.rows import TagRow

    median, most, longest = report.characters
    kind = "words" if found.task == "token-classification" else "rows"
    rows = [["", "train", "valid"], ["rows", *(f"{count:,}" for count in report.rows.values())]]
    for name, (train, valid) in list(report.labels.items())[:_LABELS]:
        rows.append([f"{kind} with {name}", f"{train:,}", f"{valid:,}"])
    click.echo(printable(table(rows)))
    if len(report.labels) > _LABELS:
        click.echo(f"... and {len(report.labels) - _LABELS:,} more labels")
    click.echo(f"characters: median {median:,}, 95 % have at most {most:,}, longest {longest:,}")
    for row in found.train[:_TEXTS]:
        text, said = " | ".join(row.texts).replace("\n", " "), row.classes
        if isinstance(row, TagRow):
            text, said = " ".join(f"{word}/{tag}" for word, tag in zip(row.words, said, strict=True)), ()
        shown = text[:_CHARACTERS] + ("..." if len(text) > _CHARACTERS else "")
        answer = " ".join(said) or ("" if isinstance(row, TagRow) else str(row.answer))
        click.echo(printable(f"  | {shown}{' -> ' if answer else ''}{answer[:_CHARACTERS]}"))
    report.tell(lambda line: click.echo(printable(line)))
    if not report.findings:
        click.echo("nothing to mend")
