"""Files to documents and rows: .txt, .jsonl, .csv, .tsv, .parquet, gzip and xz of them, folders, standard input.

Everything streams: memory stays flat on a file larger than memory. What a format means here:

- `.txt`, and any other file that is named itself: text, kept as it is (line ends too: `\\r\\n` stays) but for a
  byte-order mark. A file of at most 16 MiB is one document. A larger one is cut into documents of about 1 MiB, each
  ending at the last blank line before that, else at the last line end: small enough to shuffle and to hold out by,
  large enough that cuts are rare.
- `.jsonl` (`.ndjson`, `.json`): one object a line; blank lines are skipped.
- `.csv`: RFC 4180, with a header line; fields may be quoted and then hold commas, line ends and doubled quotes.
- `.tsv`: a header line and fields separated by tabs, without any quoting: a `"` is a `"`.
- `.parquet` (needs `melete[parquet]`).

One column of the rows is the text. A folder is read recursively, in the order of its sorted paths; hidden files and
other endings are skipped, and counted in a note.
"""

from __future__ import annotations

import csv
import difflib
import io
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from melete.console import counted, say
from melete.data.streams import (
    MAX_LINE_BYTES,
    STDIN,
    Reading,
    chunks,
    decode,
    display_name,
    missing,
    open_bytes,
    too_long,
)
from melete.errors import InputError, StorageError

WHOLE_BYTES = 16 << 20
PIECE_BYTES = 1 << 20
TEXT_COLUMNS = ("text", "content", "document", "body", "sentence")
_FOLDER_FORMATS = {
    ".txt": "text",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}
_FORMATS = _FOLDER_FORMATS | {".json": "jsonl"}
_PARQUET_ROWS = 256
_JSON_KINDS: dict[type, str] = {
    bool: "true or false",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "an object",
    type(None): "nothing (null)",
}


@dataclass(frozen=True)
class Document:
    """A text and where it stands.

    Attributes:
        text: never empty, never only white space.
        file: the file as it was named.
        line: number of its first line, from 1 (of its row, in a parquet file).
    """

    text: str
    file: str
    line: int


@dataclass(frozen=True)
class Row:
    """Values by column name, and where they stand (`line` as in `Document`)."""

    values: dict[str, Any]
    file: str
    line: int


def read_documents(
    sources: Sequence[str],
    *,
    text_column: str | None = None,
    max_line_bytes: int = MAX_LINE_BYTES,
    note: Callable[[str], None] = say,
    problem: Callable[[InputError], None] | None = None,
) -> Iterator[Document]:
    """The documents of files, folders and standard input ("-"), streaming.

    Standard input is plain text; with a `text_column`, JSON lines.

    Args:
        sources: paths, or "-".
        text_column: the column that holds the text, in files of rows. None: `text`, `content`, `document`, `body` or
            `sentence`, else the only column of strings; which one is told to `note`.
        max_line_bytes: the longest line that is read.
        note: told what was decided (the column found, the files of a folder that were skipped).
        problem: told of each byte that is not text, which then reads as U+FFFD. None: the first one is an error.

    Raises:
        InputError: with file and line: a file that is missing or holds no text; text that is not UTF-8 or has NUL
            bytes; a broken, ragged or too long line; a column that is not there or holds no strings.
        StorageError: the machine refuses to read.
    """
    reading = Reading(max_line_bytes, note, problem)
    for source, names in [(source, list_files(source, note)) for source in sources]:
        found, empty = 0, []
        for name in names:
            before = found
            for document in _documents(name, text_column, reading):
                if document.text.isspace() or not document.text:
                    continue
                found += 1
                yield document
            if found == before:
                empty.append(name)
        if not found:
            raise InputError(
                "holds no text",
                where=display_name(source),
                expected="at least one document",
                do="pipe the text in, the same as before where a run goes on" if source == STDIN else "",
            )
        if empty:
            note(f"{source}: {counted(len(empty), 'file')} without text skipped, the first is {empty[0]}")


