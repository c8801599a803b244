"""Masks that are what was asked for, in English and in Chinese."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from melete.data.corruption import (
    BERT,
    ELECTRA,
    LONGEST_SPAN,
    Corruption,
    Vocabulary,
    choose_spans,
    choose_tokens,
    choose_words,
    linear_rate,
    mask_tokens,
    replace_tokens,
)
from melete.data.encoder_text import EncoderText, Sample, Samples
from melete.data.tokenizers import Tokenizer
from melete.data.words import han_cutter
from melete.errors import InputError
from real_text import documents

SIZE, MASK = 5000, 4
ORDINARY = np.arange(SIZE) >= 5
VOCABULARY = Vocabulary(MASK, 2, 3, 0, ORDINARY, np.flatnonzero(ORDINARY))
TOKENS = 1_000_000

# Word lengths in tokens and text lengths in tokens, as real text has them.
LENGTHS = {"english": ([0.72, 0.18, 0.07, 0.03], 510), "chinese": ([0.45, 0.43, 0.07, 0.05], 510)}


@cache
def texts(language: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """A million tokens in ragged texts: ids, with specials in between, and the word of each."""
    rng = np.random.default_rng(1)
    shares, longest = LENGTHS[language]
    found, total = [], 0
    while total < TOKENS:
        size = int(rng.integers(longest // 2, longest + 1))
        ids = rng.integers(5, SIZE, size)
        ids[rng.random(size) < 0.02] = 1  # unknown tokens
        sizes = rng.choice(np.arange(1, 5), size, p=shares)
        found.append((ids, np.repeat(np.arange(size), sizes)[:size]))
        total += size
    return found


@pytest.mark.parametrize("language", LENGTHS)
@pytest.mark.parametrize("unit", ["token", "word", "span"])
@pytest.mark.parametrize("base", [BERT, ELECTRA], ids=["80-10-10", "85-0-15"])
def test_rates_and_shares_over_a_million_tokens(language: str, unit: str, base: Corruption) -> None:
    corruption = Corruption(base.rate, unit, base.masked, base.random)
    rng = np.random.default_rng(0)
    chosen = may = masked = kept = 0
    # A span is shown alike, some five tokens by one draw: its shares need more tokens to be measured as well.
    for ids, words in texts(language) * (4 if unit == "span" else 1):
        out = mask_tokens(ids, words, corruption, VOCABULARY, rng)
        at = out.labels != -100
        assert np.array_equal(out.labels[at], ids[at])
        assert np.array_equal(out.ids[~at], ids[~at])
        assert ORDINARY[ids[at]].all(), "a special token was chosen"
        assert (ORDINARY[out.ids] | (out.ids == MASK))[at].all(), "a special token was drawn"
        may += int(ORDINARY[ids].sum())
        chosen += int(at.sum())
        masked += int((out.ids[at] == MASK).sum())
        kept += int((out.ids[at] == ids[at]).sum())
    assert chosen / may == pytest.approx(corruption.rate, abs=0.002)
    assert masked / chosen == pytest.approx(corruption.masked, abs=0.002)
    random = 1 - (masked + kept) / chosen  # of which one in SIZE is the token itself
    assert random == pytest.approx(corruption.random, abs=0.002)


@cache
def real_texts(name: str) -> tuple[list[Sample], Vocabulary]:
    """A million tokens of a real set, as an encoder reads them."""
    whole = documents(name, 6_000_000 if name == "wikitext-2" else 1_600_000)
    tokenizer = Tokenizer.train(whole[:3000], "wordpiece", SIZE)
    samples = Samples(EncoderText.tokenise(whole, tokenizer, han_cutter(whole)[1]), 126)
    rng = np.random.default_rng(0)  # asked for pairs only
    return [samples.sample(i, rng) for i in range(len(samples.runs))], Vocabulary.of(tokenizer)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wikitext-2", "thucnews_title"])
@pytest.mark.parametrize("unit", ["token", "word", "span"])
@pytest.mark.parametrize("base", [BERT, ELECTRA], ids=["80-10-10", "85-0-15"])
def test_rates_and_shares_hold_in_real_text(name: str, unit: str, base: Corruption) -> None:
    corruption = Corruption(base.rate, unit, base.masked, base.random)
    samples, vocabulary = real_texts(name)
    assert sum(len(sample.ids) for sample in samples) >= TOKENS
    rng = np.random.default_rng(0)
    chosen = may = masked = kept = torn = 0
    for sample in samples * (4 if unit == "span" else 1):
        words = np.cumsum(sample.begins)
        out = mask_tokens(sample.ids, words, corruption, vocabulary, rng)
        ordinary, at = vocabulary.is_ordinary[sample.ids], out.labels != -100
        may, chosen = may + int(ordinary.sum()), chosen + int(at.sum())
        masked += int((out.ids[at] == vocabulary.mask_id).sum())
        kept += int((out.ids[at] == sample.ids[at]).sum())
        torn += len(np.intersect1d(words[at], words[ordinary & ~at]))
    assert chosen / may == pytest.approx(corruption.rate, abs=0.002)
    # A short title has one span or none, of some six tokens by one draw: that alone is a deviation of 0.0014.
    near = 0.004 if unit == "span" else 0.002
    assert masked / chosen == pytest.approx(corruption.masked, abs=near)
    assert 1 - (masked + kept) / chosen == pytest.approx(corruption.random, abs=near)
    assert (torn > 0) == (unit == "token")


@pytest.mark.parametrize("choose", [choose_words, choose_spans])
@pytest.mark.parametrize("language", LENGTHS)
def test_words_are_chosen_whole(choose, language: str) -> None:
    rng = np.random.default_rng(0)
    for _, words in texts(language)[:300]:
        chosen = choose(words, 0.15, rng) > 0
        share = np.bincount(words, chosen) / np.maximum(np.bincount(words), 1)
        assert set(np.unique(share)) <= {0.0, 1.0}


@pytest.mark.parametrize("language", LENGTHS)
def test_words_of_every_length_are_chosen_alike(language: str) -> None:
    rng = np.random.default_rng(0)
    chosen, there = np.zeros(5), np.zeros(5)
    for _, words in texts(language):
        lengths = np.bincount(words)[words]
        there += np.bincount(lengths, minlength=5)
        chosen += np.bincount(lengths, choose_words(words, 0.15, rng), minlength=5)
    shares = chosen[1:] / there[1:]
    noise = 3 * np.sqrt(0.15 * np.arange(1, 5) / there[1:])
    assert (np.abs(shares - 0.15) < 0.002 + noise).all()


@pytest.mark.parametrize("language", LENGTHS)
def test_spans_have_the_lengths_of_the_paper(language: str) -> None:
    rng = np.random.default_rng(0)
    found = np.zeros(LONGEST_SPAN + 1)
    for _, words in texts(language) * 4:
        spans = choose_spans(words, 0.15, rng)
        first = np.flatnonzero(np.diff(words, prepend=-1))  # one token of each word
        sizes = np.bincount(spans[first])[1:]
        found += np.bincount(sizes, minlength=LONGEST_SPAN + 1)
    expected = 0.8 ** np.arange(LONGEST_SPAN)
    expected /= expected.sum()
    assert found[1:] / found.sum() == pytest.approx(expected, abs=0.004)
    assert found @ np.arange(LONGEST_SPAN + 1) / found.sum() == pytest.approx(3.8, abs=0.02)


@pytest.mark.parametrize("length", [1, 2, 5, 9])
@pytest.mark.parametrize("unit", ["token", "word", "span"])
def test_the_rate_holds_in_short_texts(length: int, unit: str) -> None:
    rng = np.random.default_rng(0)
    words = np.repeat(np.arange(length), 2)
    chosen = 0.0
    for _ in range(8000):
        if unit == "token":
            chosen += choose_tokens(2 * length, 0.15, rng).mean()
        else:
            chosen += ((choose_words if unit == "word" else choose_spans)(words, 0.15, rng) > 0).mean()
    assert chosen / 8000 == pytest.approx(0.15, abs=0.013)


def test_a_span_is_shown_alike() -> None:
    corruption = Corruption(rate=0.5, unit="span")
    words = np.arange(400)
    ids = np.random.default_rng(0).integers(5, SIZE, 400)
    seen = set()
    for seed in range(30):
        spans = choose_spans(words, 0.5, np.random.default_rng(seed))
        rng = np.random.default_rng(seed)
        out = mask_tokens(ids, words, corruption, VOCABULARY, rng)
        for span in range(1, spans.max() + 1):
            here = spans == span
            masked, kept = out.ids[here] == MASK, out.ids[here] == ids[here]
            assert masked.all() or not masked.any()
            assert masked.any() or kept.all() or kept.mean() < 0.5  # a random token is hardly ever the same
            seen.add("masked" if masked.all() else "kept" if kept.all() else "random")
    assert seen == {"masked", "kept", "random"}


def test_nothing_to_mask() -> None:
    rng = np.random.default_rng(0)
    for unit in ("token", "word", "span"):
        for ids in (np.array([1, 2, 3]), np.array([], dtype=np.int64)):
            out = mask_tokens(ids, np.arange(len(ids)), Corruption(unit=unit), VOCABULARY, rng)
            assert np.array_equal(out.ids, ids)
            assert (out.labels == -100).all()


def test_the_same_generator_gives_the_same_mask() -> None:
    ids, words = texts("english")[0]
    one, two, other = (
        mask_tokens(ids, words, BERT, VOCABULARY, np.random.default_rng(seed)) for seed in (3, 3, 4)
    )
    assert np.array_equal(one.ids, two.ids) and np.array_equal(one.labels, two.labels)
    assert not np.array_equal(one.labels, other.labels)


def test_a_rate_may_follow_the_step() -> None:
    rate = linear_rate(0.3, 0.15, 101)
    assert [rate(0), rate(50), rate(100), rate(500)] == pytest.approx([0.3, 0.225, 0.15, 0.15])


@pytest.mark.parametrize(
    "wrong",
    [{"rate": 0.0}, {"rate": 1.0}, {"masked": 0.9, "random": 0.2}, {"random": -0.1}, {"unit": "line"}],
)
def test_a_wrong_corruption_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError):
        Corruption(**wrong)  # pyright: ignore[reportArgumentType]


def test_replaced_tokens_are_draws_of_their_frequency() -> None:
    frequencies = np.where(ORDINARY, np.arange(SIZE) % 7 + 1.0, 1e-9)
    frequencies /= frequencies.sum()
    ids = np.random.default_rng(1).integers(0, SIZE, 400_000)
    out = replace_tokens(ids, VOCABULARY, frequencies, 0.15, np.random.default_rng(0))
    special = ~ORDINARY[ids]
    assert np.array_equal(out[special], ids[special])
    changed = out != ids
    assert abs(changed[~special].mean() - 0.15) < 0.002
    assert ORDINARY[out[changed]].all()
    kinds = np.bincount(out[changed] % 7, minlength=7) / changed.sum()
    assert np.abs(kinds - np.arange(1, 8) / 28).max() < 0.01
    again = replace_tokens(ids, VOCABULARY, frequencies, 0.15, np.random.default_rng(0))
    assert np.array_equal(again, out)
