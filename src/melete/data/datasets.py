"""What may stand after `--data`: the named sets, and a person's own files."""

from __future__ import annotations

import difflib
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from melete.console import say
from melete.data.hub import download
from melete.data.readers import Document, file_format, list_files, read_documents, read_rows
from melete.data.splits import Documents, split_documents
from melete.data.stdlib import python_stdlib
from melete.data.streams import MAX_LINE_BYTES, STDIN, missing, spool
from melete.data.writing import nearest
from melete.errors import InputError, StorageError

if TYPE_CHECKING:
    from melete.data.corpus import Corpus
    from melete.data.tokenizers import Tokenizer

STDLIB = "python-stdlib"
_STDLIB_VALID_FRACTION = 0.05


@dataclass(frozen=True)
class NamedSet:
    """Text to train on, and to validate on where the set comes with it.

    Attributes:
        name: as it was asked for.
        train: documents.
        valid: documents, or None: hold some out with `split_documents`.
        notes: what was decided, to be printed.
        special_tokens: strings that are one token each in every tokenizer of this set.
    """

    name: str
    train: Documents
    valid: Documents | None = None
    notes: tuple[str, ...] = ()
    special_tokens: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Hub:
    """Where a set is on the Hub, and which of its files make which of ours."""

    repo_id: str
    revision: str
    files: dict[str, tuple[str, ...]]
    line: Callable[[str], str]


@dataclass(frozen=True)
class _Recipe:
    """How a named set is stored (files without .gz or .xz), read and described."""

    task: str
    language: str
    size: str
    train: str
    valid: str | None
    read: Callable[[str, bool], Iterator[Document]]
    special_tokens: tuple[str, ...] = ()
    hub: _Hub | None = None
    opens: re.Pattern[str] | None = None  # what opens a document, in a set that is read as one


def _whole(path: str, held_out: bool) -> Iterator[Document]:
    return read_documents([path], note=_quiet)


def _wikitext(path: str, held_out: bool) -> Iterator[Document]:
    """One document a split, as the literature reads it.

    Every line of the set ends in a space; it is dropped, for no later token should have to tell it. Nothing is lost:
    each line end had one. The space that opens a line stays, so that its first word looks like any other.
    """
    for document in read_documents([path], note=_quiet):
        yield Document(document.text.replace(" \n", "\n"), document.file, document.line)


def _shakespeare(path: str, held_out: bool) -> Iterator[Document]:
    """The usual split: the first 90 % of the characters train, the rest validates."""
    text = "".join(document.text for document in read_documents([path], note=_quiet))
    at = int(len(text) * 0.9)
    yield Document(text[at:] if held_out else text[:at], path, text.count("\n", 0, at) + 1 if held_out else 1)


def _poems(path: str, held_out: bool) -> Iterator[Document]:
    """A poem is its title and its lines, one below the other."""
    for row in read_rows(path):
        title, lines = row.values.get("title"), row.values.get("paragraphs")
        if not isinstance(title, str) or not isinstance(lines, list):
            raise InputError(
                "not a poem", where=f"{row.file}:{row.line}", expected="a title and a list of paragraphs"
            )
        if lines:
            yield Document("\n".join([title, *map(str, lines)]), row.file, row.line)


def _lines(path: str, held_out: bool) -> Iterator[Document]:
    """One document a line."""
    for document in read_documents([path], note=_quiet):
        for number, line in enumerate(document.text.split("\n"), document.line):
            if line and not line.isspace():
                yield Document(line, document.file, number)


def _column(name: str) -> Callable[[str, bool], Iterator[Document]]:
    return lambda path, held_out: read_documents([path], text_column=name, note=_quiet)


def _quiet(note: str) -> None:
    """Named sets need no word on how they are read."""


def _wikitext_line(row: str) -> str:
    row = row.strip(" \n")
    return f" {row} \n" if row else " \n"


NAMED: dict[str, _Recipe] = {
    "wikitext-2": _Recipe(
        "language modelling, words", "en", "10.8 MB", "train.txt", "valid.txt", _wikitext,
        special_tokens=("<unk>",),
        hub=_Hub(
            "Salesforce/wikitext", "main",
            {
                "train.txt": ("wikitext-2-v1/train-00000-of-00001.parquet",),
                "valid.txt": ("wikitext-2-v1/validation-00000-of-00001.parquet",),
            },
            _wikitext_line,
        ),
        opens=re.compile(r"^ = [^=\n]+ =$", re.MULTILINE),
    ),
    "tinyshakespeare": _Recipe(
        "language modelling, characters", "en", "1.1 MB", "input.txt", "input.txt", _shakespeare,
        hub=_Hub(
            "karpathy/tiny_shakespeare", "refs/convert/parquet",
            {"input.txt": tuple(f"default/{part}/0000.parquet" for part in ("train", "validation", "test"))},
            str,
        ),
    ),
    "tang_poems": _Recipe(
        "language modelling, classical poems", "zh", "3.8 MB", "train.jsonl", "valid.jsonl", _poems
    ),
    "cluecorpus_small_sample": _Recipe(
        "language modelling, prose", "zh", "1.9 MB", "CLUECorpusSmall_sampled.txt", None, _lines
    ),
    "chnsenticorp": _Recipe("reviews as plain text", "zh", "3.1 MB", "train.tsv", "dev.tsv", _column("text_a")),
    "dialogsum": _Recipe(
        "dialogues as plain text", "en", "9.8 MB", "dialogsum.train.jsonl", "dialogsum.dev.jsonl", _column("dialogue")
    ),
}  # fmt: skip