def read_rows(source: str, *, max_line_bytes: int = MAX_LINE_BYTES, plain: bool = False) -> Iterator[Row]:
    """The rows of a .jsonl, .csv, .tsv or .parquet file, of a folder of them, or of JSON lines on standard input.

    Args:
        source: a path, or "-".
        plain: plain text is read too, and so is standard input: each line, blank or not, as a row of one column,
            `text`.
        max_line_bytes: the longest line (CSV: record, over all its lines) that is read.

    Raises:
        InputError: as `read_documents`; also a file of another format, and one without any row.
        StorageError: the machine refuses to read.
    """
    reading, found = Reading(max_line_bytes), False
    for name in list_files(source, reading.note):
        kind = "jsonl" if name == STDIN and not plain else file_format(name)
        if kind == "text" and not plain:
            raise InputError("not a file of rows", where=name, expected=".jsonl, .csv, .tsv or .parquet")
        for row in _ROWS[kind](name, reading):
            found = True
            yield row
    if not found:
        raise InputError("holds no rows", where=display_name(source), expected="at least one row")


def file_format(name: str) -> str:
    """ "text", "jsonl", "csv", "tsv" or "parquet", by the ending of the name, after `.gz` or `.xz`."""
    path = Path(name)
    if path.suffix.lower() in (".gz", ".xz"):
        path = path.with_suffix("")
    return _FORMATS.get(path.suffix.lower(), "text")


def list_files(source: str, note: Callable[[str], None] = say) -> list[str]:
    """The files of a source: itself, or the readable files of a folder, recursively, by sorted path.

    Raises:
        InputError: nothing is there, or a folder holds no file that can be read.
    """
    if source == STDIN or not os.path.isdir(source):
        if source != STDIN and not os.path.exists(source):
            raise missing(source)
        return [source]
    taken, skipped = [], Counter[str]()
    for folder, subfolders, names in os.walk(source, onerror=_refused):
        subfolders[:] = [sub for sub in subfolders if not sub.startswith(".")]
        for name in names:
            inner = Path(name.lower())
            suffix = inner.with_suffix("").suffix if inner.suffix in (".gz", ".xz") else inner.suffix
            if suffix in _FOLDER_FORMATS and not name.startswith("."):
                taken.append(os.path.join(folder, name))
            else:
                skipped[inner.suffix or "no ending"] += 1
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in skipped.most_common(5))
    if not taken:
        raise InputError(
            f"no file in this folder can be read (it has {kinds or 'none'})",
            where=source,
            expected="files ending in " + " ".join(_FOLDER_FORMATS) + ", or these with .gz or .xz",
            do="files named one by one are read as text whatever their ending",
        )
    if skipped:
        note(f"{source}: {counted(skipped.total(), 'other file')} skipped ({kinds})")
    return sorted(taken)


def _refused(error: OSError) -> None:
    raise StorageError(f"cannot be read ({error.strerror})", where=str(error.filename)) from error


def _documents(name: str, text_column: str | None, reading: Reading) -> Iterator[Document]:
    kind = file_format(name)
    if name == STDIN and text_column is not None:
        kind = "jsonl"
    if kind == "text":
        yield from _text(name, reading)
    elif kind == "parquet":
        yield from _parquet_documents(name, text_column, reading)
    else:
        yield from _row_documents(name, _ROWS[kind](name, reading), text_column, reading)


def _text(name: str, reading: Reading) -> Iterator[Document]:
    for line, run in chunks(name, reading, size=PIECE_BYTES, whole=WHOLE_BYTES, paragraphs=True):
        yield Document(decode(run, name, line, reading), display_name(name), line)


def _row_documents(
    name: str, rows: Iterator[Row], text_column: str | None, reading: Reading
) -> Iterator[Document]:
    column = None
    for row in rows:
        if column is None:
            strings = [key for key, value in row.values.items() if isinstance(value, str)]
            column = choose_column(list(row.values), strings, text_column, row.file, row.line, reading.note)
        text = row.values.get(column)
        if not isinstance(text, str):
            raise _no_text(column, text, list(row.values), f"{row.file}:{row.line}")
        if "\0" in text:
            where = f"{row.file}:{row.line}"
            reading.bad_text(InputError(f"NUL character in column {column!r}", where=where, expected="text"))
            text = text.replace("\0", "\N{REPLACEMENT CHARACTER}")
        yield Document(text, row.file, row.line)


