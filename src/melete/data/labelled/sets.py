"""Labelled sets: the named ones, folders with their parts, and files, as training and validation rows."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from melete.console import Progress, say
from melete.data.datasets import data_roots
from melete.data.labelled.files import read_labelled
from melete.data.labelled.pairs import language_of, two_files
from melete.data.labelled.rows import (
    CLASSIFICATION,
    LABELLED_TASKS,
    QUESTIONS,
    SIMILARITY,
    SUMMARIZATION,
    TAGGING,
    TEXT_TO_TEXT,
    TRANSLATION,
    WRITTEN_TASKS,
    LabelledRow,
    TagRow,
    TextRow,
    WrittenRow,
)
from melete.data.labelled.splits import hold_out
from melete.data.labelled.tables import KnownColumns
from melete.data.readers import Document, read_lines
from melete.data.streams import STDIN, Reading, missing
from melete.errors import InputError

VALID_FRACTION = 0.1

R = TypeVar("R", bound=LabelledRow)
_TRAIN = re.compile("train", re.IGNORECASE)
_VALID = re.compile(r"dev|valid|(?<![a-z])val(?![a-z])", re.IGNORECASE)
_TEST = re.compile("test", re.IGNORECASE)
_PACKED = re.compile(r"\.(gz|xz)$")
_PROSE = re.compile(r"^(\.|readme|licen[cs]e)|\.md$", re.IGNORECASE)


@dataclass(frozen=True)
class LabelledSet:
    """Rows to learn from, and rows to measure on.

    Attributes:
        name: as it was asked for.
        task: one of `LABELLED_TASKS`.
        train, valid: rows of the task's type; no row is in both files, but the same text may be (see `data.lint`).
        labels: labels or tags in the order of their ids: that of the label file, else sorted (numbers by value); those
            of `train` alone. Empty for scores and questions.
        multi_label: rows have any number of labels instead of one.
        language: that targets are written in, where a name says so ("de"); "": nothing does.
    """

    name: str
    task: str
    train: list[LabelledRow]
    valid: list[LabelledRow]
    labels: tuple[str, ...] = ()
    multi_label: bool = False
    language: str = ""


@dataclass(frozen=True)
class _Set:
    """A named set: what the rules for folders and columns cannot know.

    Attributes:
        language: of the texts; of what is to be written, where that differs.
        train, valid: names of files, without .gz or .xz; "": found by name; two with a comma between are read
            together. A `valid` of "-": there is none.
        columns: column by role.
        split: as in `read_labelled`.
        labels: the file that names the classes.
    """

    task: str
    language: str
    train: str = ""
    valid: str = ""
    split: str = ""
    labels: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)


_FIRST, _SECOND = {"source": "1", "target": "2"}, {"source": "2", "target": "1"}

# A name before ":" is that of the folder.
SETS: dict[str, _Set] = {
    "sst2": _Set(CLASSIFICATION, "en", "train.tsv"),
    "sst2:phrases": _Set(CLASSIFICATION, "en", "train_phrases_glue.tsv"),
    "sst5": _Set(CLASSIFICATION, "en", split=" "),
    "mr": _Set(CLASSIFICATION, "en", "mr_without_sst_test.tsv"),
    "trec": _Set(CLASSIFICATION, "en", split=r":\S+ "),
    "trec:fine": _Set(CLASSIFICATION, "en", split=" "),
    "ag_news": _Set(CLASSIFICATION, "en", labels="classes.txt"),
    "chnsenticorp": _Set(CLASSIFICATION, "zh"),
    "thucnews_title": _Set(CLASSIFICATION, "zh", labels="class.txt"),
    "csl_title": _Set(
        CLASSIFICATION,
        "zh",
        "cls_ctg_train.tsv",
        "cls_ctg_dev.tsv",
    ),
    "mrpc": _Set(CLASSIFICATION, "en"),
    "cola": _Set(CLASSIFICATION, "en"),
    "rte": _Set(CLASSIFICATION, "en"),
    "sts_b": _Set(SIMILARITY, "en"),
    "sts_b_zh": _Set(SIMILARITY, "zh"),
    "resume_ner": _Set(TAGGING, "zh"),
    "weibo_ner": _Set(TAGGING, "zh"),
    "wnut17": _Set(TAGGING, "en"),
    "ud_english_ewt": _Set(TAGGING, "en"),
    "ud_chinese_gsd_v1": _Set(TAGGING, "zh"),
    "cmrc2018": _Set(QUESTIONS, "zh"),
    "xquad:en": _Set(QUESTIONS, "en", "xquad.en.half_a.json"),
    "xquad:zh": _Set(QUESTIONS, "zh", "xquad.zh.half_a.json"),
    "multi30k": _Set(TRANSLATION, "de", "train.en,train.de", "val.en,val.de"),
    "multi30k:de-en": _Set(TRANSLATION, "en", "train.de,train.en", "val.de,val.en"),
    "tatoeba_eng_cmn": _Set(TRANSLATION, "zh", columns=_FIRST),
    "tatoeba_eng_cmn:zh-en": _Set(TRANSLATION, "en", columns=_SECOND),
    "dialogsum": _Set(SUMMARIZATION, "en"),
    # The one part that is no test: a tenth of it is held out.
    "csl_title:titles": _Set(SUMMARIZATION, "zh", "ts_dev.tsv", "-", columns={"source": "2", "target": "3"}),
}


def load_labelled(
    source: str,
    task: str,
    *,
    valid: str | None = None,
    columns: Mapping[str, str] | None = None,
    label_file: str | None = None,
    valid_fraction: float = VALID_FRACTION,
    seed: int = 0,
    note: Callable[[str], None] = say,
) -> LabelledSet:
    """The training and validation rows of a named set, a folder, a file or standard input.

    A named set is looked for in `$MELETE_DATA`, then in the cache; a file of the same name is reached as `./NAME`. A
    folder whose files are called after their parts (train, dev or valid; test is left alone) is a set of its own; all
    files of any other folder are training rows. Where there is no validation part, `hold_out` makes one.

    Args:
        source: what to learn from.
        task: one of `LABELLED_TASKS`.
        valid: what to measure on: a file, or a named set or folder, whose validation part it is then.
        columns: as in `read_labelled`.
        label_file: a label a line, in the order of their ids; numbers as labels are lines of it, from 0 or from 1.
        valid_fraction, seed: as in `hold_out`.
        note: told what was decided.

    Raises:
        InputError: as `read_labelled` and `hold_out`; nothing of that name; a set of another task; two files that
            could be one part; a label that the label file does not have.
        StorageError: the machine refuses to read.
    """
    if task not in LABELLED_TASKS:
        raise InputError(f"no rows for task {task!r}", expected=f"one of {', '.join(LABELLED_TASKS)}")
    parts = _find(source, task)
    read = _Reader(task, columns, note)
    train = read(parts.train, parts)
    label_file = label_file or parts.labels
    names = _label_names(label_file) if label_file else ()
    first = _first_number(train, names) if names else None
    held = None
    if valid is not None:
        other = _find(valid, task)
        held = read(other.valid or other.train, other)
    elif parts.valid is not None:
        held = read(parts.valid, parts)
    train = _named(train, names, first, label_file)
    if held is not None:
        held = _named(held, names, first, label_file)
    else:
        train, held = hold_out(train, valid_fraction, seed)
        kept = "rows that read the same" if task != QUESTIONS else "questions on one context"
        note(
            f"held out {len(held):,} of {len(train) + len(held):,} rows, seed {seed}; {kept} are kept together"
        )
    language = (parts.language or _language(source)) if task in WRITTEN_TASKS else ""
    labels = names or tuple(sorted({name for row in train for name in row.classes}, key=_in_order))
    several = any(isinstance(row, TextRow) and len(row.labels or ()) != 1 for row in train)
    return LabelledSet(source, task, train, held, labels, several, language)


def _language(source: str) -> str:
    """That of the targets, where the second of two files is called after one."""
    pair = two_files(source)
    return language_of(pair[1]) if pair else ""


def plain_texts(name: str) -> tuple[list[Document], list[Document], tuple[str, ...]]:
    """What a named set has to read without its labels: its training texts, its validation texts, and their files.

    Each text comes once, and what stands in train is not held out. Rows that `load_labelled` holds out are so here.
    What was written for a text is a text too.

    Raises:
        InputError: as `load_labelled`.
    """
    task = SETS[name].task
    parts, found = _named_parts(name, task), load_labelled(name, task, note=_quiet)
    seen: set[str] = set()

    def once(rows: Sequence[LabelledRow]) -> Iterator[Document]:
        for row in rows:
            written = row.targets or () if isinstance(row, WrittenRow) else ()
            for text in (*row.texts, *written):
                if text not in seen and not text.isspace():
                    seen.add(text)
                    yield Document(text, row.file, row.line)

    sources = (parts.train, *([parts.valid] if parts.valid else []))
    files = tuple(file for source in sources for file in two_files(source) or (source,))
    return list(once(found.train)), list(once(found.valid)), files


def labelled_catalogue() -> list[dict[str, str | bool]]:
    """The named sets: name, task, language, `here` (on this machine) and where."""
    found: list[dict[str, str | bool]] = []
    for name, recipe in SETS.items():
        folder = _folder(name)
        where = str(folder or "not here: set MELETE_DATA")
        found.append(
            {
                "name": name,
                "task": recipe.task,
                "language": recipe.language,
                "here": folder is not None,
                "where": where,
            }
        )
    return found


@dataclass(frozen=True)
class _Parts:
    """Where the parts of a source are, and how they are read."""

    train: str
    valid: str | None = None
    split: str = ""
    labels: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)
    language: str = ""


def _find(source: str, task: str) -> _Parts:
    if source in SETS:
        return _named_parts(source, task)
    if task in WRITTEN_TASKS and two_files(source) is not None:
        return _Parts(source)
    if source != STDIN and not os.path.exists(source):
        raise _unknown(source)
    if os.path.isdir(source):
        folder = Path(source)
        train = _part(folder, _TRAIN)
        if train is not None:
            valid = _part(folder, _VALID)
            return _Parts(str(train), str(valid) if valid else None)
    return _Parts(source)


def _named_parts(name: str, task: str) -> _Parts:
    recipe, folder = SETS[name], _folder(name)
    written = task == TEXT_TO_TEXT and recipe.task in WRITTEN_TASKS
    if recipe.task != task and not written:
        raise InputError(f"this set is for {recipe.task}", where=name, expected=f"a set for {task}")
    if folder is None:
        looked = " and ".join(map(str, data_roots()))
        do = "set MELETE_DATA to the folder that holds it"
        raise InputError(f"this set is not on this machine (looked in {looked})", where=name, do=do)

    def part(file: str, pattern: re.Pattern[str]) -> str | None:
        if not file:
            found = _part(folder, pattern)
            return str(found) if found else None
        if "," in file:
            return ",".join(part(one, pattern) or "" for one in file.split(","))
        here = next((path for path in _files(folder) if _PACKED.sub("", path.name) == file), None)
        if here is None:
            expected = f"{file}, or it with .gz or .xz"
            raise InputError(f"the folder of {name} is not complete", where=str(folder), expected=expected)
        return str(here)

    train = part(recipe.train, _TRAIN)
    if train is None:
        raise InputError(f"the folder of {name} has no training part", where=str(folder))
    labels = part(recipe.labels, _TRAIN) if recipe.labels else None
    valid = None if recipe.valid == "-" else part(recipe.valid, _VALID)
    return _Parts(train, valid, recipe.split, labels or "", recipe.columns, recipe.language)


def _folder(name: str) -> Path | None:
    inner = name.partition(":")[0]
    return next((root / inner for root in data_roots() if (root / inner).is_dir()), None)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file() and not _PROSE.search(path.name))


def _part(folder: Path, pattern: re.Pattern[str]) -> Path | None:
    """The one file of a folder that is called after a part."""
    found = [path for path in _files(folder) if pattern.search(path.name) and not _TEST.search(path.name)]
    if len(found) > 1:
        what = f"{len(found)} files could be one part: {', '.join(path.name for path in found)}"
        raise InputError(what, where=str(folder), do="name the files themselves: --data FILE --valid FILE")
    return found[0] if found else None


def _quiet(note: str) -> None:
    """Named sets need no word on how they are read."""


def _unknown(name: str) -> InputError:
    if os.sep in name or "." in name:
        return missing(name)
    near = difflib.get_close_matches(name, [*SETS, *os.listdir()], 1)
    do = f"did you mean {near[0]}?" if near else "`melete data list` shows the named sets"
    return InputError("no such file, folder or named set", where=name, do=do)


@dataclass(frozen=True)
class _Reader:
    """Reads all rows of a part."""

    task: str
    columns: Mapping[str, str] | None
    note: Callable[[str], None]
    known: KnownColumns = field(default_factory=dict)

    def __call__(self, source: str, parts: _Parts) -> list[LabelledRow]:
        split = re.compile(parts.split) if parts.split else None
        rows: list[LabelledRow] = []
        columns = {**parts.columns, **(self.columns or {})}
        reader = read_labelled(
            source, self.task, columns=columns, split=split, known=self.known, note=self.note
        )
        with Progress("reading", "rows") as progress:
            for row in reader:
                rows.append(row)
                progress.advance(1)
        return rows


# -- names of labels --


def _label_names(file: str) -> tuple[str, ...]:
    """The labels of a label file."""
    names = [line.strip() for _, line in read_lines(file, Reading()) if line.strip()]
    if len(set(names)) < len(names) or not names:
        twice = next((name for name in names if names.count(name) > 1), None)
        what = "names no labels" if twice is None else f"names the label {twice!r} twice"
        raise InputError(what, where=file, expected="a label a line")
    return tuple(names)


def _first_number(rows: Sequence[LabelledRow], names: Sequence[str]) -> int | None:
    """What the first label is called where labels are numbers, 0 or 1; None where they are names."""
    found = {name for row in rows for name in row.classes}
    if found <= set(names) or not all(name.isdecimal() for name in found):
        return None
    return 0 if "0" in found else 1


def _named(
    rows: list[LabelledRow], names: Sequence[str], first: int | None, file: str | None
) -> list[LabelledRow]:
    """The rows with the names of their labels, all of which the label file has."""
    if not names:
        return rows
    known = set(names)

    def name(row: LabelledRow, label: str) -> str:
        if first is not None and label.isdecimal() and 0 <= int(label) - first < len(names):
            return names[int(label) - first]
        if label not in known or first is not None:
            counted = f"a line of {file} ({len(names)} labels" + (
                f", from {first})" if first is not None else ")"
            )
            raise InputError(f"label {label!r}", where=row.where, expected=counted)
        return label

    def renamed() -> Iterator[LabelledRow]:
        for row in rows:
            own = tuple(name(row, label) for label in row.classes)
            if isinstance(row, TextRow):
                yield replace(row, labels=own)
            elif isinstance(row, TagRow):
                yield replace(row, tags=own)
            else:
                yield row

    return list(renamed())


def _in_order(name: str) -> tuple[int, float, str]:
    """Numbers by value, then names; O, the tag of what is nothing, first."""
    if name == "O":
        return (0, 0.0, "")
    try:
        return (1, float(name), "")
    except ValueError:
        return (2, 0.0, name)
