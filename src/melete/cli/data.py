"""`melete data`: prepare, inspect and list data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from melete.cli import _hints as hints
from melete.cli import _labelled as labelled
from melete.cli._reading import MAX_LINE_BYTES, TEXT_COLUMN
from melete.console import counted, printable, say
from melete.errors import InputError

if TYPE_CHECKING:
    from melete.data.inspection import TextReport
    from melete.data.splits import Documents

_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
_TASKS = (
    "text-classification",
    "sentence-similarity",
    "token-classification",
    "question-answering",
    "translation",
    "summarization",
    "text2text-generation",
)


@click.group()
def command() -> None:
    """List the named sets, look at a text, or turn it into tokens once and for all.

    \b
    Examples:
      melete data list
      melete data inspect my.txt
      melete data prepare my.txt --tokenizer my-tokenizer
    """


@command.command(name="list")
@_JSON
def list_(as_json: bool) -> None:
    """The named sets: what they are, and whether they are on this machine.

    They are looked for in $MELETE_DATA/NAME, then in the cache ($MELETE_CACHE, else ~/.cache/melete), then on the Hub.

    \b
    Examples:
      melete data list
      melete data list --json
    """
    from melete.cli._table import table
    from melete.data.datasets import catalogue
    from melete.data.labelled.sets import labelled_catalogue

    sets = [*catalogue(), *labelled_catalogue()]
    if as_json:
        click.echo(json.dumps({"sets": sets}))
    else:
        head = ["name", "task", "language", "size", "where"]
        click.echo(table([head, *([str(entry.get(key, "")) for key in head] for entry in sets)]))
    say(f"next: melete data inspect {next(entry['name'] for entry in sets if entry['here'])}")


@command.command()
@click.argument("source", nargs=-1, required=True)
@TEXT_COLUMN
@MAX_LINE_BYTES
@click.option("--task", type=click.Choice(_TASKS), help="Look at SOURCE as labelled rows of this task.")
@click.option("--valid", help="With --task: validation rows. Default: the set's own, else some are held out.")
@labelled.COLUMNS
@click.option("--label-file", help="With --task: a label a line, in the order of their ids.")
@click.option("--valid-fraction", type=float, help="With --task: how much is held out. Default: 0.1.")
@click.option("--seed", type=int, help="With --task: decides what is held out. Default: 0.")
@click.option("--tokenizer", help="With --task: counts tokens, together with --max-length.")
@click.option("--max-length", type=click.IntRange(min=1), help="With --task: most tokens the model reads.")
@click.option("--strict", is_flag=True, help="With --task: a warning ends with exit code 2.")
@click.option(
    "--drop-leaks", is_flag=True, help="With --task: leave out validation rows that stand in train."
)
@_JSON
def inspect(
    source: tuple[str, ...],
    text_column: str | None,
    max_line_bytes: int,
    as_json: bool,
    task: str | None,
    **options: Any,
) -> None:
    """Describe SOURCE: files, folders, a named set, or - for standard input.

    Sizes, words, script, the longest document, duplicates, examples, and each byte that is not text: these are counted
    here, while every other command refuses the first one.

    With --task, SOURCE is labelled rows. Columns are found and told; then what would make a model worse or its figures
    better than they are: labels that are rare or never seen in train, rows that stand in train and in validation,
    duplicates, contradictions, near-empty texts, texts longer than the model reads, answers that do not stand where
    the file says.

    \b
    Examples:
      melete data inspect my.txt
      melete data inspect wikitext-2
      zcat pages.jsonl.gz | melete data inspect - --text-column text --json
      melete data inspect reviews.csv --task text-classification --column label=stars
      melete data inspect chnsenticorp --task text-classification --drop-leaks
    """
    from melete.data.datasets import NAMED, STDLIB, resolve
    from melete.data.inspection import inspect_documents
    from melete.data.labelled.sets import SETS
    from melete.data.readers import read_documents

    if task is None and source[0] in SETS and source[0] not in NAMED:
        task = SETS[source[0]].task
    if task is not None:
        labelled.inspect(source, task, as_json, options)
        return
    given = next((name for name, value in options.items() if value), None)
    if given is not None:
        name = given.removesuffix("s") if given == "columns" else given.replace("_", "-")
        raise InputError(f"--{name} is for labelled rows", do="name their task with --task")
    parts: dict[str, TextReport] = {}
    if any(name in (*NAMED, STDLIB) or not (name == "-" or Path(name).exists()) for name in source):
        named = resolve(source, text_column=text_column, max_line_bytes=max_line_bytes)
        for note in named.notes:
            say(note)
        for part, documents in (("train", named.train), ("valid", named.valid)):
            if documents is not None:
                parts[part] = inspect_documents(lambda _, documents=documents: documents)
    else:
        parts["all"] = inspect_documents(
            lambda problem: read_documents(
                source, text_column=text_column, max_line_bytes=max_line_bytes, problem=problem
            )
        )
    if as_json:
        answer = {"source": list(source), "parts": {part: report.plain() for part, report in parts.items()}}
        click.echo(json.dumps(answer, ensure_ascii=False))
    else:
        _show(parts)
    damaged = sum(report.bad_bytes for report in parts.values())
    if damaged:
        say(f"not text in {counted(damaged, 'place')}: mend them before training")
    else:
        say(f"next: {hints.pretrain(source, text_column=text_column, max_line_bytes=max_line_bytes)}")


def _show(parts: dict[str, TextReport]) -> None:
    from melete.cli._table import table

    figures = ("documents", "bytes", "characters", "lines", "words", "duplicates")
    rows = [["", *parts]]
    rows += [[name, *(f"{getattr(report, name):,}" for report in parts.values())] for name in figures]
    rows.append(
        ["Chinese, Japanese, Korean", *(f"{report.cjk_share:.1%} of letters" for report in parts.values())]
    )
    longest = [report.longest for report in parts.values()]
    rows.append(
        ["longest document", *(f"{at['bytes']:,} bytes, {at['file']}:{at['line']}" for at in longest)]
    )
    click.echo(table(rows if len(parts) > 1 else rows[1:]))
    for report in parts.values():
        for example in report.examples:
            click.echo(printable(f"  | {example}"))
        for problem in report.problems:
            click.echo(printable(problem))
        if report.bad_bytes > len(report.problems):
            click.echo(f"... and {report.bad_bytes - len(report.problems):,} more places that are not text")


@command.command()
@click.argument("source", nargs=-1, required=True)
@click.option("--tokenizer", required=True, help="A folder with tokenizer.json, or the file itself.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Gets train/ and valid/. Default: the cache, where training and evaluation look.",
)
@click.option("--valid", multiple=True, help="Validation text of your own; may be repeated.")
@click.option(
    "--valid-fraction", type=float, default=0.05, show_default=True, help="Held out where there is none."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of what is held out.")
@click.option("--workers", type=click.IntRange(min=1), help="Threads; default: the cores there are.")
@TEXT_COLUMN
@MAX_LINE_BYTES
@_JSON
def prepare(
    source: tuple[str, ...],
    tokenizer: str,
    out: Path | None,
    workers: int | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Turn SOURCE (files, folders, named sets, or -) into token shards.

    What is already there for the same text and tokenizer is not done again; a run that was killed goes on where it
    was. The free disk is checked first. Without --valid, a set's own validation text is used, else some is held out by
    document.

    \b
    Examples:
      melete data prepare my.txt --tokenizer my-tokenizer
      melete data prepare wikitext-2 --tokenizer words --out wikitext-words --json
      melete data prepare pages/ --valid held-out.txt --text-column body --tokenizer my-tokenizer
    """
    from melete.data.corpus import prepare as write
    from melete.data.datasets import tokenised
    from melete.data.tokenizers import Tokenizer
    from melete.data.writing import check_writable

    if out is not None:
        check_writable(out)
    loaded = Tokenizer.load(tokenizer)
    figures = {}
    for part, documents in _parts(source, **options).items():
        if out is None:
            corpus = tokenised(documents, loaded, workers)
        else:
            corpus = write(documents, loaded, out / part, source_hash=documents.source_hash, workers=workers)
        figures[part] = {
            "folder": str(corpus.folder),
            "documents": corpus.documents,
            "bytes": corpus.num_bytes,
            "words": corpus.num_words,
            "tokens": len(corpus),
        }
        say(
            f"{part}: documents {corpus.documents:,}, bytes {corpus.num_bytes:,}, tokens {len(corpus):,} "
            f"({corpus.num_bytes / len(corpus):.2f} bytes each), in {corpus.folder}"
        )
    if as_json:
        click.echo(json.dumps(figures))
    say(f"next: {hints.pretrain(source, tokenizer=tokenizer, **options)}")


def _parts(
    source: tuple[str, ...],
    valid: tuple[str, ...],
    valid_fraction: float,
    seed: int,
    text_column: str | None,
    max_line_bytes: int,
) -> dict[str, Documents]:
    from melete.data.datasets import resolve
    from melete.data.splits import split_documents

    named = resolve(source, text_column=text_column, max_line_bytes=max_line_bytes)
    for note in named.notes:
        say(note)
    if valid:
        given = resolve(valid, text_column=text_column, max_line_bytes=max_line_bytes)
        return {"train": named.train, "valid": given.train if given.valid is None else given.valid}
    if named.valid is not None:
        return {"train": named.train, "valid": named.valid}
    split = split_documents(named.train, valid_fraction, seed)
    say(split.note)
    return {"train": split.train, "valid": split.valid}
