"""Files to labelled rows, streaming: tables, JSON lines, columns of words and tags, questions in SQuAD's form.

What a format means here:

- `.csv` (RFC 4180), `.tsv` (a quote is a quote, as in the GLUE files), `.jsonl`, `.parquet`; plain, `.gz` or `.xz`.
  Whether a table has a header, and which column is what, is found by name and content, and told. Columns of a table
  without a header are called 1, 2, ... Any other file of texts is a table whose fields stand between tabs or `||`.
- token-classification: `.jsonl` and `.parquet` with lists of words and tags; any other file holds a word a line with
  its columns, between tabs or spaces, and a blank line after each sentence: CoNLL (word first, tag last) and CoNLL-U
  (forms and UPOS; contracted words and empty nodes are left out).
- translation, summarization, text2text-generation: a table; or two files of lines, `FILE,FILE` (see `pairs`).
- question-answering: a `.json` file in the form of SQuAD 1.1 or 2.0 (CMRC 2018 too), which is read whole; or rows with
  `answers` as a list of `{"text", "answer_start"}`, as `{"text": [...], "answer_start": [...]}`, or as a text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

from melete.console import say
from melete.data.labelled.pairs import read_pairs, two_files
from melete.data.labelled.questions import read_squad
from melete.data.labelled.rows import LABELLED_TASKS, QUESTIONS, TAGGING, WRITTEN_TASKS, LabelledRow
from melete.data.labelled.tables import KnownColumns, answered_rows, table_rows
from melete.data.labelled.words import read_sentences
from melete.data.readers import file_format, list_files
from melete.data.streams import MAX_LINE_BYTES, STDIN, Reading, display_name
from melete.errors import InputError


def read_labelled(
    source: str,
    task: str,
    *,
    columns: Mapping[str, str] | None = None,
    labelled: bool = True,
    split: re.Pattern[str] | None = None,
    known: KnownColumns | None = None,
    max_line_bytes: int = MAX_LINE_BYTES,
    note: Callable[[str], None] = say,
) -> Iterator[LabelledRow]:
    """The rows of a file, of a folder of files or of standard input ("-": JSON lines), streaming.

    text-classification gives `TextRow`, sentence-similarity `ScoreRow`, token-classification `TagRow`,
    question-answering `QuestionRow`, tasks with written answers `WrittenRow`.

    Args:
        task: one of `LABELLED_TASKS`.
        columns: column by role (`text`, `text_pair`, `label`, `labels`, `score`, `words`, `tags`, `question`,
            `context`, `answers`, `answer_start`, `id`, `source`, `target`), where a person says so: a name, or the
            number of a column that has none. `labels` makes the set multi-label. In CoNLL-U `tags` is upos, xpos or
            deprel.
        labelled: False: answers may be absent, for prediction.
        split: what stands between the label and the text on the lines of a text file.
        known: what was found in files read before; a table with the same header is read in the same way, and one
            without a header if its own content does not tell.
        note: told which columns were found.

    Raises:
        InputError: with file and line: what `read_rows` raises; a column that cannot be found; a value that is not what
            the task needs; words and tags that differ in number.
        StorageError: the machine refuses to read.
    """
    if task not in LABELLED_TASKS:
        raise InputError(f"no rows for task {task!r}", expected=f"one of {', '.join(LABELLED_TASKS)}")
    known = {} if known is None else known
    reading, wanted, found = Reading(max_line_bytes, note), dict(columns or {}), False
    pair = two_files(source) if task in WRITTEN_TASKS else None
    for name in list_files(source, note) if pair is None else [source]:
        kind = "jsonl" if name == STDIN else file_format(name)
        if pair is not None:
            note(f"source is each line of {pair[0]}, target that of {pair[1]}")
            rows = read_pairs(*pair, reading)
        elif task == TAGGING and kind not in ("jsonl", "parquet"):
            rows = read_sentences(name, wanted, labelled, reading)
        elif task == QUESTIONS and (squad := read_squad(name, reading)) is not None:
            rows = iter(squad)
        else:
            plain, named = table_rows(name, kind, wanted, split, reading)
            rows = answered_rows(plain, named, task, wanted, labelled, known, note)
        for row in rows:
            if labelled and row.answer is None:
                raise InputError("no answer beside this row", where=row.where, expected="labelled rows")
            found = True
            yield row
    if not found:
        raise InputError("holds no rows", where=display_name(source), expected="at least one row")
