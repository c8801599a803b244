"""Tokenizers: kinds, files that others open, and the quick encoders against the library."""

from __future__ import annotations

import argparse
import inspect
import json
import os
import random
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from melete.data.fast_encoding import agrees, byte_alphabet, reference_encoder
from melete.data.tokenizers import KINDS, Tokenizer
from melete.errors import InputError

PROSE = [
    "The quick brown fox jumps over the lazy dog. It's 3 o'clock, and they'll be back soon!\n",
    "def read(path):\n    with open(path) as file:\n\t\treturn file.read()\n\n",
    "床前明月光，疑是地上霜。舉頭望明月，低頭思故鄉。\n",
    "你好，世界！今天天气很好。 Hello 世界 123\n",
    "Emoji 🎉🎉 👩‍👩‍👧 und Straße, naïve café.\n",
] * 8
ROUND_TRIP = "Hello 你好，世界！ 🎉👩‍👩‍👧\n  def f(x):\n\treturn 'x'\r\n\x00 end "
HARD = [
    "", "\n", " ", "don't DON'T I'll'll 's 'S", " " * 500 + "x",
    "\t \n\n  \r\n x ", "a" * 3000, "^" * 3000, "你" * 3000,
    "🎉👩‍👩‍👧‍👦é̀", "\x00\x01\x7f\x85\xa0\u3000\u200b\ufeff x", "<|endoftext|><|endoftext|> a<|endoftext|>b",
    "<|endoftext", "<unk> <unk>x", "١٢٣ ½ Ⅷ", "ß ŉ ǅ", " \u2028\u2029 x", "a\u00adb\u202ec",
]  # fmt: skip


@pytest.fixture(scope="module")
def trained() -> dict[str, Tokenizer]:
    return {kind: Tokenizer.train(PROSE, kind, 400) for kind in KINDS}


@pytest.fixture(scope="module")
def bpe(trained: dict[str, Tokenizer]) -> Tokenizer:
    return trained["byte-bpe"]


