"""`melete data`, as a person types it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from melete.cli import main
from melete.data.corpus import Corpus
from melete.data.inspection import inspect_documents
from melete.data.readers import Document
from melete.data.tokenizers import Tokenizer

TEXT = "".join(f"Line {i} says something of 文 and more.\n" for i in range(300))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a text and a tokenizer, and nothing of this machine's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MELETE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MELETE_DATA", raising=False)
    Path("my.txt").write_text(TEXT, encoding="utf-8")
    Tokenizer.train([TEXT], "char", 100).save(Path("tokenizer"))
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    capsys.readouterr()
    try:
        main(["data", *words])
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


def test_list_shows_what_is_here(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    Path("sets/tang_poems").mkdir(parents=True)
    Path("sets/tang_poems/train.jsonl").write_text("{}")
    monkeypatch.setenv("MELETE_DATA", "sets")
    code, out, err = run(capsys, "list", "--json")
    sets = {entry["name"]: entry for entry in json.loads(out)["sets"]}
    assert code == 0
    assert sets["tang_poems"]["here"] is True
    assert sets["tang_poems"]["where"] == "sets/tang_poems"
    assert sets["wikitext-2"]["where"] == "on the Hub: Salesforce/wikitext"
    assert sets["dialogsum"]["where"] == "not here: set MELETE_DATA"
    assert err == "next: melete data inspect python-stdlib\n"
    assert "python-stdlib" in run(capsys, "list")[1]


def test_inspect_counts(capsys: pytest.CaptureFixture[str]) -> None:
    Path("two.jsonl").write_text('{"id": 1, "text": "one two"}\n' * 2, encoding="utf-8")
    code, out, err = run(capsys, "inspect", "my.txt", "two.jsonl", "--json")
    report = json.loads(out)["parts"]["all"]
    assert code == 0
    assert report["documents"] == 3
    assert report["bytes"] == len(TEXT.encode()) + 14
    assert report["characters"] == len(TEXT) + 14
    assert report["lines"] == 302
    assert report["words"] == len(TEXT.split()) + 300 + 4
    assert report["duplicates"] == 1
    assert report["longest"] == {"bytes": len(TEXT.encode()), "file": "my.txt", "line": 1}
    assert report["examples"][1] == "one two"
    assert 0.02 < report["cjk_share"] < 0.05
    assert "two.jsonl: the text is column 'text'" in err
    assert err.endswith("next: melete pretrain qwen3 --data my.txt --data two.jsonl --minutes 10\n")
    assert "duplicates" in run(capsys, "inspect", "my.txt")[1]


def test_inspect_goes_on_behind_bytes_that_are_not_text(capsys: pytest.CaptureFixture[str]) -> None:
    Path("bad.txt").write_bytes(b"good\n" + b"caf\xe9\n" * 7 + b"nul\0\n" + b"end\n" * 30)
    code, out, err = run(capsys, "inspect", "bad.txt", "--json")
    report = json.loads(out)["parts"]["all"]
    assert (code, report["bad_bytes"], len(report["problems"])) == (0, 8, 5)
    assert report["problems"][0] == "bad.txt:2: not valid UTF-8 (byte 0xE9, number 4 in its line)"
    assert "not text in 8 places" in err
    assert "... and 3 more places that are not text" in run(capsys, "inspect", "bad.txt")[1]


def test_inspect_shows_both_parts_of_a_named_set(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "inspect", "python-stdlib", "--json")
    parts = json.loads(out)["parts"]
    assert code == 0
    assert parts["train"]["documents"] > 10 * parts["valid"]["documents"] > 0
    assert "SHA-256" in err


def test_words_are_those_of_split_wherever_the_slices_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("melete.data.inspection._SLICE", 3)
    for text in ("a", " a", "a b", "ab cd ", "abc def", "ab\u3000文\n\n x", "   ", "abcdefg hij\tk"):
        report = inspect_documents(lambda _, text=text: [Document(text, "a.txt", 1)])
        assert report.words == len(text.split()) + text.count("\n"), text


def test_prepare_writes_both_parts(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("prepare", "my.txt", "--tokenizer", "tokenizer", "--out", "corpus", "--json")
    code, out, err = run(capsys, *words)
    figures = json.loads(out)
    assert code == 0
    train, valid = Corpus.load("corpus/train"), Corpus.load("corpus/valid")
    assert (
        figures["train"]["tokens"]
        == len(train)
        == train.num_bytes // 1 - 2 * TEXT.count("文") * 285 // 300 + 2
    )
    assert train.num_bytes + valid.num_bytes == len(TEXT.encode())
    assert train.num_words + valid.num_words == len(TEXT.split()) + 300
    assert "held out 1 of 1 document" in err
    assert "next: melete pretrain qwen3 --data my.txt --tokenizer tokenizer --minutes 10" in err
    assert run(capsys, *words)[1] == out


def test_prepare_takes_validation_text_and_fills_the_cache(capsys: pytest.CaptureFixture[str]) -> None:
    Path("held.txt").write_text("Line 7 says more.\n", encoding="utf-8")
    code, out, _ = run(
        capsys, "prepare", "my.txt", "--tokenizer", "tokenizer", "--valid", "held.txt", "--json"
    )
    figures = json.loads(out)
    assert code == 0
    assert figures["train"]["bytes"] == len(TEXT.encode())
    assert figures["valid"]["bytes"] == 18
    assert all(str(Path("cache").resolve()) in figures[part]["folder"] for part in ("train", "valid"))


BAD = {
    "missing.txt": (None, "missing.txt: no such file or folder"),
    "empty.txt": (b"", "empty.txt: holds no text"),
    "latin.txt": (b"one\ncaf\xe9\n", "latin.txt:2: not valid UTF-8"),
    "nul.txt": (b"one\n" * 99 + b"\0", "nul.txt:100: NUL byte"),
    "wide.txt": ("one".encode("utf-16"), "wide.txt: the text is UTF-16"),
    "broken.jsonl": (b'{"text": "a"}\n{"text"\n', "broken.jsonl:2: broken JSON"),
    "column.jsonl": (b'{"words": "a", "more": "b"}\n', "column.jsonl:1: which column is the text?"),
    "ragged.csv": (b"a,text\n1\n", "ragged.csv:2: 1 field in this row"),
    "long.txt": (b"one\n" + b"x" * 2001, "long.txt:2: line too long"),
    "cut.gz": (b"\x1f\x8b\x08\x00\x00", "cut.gz: damaged compressed data"),
    "wikitext3": (None, "wikitext3: no such file, folder or named set"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(capsys: pytest.CaptureFixture[str], name: str) -> None:
    content, message = BAD[name]
    if content is not None:
        Path(name).write_bytes(content)
    options = ("--tokenizer", "tokenizer", "--out", "corpus", "--max-line-bytes", "2000")
    code, out, err = run(capsys, "prepare", name, *options)
    assert (code, out) == (2, "")
    assert err.startswith(f"melete: error: {message}")
    assert err.count("\n") == 1
    assert not Path("corpus").exists()


def test_a_wrong_column_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.jsonl").write_text('{"body": "a", "title": "b"}\n')
    code, _, err = run(capsys, "inspect", "a.jsonl", "--text-column", "bodi")
    assert (code, err) == (
        2,
        "melete: error: a.jsonl:1: no column 'bodi'; expected one of body, title; did you mean 'body'?\n",
    )


def test_an_unwritable_folder_is_the_machines_fault(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "corpus")

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    code, _, err = run(capsys, "prepare", "my.txt", "--tokenizer", "tokenizer", "--out", "corpus")
    assert code == 1
    assert err.splitlines()[-1].startswith("melete: error: corpus")
    assert not Path("corpus").exists()


def test_standard_input_is_inspected(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with open("my.txt", encoding="utf-8") as text:
        monkeypatch.setattr(sys, "stdin", text)
        code, out, err = run(capsys, "inspect", "-", "--json")
    assert (code, err) == (0, "next: melete pretrain qwen3 --data FILE --minutes 10\n")
    assert json.loads(out)["parts"]["all"]["lines"] == 300
