"""Named sets are what the literature says they are; what is held out is held out."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from melete.data import datasets
from melete.data.datasets import NAMED, resolve
from melete.data.readers import Document
from melete.data.splits import Distinct, Documents, split_documents
from melete.data.stdlib import python_stdlib
from melete.errors import InputError, StorageError


def real(name: str) -> datasets.NamedSet:
    if datasets.find(name) is None:
        pytest.skip(f"{name} is not on this machine")
    return resolve(name)


def of(*texts: str) -> Documents:
    def read() -> Iterator[Document]:
        return (Document(text, "a.txt", number) for number, text in enumerate(texts, 1))

    return Documents(read, ())


def texts(documents: Documents | None) -> list[str]:
    assert documents is not None
    return [document.text for document in documents]


def words(text: str) -> int:
    """As the literature counts them: what white space separates, and one end a line."""
    return len(text.split()) + text.count("\n")


# -- named sets --


def test_wikitext_has_the_words_of_the_literature() -> None:
    named = real("wikitext-2")
    (valid,) = texts(named.valid)
    assert words(valid) == 217_646
    assert sum(words(text) for text in texts(named.train)) == 2_088_628
    assert named.special_tokens == ("<unk>",)
    assert " \n" not in valid
    assert valid.startswith("\n = Homarus gammarus =\n\n Homarus")


def test_wikitext_can_be_cut_into_its_articles() -> None:
    real("wikitext-2")
    (whole,) = texts(resolve("wikitext-2").valid)
    named = resolve("wikitext-2", whole=False)
    assert named.valid is not None
    articles = list(named.valid)
    assert len(articles) == 60
    assert "".join(article.text for article in articles) == whole.lstrip("\n")
    assert articles[0].text.startswith(" = Homarus gammarus =\n")
    lines = whole.split("\n")
    assert all(lines[article.line - 1] == article.text.split("\n")[0] for article in articles)
    assert named.valid.source_hash != resolve("wikitext-2").valid.source_hash  # type: ignore[union-attr]


def test_tinyshakespeare_is_cut_at_nine_tenths_of_its_characters() -> None:
    named = real("tinyshakespeare")
    (train,), (valid,) = texts(named.train), texts(named.valid)
    assert (len(train), len(valid)) == (1_003_854, 111_540)


def test_tang_poems_are_titles_and_lines() -> None:
    named = real("tang_poems")
    assert texts(named.train)[0].startswith("帝京篇十首 一\n秦川雄帝宅，函谷壯皇居。\n")
    assert len(texts(named.valid)) == 1000


@pytest.mark.parametrize("name", NAMED)
def test_every_named_set_can_be_read(name: str) -> None:
    named = real(name)
    for part in (named.train, named.valid):
        if part is not None:
            first = next(iter(part))
            assert len(first.text) > 10
            assert Path(first.file).is_file()


def test_a_set_is_found_in_melete_data_and_then_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MELETE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("MELETE_CACHE", str(tmp_path / "cache"))
    message = (
        r"^tang_poems: this set is not on this machine \(looked in .*data and .*cache\); set MELETE_DATA"
    )
    with pytest.raises(InputError, match=message):
        resolve("tang_poems")
    for root in ("cache", "data"):
        folder = tmp_path / root / "cluecorpus_small_sample"
        folder.mkdir(parents=True)
        (folder / "CLUECorpusSmall_sampled.txt.gz").write_bytes(gzip.compress(f"{root}\n\n二\n".encode()))
        named = resolve("cluecorpus_small_sample")
        assert texts(named.train) == [root, "二"]
        assert named.valid is None
        assert [document.line for document in named.train] == [1, 3]


def test_an_incomplete_set_says_what_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MELETE_DATA", str(tmp_path))
    (tmp_path / "tang_poems").mkdir()
    (tmp_path / "tang_poems" / "train.jsonl").write_text('{"title": "t"}\n')
    with pytest.raises(
        InputError, match=r"tang_poems is not complete; expected valid\.jsonl, or it with \.gz or \.xz"
    ):
        resolve("tang_poems")
    (tmp_path / "tang_poems" / "valid.jsonl").write_text("{}")
    with pytest.raises(InputError, match=r"train\.jsonl:1: not a poem"):
        list(resolve("tang_poems").train)


# -- python-stdlib --


def test_python_stdlib_is_source_without_tests_and_repeats_itself() -> None:
    documents, note = python_stdlib()
    read = list(documents)
    names = [document.file for document in read]
    assert names == sorted(names)
    assert "argparse.py" in names
    assert not any(
        part in ("test", "tests", "idle_test", "site-packages") for name in names for part in Path(name).parts
    )
    digest = hashlib.sha256("".join(document.text for document in read).encode()).hexdigest()
    assert f"Python {sys.version_info.major}.{sys.version_info.minor}" in note
    assert digest in note
    assert documents.source_hash == python_stdlib()[0].source_hash


def test_python_stdlib_is_capped_in_whole_files() -> None:
    documents, note = python_stdlib(max_bytes=500_000)
    size = sum(len(text.encode()) for text in texts(documents))
    assert 400_000 < size <= 500_000
    assert f"{size:,} bytes" in note
    assert documents.source_hash != python_stdlib()[0].source_hash


def test_python_stdlib_is_split_by_file() -> None:
    named = resolve("python-stdlib")
    assert named.valid is not None
    train, valid = ({document.file for document in part} for part in (named.train, named.valid))
    assert not train & valid
    assert 0.02 < len(valid) / len(train) < 0.1
    assert len(named.notes) == 2


def test_a_python_without_sources_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
    with pytest.raises(StorageError, match="keeps no source of its standard library"):
        python_stdlib()


# -- files of a person --


def test_several_sources_follow_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("a")
    Path("b.txt").write_text("b")
    both = resolve(["b.txt", "a.txt"])
    assert texts(both.train) == texts(both.train) == ["b", "a"]
    assert both.valid is None
    assert both.train.source_hash != resolve(["a.txt", "b.txt"]).train.source_hash
    assert len(texts(resolve(["python-stdlib", "a.txt"]).train)) > 100


def test_the_source_hash_is_of_content(tmp_path: Path) -> None:
    for name, content in (("a.txt", "one"), ("b.txt", "one"), ("c.txt", "two")):
        (tmp_path / name).write_text(content)
    a, b, c = (resolve(str(tmp_path / name)).train.source_hash for name in ("a.txt", "b.txt", "c.txt"))
    assert a == b != c
    (tmp_path / "a.csv").write_text("one")
    assert resolve(str(tmp_path / "a.csv")).train.source_hash != a  # the same bytes, read in another way


def test_standard_input_can_be_read_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(gzip.compress(b"one\ntwo\n"))))
    named = resolve("-")
    assert texts(named.train) == texts(named.train) == ["one\ntwo\n"]
    assert next(iter(named.train)).file == "<stdin>"
    assert len(named.train.source_hash) == 64


def test_a_pipe_can_be_read_twice(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(b"from a pipe\n",))
    writer.start()
    named = resolve(str(path))
    writer.join()
    assert texts(named.train) == texts(named.train) == ["from a pipe\n"]


def test_what_is_decided_is_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": 1, "text": "a"}\n')
    named = resolve(str(path))
    assert texts(named.train) + texts(named.train) == ["a", "a"]
    assert capsys.readouterr().err == f"{path}: the text is column 'text' (of id, text)\n"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wikitext2", "wikitext2: no such file, folder or named set; did you mean wikitext-2?"),
        ("qqqqq", "qqqqq: no such file, folder or named set; `melete data list` shows the named sets"),
        ("none/such.txt", "none/such.txt: no such file or folder; check the path"),
    ],
)
def test_unknown_names(name: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        resolve(name)
    assert str(caught.value) == message


# -- holding out --


def test_the_split_is_by_content_and_keeps_duplicates_together() -> None:
    unique = [f"document {i}\n" * 3 for i in range(400)]
    split = split_documents(of(*unique, *unique[:100], *(f" {text}\n" for text in unique[:100])), 0.1, seed=0)
    train, valid = texts(split.train), texts(split.valid)
    assert not {text.strip() for text in train} & {text.strip() for text in valid}
    assert sorted(train + valid) == sorted([*unique, *unique[:100], *(f" {text}\n" for text in unique[:100])])
    assert split.duplicates == 200
    assert (split.train_size.documents, split.valid_size.documents) == (len(train), len(valid))
    assert split.valid_size.bytes == sum(len(text.encode()) for text in valid)
    assert 0.05 < len(valid) / 600 < 0.15
    assert split.note.startswith(f"held out {len(valid)} of 600 documents")
    assert set(texts(split_documents(of(*reversed(unique)), 0.1, seed=0).valid)) == set(valid) & set(unique)
    other = split_documents(of(*unique), 0.1, seed=1)
    assert set(texts(other.valid)) != set(valid) & set(unique)
    assert len({split.train.source_hash, split.valid.source_hash, other.valid.source_hash}) == 3


def test_one_book_is_cut_at_a_line_and_its_end_held_out() -> None:
    book = "".join(f"Line {i} of the book, 一行.\n" for i in range(1000))
    split = split_documents(of(book), 0.1, seed=0)
    (train,), (valid,) = texts(split.train), texts(split.valid)
    assert train + valid == book
    assert train.endswith("\n")
    assert 0.1 <= len(valid) / len(book) < 0.11
    assert next(iter(split.valid)).line == 1 + train.count("\n")
    assert "cut at a line end" in split.note
    again = split_documents(of(book, "\n" + book), 0.1, seed=0)
    assert [text.strip() for text in texts(again.train)] == [train.strip()] * 2


def test_a_giant_among_small_ones_is_cut_and_they_are_not() -> None:
    small, giant = [f"small {i}" for i in range(100)], "word " * 10_000
    split = split_documents(of(*small, giant), 0.05, seed=0)
    assert len(texts(split.train)) + len(texts(split.valid)) == 102
    assert 0.04 < split.valid_size.bytes / len(giant) < 0.08


def test_of_few_documents_one_is_held_out() -> None:
    few = [f"document {i}" for i in range(30)]
    for seed in range(20):
        split = split_documents(of(*few), 0.05, seed)
        assert texts(split.valid)
        assert sorted(texts(split.train) + texts(split.valid)) == sorted(few)


@pytest.mark.parametrize("given", [["x"] * 50, ["x"]])
def test_what_cannot_be_split_is_refused(given: list[str]) -> None:
    with pytest.raises(
        InputError, match=r"^no text is left for \w+ \(\d+ documents?, 1 different\); give more text"
    ):
        split_documents(of(*given), 0.05, seed=0)
    with pytest.raises(InputError, match=r"expected more than 0 and at most 0\.5"):
        split_documents(of("x"), 0.0, seed=0)


def test_duplicates_are_estimated_when_there_are_too_many_to_keep() -> None:
    distinct = Distinct(most=500)
    step = 2**64 // 10_000
    for hashed in [*range(0, 10_000 * step, step), *range(0, 2000 * step * 5, step * 5)]:
        distinct.add(hashed)
    assert len(distinct.seen) <= 500
    assert 1800 < distinct.duplicates < 2200


# -- labelled sets, as text --


def test_a_labelled_set_is_read_without_its_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "weibo_ner"
    folder.mkdir()
    sentences = ["我 O\n在 O\n北 B-LOC\n京 I-LOC\n", "你 O\n好 O\n", "再 O\n见 O\n"]
    (folder / "train.conll").write_text("\n".join([*sentences[:2], sentences[0]]), encoding="utf-8")
    (folder / "dev.conll").write_text("\n".join(sentences[1:]), encoding="utf-8")
    monkeypatch.setenv("MELETE_DATA", str(tmp_path))
    named = resolve("weibo_ner")
    assert texts(named.train) == ["我在北京", "你好"]  # each once
    assert texts(named.valid) == ["再见"]  # what is learnt from is not measured on
    assert named.valid is not None
    assert named.train.source_hash != named.valid.source_hash
    both = resolve(["weibo_ner", "weibo_ner"])
    assert len(texts(both.train)) == 4