def resolve(
    source: str | Sequence[str],
    *,
    text_column: str | None = None,
    max_line_bytes: int = MAX_LINE_BYTES,
    whole: bool = True,
) -> NamedSet:
    """A named set, or the files, folders and standard input ("-") of a person.

    A named set is looked for in `$MELETE_DATA/<name>`, then in the cache, then on the Hub; a file of the same name
    is reached as `./NAME`. Of a labelled set the texts are read, without what was said of them. Standard input and
    pipes are kept in a temporary file for as long as the set lives, because text is read more than once.

    Args:
        source: a name or a path, or several: they follow each other, and only if each has validation text of its own
            has the whole.
        text_column, max_line_bytes: as in `read_documents`; named sets need neither.
        whole: False cuts a named set that the literature reads as one text (WikiText) into its documents.

    Raises:
        InputError: neither a named set nor a path that is there.
        StorageError: a named set that is not here cannot be fetched; no room for standard input.
    """
    sources = [source] if isinstance(source, str) else list(source)
    for name in sources:
        if name not in (*_names(), STDIN) and not os.path.exists(name):
            raise _unknown(name)
    parts = [_resolve(name, text_column, max_line_bytes, whole) for name in sources]
    if len(parts) == 1:
        return parts[0]
    valid = [part.valid for part in parts if part.valid is not None]
    return NamedSet(
        " ".join(sources),
        _chain([part.train for part in parts]),
        _chain(valid) if len(valid) == len(parts) else None,
        tuple(note for part in parts for note in part.notes),
        tuple(dict.fromkeys(token for part in parts for token in part.special_tokens)),
    )


def _chain(parts: list[Documents]) -> Documents:
    files = tuple(name for part in parts for name in part.files)
    return Documents(
        lambda: chain.from_iterable(parts),
        files,
        " + ".join(f"{len(part.files)} {part.cut}" for part in parts),
        parts,
    )


def _resolve(name: str, text_column: str | None, max_line_bytes: int, whole: bool) -> NamedSet:
    if name == STDLIB:
        return _stdlib()
    if name in NAMED:
        return _named(name, whole)
    if name in _names():
        return _labelled(name)
    pipe = None
    if name == STDIN or not (os.path.isfile(name) or os.path.isdir(name)):
        pipe = spool(name, ".jsonl" if text_column else ".txt")
    path = pipe.name if pipe else name
    files = tuple(list_files(path, _quiet))
    cut = f"text_column={text_column} " + " ".join(file_format(file) for file in files)
    read = _noting_once(
        partial(read_documents, [path], text_column=text_column, max_line_bytes=max_line_bytes)
    )
    return NamedSet(name, Documents(read, files, cut, pipe))


def _noting_once(read: Callable[..., Iterator[Document]]) -> Callable[[], Iterator[Document]]:
    """Readings of the same files that together say each note once."""
    told: set[str] = set()

    def note(text: str) -> None:
        if text not in told:
            told.add(text)
            say(text)

    return lambda: read(note=note)


def _unknown(name: str) -> InputError:
    if os.sep in name or "." in name:
        return missing(name)
    near = difflib.get_close_matches(name, [*_names(), *os.listdir()], n=1)
    do = f"did you mean {near[0]}?" if near else "`melete data list` shows the named sets"
    return InputError("no such file, folder or named set", where=name, do=do)


def _stdlib() -> NamedSet:
    documents, note = python_stdlib()
    split = split_documents(documents, _STDLIB_VALID_FRACTION, seed=0)
    return NamedSet(STDLIB, split.train, split.valid, (note, split.note))


def _names() -> list[str]:
    """The named sets, those with labels last."""
    from melete.data.labelled.sets import SETS  # which looks for its files where this module does

    return [*NAMED, STDLIB, *(name for name in SETS if name not in NAMED)]


def _labelled(name: str) -> NamedSet:
    """The texts of a labelled set."""
    from melete.data.labelled.sets import plain_texts

    train, valid, files = plain_texts(name)
    note = f"{name}: {len(train):,} texts to learn from and {len(valid):,} held out, without their labels"
    return NamedSet(
        name,
        Documents(partial(iter, train), files, f"{name} train"),
        Documents(partial(iter, valid), files, f"{name} valid"),
        (note,),
    )


