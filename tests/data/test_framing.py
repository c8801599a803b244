"""Special tokens around one text or two: as transformers puts them, cut as it cuts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from melete.data.framing import Framing, shortened
from melete.data.tokenizers import Tokenizer

TEXTS = ["the cat sat on the mat, and 中文 也 可以", "so it did; once or twice", "x"]


@pytest.fixture(scope="module", params=["wordpiece", "byte-bpe", "unigram"])
def tokenizer(request) -> Tokenizer:
    return Tokenizer.train(TEXTS * 30, request.param, 300)


def ids_of(tokenizer: Tokenizer, text: str) -> np.ndarray:
    return np.array(tokenizer.encode(text), dtype=np.int64)


def test_ids_and_types_are_those_of_transformers(tokenizer, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for length in (64, 13, 12, 7):
        framing = Framing(tokenizer, length)
        for first in TEXTS:
            expected = theirs(first, truncation=True, max_length=length)["input_ids"]
            assert framing.one(ids_of(tokenizer, first)).ids.tolist() == expected
            if tokenizer.cls_id is None and tokenizer.frame(2)[2].count(None) == 0:
                continue  # theirs runs one text into the other
            for second in TEXTS:
                pair = theirs(first, second, truncation="longest_first", max_length=length)
                framed = framing.two(ids_of(tokenizer, first), ids_of(tokenizer, second))
                assert framed.ids.tolist() == pair["input_ids"]
                if framed.types is not None:
                    assert framed.types.tolist() == pair["token_type_ids"]


def test_a_tokenizer_that_puts_nothing_around_keeps_two_texts_apart() -> None:
    tokenizer = Tokenizer.train(TEXTS * 30, "byte-bpe", 300)
    framing = Framing(tokenizer, 64)
    first, second = ids_of(tokenizer, TEXTS[0]), ids_of(tokenizer, TEXTS[1])
    assert framing.two(first, second).ids.tolist() == [*first, tokenizer.eos_id, *second]
    assert framing.one(np.zeros(0, dtype=np.int64)).ids.tolist() == [tokenizer.eos_id]


def test_what_stands_where_is_told(tokenizer) -> None:
    first, second = ids_of(tokenizer, TEXTS[0]), ids_of(tokenizer, TEXTS[1])
    framed = Framing(tokenizer, 16).two(first, second)
    for text, start, kept in zip((first, second), framed.starts, framed.kept, strict=True):
        assert framed.ids[start : start + kept].tolist() == text[:kept].tolist()
    assert len(framed.ids) == 16
    assert Framing(tokenizer, 20, segments=1).two(first, second).types is None


@pytest.mark.parametrize(
    ("first", "second", "room", "expected"),
    [
        (3, 4, 10, (3, 4)),
        (9, 3, 10, (7, 3)),
        (3, 9, 10, (3, 7)),
        (9, 8, 10, (5, 5)),
        (9, 8, 11, (6, 5)),
        (8, 8, 11, (5, 6)),
        (0, 20, 11, (0, 11)),
    ],
)
def test_the_longer_text_is_cut_first(first, second, room, expected) -> None:
    assert shortened(first, second, room) == expected


def test_windows_cover_a_long_text_and_overlap(tokenizer) -> None:
    framing = Framing(tokenizer, 16)
    question, context = np.array([7, 8, 9]), np.arange(10, 60)
    for first in (None, question):
        found = framing.windows(first, context, 0.25)
        covered = np.zeros(len(context), dtype=int)
        for framed, start in found:
            assert len(framed.ids) <= 16
            kept = framed.kept[-1]
            covered[start : start + kept] += 1
            inside = framed.ids[framed.starts[-1] : framed.starts[-1] + kept]
            assert inside.tolist() == context[start : start + kept].tolist()
            if first is not None:
                assert framed.ids[framed.starts[0] : framed.starts[0] + 3].tolist() == [7, 8, 9]
        assert covered.min() == 1
        assert covered.max() == 2
    assert len(framing.windows(question, context[:3], 0.25)) == 1
    long_question = framing.windows(np.arange(40), context, 0.25)
    assert all(framed.kept[0] == framing.room(2) // 2 for framed, _ in long_question)
