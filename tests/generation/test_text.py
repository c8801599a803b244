"""Text that comes token by token is the text of all tokens, and no piece of it holds half a character."""

from __future__ import annotations

import itertools
import time

import pytest
import tokenizers as hf
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from melete.generation.text import Detokenizer, TextStream

HARD = [
    "床前明月光，疑是地上霜。",
    "👩‍👩‍👧‍👦 family, 🏳️‍🌈 flag, 👍🏽 skin, 🇨🇭 country",
    "e\u0301 a\u0308 \u200d\ufe0f naïve Ünïcödé",
    "  two  spaces\n\n\ttab, and   more.  ",
    "日本語 mixed with 한국어 and עברית 🤷🏽‍♀️!",
]


class Bytes:
    """One token a byte: every character beyond ASCII is split in every possible place."""

    def decode(self, ids):
        return bytes(ids).decode("utf-8", errors="replace")


class Chunks:
    """Tokens are the pieces of a text's bytes, cut at given places."""

    def __init__(self, text: str, cuts: list[int]) -> None:
        data, places = text.encode(), [0, *cuts, len(text.encode())]
        self.pieces = [data[a:b] for a, b in itertools.pairwise(places)]

    def decode(self, ids):
        return b"".join(self.pieces[i] for i in ids).decode("utf-8", errors="replace")


def pieces_of(tokenizer, ids) -> list[str]:
    detokenizer = Detokenizer(tokenizer)
    return [*(detokenizer.push(token) for token in ids), detokenizer.finish()]


def trained(kind: str) -> hf.Tokenizer:
    if kind == "byte-bpe":
        tokenizer = hf.Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), vocab_size=300)
    elif kind == "wordpiece":
        tokenizer = hf.Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(special_tokens=["[UNK]"], vocab_size=200)
    elif kind == "metaspace":
        tokenizer = hf.Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(special_tokens=["<unk>"], unk_token="<unk>", vocab_size=150)
    else:  # sentencepiece with bytes for what is not in the vocabulary
        vocabulary = {f"<0x{byte:02X}>": byte for byte in range(256)} | {"▁": 256, "a": 257, "m": 258}
        tokenizer = hf.Tokenizer(models.BPE(vocabulary, [], byte_fallback=True))
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
        return tokenizer
    tokenizer.train_from_iterator(HARD, trainer)
    return tokenizer


@pytest.mark.parametrize("kind", ["byte-bpe", "wordpiece", "metaspace", "byte-fallback"])
@pytest.mark.parametrize("text", HARD)
def test_every_kind_of_tokenizer_streams_its_own_decoding(kind, text):
    tokenizer = trained(kind)
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    pieces = pieces_of(tokenizer, ids)
    assert "".join(pieces) == tokenizer.decode(ids)
    assert not any("\ufffd" in piece for piece in pieces)


@pytest.mark.parametrize("text", HARD)
def test_bytes_never_give_half_a_character(text):
    pieces = pieces_of(Bytes(), text.encode())
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


def test_every_way_to_cut_an_emoji_and_a_chinese_character():
    text = "a🤷🏽好"
    size = len(text.encode())
    for chosen in range(2 ** (size - 1)):
        cuts = [place for place in range(1, size) if chosen >> (place - 1) & 1]
        tokenizer = Chunks(text, cuts)
        pieces = pieces_of(tokenizer, range(len(cuts) + 1))
        assert "".join(pieces) == text
        assert not any("\ufffd" in piece for piece in pieces)


def test_characters_come_as_soon_as_they_are_whole():
    detokenizer = Detokenizer(Bytes())
    assert [detokenizer.push(byte) for byte in "a好b".encode()] == ["a", "", "", "好", "b"]


@pytest.mark.parametrize(
    "data", [b"\xf0\x9f\x98", b"ok \xe5\xa5", b"\xff" * 500, b"\xff\xfe\x80a" * 100, b"\xe5" * 99]
)
def test_what_is_no_text_still_comes_out_as_it_is_decoded(data):
    assert "".join(pieces_of(Bytes(), data)) == Bytes().decode(data)


def test_time_is_linear_even_where_nothing_is_text():
    for data in (b"word " * 4000, b"\xff" * 20000):
        start = time.process_time()
        pieces_of(Bytes(), data)
        assert time.process_time() - start < 2.0


def text_until(stop, data, tokenizer=None):
    stream = TextStream(tokenizer or Bytes(), stop)
    pieces = []
    for token in data:
        pieces.append(stream.push(token))
        if stream.stopped:
            break
    return [*pieces, stream.finish()], stream.stopped


@pytest.mark.parametrize(
    ("stop", "text", "expected"),
    [
        (["END"], "one END two", "one "),
        (["\n\n"], "a\nb\n\nc", "a\nb"),
        (["aab"], "aaab", "a"),  # the stop text overlaps itself
        (["好的"], "我很好好的吗", "我很好"),
        (["xyz", "b"], "abc", "a"),
        (["END"], "no end EN", "no end EN"),
        ([], "all of it", "all of it"),
    ],
)
def test_text_ends_before_the_first_stop_text(stop, text, expected):
    pieces, stopped = text_until(stop, text.encode())
    assert "".join(pieces) == expected
    assert stopped == (expected != text)


def test_nothing_of_a_stop_text_is_shown_before_it_is_complete():
    pieces, _ = text_until(["</s>"], b"a < b </s> c")
    assert pieces[:6] == ["a", " ", "", "< ", "b", " "]


def test_a_stop_text_inside_one_token_is_cut_too():
    pieces, stopped = text_until(["END"], range(2), Chunks("go onEND now", [3]))
    assert "".join(pieces) == "go on"
    assert stopped