@pytest.mark.parametrize("kind", KINDS)
def test_auto_tokenizer_opens_what_is_saved_with_equal_ids(
    kind: str, trained: dict[str, Tokenizer], tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    ours = trained[kind]
    ours.save(tmp_path)
    # A checkpoint's config.json stands beside it and must not lead AutoTokenizer to another class.
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in [*PROSE[:5], ROUND_TRIP, *HARD]:
        ids = ours.encode(text)
        assert theirs.encode(text, add_special_tokens=False) == ids
        assert theirs.decode(ids, skip_special_tokens=True) == ours.decode(ids)
    for role in ("bos", "eos", "pad", "mask", "cls", "sep"):
        assert getattr(theirs, f"{role}_token_id") == getattr(ours, f"{role}_id")
    assert len(theirs) == ours.vocab_size


@pytest.mark.parametrize("kind", KINDS)
def test_saving_and_loading_keep_the_fingerprint(
    kind: str, trained: dict[str, Tokenizer], tmp_path: Path
) -> None:
    trained[kind].save(tmp_path)
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        loaded = Tokenizer.load(path)
        assert loaded.fingerprint == trained[kind].fingerprint
        assert loaded.encode(ROUND_TRIP) == trained[kind].encode(ROUND_TRIP)
        assert (loaded.eos_id, loaded.unk_id) == (trained[kind].eos_id, trained[kind].unk_id)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tokenizer.json", "tokenizer_config.json"]


def test_an_encoder_may_read_words_of_several_characters(
    trained: dict[str, Tokenizer], tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    plain = trained["unigram"]
    ours = plain.framed()
    ours.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    first, second = PROSE[2:4]
    around = [ours.cls_id, *plain.encode(first), ours.sep_id, *plain.encode(second), ours.sep_id]
    assert theirs(first, second)["input_ids"] == around
    assert [theirs.mask_token_id, theirs.pad_token_id] == [ours.mask_id, plain.pad_id]
    assert ours.vocab_size == plain.vocab_size + 3


@pytest.mark.parametrize("kind", ["byte-bpe", "unigram", "char"])
def test_a_text_comes_back_exactly(kind: str, trained: dict[str, Tokenizer]) -> None:
    text = "".join(PROSE[:5]) if kind != "byte-bpe" else ROUND_TRIP + "".join(PROSE[:5])
    assert trained[kind].decode(trained[kind].encode(text)) == text


@pytest.mark.parametrize("kind", KINDS)
def test_training_is_deterministic(kind: str) -> None:
    # The unigram learner drops pieces of exactly equal worth in any order; repeated sentences are full of them.
    texts = [inspect.getsource(argparse), *([] if kind == "unigram" else PROSE)]
    assert len({Tokenizer.train(iter(texts), kind, 600).fingerprint for _ in range(3)}) == 1


def test_a_decoder_tokenizer_has_one_special_token(bpe: Tokenizer) -> None:
    assert bpe.bos_id == bpe.eos_id == bpe.pad_id == bpe.unk_id == bpe.id_of("<|endoftext|>")
    assert bpe.special_ids == {bpe.eos_id}
    assert bpe.decode([*bpe.encode("a"), bpe.eos_id or 0]) == "a"


def test_words_and_line_ends_are_tokens_and_decode_back() -> None:
    text = " = Title = \n \n a species of <unk> lobster . \n"
    words = Tokenizer.train([text], "word", 100, special_tokens=("<unk>",))
    ids = words.encode(text)
    assert len(ids) == len(text.split()) + text.count("\n")
    assert words.decode(ids) == "= Title =\n\na species of <unk> lobster .\n"
    assert words.encode("unseen") == [words.unk_id] == words.encode("<unk>")


def test_an_unknown_character_is_one_unk() -> None:
    characters = Tokenizer.train(["abc"], "char", 100)
    assert characters.encode("a猫b🎉") == [
        characters.id_of("a"), characters.unk_id, characters.id_of("b"), characters.unk_id
    ]  # fmt: skip
    assert [ids.tolist() for ids in characters.encode_batch(["a猫b🎉", ""])] == [
        characters.encode("a猫b🎉"),
        [],
    ]


def test_wordpiece_splits_chinese_and_knows_its_special_tokens(trained: dict[str, Tokenizer]) -> None:
    wordpiece = trained["wordpiece"]
    assert [wordpiece.token(i) for i in wordpiece.encode("明月光")] == ["明", "月", "光"]
    assert None not in (
        wordpiece.cls_id,
        wordpiece.sep_id,
        wordpiece.mask_id,
        wordpiece.pad_id,
        wordpiece.unk_id,
    )
    assert wordpiece.eos_id is None
    lower = Tokenizer.train(PROSE, "wordpiece", 400, lowercase=True)
    assert lower.encode("THE Café") == lower.encode("the cafe")


def test_declared_symbols_stay_whole_and_are_text() -> None:
    tokenizer = Tokenizer.train(PROSE, "byte-bpe", 300, special_tokens=("<unk>",))
    ids = tokenizer.encode("a <unk> b")
    assert tokenizer.id_of("<unk>") in ids
    assert tokenizer.decode(ids) == "a <unk> b"


def test_a_text_too_poor_for_the_vocabulary_is_said(capfd: pytest.CaptureFixture[str]) -> None:
    assert Tokenizer.train(["ab ab ab"], "byte-bpe", 5000).vocab_size < 5000
    assert "of the 5000 asked for" in capfd.readouterr().err


def test_a_large_corpus_is_sampled_evenly_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from melete.data import tokenizer_training

    texts = [f"{'first' if i < 500 else 'second'} half " * 20 for i in range(1000)]
    monkeypatch.setattr(tokenizer_training, "SAMPLE", 50_000)
    tokenizer = Tokenizer.train(texts, "byte-bpe", 300)
    assert "evenly over the text" in capfd.readouterr().err
    assert None not in (tokenizer.id_of("first"), tokenizer.id_of("Ġhalf"), tokenizer.id_of("second"))


def test_unspaced_text_is_cut_before_learning() -> None:
    from melete.data.tokenizer_training import _feed

    text = "明" * 1000 + " " + "x" * 1000
    assert max(len(piece) for pieces in _feed([text]) for piece in pieces) <= 128 + 16
    assert "".join(piece for pieces in _feed([text]) for piece in pieces) == text


@pytest.mark.parametrize(
    ("kind", "size", "texts"),
    [("bpe", 300, ["a"]), ("byte-bpe", 0, ["a"]), ("byte-bpe", 100, ["a b"]), ("word", 2, ["a"]), ("unigram", 300, []),
     ("char", 10, [""]), ("unigram", 5, ["abcdefg" * 9])],
)  # fmt: skip
def test_training_refuses_what_cannot_be(kind: str, size: int, texts: list[str]) -> None:
    with pytest.raises(InputError):
        Tokenizer.train(texts, kind, size)


# --- the quick encoders


def test_byte_bpe_is_encoded_by_tiktoken_with_the_same_ids(bpe: Tokenizer) -> None:
    pytest.importorskip("tiktoken")
    assert bpe.encoder.name == "tiktoken"
    generator = random.Random(0)
    alphabet = "aA1 \n\t'st<|>.明，🎉é\u0301\u200b½\r\x85\u3000" + "<|endoftext|>"
    noise = ["".join(generator.choices(alphabet, k=generator.randrange(60))) for _ in range(2000)]
    assert agrees(bpe.encoder, bpe.reference, HARD + PROSE + noise)
    for text, ids in zip(HARD, bpe.encode_batch(HARD), strict=True):
        assert ids.tolist() == bpe.encode(text)
        assert agrees(bpe.encoder, bpe.reference, [text])


def test_both_libraries_know_the_same_letters_numbers_and_spaces() -> None:
    """Every code point (the rarer planes in steps), beside a letter, a number, a sign and a space."""
    pytest.importorskip("tiktoken")
    assigned = [c for c in range(0x110000) if unicodedata.category(chr(c)) not in ("Cs", "Cn", "Co")]
    points = [c for c in assigned if c < 0x3400 or 0x9F00 < c < 0xAC10 or 0xD790 < c < 0x20000 or c % 97 == 0]
    probes = [f"x{chr(c)}a {chr(c)}1 {chr(c)}! {chr(c)} {chr(c)}{chr(c)}a" for c in points]
    # Merges over the borders: wherever a library sees a border that the other does not, ids differ.
    tails = Tokenizer.train(
        [f"{chr(c)}{d}" * 2 for c in range(0x80, 0x2000, 7) for d in "a1! "], "byte-bpe", 2000
    )
    assert tails.encoder.name == "tiktoken"
    assert agrees(tails.encoder, tails.reference, probes)


def test_merges_that_tiktoken_would_order_otherwise_are_left_to_the_library(bpe: Tokenizer) -> None:
    values = json.loads(bpe.definition)
    spell = {byte: character for character, byte in byte_alphabet().items()}
    a, b, c = (spell[ord(letter)] for letter in "abc")
    vocabulary = {character: i for i, character in enumerate(byte_alphabet())}
    # `abc` is (ab, c), but b and c merge first: it stands in the vocabulary and is never reached.
    for i, token in enumerate([b + c, a + b, a + b + c]):
        vocabulary[token] = 256 + i
    values["model"] |= {"vocab": vocabulary, "merges": [[b, c], [a, b], [a + b, c]]}
    values["added_tokens"] = []
    odd = Tokenizer(json.dumps(values), {})
    assert odd.encoder.name == "tokenizers"
    assert "reached" in odd.encoder.why
    assert odd.encode_batch(["abc"])[0].tolist() == odd.encode("abc") == [97 - 33, 256]


def test_the_quick_way_can_be_switched_off(bpe: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MELETE_FAST_BPE", "0")
    slow = Tokenizer(bpe.definition, bpe.config)
    assert slow.encoder.name == "tokenizers"
    assert [ids.tolist() for ids in slow.encode_batch(HARD)] == [
        ids.tolist() for ids in bpe.encode_batch(HARD)
    ]


def test_the_table_of_characters_gives_the_same_ids(trained: dict[str, Tokenizer]) -> None:
    characters = trained["char"]
    assert characters.encoder.name == "table"
    assert agrees(characters.encoder, characters.reference, HARD + PROSE)


def test_a_character_text_may_hold_any_number_of_symbols() -> None:
    tokenizer = Tokenizer.train(["ab <unk> <unk>s\n"], "char", 50, ["<unk>", "<unk>s"])
    text = "a <unk>b<unk>s <|endoftext|>" * 3000  # WikiText-2 is one document with 54,000 <unk>
    assert tokenizer.encoder.name == "table"
    assert tokenizer.encode_batch([text, ""])[0].tolist() == tokenizer.encode(text)


def test_encode_batch_of_nothing(bpe: Tokenizer) -> None:
    assert bpe.encode_batch([]) == []
    assert [ids.dtype for ids in bpe.encode_batch(["", "a"])] == [np.dtype(np.int64)] * 2


# --- folders of others


def test_old_gpt2_and_bert_folders_load(bpe: Tokenizer, tmp_path: Path) -> None:
    model = json.loads(bpe.definition)["model"]
    gpt2 = tmp_path / "gpt2"
    gpt2.mkdir()
    (gpt2 / "vocab.json").write_text(json.dumps(model["vocab"]), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(merge) for merge in model["merges"])]
    (gpt2 / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    loaded = Tokenizer.load(gpt2)
    assert loaded.encode(ROUND_TRIP + "<|endoftext|>") == bpe.encode(ROUND_TRIP + "<|endoftext|>")
    assert loaded.eos_id == bpe.eos_id

    bert = tmp_path / "bert"
    bert.mkdir()
    (bert / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nhel\n##lo\n你\n", encoding="utf-8")
    loaded = Tokenizer.load(bert)
    assert loaded.encode("Hello你 x") == [5, 6, 7, 1]
    assert (loaded.cls_id, loaded.mask_id, loaded.pad_id) == (2, 4, 0)


def test_published_gpt2_vocabulary_is_encoded_by_tiktoken() -> None:
    folder = Path(os.environ.get("MELETE_DATA", "")) / "tokenizers" / "gpt2"
    if not os.environ.get("MELETE_DATA") or not folder.is_dir():
        pytest.skip("MELETE_DATA has no tokenizers/gpt2")
    pytest.importorskip("tiktoken")
    gpt2 = Tokenizer.load(folder)
    assert gpt2.encode("Hello world") == [15496, 995]
    assert gpt2.encoder.name == "tiktoken"
    assert agrees(gpt2.encoder, gpt2.reference, HARD + PROSE)


def test_a_run_has_a_tokenizer(bpe: Tokenizer, tmp_path: Path) -> None:
    bpe.save(tmp_path / "tokenizer")
    (tmp_path / "config.toml").write_text("")
    assert Tokenizer.load(tmp_path).fingerprint == bpe.fingerprint


def test_names_of_special_tokens_may_be_objects(bpe: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(bpe.definition, encoding="utf-8")
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"eos_token": {"content": "<|endoftext|>"}}))
    loaded = Tokenizer.load(tmp_path)
    assert (loaded.eos_id, loaded.bos_id) == (bpe.eos_id, None)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", b'{"a": 1,\n', "tokenizer.json:2"),
        ("tokenizer.json", b'{"model": {}}', "not a tokenizer"),
        ("tokenizer.json", b"[]", "not a tokenizer"),
        ("tokenizer.json", b"\xff\xfe", "UTF-8"),
        ("vocab.txt", b"a\nb\n", "[UNK]"),
        ("notes.txt", b"", "notes.txt"),
    ],
)
def test_what_is_no_tokenizer_is_refused_in_one_line(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        Tokenizer.load(tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_broken_unicode_and_missing_folders_are_refused(bpe: Tokenizer, tmp_path: Path) -> None:
    for call in (lambda: bpe.encode("a\ud800"), lambda: bpe.encode_batch(["a\ud800"])):
        with pytest.raises(InputError, match="surrogate"):
            call()
    with pytest.raises(InputError, match="no such"):
        Tokenizer.load(tmp_path / "nowhere")


def test_a_saved_batch_setting_does_not_cut_texts(bpe: Tokenizer) -> None:
    values = json.loads(bpe.definition)
    values["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    assert Tokenizer(json.dumps(values), bpe.config).encode("a b c d e") == bpe.encode("a b c d e")


def test_the_reference_is_the_library(bpe: Tokenizer) -> None:
    ids, lengths = reference_encoder(bpe._tokenizer, "test").encode(["a b", ""])
    assert ids.tolist() == bpe.encode("a b")
    assert lengths.tolist() == [len(ids), 0]
