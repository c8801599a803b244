"""Rows of tables and JSON lines as rows of a task."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, count, islice
from typing import Any

from melete.console import counted
from melete.data.labelled.columns import PEEK, Columns, find_columns, has_header, is_number
from melete.data.labelled.questions import spans
from melete.data.labelled.rows import (
    CLASSIFICATION,
    QUESTIONS,
    SIMILARITY,
    TAGGING,
    WRITTEN_TASKS,
    LabelledRow,
    QuestionRow,
    ScoreRow,
    TagRow,
    TextRow,
    WrittenRow,
)
from melete.data.readers import Row, read_lines, read_records, read_rows, tabs
from melete.data.streams import Reading, display_name
from melete.errors import InputError

KnownColumns = dict[tuple[bool | str, ...], Columns]

_BETWEEN_LABELS = re.compile(r"\s*[|;,]\s*")


def table_rows(
    name: str, kind: str, wanted: dict[str, str], split: re.Pattern[str] | None, reading: Reading
) -> tuple[Iterator[Row], bool]:
    """The rows of a file as they stand there, and whether their columns have names.

    Args:
        kind: "csv", "tsv", "jsonl", "parquet" or "text".
        wanted: columns that a person named, by role.
        split: what stands between the two fields of a line of text; None: what all lines have, a tab or `||`.

    Raises:
        InputError: no table; a record that is longer or shorter than the first; what `read_records` raises.
    """
    if kind in ("jsonl", "parquet"):
        return read_rows(name, max_line_bytes=reading.max_line_bytes), True
    records = read_records(name, reading, _splitter(name, kind, split, reading))
    return _table(records, display_name(name), wanted)


def answered_rows(
    rows: Iterator[Row],
    named: bool,
    task: str,
    wanted: dict[str, str],
    labelled: bool,
    known: KnownColumns,
    note: Callable[[str], None],
) -> Iterator[LabelledRow]:
    """Rows of a file as rows of a task; arguments as in `files.read_labelled`.

    Raises:
        InputError: a column that cannot be found, or a value that is not what the task needs.
    """
    if task in WRITTEN_TASKS:
        rows = map(_spread, rows)
    first = list(islice(rows, PEEK))
    if not first:
        return
    names = (named, *first[0].values)
    if not (named and names in known):
        try:
            known[names] = find_columns(task, first, wanted=wanted, named=named, labelled=labelled)
        except InputError:
            if names not in known:
                raise
    found = known[names]
    header = "" if named else "no header; "
    note(f"{first[0].file}: {header}{found.in_words()} (of {', '.join(first[0].values)})")
    yield from map(_MAKERS[task](found, first, labelled), chain(first, rows))


def _spread(row: Row) -> Row:
    """A row whose texts stand in an object of their own, `{"translation": {"en": ..., "de": ...}}`, as columns."""
    inner = row.values.get("translation")
    return Row(row.values | inner, row.file, row.line) if isinstance(inner, dict) else row


def _splitter(
    name: str, kind: str, split: re.Pattern[str] | None, reading: Reading
) -> Callable[[str], list[str]] | None:
    """How the lines of a file are cut; None: CSV."""
    if kind == "csv":
        return None
    if kind == "tsv":
        return tabs
    if split is not None:
        return lambda line: split.split(line, 1)
    first = [line for _, line in islice(read_lines(name, reading), PEEK) if line.strip()]
    separator = next((mark for mark in ("\t", "||") if first and all(mark in line for line in first)), None)
    if separator is None:
        raise InputError(
            "not a table: no tab on each line",
            where=display_name(name),
            expected=".csv, .tsv, .jsonl or .parquet, or a text and its label on each line with a tab between",
        )
    return lambda line: line.split(separator)


def _table(
    records: Iterator[tuple[int, list[str]]], file: str, wanted: Mapping[str, str]
) -> tuple[Iterator[Row], bool]:
    """Rows by column, and whether the columns have names."""
    first = list(islice(records, PEEK))
    if not first:
        return iter(()), True
    named = has_header([record for _, record in first], wanted.values())
    (line, head), whole = first[0], chain(first, records)
    names = head if named else [str(number) for number in range(1, len(head) + 1)]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"column {twice!r} stands twice in the header", where=f"{file}:{line}")
    return _by_name(whole, names, file, skip=named), named


def _by_name(
    records: Iterator[tuple[int, list[str]]], names: Sequence[str], file: str, skip: bool
) -> Iterator[Row]:
    for line, record in islice(records, int(skip), None):
        if len(record) != len(names):
            expected = f"{len(names)} as in the first row"
            raise InputError(
                f"{counted(len(record), 'field')} in this row", where=f"{file}:{line}", expected=expected
            )
        yield Row(dict(zip(names, record, strict=True)), file, line)


def _text(row: Row, column: str) -> str:
    value = row.values.get(column)
    if isinstance(value, str):
        return value
    what = f"column {column!r} holds {'null' if value is None else type(value).__name__}"
    if column not in row.values:
        what = f"no column {column!r}"
    raise InputError(what, where=f"{row.file}:{row.line}", expected="a text")


def _label(row: Row, value: Any, column: str) -> str:
    """A label as text: 1.0, as some programs write whole numbers, is 1."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool):
        value = str(value).lower()
    if not isinstance(value, str | int) or not str(value).strip():
        raise InputError(
            f"no label in column {column!r}", where=f"{row.file}:{row.line}", expected="a text or a number"
        )
    return str(value).strip()


