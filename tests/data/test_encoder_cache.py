"""Encoder text is tokenised once, and is the same from the disk as in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from encoder_examples import TEXTS, vocabulary
from melete.data import encoder_cache, encoder_text
from melete.data.datasets import resolve
from melete.data.encoder_cache import HanWords
from melete.data.encoder_text import EncoderText
from melete.data.splits import Documents
from melete.data.words import rjieba_cut
from melete.errors import StorageError

FIELDS = ("ids", "begins", "sentences", "documents")


@pytest.fixture
def documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Documents:
    monkeypatch.setenv("MELETE_CACHE", str(tmp_path / "cache"))
    for number, text in enumerate(TEXTS):
        (tmp_path / f"{number}.txt").write_text(text, encoding="utf-8")
    return resolve([str(tmp_path / f"{number}.txt") for number in range(len(TEXTS))]).train


def test_from_the_disk_as_in_memory_and_only_once(
    documents: Documents, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = vocabulary()[0]
    expected = EncoderText.tokenise(TEXTS, tokenizer, rjieba_cut())
    for _ in range(2):  # written, found
        text, meta = encoder_cache.encoder_text(documents, tokenizer, HanWords(documents))
        for name in FIELDS:
            assert np.array_equal(getattr(text, name), getattr(expected, name)), name
        assert meta.words == "rjieba"
        monkeypatch.setattr(encoder_cache, "tokenised_parts", None)


def test_half_a_folder_is_written_again(documents: Documents, tmp_path: Path) -> None:
    tokenizer = vocabulary()[0]
    first, meta = encoder_cache.encoder_text(documents, tokenizer, HanWords(documents))
    ids = first.ids.copy()
    (folder,) = (tmp_path / "cache" / "encoder-texts").iterdir()
    (folder / "ids").write_bytes(b"")
    second, again = encoder_cache.encoder_text(documents, tokenizer, HanWords(documents))
    assert np.array_equal(second.ids, ids)
    assert again == meta
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]  # nothing is left behind


def test_another_text_or_way_to_cut_is_another_folder(
    documents: Documents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = vocabulary()[0]
    encoder_cache.encoder_text(documents, tokenizer, HanWords(documents))
    monkeypatch.setattr(encoder_cache, "find_spec", lambda name: None)
    _, meta = encoder_cache.encoder_text(documents, tokenizer, HanWords(documents))
    assert meta.words == "learned"
    (tmp_path / "0.txt").write_text("Another text. With words.", encoding="utf-8")
    encoder_cache.encoder_text(documents, tokenizer, HanWords(documents))
    assert len(list((tmp_path / "cache" / "encoder-texts").iterdir())) == 3


def test_no_room_is_one_line(documents: Documents, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir(exist_ok=True)
    (tmp_path / "cache" / "encoder-texts").write_text("a file where a folder should be")
    with pytest.raises(StorageError, match="the tokens cannot be kept"):
        encoder_cache.encoder_text(documents, vocabulary()[0], HanWords(documents))


def test_a_long_document_is_tokenised_in_pieces_and_stays_one(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = vocabulary()[0]
    long = "\n".join(TEXTS)
    whole = EncoderText.tokenise([TEXTS[0], long, TEXTS[2]], tokenizer)
    monkeypatch.setattr(encoder_text, "_PIECE", 30)
    monkeypatch.setattr(encoder_text, "_TOGETHER", 50)
    pieces = EncoderText.tokenise([TEXTS[0], long, TEXTS[2]], tokenizer)
    assert len(whole.documents) == 4
    for name in FIELDS:
        assert np.array_equal(getattr(whole, name), getattr(pieces, name)), name