def choose_column(
    columns: list[str],
    strings: list[str],
    wanted: str | None,
    file: str,
    line: int,
    note: Callable[[str], None] = say,
) -> str:
    """The column of the text: the one that was asked for, one of the usual names, or the only one of strings.

    Args:
        strings: those of the columns that hold strings.
        file, line: where the columns were found.
        note: told which column was chosen, where there were several.

    Raises:
        InputError: no such column, or no way to tell.
    """
    if wanted is not None:
        if wanted not in columns:
            raise _no_text(wanted, None, columns, f"{file}:{line}")
        return wanted
    chosen = next((name for name in TEXT_COLUMNS if name in strings), None)
    if chosen is None and len(strings) == 1:
        chosen = strings[0]
    if chosen is None:
        which = f"columns of strings are {_listed(strings)}" if strings else f"columns are {_listed(columns)}"
        do = "name one (--text-column, data.text_column in a recipe)" if strings else ""
        raise InputError(f"which column is the text? Its {which}", where=f"{file}:{line}", do=do)
    if len(columns) > 1:
        note(f"{file}: the text is column {chosen!r} (of {_listed(columns)})")
    return chosen


def _no_text(column: str, value: object, columns: list[str], where: str) -> InputError:
    if column in columns:
        kind = _JSON_KINDS.get(type(value), type(value).__name__)
        return InputError(f"column {column!r} holds {kind}", where=where, expected="text")
    near = difflib.get_close_matches(column, columns, n=1)
    do = f"did you mean {near[0]!r}?" if near else ""
    return InputError(f"no column {column!r}", where=where, expected=f"one of {_listed(columns)}", do=do)


def _listed(names: list[str], most: int = 12) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


class _Lines:
    """The lines of a file as text, with their ends.

    Attributes:
        number: lines handed out so far.
        taken: characters handed out since the caller last set this to 0; past the limit is an error, so that a quote
            that is never closed cannot swallow the file.
    """

    def __init__(self, name: str, reading: Reading) -> None:
        self.name, self.reading = name, reading
        self.number = self.taken = 0
        self.start = 1

    def __iter__(self) -> Iterator[str]:
        for first, run in chunks(self.name, self.reading, size=PIECE_BYTES):
            text = decode(run, self.name, first, self.reading)
            for line in io.StringIO(text, newline="\n"):
                self.number += 1
                self.taken += len(line)
                if self.taken > self.reading.max_line_bytes + 2:
                    raise too_long(f"{display_name(self.name)}:{self.start}", self.reading.max_line_bytes)
                yield line

    def begin(self) -> None:
        """A record starts at the next line."""
        self.taken, self.start = 0, self.number + 1


def _jsonl(name: str, reading: Reading) -> Iterator[Row]:
    parse, file = msgspec.json.Decoder(dict[str, Any]).decode, display_name(name)
    lines = _Lines(name, reading)
    for line in lines:
        lines.begin()
        if line.isspace():
            continue
        try:
            values = parse(line)
        except (msgspec.DecodeError, RecursionError) as error:
            raise InputError(
                f"broken JSON ({str(error).rstrip('.')})",
                where=f"{file}:{lines.number}",
                expected="one JSON object a line",
                do="turn a JSON array into lines with `jq -c '.[]'`" if line.lstrip()[:1] == "[" else "",
            ) from error
        yield Row(values, file, lines.number)


def read_lines(name: str, reading: Reading) -> Iterator[tuple[int, str]]:
    """The lines of a file of text, whatever its ending, without their line ends, and their numbers."""
    lines = _Lines(name, reading)
    for line in lines:
        lines.begin()
        yield lines.number, line.removesuffix("\n").removesuffix("\r")


