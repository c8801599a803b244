"""ROUGE beside `rouge-score` on English, and written out on Chinese."""

from __future__ import annotations

import random

import pytest

from melete.metrics.rouge import KINDS, greedy_choice, rouge, scores

WORDS = ["the", "the", "cat", "sat", "on", "a", "mat", "and", "it's", "3", "o'clock", "New", "York"]


def text(draw: random.Random) -> str:
    lines = [" ".join(draw.choices(WORDS, k=draw.randint(0, 12))) for _ in range(draw.randint(1, 4))]
    return draw.choice(["\n", "\n\n"]).join(lines) + draw.choice(["", ".", "!?"])


@pytest.fixture(scope="module")
def theirs():
    scorer = pytest.importorskip("rouge_score.rouge_scorer")
    return scorer.RougeScorer(list(KINDS))


@pytest.mark.parametrize("seed", range(5))
def test_english_is_scored_as_theirs_is(theirs, seed: int) -> None:
    draw = random.Random(seed)
    for _ in range(60):
        predicted, reference = text(draw), text(draw)
        expected, found = theirs.score(reference, predicted), scores(predicted, reference)
        for kind in KINDS:
            both = (found[kind].precision, found[kind].recall, found[kind].f1)
            assert both == pytest.approx(tuple(expected[kind]), abs=1e-6), (kind, predicted, reference)


def test_the_nearest_reference_counts_for_each_kind(theirs) -> None:
    draw = random.Random(7)
    predicted = [text(draw) for _ in range(40)]
    references = [[text(draw) for _ in range(draw.randint(1, 3))] for _ in predicted]
    found = rouge(predicted, references)
    for i, (said, several) in enumerate(zip(predicted, references, strict=True)):
        expected = theirs.score_multi(several, said)
        for kind in KINDS:
            assert found[kind][i] == pytest.approx(expected[kind].fmeasure, abs=1e-6)


def test_chinese_is_cut_into_characters_and_foreign_words_stay_whole() -> None:
    found = scores("我爱北京 GPT2！", "我很爱北京，GPT2。")
    assert found["rouge1"].precision == 1.0
    assert found["rouge1"].recall == pytest.approx(5 / 6)
    assert found["rouge2"].precision == pytest.approx(3 / 4)
    assert found["rougeL"].f1 == pytest.approx(10 / 11)


def test_chinese_may_be_cut_into_words() -> None:
    found = rouge(["我 爱 北京"], [["我 很 爱 北京"]], cut=str.split)
    assert found["rouge1"][0] == pytest.approx(6 / 7)


def test_letters_with_accents_are_letters() -> None:
    assert scores("Ein schöner Tag", "ein schöner tag")["rougeL"].f1 == 1.0
    assert scores("ein schner Tag", "ein schöner Tag")["rouge1"].f1 == pytest.approx(2 / 3)


def test_empty_texts_score_nothing() -> None:
    for predicted, reference in (("", "a"), ("a", ""), ("", ""), ("...", "!")):
        assert all(score.f1 == 0 for score in scores(predicted, reference).values())


def test_sentences_are_chosen_as_long_as_they_bring_a_summary_nearer() -> None:
    sentences = ["The cat sat.", "It rained.", "A dog barked at the cat.", "The dog barked."]
    assert greedy_choice(sentences, "The cat sat and the dog barked")[0] == [0, 3]
    chosen, score = greedy_choice(["今天下雨。", "我爱北京。", "他们走了。"], "我很爱北京")
    assert chosen == [1]
    assert score == pytest.approx(8 / 9 + 4 / 7)
    assert greedy_choice(["a b"], "c") == ([], 0.0)
    assert greedy_choice([], "c") == ([], 0.0)