def _named(name: str, whole: bool) -> NamedSet:
    recipe = NAMED[name]
    folder = find(name) or _fetch(name)

    def documents(file: str, held_out: bool) -> Documents:
        path = _file_in(folder, file)
        if path is None:
            expected = f"{file}, or it with .gz or .xz"
            raise InputError(f"the folder of {name} is not complete", where=str(folder), expected=expected)
        cut = f"{name} held_out={held_out}"
        if whole or recipe.opens is None:
            return Documents(lambda: recipe.read(str(path), held_out), (str(path),), cut)
        opens = recipe.opens
        return Documents(
            lambda: _apart(recipe.read(str(path), held_out), opens), (str(path),), f"{cut} apart"
        )

    train = documents(recipe.train, False)
    valid = documents(recipe.valid, True) if recipe.valid else None
    return NamedSet(name, train, valid, (f"{name}: {folder}",), recipe.special_tokens)


def _apart(documents: Iterable[Document], opens: re.Pattern[str]) -> Iterator[Document]:
    """Each document cut where another one opens within it."""
    for whole in documents:
        line = whole.line
        cuts = [0, *(match.start() for match in opens.finditer(whole.text)), len(whole.text)]
        for start, stop in pairwise(cuts):
            text = whole.text[start:stop]
            if text and not text.isspace():
                yield Document(text, whole.file, line)
            line += text.count("\n")


def cache_folder() -> Path:
    """Where fetched sets, tokenizers and tokens are kept: `$MELETE_CACHE`, else `~/.cache/melete`.

    Raises:
        StorageError: there can be no such folder, for a file stands in its place or above it.
    """
    folder = Path(os.environ.get("MELETE_CACHE") or Path.home() / ".cache" / "melete")
    there = nearest(folder)
    if not there.is_dir():
        do = "set MELETE_CACHE to a folder for the cache"
        raise StorageError(f"the cache cannot be below {there}, which is a file", where=str(folder), do=do)
    return folder


def data_roots() -> list[Path]:
    """Where named sets are looked for, in this order: `$MELETE_DATA` if it is set, and the cache."""
    own = os.environ.get("MELETE_DATA")
    return [*([Path(own)] if own else []), cache_folder()]


def tokenised(documents: Documents, tokenizer: Tokenizer, workers: int | None = None) -> Corpus:
    """The documents as token ids, in the cache: the same text and tokenizer are found again.

    Raises:
        InputError, StorageError: as `melete.data.corpus.prepare`.
    """
    from melete.data.corpus import corpus_key, prepare

    source_hash = documents.source_hash
    folder = cache_folder() / "corpora" / corpus_key(source_hash, tokenizer)
    return prepare(documents, tokenizer, folder, source_hash=source_hash, workers=workers)


def find(name: str) -> Path | None:
    """The folder of a named set on this machine, or None."""
    for root in data_roots():
        if _file_in(root / name, NAMED[name].train):
            return root / name
    return None


def catalogue() -> list[dict[str, str | bool]]:
    """The named sets: name, task, language, size, `here` (on this machine) and where."""
    found: list[dict[str, str | bool]] = [
        {
            "name": STDLIB,
            "task": "language modelling, source text",
            "language": "Python",
            "size": "11 MB",
            "here": True,
            "where": "in every Python",
        }
    ]
    for name, recipe in NAMED.items():
        folder = find(name)
        elsewhere = f"on the Hub: {recipe.hub.repo_id}" if recipe.hub else "not here: set MELETE_DATA"
        found.append(
            {
                "name": name,
                "task": recipe.task,
                "language": recipe.language,
                "size": recipe.size,
                "here": folder is not None,
                "where": str(folder or elsewhere),
            }
        )
    return found


def _file_in(folder: Path, name: str) -> Path | None:
    return next((path for end in ("", ".gz", ".xz") if (path := folder / (name + end)).is_file()), None)


def _fetch(name: str) -> Path:
    """Download a set and write it to the cache in the form of `$MELETE_DATA`, whole or not at all."""
    hub = NAMED[name].hub
    target = cache_folder() / name
    if hub is None:
        looked = f"{os.environ.get('MELETE_DATA') or '$MELETE_DATA (not set)'} and {cache_folder()}"
        do = "set MELETE_DATA to the folder that holds it; it is not on the Hub"
        raise InputError(f"this set is not on this machine (looked in {looked})", where=name, do=do)
    say(f"{name}: not on this machine; fetching {hub.repo_id} from the Hub")
    wanted = [path for parts in hub.files.values() for path in parts]
    source = download(hub.repo_id, kind="dataset", patterns=wanted, revision=hub.revision)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{name}-") as temporary:
            unfinished = Path(temporary) / name
            unfinished.mkdir()
            for file, parts in hub.files.items():
                _write(
                    unfinished / file, (hub.line(text) for part in parts for text in _texts(source / part))
                )
            unfinished.rename(target)
    except OSError as error:
        raise StorageError(f"cannot be kept ({error.strerror})", where=str(target)) from error
    return target


def _texts(path: Path) -> Iterator[str]:
    for row in read_rows(str(path)):
        if not isinstance(row.values.get("text"), str):
            raise InputError(
                "no text in this row", where=f"{row.file}:{row.line}", expected="a column 'text'"
            )
        yield row.values["text"]


def _write(path: Path, texts: Iterable[str]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        stream.writelines(texts)
