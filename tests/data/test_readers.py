"""Every format is read as it should be, and every bad input becomes one line that says where."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import random
import subprocess
import sys
from pathlib import Path

import pytest

from melete.data.readers import Document, file_format, list_files, read_documents, read_rows
from melete.errors import InputError, MeleteError, StorageError


def texts(*sources: Path | str, **options: object) -> list[str]:
    return [document.text for document in read_documents([str(source) for source in sources], **options)]  # type: ignore[arg-type]


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def fails(*sources: Path | str, **options: object) -> str:
    with pytest.raises(InputError) as caught:
        texts(*sources, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- what is read --


def test_a_text_file_is_one_document_and_kept_as_it_is(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "\ufeffOne.\r\n\r\nZwei – 三 🙂\n")
    (document,) = read_documents([str(path)])
    assert document == Document("One.\r\n\r\nZwei – 三 🙂\n", str(path), 1)


@pytest.mark.parametrize("end", ["\n\n", "\r\n\r\n", "\n"])
def test_a_large_text_is_cut_at_paragraph_ends(
    tmp_path: Path, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("melete.data.readers.WHOLE_BYTES", 3000)
    monkeypatch.setattr("melete.data.readers.PIECE_BYTES", 1000)
    monkeypatch.setattr("melete.data.streams._READ_BYTES", 700)
    text = "".join(f"第{i} paragraph,\nwith two lines.{end}" for i in range(200))
    pieces = list(read_documents([str(write(tmp_path / "a.txt", text))]))
    assert "".join(piece.text for piece in pieces) == text
    assert all(piece.text.endswith(f"with two lines.{end}") for piece in pieces) or end == "\n"
    assert all(800 < len(piece.text.encode()) <= 1000 for piece in pieces[:-1])
    for piece in pieces:
        before = text[: text.index(piece.text)]
        assert piece.line == before.count("\n") + 1


def test_a_line_longer_than_a_piece_stays_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("melete.data.readers.WHOLE_BYTES", 1000)
    monkeypatch.setattr("melete.data.readers.PIECE_BYTES", 100)
    lines = ["a" * 50 + "\n"] * 30 + ["b" * 5000 + "\n"] + ["c" * 50 + "\n"] * 3
    pieces = texts(write(tmp_path / "a.txt", "".join(lines)))
    assert "b" * 5000 + "\n" in pieces
    assert "".join(pieces) == "".join(lines)


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress], ids=["gzip", "xz"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.xz"])
def test_compression_is_known_by_content_and_not_by_name(tmp_path: Path, pack, name: str) -> None:
    path = write(tmp_path / name, pack(b'{"text": "one"}\n') + pack(b'{"text": "two"}\n'))
    assert texts(path) == ["one", "two"]


def test_jsonl_with_windows_line_ends_blank_lines_and_no_last_end(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl", '\ufeff{"id": 1, "text": "a\\r\\nb"}\r\n\r\n  \n{"id": 2, "text": "c"}'
    )
    assert list(read_documents([str(path)])) == [
        Document("a\r\nb", str(path), 1),
        Document("c", str(path), 4),
    ]


def test_csv_keeps_quoted_commas_line_ends_and_quotes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'id,text\r\n1,"a, ""b""\nc"\r\n\r\n2,d\r\n')
    rows = list(read_rows(str(path)))
    assert [row.values for row in rows] == [{"id": "1", "text": 'a, "b"\nc'}, {"id": "2", "text": "d"}]
    assert [row.line for row in rows] == [2, 5]


def test_tsv_knows_no_quotes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", 'text\tlabel\n"so it goes\t0\n\t1\n')
    assert [row.values for row in read_rows(str(path))] == [
        {"text": '"so it goes', "label": "0"},
        {"text": "", "label": "1"},
    ]


def test_parquet_streams_its_string_column(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"id": list(range(600)), "story": [f"t{i}" for i in range(600)]}), path)
    documents = list(read_documents([str(path)]))
    assert documents[599] == Document("t599", str(path), 600)
    assert next(iter(read_rows(str(path)))).values == {"id": 0, "story": "t0"}
    assert texts(write(tmp_path / "b.parquet.gz", gzip.compress(path.read_bytes()))) == [
        d.text for d in documents
    ]
    broken = write(tmp_path / "c.parquet", path.read_bytes()[:-20])
    assert "damaged parquet" in fails(broken)
    assert "no column 'stori'; expected one of id, story; did you mean 'story'?" in fails(
        path, text_column="stori"
    )


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "pip install 'melete[parquet]'" in fails(write(tmp_path / "a.parquet", b"PAR1"))


def test_the_column_is_found_and_told(tmp_path: Path) -> None:
    told: list[str] = []
    usual = write(tmp_path / "a.jsonl", '{"title": "t", "content": "c"}\n')
    only = write(tmp_path / "b.jsonl", '{"id": 7, "story": "s"}\n')
    assert texts(usual, only, note=told.append) == ["c", "s"]
    assert told == [
        f"{usual}: the text is column 'content' (of title, content)",
        f"{only}: the text is column 'story' (of id, story)",
    ]
    assert texts(usual, text_column="title") == ["t"]


def test_a_folder_is_read_in_order_and_tells_what_it_left(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / ".git").mkdir()
    for name in ("c.txt", "b/z.txt", "a.txt", ".hidden.txt", ".git/x.txt", "notes.docx"):
        write(tmp_path / name, name)
    write(tmp_path / "empty.txt", "")
    told: list[str] = []
    assert texts(tmp_path, note=told.append) == ["a.txt", "b/z.txt", "c.txt"]
    assert told == [
        f"{tmp_path}: 2 other files skipped (1 .docx, 1 .txt)",
        f"{tmp_path}: 1 file without text skipped, the first is {tmp_path / 'empty.txt'}",
    ]


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    def give(content: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))

    give(gzip.compress(b"ein\nzwei\n"))
    assert list(read_documents(["-"])) == [Document("ein\nzwei\n", "<stdin>", 1)]
    give(b'{"t": "x"}\n')
    assert texts("-", text_column="t") == ["x"]
    give(b'{"t": "x"}\n{"t"}\n')
    assert fails("-", text_column="t").startswith("<stdin>:2: broken JSON")


def test_formats_by_name() -> None:
    names = ("a.txt", "a.md", "a", "A.JSONL.GZ", "a.ndjson", "a.csv.xz", "a.tsv", "a.parquet", "a.json")
    assert [file_format(name) for name in names] == [
        "text", "text", "text", "jsonl", "jsonl", "csv", "tsv", "parquet", "jsonl",
    ]  # fmt: skip


# -- what is refused --

BAD = {
    "empty.txt": (b"", "empty.txt: holds no text"),
    "blank.txt": (b" \n\t\n", "blank.txt: holds no text"),
    "mark.txt": (b"\xef\xbb\xbf", "mark.txt: holds no text"),
    "header.csv": (b"text\n", "header.csv: holds no text"),
    "latin.txt": (b"one\ntwo caf\xe9 here\n", "latin.txt:2: not valid UTF-8 (byte 0xE9, number 8 in its line)"),
    "cut.txt": ("三".encode()[:2], "cut.txt:1: not valid UTF-8 (byte 0xE4, number 1 in its line)"),
    "latin.jsonl": (b'{"text": "a"}\n{"text": "\xff"}\n', "latin.jsonl:2: not valid UTF-8 (byte 0xFF"),
    "nul.txt": (b"good\n\ntext\0here\n" + b"more\n" * 9, "nul.txt:3: NUL byte"),
    "nul.jsonl": (b'{"text": "a\\u0000b"}\n', "nul.jsonl:1: NUL character in column 'text'"),
    "wide.txt": ("text".encode("utf-16"), "wide.txt: the text is UTF-16; expected UTF-8; convert it: `iconv -f UTF-16"),
    "wide2.txt": ("text".encode("utf-16-le"), "wide2.txt: the text is UTF-16"),
    "wider.txt": ("text".encode("utf-32"), "wider.txt: the text is UTF-32"),
    "binary": (b"\x01\x02\x03\x96" * 99, "binary: is not text; expected text in UTF-8"),
    "bad.gz": (b"\x1f\x00 broken", "bad.gz: is called .gz and does not begin like one"),
    "a.zip": (b"PK\x03\x04....", "a.zip: is a zip archive"),
    "a.zst": (b"\x28\xb5\x2f\xfd...", "a.zst: is zstandard-compressed"),
    "cut.txt.gz": (gzip.compress(b"text " * 999)[:-9], "cut.txt.gz: damaged compressed data"),
    "cut.txt.xz": (lzma.compress(b"text " * 999)[:-9], "cut.txt.xz: damaged compressed data"),
    "broken.jsonl": (b'{"text": "a"}\n{"text": \n', "broken.jsonl:2: broken JSON"),
    "deep.jsonl": (b'{"text": "a"}\n{"text": ' + b"[" * 99999 + b"\n", "deep.jsonl:2: broken JSON"),
    "list.jsonl": (b'[\n{"text": "a"}\n]\n', "list.jsonl:1: broken JSON"),
    "half.jsonl": (b'{"text": "\\ud800"}\n', "half.jsonl:1: broken JSON"),
    "null.jsonl": (b'{"text": "a"}\n{"text": null}\n', "null.jsonl:2: column 'text' holds nothing (null); exp"),
    "number.jsonl": (b'{"text": "a"}\n{"text": 2.5}\n', "number.jsonl:2: column 'text' holds a number; expected text"),
    "gone.jsonl": (b'{"text": "a"}\n{"txt": "b"}\n', "gone.jsonl:2: no column 'text'; expected one of txt; did you"),
    "which.jsonl": (b'{"a": "x", "b": "y"}\n', "which.jsonl:1: which column is the text? Its columns of strings"),
    "none.jsonl": (b'{"a": 1}\n', "none.jsonl:1: which column is the text? Its columns are a"),
    "ragged.csv": (b"id,text\n1,a\n2\n", "ragged.csv:3: 1 field in this row; expected 2, as in the header (id, text)"),
    "ragged.tsv": (b"text\na\tb\n", "ragged.tsv:2: 2 fields in this row"),
    "twice.csv": (b"text,text\na,b\n", "twice.csv:1: column 'text' stands twice"),
    "open.csv": (b'id,text\n1,a\n2,"b\n3,c\n', "open.csv:3: broken CSV"),
    "quote.csv": (b'id,text\n1,"b"c\n', "quote.csv:2: broken CSV"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_one_line_with_file_and_line(tmp_path: Path, name: str) -> None:
    content, message = BAD[name]
    assert str(tmp_path / message) in fails(write(tmp_path / name, content))


def test_missing_files_and_wrong_columns_name_the_nearest(tmp_path: Path) -> None:
    there = write(tmp_path / "corpus.jsonl", '{"text": "a", "title": "b"}\n')
    assert f"did you mean {there}?" in fails(tmp_path / "corpas.jsonl")
    assert fails(there, text_column="titel") == (
        f"{there}:1: no column 'titel'; expected one of text, title; did you mean 'title'?"
    )


def test_all_sources_are_looked_for_before_the_first_is_read(tmp_path: Path) -> None:
    reading = read_documents([str(write(tmp_path / "a.txt", "a")), str(tmp_path / "b.txt")])
    with pytest.raises(InputError, match=r"b\.txt: no such file"):
        next(reading)


def test_a_folder_without_readable_files_says_what_it_has(tmp_path: Path) -> None:
    write(tmp_path / "a.py", "x = 1")
    message = fails(tmp_path)
    assert "it has 1 .py" in message
    assert ".jsonl" in message


def test_rows_need_a_file_of_rows(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.txt: not a file of rows"):
        list(read_rows(str(write(tmp_path / "a.txt", "text"))))
    with pytest.raises(InputError, match=r"b\.csv: holds no rows"):
        list(read_rows(str(write(tmp_path / "b.csv", "a,b\n"))))


def test_an_unreadable_file_is_the_machines_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.txt", "text")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(StorageError, match=r"a\.txt: Permission denied") as caught:
        texts(path)
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv", "a.tsv"])
def test_a_line_beyond_the_limit_is_refused_and_one_at_it_is_read(tmp_path: Path, name: str) -> None:
    def content(length: int) -> bytes:
        prefix = {"a.jsonl": b'{"text": "', "a.csv": b'text\n"', "a.tsv": b"text\n"}.get(name, b"short\n")
        suffix = {"a.jsonl": b'"}', "a.csv": b'"'}.get(name, b"")
        line = len(prefix.split(b"\n")[-1]) + len(suffix)
        return prefix + b"x" * (length - line) + suffix + b"\n"

    number = 1 if name == "a.jsonl" else 2
    assert texts(write(tmp_path / name, content(1000)), max_line_bytes=1000)
    message = fails(write(tmp_path / name, content(1001)), max_line_bytes=1000)
    assert f"{name}:{number}: line too long; expected at most 1,000 bytes" in message


def test_a_quote_that_is_never_closed_does_not_swallow_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'id,text\n1,"open\n' + "2,fine\n" * 10_000)
    assert "a.csv:2: line too long" in fails(path, max_line_bytes=10_000)


def test_bytes_that_are_not_text_can_be_counted_instead(tmp_path: Path) -> None:
    problems: list[InputError] = []
    path = write(tmp_path / "a.txt", b"caf\xe9 \xff\nfine\nno\0w" + b" and on" * 200)
    (text,) = texts(path, problem=problems.append)
    assert text.startswith("caf� �\nfine\nno�w")
    assert [str(problem).split(";")[0].removeprefix(str(tmp_path)) for problem in problems] == [
        "/a.txt:1: not valid UTF-8 (byte 0xE9, number 4 in its line)",
        "/a.txt:1: not valid UTF-8 (byte 0xFF, number 6 in its line)",
        "/a.txt:3: NUL byte",
    ]


# -- whatever comes, no traceback --


def mutated(content: bytes, rng: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(5)
        if kind == 0:
            data[at : at + rng.randint(1, 30)] = b""
        elif kind == 1:
            data[at:at] = rng.randbytes(rng.randint(1, 8))
        elif kind == 2:
            data[at:at] = rng.choice(
                [b'"', b"\n", b"\r", b"\0", b"\t", b",", b"{", b"[" * 3000, b"\\u", b"\xff\xfe"]
            )
        elif kind == 3 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        else:
            data[at:at] = data[: rng.randint(1, 40)]
        if not data:
            return b"x"
    return bytes(data)


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv", "a.tsv", "a.txt.gz", "a.csv.xz"])
def test_mutated_files_end_in_text_or_in_one_line(tmp_path: Path, name: str) -> None:
    rng = random.Random(name)
    rows = [{"id": i, "text": f'Zeile {i}, «文» 🙂 "q"'} for i in range(20)]
    content = {
        "txt": "\n\n".join(str(row["text"]) for row in rows),
        "jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows),
        "csv": "id,text\n" + "".join(f'{row["id"]},"Zeile, «文»\nund ""so"""\n' for row in rows),
        "tsv": "id\ttext\n" + "".join(f"{row['id']}\t{row['text']}\n" for row in rows),
    }[name.split(".")[1]].encode()
    content = {"gz": gzip.compress, "xz": lzma.compress}.get(name.split(".")[-1], bytes)(content)
    read = 0
    for _ in range(100):
        path = write(tmp_path / name, mutated(content, rng))
        try:
            for text in texts(path, max_line_bytes=2000, note=lambda _: None):
                assert text.encode() and "\0" not in text  # what is read can be written
            read += 1
        except MeleteError as error:
            assert "\n" not in str(error) and name in str(error)
    assert read < 100