def read_records(
    name: str, reading: Reading, split: Callable[[str], list[str]] | None = None
) -> Iterator[tuple[int, list[str]]]:
    """The records of a table, header and all, and the lines they begin at; blank lines are skipped.

    Args:
        split: cuts a line into its fields, without any quoting. None: CSV, fields may be quoted.
    """
    lines = _Lines(name, reading)
    if split is None:
        # The module's own limit is 128 KiB a field, for the whole process; ours is kept by _Lines.
        csv.field_size_limit(max(csv.field_size_limit(), reading.max_line_bytes + 2))
        records = csv.reader(lines, strict=True)
    else:
        bare = (line.removesuffix("\n").removesuffix("\r") for line in lines)
        records = (split(line) if line else [] for line in bare)
    while True:
        lines.begin()
        try:
            record = next(records, None)
        except csv.Error as error:
            where, do = f"{display_name(name)}:{lines.start}", 'write a quote inside a field as ""'
            raise InputError(f"broken CSV ({error})", where=where, do=do) from error
        if record is None:
            return
        if record:
            yield lines.start, record


def tabs(line: str) -> list[str]:
    """The fields of a line of a .tsv file."""
    return line.split("\t")


def _lines(name: str, reading: Reading) -> Iterator[Row]:
    file = display_name(name)
    return (Row({"text": line}, file, number) for number, line in read_lines(name, reading))


def _csv(name: str, reading: Reading) -> Iterator[Row]:
    return _table(name, read_records(name, reading))


def _tsv(name: str, reading: Reading) -> Iterator[Row]:
    return _table(name, read_records(name, reading, tabs))


def _table(name: str, records: Iterator[tuple[int, list[str]]]) -> Iterator[Row]:
    """Rows of a table with a header."""
    file, header = display_name(name), None
    for line, record in records:
        if header is None:
            header = _checked_header(record, f"{file}:{line}")
        elif len(record) != len(header):
            what = f"{counted(len(record), 'field')} in this row"
            expected = f"{len(header)}, as in the header ({_listed(header)})"
            raise InputError(what, where=f"{file}:{line}", expected=expected)
        else:
            yield Row(dict(zip(header, record, strict=True)), file, line)


def _checked_header(header: list[str], where: str) -> list[str]:
    twice = [name for name, count in Counter(header).items() if count > 1]
    if twice:
        what = f"column {twice[0]!r} stands twice in the header"
        raise InputError(what, where=where, expected="a header line with one name per column")
    return header


def _parquet_documents(name: str, text_column: str | None, reading: Reading) -> Iterator[Document]:
    with _open_parquet(name) as file:
        schema = file.schema_arrow
        strings = [
            field.name for field in schema if str(field.type) in ("string", "large_string", "string_view")
        ]
        column = choose_column(list(schema.names), strings, text_column, name, 1, reading.note)
        yield from _row_documents(name, _parquet_batches(file, name, [column]), column, reading)


def _parquet(name: str, reading: Reading) -> Iterator[Row]:
    with _open_parquet(name) as file:
        yield from _parquet_batches(file, name, None)


def _parquet_batches(file: Any, name: str, columns: list[str] | None) -> Iterator[Row]:
    number = 0
    for batch in file.iter_batches(batch_size=_PARQUET_ROWS, columns=columns):
        for values in batch.to_pylist():
            number += 1
            yield Row(values, name, number)


@contextmanager
def _open_parquet(name: str) -> Iterator[Any]:
    """A `pyarrow.parquet.ParquetFile` that reads a page at a time; a compressed one is unpacked to a temporary file."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        do = "install it with `pip install 'melete[parquet]'`"
        raise InputError("reading parquet needs pyarrow", where=name, do=do) from error
    with open_bytes(name) as stream, ExitStack() as stack:
        # The table of contents stands at the end: needs seeking.
        if not isinstance(stream, io.BufferedReader):
            unpacked = stack.enter_context(tempfile.TemporaryFile())
            shutil.copyfileobj(stream, unpacked)
            stream = unpacked
        try:
            file = parquet.ParquetFile(stream, pre_buffer=False, buffer_size=1 << 20)
            yield file
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            first = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(
                f"damaged parquet file ({first})", where=name, do="fetch the file again"
            ) from error


_ROWS: dict[str, Callable[[str, Reading], Iterator[Row]]] = {
    "text": _lines,
    "jsonl": _jsonl,
    "csv": _csv,
    "tsv": _tsv,
    "parquet": _parquet,
}
