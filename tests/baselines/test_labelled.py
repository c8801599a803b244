"""Baselines on labelled rows learn what can be learned, and answer in the form that models do."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from melete.baselines.labelled import LabelledBaseline, baselines_for
from melete.baselines.linear import LinearTexts, Majority, PairOverlap
from melete.baselines.longest_match import LongestMatch
from melete.baselines.similarity import TfidfCosine, Weights, overlap, tokens
from melete.baselines.tagger import LinearTagger, MostFrequentTag, best_path, shape
from melete.data.datasets import data_roots
from melete.data.labelled.rows import QuestionRow, ScoreRow, Span, TagRow, TextRow
from melete.data.labelled.sets import LabelledSet, load_labelled
from melete.errors import InputError

GOOD = ("fine", "great", "lovely", "superb", "warm")
BAD = ("dull", "poor", "awful", "bland", "cold")


def reviews(count: int, seed: int = 0) -> list[TextRow]:
    """Texts of a word that tells and of many that do not."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        good = rng.random() < 0.6
        noise = [f"w{n}" for n in rng.integers(0, 300, 6)]
        rows.append(
            TextRow(" ".join([*noise, str(rng.choice(GOOD if good else BAD))]), None, ("gb"[not good],))
        )
    return rows


def accuracy(baseline: LabelledBaseline, rows: list[TextRow]) -> float:
    said = [(answer["label"],) for answer in baseline.predict(rows)]
    return float(np.mean([own == row.labels for own, row in zip(said, rows, strict=True)]))


# -- texts --


def test_linear_texts_beat_the_majority():
    train, valid = reviews(400), reviews(200, seed=1)
    assert accuracy(Majority().fit(train), valid) == pytest.approx(0.6, abs=0.08)
    linear = LinearTexts().fit(train)
    assert accuracy(linear, valid) > 0.97
    answer = linear.predict([TextRow("a lovely thing")])[0]
    assert answer["label"] == "g"
    assert set(answer["probabilities"]) == {"b", "g"}
    assert sum(answer["probabilities"].values()) == pytest.approx(1.0)
    assert answer["probabilities"]["g"] > 0.7


def test_chinese_is_read_by_characters():
    rng = np.random.default_rng(0)
    letters = [chr(0x4E00 + i) for i in range(200)]
    rows = [
        TextRow("".join(rng.choice(letters, 8)) + ("很好" if i % 2 else "很差"), None, (str(i % 2),))
        for i in range(200)
    ]
    assert accuracy(LinearTexts().fit(rows[:150]), rows[150:]) > 0.9


def test_letters_tell_what_no_word_does():
    rng = np.random.default_rng(0)
    rows = [
        TextRow(f"{'pre' if i % 2 else 'anti'}{number}", None, (str(i % 2),))
        for i, number in enumerate(rng.integers(0, 10**6, 200))
    ]
    linear = LinearTexts().fit(rows[:150])
    assert len(linear.parts) == 1  # words, none of which comes twice, are left out
    assert accuracy(linear, rows[150:]) == 1.0


def test_several_labels():
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(500):
        own = rng.random(3) < (0.3, 0.4, 0.9)
        noise = [f"w{n}" for n in rng.integers(0, 200, 4)]
        words = [word for word, has in zip(("red", "green", "blue"), own, strict=True) if has]
        rows.append(TextRow(" ".join([*noise, *words]), None, tuple(words)))
    said = LinearTexts(multi_label=True).fit(rows[:400]).predict(rows[400:])
    right = [set(answer["labels"]) == set(row.classes) for answer, row in zip(said, rows[400:], strict=True)]
    assert np.mean(right) > 0.85
    assert [answer["labels"] for answer in Majority(multi_label=True).fit(rows).predict(rows[:2])] == [
        ["blue"]
    ] * 2


def test_pairs_are_told_apart_by_what_they_share():
    rng = np.random.default_rng(0)
    rows = []
    for i in range(300):
        one = [f"w{n}" for n in rng.integers(0, 500, 8)]
        other = [*one[:6], "x"] if i % 2 else [f"w{n}" for n in rng.integers(0, 500, 7)]
        rows.append(TextRow(" ".join(one), " ".join(other), (str(i % 2),)))
    assert accuracy(PairOverlap().fit(rows[:200]), rows[200:]) > 0.97


def test_without_scikit_learn_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(
        InputError, match=r"needs scikit-learn; install it with `pip install 'melete\[baselines\]'`"
    ):
        LinearTexts().fit(reviews(30))


# -- likeness --


def test_cosine_follows_what_is_shared():
    rng = np.random.default_rng(0)
    words = [f"w{n}" for n in range(50)]
    rows = []
    for _ in range(100):
        shared = int(rng.integers(0, 9))
        one = list(rng.choice(words, 8, replace=False))
        rows.append(
            ScoreRow(
                " ".join(one), " ".join([*one[:shared], *(f"z{i}" for i in range(8 - shared))]), shared / 2
            )
        )
    said = [answer["score"] for answer in TfidfCosine().fit(rows).predict(rows)]
    assert np.corrcoef(said, [row.score or 0 for row in rows])[0, 1] > 0.97
    assert min(said) >= 0
    assert max(said) <= 4


