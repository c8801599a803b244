"""Token shards: the stream, reading across shards, resuming after a kill, and refusals."""

from __future__ import annotations

import errno
import hashlib
import inspect
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from melete.data import corpus_writer
from melete.data.corpus import Corpus, corpus_key, prepare
from melete.data.datasets import resolve
from melete.data.readers import Document
from melete.data.splits import split_documents
from melete.data.tokenizers import Tokenizer
from melete.errors import InputError, StorageError

SOURCE = inspect.getsource(textwrap) + "\n你好，世界！🎉\n" * 20
TEXTS = [SOURCE[start : start + 37 + start % 211] for start in range(0, len(SOURCE), 97)]
SHARD = 2000  # characters: a dozen shards


def documents(texts: list[str] = TEXTS) -> Iterator[Document]:
    return (Document(text, "test.txt", 1) for text in texts)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS, "byte-bpe", 400)


@pytest.fixture(scope="module")
def whole(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("corpus") / "whole"
    return prepare(documents(), tokenizer, folder, source_hash="s", workers=1, shard_characters=SHARD)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def stream(tokenizer: Tokenizer, texts: list[str] = TEXTS) -> list[int]:
    assert tokenizer.eos_id is not None
    ids = [token for text in texts for token in (tokenizer.eos_id, *tokenizer.encode(text))]
    return [*ids, tokenizer.eos_id]


def test_each_document_stands_behind_the_end_token_and_one_closes_the_stream(
    whole: Corpus, tokenizer: Tokenizer
) -> None:
    expected = stream(tokenizer)
    assert len(whole.meta.shards) > 5
    ids = whole.read(0, len(whole))
    assert ids.dtype == np.int64
    assert ids.tolist() == expected
    starts = whole.document_starts()
    assert starts.tolist() == [i for i, token in enumerate(expected) if token == tokenizer.eos_id][:-1]


def test_any_stretch_is_read_across_shards(whole: Corpus) -> None:
    ids, starts = whole.read(0, len(whole)), whole.document_starts()
    border = whole.meta.shards[0].tokens
    generator = np.random.default_rng(0)
    cuts = [(0, 0), (border - 1, border + 1), (border, border), (len(ids), len(ids)), (0, 4 * border)]
    for a, b in [*cuts, *np.sort(generator.integers(0, len(ids), (50, 2))).tolist()]:
        assert whole.read(a, b).tolist() == ids[a:b].tolist()
        assert whole.document_starts(a, b).tolist() == starts[(starts >= a) & (starts < b)].tolist()
    for a, b in [(-1, 2), (0, len(ids) + 1), (5, 4)]:
        with pytest.raises(IndexError):
            whole.read(a, b)


def test_counts_are_those_of_the_text(whole: Corpus, tokenizer: Tokenizer) -> None:
    assert whole.documents == len(TEXTS)
    assert whole.num_bytes == sum(len(text.encode()) for text in TEXTS)
    assert whole.num_words == sum(len(text.split()) + text.count("\n") for text in TEXTS)
    assert whole.fingerprint == tokenizer.fingerprint
    joined = b"".join(text.encode() + b"\xff" for text in TEXTS)
    assert whole.text_sha256 == hashlib.sha256(joined).hexdigest()
    loaded = Corpus.load(whole.folder)
    assert (len(loaded), loaded.documents, loaded.meta) == (len(whole), whole.documents, whole.meta)


@pytest.mark.parametrize("workers", [2, 3])
def test_the_number_of_workers_changes_nothing(
    workers: int, whole: Corpus, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    prepare(documents(), tokenizer, tmp_path, source_hash="s", workers=workers, shard_characters=SHARD)
    assert contents(tmp_path) == contents(whole.folder)


def test_with_and_without_tiktoken_the_bytes_are_the_same(
    whole: Corpus, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MELETE_FAST_BPE", "0")
    slow = Tokenizer(tokenizer.definition, tokenizer.config)
    prepare(documents(), slow, tmp_path, source_hash="s", shard_characters=SHARD)
    assert contents(tmp_path) == contents(whole.folder)


def test_a_second_call_tokenises_nothing(whole: Corpus, tokenizer: Tokenizer) -> None:
    def unread() -> Iterator[Document]:
        raise AssertionError("the documents were read again")
        yield

    again = prepare(unread(), tokenizer, whole.folder, source_hash="s")
    assert len(again) == len(whole)


@pytest.mark.parametrize("killed_at", [1, 150, len(TEXTS) - 2])
def test_killed_and_resumed_ends_in_the_same_bytes(
    killed_at: int, whole: Corpus, tokenizer: Tokenizer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tokenizer.save(tmp_path / "tokenizer")
    (tmp_path / "texts.json").write_text(json.dumps(TEXTS))
    folder = tmp_path / "corpus"
    program = f"""
import json, os, signal
from melete.data.corpus import prepare
from melete.data.readers import Document
from melete.data.tokenizers import Tokenizer

def documents():
    for i, text in enumerate(json.load(open("texts.json"))):
        if i == {killed_at}:
            os.kill(os.getpid(), signal.SIGKILL)
        yield Document(text, "test.txt", 1)

prepare(documents(), Tokenizer.load("tokenizer"), "corpus", source_hash="s", workers=1, shard_characters={SHARD})
"""
    killed = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    finished = len(list(folder.glob("shard-*.json")))
    assert not (folder / "meta.json").exists()
    with pytest.raises(InputError, match="no prepared corpus"):
        Corpus.load(folder)

    encoded: list[str] = []
    resumed = Tokenizer(tokenizer.definition, tokenizer.config)
    encoder = resumed.encoder
    resumed.__dict__["encoder"] = corpus_writer.Encoder(
        encoder.name, encoder.why, lambda texts: (encoded.extend(texts), encoder.encode(texts))[1]
    )
    capfd.readouterr()
    prepare(documents(), resumed, folder, source_hash="s", shard_characters=SHARD)
    assert contents(folder) == contents(whole.folder)
    if killed_at > 100:
        assert finished >= 1
        assert f"behind {finished} finished" in capfd.readouterr().err
        kept = sum(shard.documents for shard in whole.meta.shards[:finished])
        assert not set(TEXTS[:kept]) - set(TEXTS[kept:]) & set(encoded)


def test_a_damaged_shard_of_a_killed_run_is_made_again(
    whole: Corpus, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    for name, data in contents(whole.folder).items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "meta.json").unlink()
    spoiled = tmp_path / "shard-00001.ids"
    spoiled.write_bytes(bytes([spoiled.read_bytes()[0] ^ 1]) + spoiled.read_bytes()[1:])
    prepare(documents(), tokenizer, tmp_path, source_hash="s", shard_characters=SHARD)
    assert contents(tmp_path) == contents(whole.folder)


def test_changed_documents_are_not_mixed_with_old_shards(
    whole: Corpus, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    for name, data in contents(whole.folder).items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "meta.json").unlink()
    with pytest.raises(InputError, match="not those of the interrupted run"):
        prepare(documents(["another", *TEXTS]), tokenizer, tmp_path, source_hash="s", shard_characters=SHARD)
    assert contents(tmp_path) == {}


def test_broken_input_leaves_nothing(tokenizer: Tokenizer, tmp_path: Path) -> None:
    def broken() -> Iterator[Document]:
        yield from documents()
        raise InputError("not valid UTF-8", where="test.txt:7")

    with pytest.raises(InputError, match="UTF-8"):
        prepare(broken(), tokenizer, tmp_path / "corpus", source_hash="s", shard_characters=SHARD)
    with pytest.raises(InputError, match="no documents"):
        prepare(documents([]), tokenizer, tmp_path / "corpus", source_hash="s")
    assert not (tmp_path / "corpus").exists()


def test_no_room_is_said_before_anything_is_written(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus_writer, "free_bytes", lambda folder: 12_345)
    with pytest.raises(StorageError) as caught:
        prepare(documents(), tokenizer, tmp_path / "corpus", source_hash="s", total_bytes=10**9)
    assert all(part in str(caught.value) for part in (str(tmp_path / "corpus"), "needed", "12,345 free"))
    assert not (tmp_path / "corpus").exists()
    # Files and their parts know their own size.
    (tmp_path / "text.txt").write_text(SOURCE * 20, encoding="utf-8")
    whole = resolve(str(tmp_path / "text.txt")).train
    for part in (whole, split_documents(whole, 0.1, 0).train):
        with pytest.raises(StorageError, match="needed, 12,345 free"):
            prepare(part, tokenizer, tmp_path / "corpus", source_hash=part.source_hash)


def test_a_full_disk_keeps_whole_shards_and_is_gone_on_from(
    whole: Corpus, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "corpus"
    put = corpus_writer._ShardFile._put

    def full(self: corpus_writer._ShardFile, what: str, values: np.ndarray) -> None:
        if self.index == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        put(self, what, values)

    monkeypatch.setattr(corpus_writer._ShardFile, "_put", full)
    with pytest.raises(StorageError) as caught:
        prepare(documents(), tokenizer, folder, source_hash="s", shard_characters=SHARD)
    assert "No space left" in str(caught.value)
    assert "bytes free" in str(caught.value)
    names = sorted(path.name for path in folder.iterdir())
    assert names == [
        *(f"shard-0000{i}.{what}" for i in range(3) for what in ("ids", "json", "starts")),
        "unfinished.json",
    ]
    monkeypatch.undo()
    prepare(documents(), tokenizer, folder, source_hash="s", shard_characters=SHARD)
    assert contents(folder) == contents(whole.folder)


def test_an_unwritable_folder_is_said(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="Not a directory"):
        prepare(documents(), tokenizer, tmp_path / "file" / "corpus", source_hash="s")

    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(tmp_path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(StorageError, match="Permission denied"):
        prepare(documents(), tokenizer, tmp_path / "corpus", source_hash="s")


def test_another_text_or_tokenizer_is_refused(whole: Corpus, tokenizer: Tokenizer) -> None:
    other = Tokenizer.train(TEXTS, "byte-bpe", 300)
    for source_hash, other_tokenizer in (("changed", tokenizer), ("s", other)):
        with pytest.raises(InputError, match="another text or tokenizer"):
            prepare(documents(), other_tokenizer, whole.folder, source_hash=source_hash)
    whole.require(tokenizer)
    with pytest.raises(InputError, match="another tokenizer"):
        whole.require(other)
    keys = {corpus_key(source, each) for source in ("a", "b") for each in (tokenizer, other)}
    assert len(keys) == 4


def test_who_waited_for_another_text_is_refused_too(whole: Corpus, tokenizer: Tokenizer) -> None:
    # It was finished after `prepare` looked.
    with pytest.raises(InputError, match="another text or tokenizer"):
        corpus_writer.write(documents(), tokenizer, whole.folder, "other", 1, None, SHARD)


def test_encoders_that_disagree_are_not_used(tokenizer: Tokenizer, tmp_path: Path) -> None:
    wrong = Tokenizer(tokenizer.definition, tokenizer.config)
    reference = wrong.reference
    wrong.__dict__["encoder"] = corpus_writer.Encoder(
        "wrong", "test", lambda texts: reference.encode([text.upper() for text in texts])
    )
    with pytest.raises(InputError, match="MELETE_FAST_BPE=0"):
        prepare(documents(), wrong, tmp_path / "corpus", source_hash="s")
    assert not (tmp_path / "corpus").exists()


def test_a_tokenizer_without_an_end_token_stores_bare_documents(tmp_path: Path) -> None:
    bert = Tokenizer.train(TEXTS, "wordpiece", 400)
    corpus = prepare(documents(), bert, tmp_path, source_hash="s", shard_characters=SHARD)
    assert corpus.read(0, len(corpus)).tolist() == [token for text in TEXTS for token in bert.encode(text)]
    assert corpus.documents == len(corpus.document_starts()) == len(TEXTS)


def test_empty_documents_and_a_stream_that_ends_with_a_shard(tokenizer: Tokenizer, tmp_path: Path) -> None:
    texts = ["", "a" * SHARD, "", "b" * SHARD]
    corpus = prepare(documents(texts), tokenizer, tmp_path, source_hash="s", shard_characters=SHARD)
    assert corpus.read(0, len(corpus)).tolist() == stream(tokenizer, texts)
    assert corpus.documents == len(corpus.document_starts()) == 4
    assert corpus.meta.shards[-1].documents == 0


def test_a_large_vocabulary_takes_four_bytes_a_token(tmp_path: Path) -> None:
    characters = [chr(point) for point in range(0x4E00, 0x4E00 + 70_000) if not 0xD800 <= point < 0xE000]
    large = Tokenizer.train(["".join(characters)], "char", 70_000)
    corpus = prepare(documents(["".join(characters)]), large, tmp_path, source_hash="s")
    assert corpus.meta.dtype == "uint32"
    assert corpus.read(1, len(corpus) - 1).max() > 1 << 16


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("meta.json", b"{", StorageError, "damaged"),
        ("meta.json", b'{"layout": 99}', InputError, "another version"),
        ("meta.json", b'{"layout": 1}', StorageError, "damaged"),
        ("shard-00001.ids", b"short", StorageError, "shard-00001.ids: damaged"),
        ("shard-00001.starts", None, StorageError, "No such file"),
    ],
)
def test_a_damaged_corpus_is_refused(
    name: str, content: bytes | None, error: type[Exception], message: str, whole: Corpus, tmp_path: Path
) -> None:
    for each, data in contents(whole.folder).items():
        (tmp_path / each).write_bytes(data)
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=message):
        Corpus.load(tmp_path)


def test_wikitext_words_are_counted_like_the_literature(tmp_path: Path) -> None:
    if (
        not (Path(os.environ.get("MELETE_DATA", "")) / "wikitext-2").is_dir()
        or "MELETE_DATA" not in os.environ
    ):
        pytest.skip("MELETE_DATA has no wikitext-2")
    named = resolve("wikitext-2")
    assert named.valid is not None
    words = Tokenizer.train((document.text for document in named.train), "word", 40_000)
    corpus = prepare(named.valid, words, tmp_path, source_hash="s")
    assert words.vocab_size == 33_278 + 1  # the words, the line end among them, and the end of a document
    assert corpus.num_words == 217_646
    assert len(corpus) == 217_646 + corpus.documents + 1