# -- memory --


@pytest.mark.parametrize("name", ["a.txt", "one_line.txt", "a.jsonl", "bomb.txt.gz"])
def test_memory_stays_flat(tmp_path: Path, name: str) -> None:
    """A process of its own, because the peak of this one is already past."""
    path = tmp_path / name
    line = b'{"text": "' + b"word " * 200 + b'"}\n'
    if name == "one_line.txt":
        path.write_bytes(b"word " * (24 << 20))
    elif name == "bomb.txt.gz":
        path.write_bytes(gzip.compress(line * 60_000, 1))
    else:
        path.write_bytes(line * 60_000)
    code = (
        "import resource, sys\n"
        "from melete.data.readers import read_documents\n"
        "from melete.errors import InputError\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak()\n"
        "try:\n"
        "    for document in read_documents([sys.argv[1]]): pass\n"
        "except InputError as error: print(error, file=sys.stderr)\n"
        "print(peak() - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    unit = 1024 if sys.platform != "darwin" else 1
    assert int(done.stdout) * unit < 64 << 20
    assert ("line too long" in done.stderr) == (name == "one_line.txt")


def test_files_of_a_source(tmp_path: Path) -> None:
    path = str(write(tmp_path / "a.txt.xz", b"x"))
    assert list_files(str(tmp_path)) == list_files(path) == [path]