def test_rare_words_weigh_more():
    weights = Weights(["the cat", "the dog", "the bird"], tokens)
    assert weights.cosine("the cat", "the cat") == pytest.approx(1.0)
    assert weights.cosine("the cat", "a cat") > weights.cosine("the cat", "the ox") > 0
    assert weights.cosine("", "the") == 0.0
    assert tokens("Don't 跑 2x!") == ["don", "'", "t", "跑", "2x", "!"]
    assert len(overlap("", "", weights)) == len(overlap("the 3 cats", "3 dogs", weights)) == 10


# -- tags --


def sentences(count: int, seed: int = 0) -> list[TagRow]:
    """Names follow a title; capitals alone do not tell."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        words = [str(word) for word in rng.choice(["we", "saw", "Them", "often", "It", "ran"], 5)]
        tags = ["O"] * 5
        if rng.random() < 0.7:
            at = int(rng.integers(0, 4))
            name = [f"N{rng.integers(0, 10_000)}x" for _ in range(2)]
            words[at:at], tags[at:at] = ["Dr", *name], ["O", "B-PER", "I-PER"]
        rows.append(TagRow(tuple(words), tuple(tags)))
    return rows


def test_the_tagger_learns_from_neighbours_and_letters():
    train, valid = sentences(150), sentences(50, seed=1)
    tagger = LinearTagger(epochs=5).fit(train)
    said = [tuple(answer["tags"]) for answer in tagger.predict(valid)]
    assert np.mean([own == row.tags for own, row in zip(said, valid, strict=True)]) > 0.95
    frequent = [tuple(answer["tags"]) for answer in MostFrequentTag().fit(train).predict(valid)]
    assert np.mean([own == row.tags for own, row in zip(frequent, valid, strict=True)]) < 0.5
    assert tagger.predict([TagRow(())]) == [{"tags": []}]
    again = LinearTagger(epochs=5).fit(train)
    np.testing.assert_array_equal(again.weights, tagger.weights)


def test_the_best_path_is_the_best_of_all():
    rng = np.random.default_rng(0)
    scores, moves = rng.normal(size=(5, 3)), rng.normal(size=(4, 3))

    def worth(path: np.ndarray) -> float:
        before = np.concatenate([[3], path[:-1]])
        return float(scores[np.arange(5), path].sum() + moves[before, path].sum())

    every = np.stack(np.meshgrid(*[range(3)] * 5), -1).reshape(-1, 5)
    assert worth(best_path(scores, moves)) == pytest.approx(max(map(worth, every)))


def test_shapes():
    assert [shape(word) for word in ("McDonald-3", "USA", "1990", "it", "中国")] == [
        "XxXx-9",
        "X",
        "9",
        "x",
        "x",
    ]


# -- questions --


def question(question: str, context: str, answer: str) -> QuestionRow:
    span = (Span(answer, context.index(answer), context.index(answer)),) if answer else ()
    return QuestionRow(question, context, span)


def test_longest_match_finds_what_follows_the_question():
    names = ["Ann", "Bob", "Cid", "Dan", "Eve", "Fay"]
    context = " ".join(f"The king of land{i} was called {name} the Old." for i, name in enumerate(names))
    rows = [
        question(f"Who was the king of land{i} called?", context, f"{name} the Old")
        for i, name in enumerate(names)
    ]
    said = LongestMatch().fit(rows).predict(rows)
    assert [answer["answer"] for answer in said] == [f"{name} the Old" for name in names]
    assert all(context.startswith(answer["answer"], answer["start"]) for answer in said)


def test_longest_match_knows_when_there_is_nothing():
    context = "猫坐在垫子上。狗在花园里跑。"
    rows = [question("猫坐在哪里？", context, "垫子上"), question("火星上的温度是多少？", context, "")] * 10
    said = LongestMatch().fit(rows).predict(rows[:2])
    assert said[0]["answer"]
    assert said[1]["answer"] == ""
    assert said[1]["start"] is None


# -- all --


def test_every_task_has_its_baselines():
    def of(task: str, row, multi_label: bool = False) -> list[str]:
        return [
            type(b).__name__ for b in baselines_for(LabelledSet("x", task, [row], [row], ("a",), multi_label))
        ]

    assert of("text-classification", TextRow("a", None, ("a",))) == ["Majority", "LinearTexts"]
    assert of("text-classification", TextRow("a", "b", ("a",))) == ["Majority", "PairOverlap"]
    assert of("sentence-similarity", ScoreRow("a", "b", 1.0)) == ["TfidfCosine"]
    assert of("token-classification", TagRow(("a",), ("O",))) == ["MostFrequentTag", "LinearTagger"]
    assert of("question-answering", QuestionRow("a", "b", ())) == ["LongestMatch"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("trec", 0.862),
        ("ag_news", 0.898),
        ("mrpc", 0.725),
        ("sts_b", 0.75),
        ("weibo_ner", 0.5),
        ("ud_english_ewt", 0.944),
    ],
)
def test_what_was_measured_on_public_sets(name, least):
    from melete.data.labelled.sets import SETS
    from melete.evaluation.exams import exam_of

    if not any((root / name).is_dir() for root in data_roots()):
        pytest.skip(f"{name} is not on this machine")
    found = load_labelled(name, SETS[name].task, note=lambda _: None)
    exam = exam_of(found.task, found.valid, found.labels)
    baseline = baselines_for(found)[-1].fit(found.train)
    marks = exam.mark(baseline.predict(found.valid))
    assert exam.figures(marks)[exam.main] >= least
