"""Rows of texts and what was written for them: which columns they stand in, and what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from melete.data.datasets import data_roots, resolve
from melete.data.labelled.files import read_labelled
from melete.data.labelled.rows import WrittenRow
from melete.data.labelled.sets import load_labelled
from melete.errors import InputError

FEW = [("a dog", "ein Hund"), ("a house", "ein Haus"), ("two trees", "zwei Bäume")]


def read(source: Path | str, task: str = "translation", **options: Any) -> list[Any]:
    return list(read_labelled(str(source), task, note=lambda text: None, **options))


def pairs(rows: list[WrittenRow]) -> list[tuple[str, str]]:
    return [(row.source, (row.targets or ("",))[0]) for row in rows]


@pytest.mark.parametrize(
    "names",
    [
        ("en", "de"),
        ("source", "target"),
        ("document", "summary"),
        ("dialogue", "summary"),
        ("abst", "title"),
        ("text", "label"),
        ("input", "output"),
    ],
)
def test_columns_are_found_by_their_names(names: tuple[str, str], tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"id": str(i), names[1]: target, names[0]: source} for i, (source, target) in enumerate(FEW)]
    path.write_text("\n".join(map(json.dumps, rows)))
    if names == ("en", "de"):  # two languages: the first is the source
        rows = [{names[0]: row[names[0]], names[1]: row[names[1]]} for row in rows]
        path.write_text("\n".join(map(json.dumps, rows)))
    assert pairs(read(path)) == FEW
    assert [row.source for row in read(path, labelled=False)] == [source for source, _ in FEW]


def test_texts_may_stand_in_an_object_or_a_table_without_a_header(tmp_path: Path) -> None:
    inner = [{"translation": {"en": source, "de": target}} for source, target in FEW]
    (tmp_path / "hub.jsonl").write_text("\n".join(map(json.dumps, inner)))
    (tmp_path / "bare.tsv").write_text("".join(f"{source}\t{target}\n" for source, target in FEW))
    assert pairs(read(tmp_path / "hub.jsonl")) == FEW
    assert pairs(read(tmp_path / "bare.tsv")) == FEW
    back = read(tmp_path / "hub.jsonl", columns={"source": "de", "target": "en"})
    assert pairs(back) == [(target, source) for source, target in FEW]


def test_alternatives_are_kept(tmp_path: Path) -> None:
    row = {"dialogue": "A: hi", "summary1": "A greets.", "topic1": "hi", "summary2": "A says hi."}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    assert read(tmp_path / "rows.jsonl", "summarization")[0].targets == ("A greets.", "A says hi.")
    (tmp_path / "list.jsonl").write_text(json.dumps({"source": "hi", "target": ["Hallo", "Tag"]}))
    assert read(tmp_path / "list.jsonl")[0].targets == ("Hallo", "Tag")


@pytest.mark.parametrize(
    ("name", "task", "sizes", "language", "begins"),
    [
        ("multi30k:de-en", "translation", (29000, 1014), "en", ("Zwei junge weiße", "Two young, White")),
        ("tatoeba_eng_cmn", "translation", (21156, 1179), "zh", ("Hi.", "嗨。")),
        ("dialogsum", "summarization", (12460, 500), "en", ("#Person1#: Hi, Mr. Smith.", "Mr. Smith")),
        ("csl_title:titles", "summarization", (900, 100), "zh", ("采用修正的", "一种基于")),
    ],
)
def test_named_sets_have_their_direction_and_their_parts(
    name: str, task: str, sizes: tuple[int, int], language: str, begins: tuple[str, str]
) -> None:
    if not any((root / name.partition(":")[0]).is_dir() for root in data_roots()):
        pytest.skip(f"{name} is not on this machine")
    found = load_labelled(name, task, note=lambda text: None)
    assert (len(found.train), len(found.valid)) == sizes
    assert found.language == language
    ((source, target),) = pairs(found.train[:1])
    assert (source.startswith(begins[0]), target.startswith(begins[1])) == (True, True)


def test_both_sides_of_a_named_set_are_texts_to_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MELETE_DATA", str(tmp_path))
    folder = tmp_path / "multi30k"
    folder.mkdir()
    for part in ("train", "val"):
        (folder / f"{part}.en").write_text(f"a dog of {part}\na house\n", encoding="utf-8")
        (folder / f"{part}.de").write_text(f"ein Hund von {part}\nein Haus\n", encoding="utf-8")
    found = resolve("multi30k")
    assert [document.text for document in found.train] == ["a dog of train", "ein Hund von train", *FEW[1]]
    assert found.valid is not None
    assert [document.text for document in found.valid] == ["a dog of val", "ein Hund von val"]
    assert found.train.source_hash


def two(folder: Path, first: bytes, second: bytes) -> str:
    (folder / "t.en").write_bytes(first)
    (folder / "t.de").write_bytes(second)
    return f"{folder / 't.en'},{folder / 't.de'}"


def test_two_files_are_read_line_by_line(tmp_path: Path) -> None:
    source = two(tmp_path, b"a dog\n\na house\n", b"ein Hund\n\nein Haus")
    assert pairs(read(source)) == FEW[:2]
    assert load_labelled(source, "translation", valid=source, note=lambda text: None).language == "de"


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (b"a\nb\nc\n", b"x\ny\n", r"t\.de:2: .*t\.en goes on where this file ends; expected as many lines"),
        (b"a\n", b"x\ny\n", r"t\.en:1: .*t\.de goes on"),
        (b"a\nb\n", b"x\n \n", r"t\.de:2: an empty line; expected a text, as in .*t\.en:2"),
        (b"a\nb\n", b"x\n\xff\xfe\n", r"t\.de:2: "),
        (b"", b"", "holds no rows"),
    ],
    ids=["short-target", "short-source", "empty", "encoding", "nothing"],
)
def test_what_is_wrong_with_two_files(first: bytes, second: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        read(two(tmp_path, first, second))


def test_a_file_of_two_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.en").write_text("a\n")
    with pytest.raises(InputError, match=r"no.de: no such file"):
        load_labelled(f"{tmp_path / 't.en'},{tmp_path / 'no.de'}", "translation")


def test_an_empty_answer_is_named(tmp_path: Path) -> None:
    (tmp_path / "rows.tsv").write_text("source\ttarget\na\tb\nc\t\n")
    with pytest.raises(InputError, match=r"rows\.tsv:3: column 'target' is empty"):
        read(tmp_path / "rows.tsv")
