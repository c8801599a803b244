"""Words and sentences, in English, in Chinese, and in both at once."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import tokenizers as hf

from melete.data.corruption import choose_words
from melete.data.scripts import unspaced
from melete.data.sentences import split_sentences
from melete.data.tokenizers import Tokenizer
from melete.data.words import LearnedWords, han_cutter, rjieba_cut, token_words, word_starts
from melete.errors import InputError

SENTENCE = "我喜欢自然语言处理，也喜欢机器学习。"


def cut_at(text: str, starts: np.ndarray) -> list[str]:
    stops = [*starts.tolist(), len(text)][1:]
    return [text[a:b].strip() for a, b in zip(starts.tolist(), stops, strict=True)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello, world!", "Hello|,|world|!"),
        ("I don't  know - really...", "I|don't|know|-|really|.|.|."),
        ("pi is 3.14, not 3,142; see a.b", "pi|is|3.14|,|not|3,142|;|see|a|.|b"),
        ("naïve Ünïcode\tпривет", "naïve|Ünïcode|привет"),
        ("snake_case $5 (ok)", "snake|_|case|$|5|(|ok|)"),
        ("我用GPU训练。OK", "我|用|GPU|训|练|。|OK"),
        ("カタカナと漢字", "カタカナと|漢|字"),
        ("", ""),
        ("  ", ""),
    ],
)
def test_words_stand_apart_from_punctuation(text: str, expected: str) -> None:
    assert "|".join(cut_at(text, word_starts(text))) == expected


def characters_tokenizer() -> Tokenizer:
    return Tokenizer.train([SENTENCE], "char", 64)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("我 用 GPU 训 练 。 很 好", "我用GPU训练。很好"),
        ("天 气 [MASK] 好 ！", "天气[MASK]好！"),
        ("two words, and カ タ", "two words, andカタ"),
        ("한국어 단어", "한국어 단어"),
    ],
)
def test_characters_that_need_no_space_have_none(text: str, expected: str) -> None:
    assert unspaced(text) == expected


def test_a_chinese_sentence_is_masked_word_by_word() -> None:
    pytest.importorskip("rjieba")
    ids, offsets = characters_tokenizer().encode_offsets([SENTENCE])[0]
    assert len(ids) == 18
    word = token_words(SENTENCE, offsets, rjieba_cut())
    pieces = cut_at(SENTENCE, np.flatnonzero(np.diff(word, prepend=-1)))
    assert pieces == ["我", "喜欢", "自然语言", "处理", "，", "也", "喜欢", "机器", "学习", "。"]
    seen = set()
    for seed in range(200):
        chosen = choose_words(word, 0.15, np.random.default_rng(seed))
        assert 0 <= chosen.sum() <= 6  # 2.7 tokens on average: a word or two, never the sentence
        seen |= set(np.unique(word[chosen > 0]).tolist())
    assert seen == set(range(10))


def test_tokens_find_their_words() -> None:
    pieces = ["Hel", "##lo", ",", "wor", "##ld", "[UNK]"]
    wordpiece = hf.Tokenizer(
        hf.models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]")
    )
    wordpiece.pre_tokenizer = hf.pre_tokenizers.BertPreTokenizer()
    tokenizer = Tokenizer(wordpiece.to_str(), {})
    text = "Hello, world 中"
    ids, offsets = tokenizer.encode_offsets([text])[0]
    assert ids.tolist() == tokenizer.encode(text) == [0, 1, 2, 3, 4, 5]
    assert token_words(text, offsets).tolist() == [0, 0, 1, 2, 2, 3]


def test_byte_level_tokens_find_their_words() -> None:
    text = "Hi there,  中文!"
    alphabet = sorted(hf.pre_tokenizers.ByteLevel.alphabet())
    byte = hf.Tokenizer(hf.models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    byte.pre_tokenizer = hf.pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False)
    ids, offsets = Tokenizer(byte.to_str(), {}).encode_offsets([text])[0]
    assert len(ids) == len(text.encode())
    # The space before a word is the word's; the three bytes of a character are of one word.
    assert token_words(text, offsets).tolist() == [0] * 2 + [1] * 6 + [2] + [3] * 5 + [4] * 3 + [5]


def test_words_are_learned_from_the_text_itself() -> None:
    rng = np.random.default_rng(0)
    vocabulary = ["我", "也", "喜欢", "机器", "学习", "语言", "处理", "苹果", "自然", "图书馆"]
    texts = ["".join(rng.choice(vocabulary, 12)) + "。" for _ in range(400)]
    learned = LearnedWords.learn(texts, cohesion=3.0)
    assert learned.cut("我也喜欢图书馆") == ["我", "也", "喜欢", "图书馆"]
    assert learned.cut("龘我喜欢") == ["龘", "我", "喜欢"]
    assert learned.cut("") == []


def test_without_a_dictionary_words_are_learned_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "rjieba", None)
    with pytest.raises(InputError, match=r"pip install 'melete\[zh\]'"):
        rjieba_cut()
    name, cut = han_cutter(["喜欢机器"] * 20)
    assert name == "learned"
    assert "".join(cut("喜欢机器")) == "喜欢机器"
    assert "learned from the text" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three?", "One.|Two!|Three?"),
        ('He said "Stop." Then he left.', 'He said "Stop."|Then he left.'),
        (
            "Dr. Smith met J. R. Brown in the U.S. Army, e.g. here.",
            "Dr. Smith met J. R. Brown in the U.S. Army, e.g. here.",
        ),
        ("It costs 3.14 dollars. Not v2.0 though", "It costs 3.14 dollars.|Not v2.0 though"),
        ("So am I. You too.", "So am I.|You too."),
        ("Wait... what? Yes.", "Wait... what?|Yes."),
        ("今天很好。“真的吗？”他问。是的；当然……好！", "今天很好。|“真的吗？”|他问。|是的；|当然……|好！"),
        ("我用PyTorch 2.0训练。It works. 很好!真的", "我用PyTorch 2.0训练。|It works.|很好!|真的"),
        ("A title\n\nA line\nAnother. And more", "A title|A line|Another.|And more"),
        (
            "known as the lobster . It may grow ( 0 @.@ 7 ) .",
            "known as the lobster .|It may grow ( 0 @.@ 7 ) .",
        ),
        ("  \n ", ""),
        ("", ""),
    ],
)
def test_sentences(text: str, expected: str) -> None:
    spans = split_sentences(text)
    assert "|".join(text[a:b] for a, b in spans) == expected
    assert sum(b - a for a, b in spans) >= len("".join(text.split())) * 0.9