def _classes(found: Columns, first: Sequence[Row], labelled: bool) -> Callable[[Row], LabelledRow]:
    """Makes a `TextRow` of each row."""
    names = found.names
    several = names.get("labels")
    values = [row.values.get(several) for row in first] if several else []
    if several and not any(_is_several(value) for value in values):  # the plural was only a name
        names, several = {**names, "label": several}, None

    def labels(row: Row) -> tuple[str, ...] | None:
        if found.flags:
            return tuple(flag for flag in found.flags if str(row.values.get(flag)) == "1")
        column = several or names.get("label")
        value = row.values.get(column) if column else None
        if column is None or (value in (None, "") and not labelled):
            return None
        if several is None:
            return (_label(row, value, column),)
        parts = _BETWEEN_LABELS.split(value) if isinstance(value, str) else value
        if not isinstance(parts, list):
            parts = [] if parts is None else [parts]
        return tuple(dict.fromkeys(_label(row, part, column) for part in parts if part != ""))

    def make(row: Row) -> TextRow:
        pair = names.get("text_pair")
        text_pair = None if pair is None else _text(row, pair)
        return TextRow(_text(row, names["text"]), text_pair, labels(row), file=row.file, line=row.line)

    return make


def _is_several(value: Any) -> bool:
    return isinstance(value, list) or (isinstance(value, str) and _BETWEEN_LABELS.search(value) is not None)


def _scores(found: Columns, first: Sequence[Row], labelled: bool) -> Callable[[Row], LabelledRow]:
    """Makes a `ScoreRow` of each row."""
    names = found.names

    def make(row: Row) -> ScoreRow:
        column = names.get("score")
        value = row.values.get(column) if column else None
        score = None
        if column is not None and (labelled or value not in (None, "")):
            if not is_number(value):
                what, where = f"score {value!r:.40} in column {column!r}", f"{row.file}:{row.line}"
                raise InputError(what, where=where, expected="a number")
            score = float(value)  # type: ignore[arg-type]  # is_number has tried it
        text, pair = _text(row, names["text"]), _text(row, names["text_pair"])
        return ScoreRow(text, pair, score, file=row.file, line=row.line)

    return make


def _tagged(found: Columns, first: Sequence[Row], labelled: bool) -> Callable[[Row], LabelledRow]:
    """Makes a `TagRow` of each row with lists."""

    def several(row: Row, role: str) -> tuple[str, ...] | None:
        column = found.names.get(role)
        values = row.values.get(column) if column else None
        if values is None and not labelled and role == "tags":
            return None
        if not isinstance(values, list) or not all(isinstance(value, str | int) for value in values):
            what = f"column {column!r} holds {values!r:.40}"
            raise InputError(what, where=f"{row.file}:{row.line}", expected=f"a list of {role}")
        return tuple(map(str, values))

    def make(row: Row) -> TagRow:
        words, tags = several(row, "words") or (), several(row, "tags")
        if tags is not None and len(words) != len(tags):
            what = f"{len(words)} words and {len(tags)} tags"
            raise InputError(what, where=f"{row.file}:{row.line}", expected="one tag for each word")
        return TagRow(words, tags, file=row.file, line=row.line)

    return make


def _asked(found: Columns, first: Sequence[Row], labelled: bool) -> Callable[[Row], LabelledRow]:
    """Makes a `QuestionRow` of each row."""
    names, numbers = found.names, count(1)

    def make(row: Row) -> QuestionRow:
        question, context = _text(row, names["question"]), _text(row, names["context"])
        given = row.values.get(names["answers"]) if "answers" in names else None
        answers = None
        if labelled or given is not None:
            start = row.values.get(names["answer_start"]) if "answer_start" in names else None
            answers = spans(given, start, context, f"{row.file}:{row.line}")
        own = row.values.get(names["id"]) if "id" in names else None
        number = str(next(numbers))
        name = number if own is None else str(own)
        return QuestionRow(question, context, answers, name, file=row.file, line=row.line)

    return make


def _written(found: Columns, first: Sequence[Row], labelled: bool) -> Callable[[Row], LabelledRow]:
    """Makes a `WrittenRow` of each row; a column that holds a list holds alternatives."""

    def filled(row: Row, column: str, value: Any) -> str:
        if isinstance(value, str) and value.strip():
            return value
        what = f"column {column!r} is empty" if value == "" else f"column {column!r} holds {value!r:.40}"
        raise InputError(what, where=f"{row.file}:{row.line}", expected="a text beside each text")

    def targets(row: Row) -> tuple[str, ...] | None:
        several = found.flags or ((found.names["target"],) if "target" in found.names else ())
        if not labelled and all(row.values.get(column) in (None, "", []) for column in several):
            return None
        values = [(column, row.values.get(column)) for column in several]
        lists = [(column, value if isinstance(value, list) else [value]) for column, value in values]
        return tuple(filled(row, column, one) for column, own in lists for one in own or [""])

    def make(row: Row) -> WrittenRow:
        column = found.names["source"]
        source = filled(row, column, row.values.get(column))
        return WrittenRow(source, targets(row), file=row.file, line=row.line)

    return make


_MAKERS = {
    CLASSIFICATION: _classes,
    SIMILARITY: _scores,
    TAGGING: _tagged,
    QUESTIONS: _asked,
    **dict.fromkeys(WRITTEN_TASKS, _written),
}
