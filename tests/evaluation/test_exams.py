"""Figures of answers to labelled rows, by task; intervals, differences, and where a model is wrong."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from melete.data.labelled.rows import QuestionRow, ScoreRow, Span, TagRow, TextRow
from melete.evaluation.exams import exam_of
from melete.evaluation.task_scorecard import score_answers

TEXTS = [
    TextRow(f"text {i}", labels=(label,), file="t.tsv", line=i) for i, label in enumerate("abcaabbc" * 5)
]


def said(labels: str, sure: float = 0.8) -> list[dict[str, Any]]:
    rest = (1 - sure) / 2
    return [{"label": x, "probabilities": {y: sure if x == y else rest for y in "abc"}} for x in labels]


def test_one_label() -> None:
    exam = exam_of("text-classification", TEXTS, ["a", "b", "c"])
    right, wrong = exam.mark(said("abcaabbc" * 5)), exam.mark(said("aaaaabbc" * 5))
    assert exam.figures(right) == {"accuracy": 1.0, "f1_macro": 1.0, "mcc": 1.0}
    assert exam.figures(wrong)["accuracy"] == 0.75
    interval = exam.interval(wrong)
    assert interval.low < 0.75 < interval.high
    better = exam.compare(wrong, right)
    assert better.difference.value == 0.25
    assert 0 < better.difference.low < 0.25 < better.difference.high
    assert better.p_value < 0.05
    strange = exam.mark([{"label": "z"}] * 40)
    assert exam.figures(strange)["accuracy"] == 0.0


def test_two_labels_have_an_area_under_the_curve() -> None:
    rows = [TextRow("x", labels=(label,)) for label in "nppn"]
    exam = exam_of("text-classification", rows, ["n", "p"])
    answers = [{"label": "n", "probabilities": {"n": 1 - p, "p": p}} for p in (0.1, 0.4, 0.3, 0.35)]
    figures = exam.figures(exam.mark(answers))
    assert (figures["accuracy"], figures["f1"], figures["auc"]) == (0.5, 0.0, 0.75)


def test_several_labels() -> None:
    rows = [TextRow("x", labels=tuple(labels)) for labels in ("ab", "", "b")]
    exam = exam_of("text-classification", rows, ["a", "b"], multi_label=True)
    figures = exam.figures(exam.mark([{"labels": ["a"]}, {"labels": []}, {"labels": ["b"]}]))
    assert figures["f1"] == pytest.approx(0.8)
    assert figures["accuracy"] == pytest.approx(2 / 3)


def test_numbers() -> None:
    rows = [ScoreRow("x", "y", score) for score in (1.0, 2.0, 3.0, 4.0)]
    exam = exam_of("sentence-similarity", rows)
    figures = exam.figures(exam.mark([{"score": x} for x in (1.0, 10.0, 20.0, 1000.0)]))
    assert figures["spearman"] == 1.0
    assert figures["pearson"] < 0.95


def test_entities_or_words_by_what_the_tags_are() -> None:
    rows = [TagRow(("New", "York", "is"), ("B-LOC", "I-LOC", "O")), TagRow(("so",), ("O",))]
    exam = exam_of("token-classification", rows)
    figures = exam.figures(exam.mark([{"tags": ["B-LOC", "O", "O"]}, {"tags": ["B-LOC"]}]))
    assert figures == {"f1": 0.0, "precision": 0.0, "recall": 0.0}
    assert exam.figures(exam.mark([{"tags": row.tags} for row in rows]))["f1"] == 1.0
    words = exam_of("token-classification", [TagRow(("it", "is"), ("PRON", "VERB"))])
    assert words.figures(words.mark([{"tags": ["PRON", "AUX"]}])) == {"accuracy": 0.5}


@pytest.mark.parametrize(
    ("context", "text", "answer", "f1"),
    [("It was the 1930s.", "the 1930s", "1930s", 1.0), ("是在北京市。", "北京市", "北京", 0.8)],
)
def test_answers_by_the_rules_of_their_language(context: str, text: str, answer: str, f1: float) -> None:
    row = QuestionRow("?", context, (Span(text, context.index(text), 0),))
    exam = exam_of("question-answering", [row])
    assert exam.figures(exam.mark([{"answer": answer}]))["f1"] == pytest.approx(f1)
    nothing = exam_of("question-answering", [QuestionRow("?", context, ())])
    assert nothing.figures(nothing.mark([{"answer": ""}]))["exact_match"] == 1.0


def test_a_scorecard_says_how_much_better_and_where_it_is_wrong() -> None:
    exam = exam_of("text-classification", TEXTS, ["a", "b", "c"])
    scored = score_answers(exam, {"mine": said("abcaabbb" * 5, 0.9), "baseline": said("aaaaaaaa" * 5)})
    assert json.loads(json.dumps(scored.figures)) == scored.figures
    first, second = scored.figures["table"]
    assert first["accuracy"] == 0.875
    assert second["difference"][0] == pytest.approx(0.5)
    assert second["difference"][1] > 0
    assert scored.rows[0][-1] == "mine is better by"
    assert scored.rows[2][-1].startswith("+0.5000 (")
    assert np.array(scored.figures["confusion"]).tolist() == [[15, 0, 0], [0, 15, 0], [0, 5, 5]]
    assert scored.figures["calibration"]["error"] == pytest.approx(0.025)
    errors = scored.figures["errors"]
    assert {error["where"] for error in errors} == {f"t.tsv:{i}" for i in range(7, 40, 8)}
    assert errors[0] | {"where": ""} == {
        "where": "",
        "texts": ["text 7"],
        "right": "c",
        "said": "b",
        "probability": 0.9,
    }


def worst(task: str, rows: list[Any], answers: list[dict[str, Any]], **labels: Any) -> list[dict[str, Any]]:
    return score_answers(exam_of(task, rows, **labels), {"model": answers}).figures["errors"]


def test_errors_of_tags_are_the_stretches_that_differ() -> None:
    rows = [
        TagRow(("Ada", "saw", "New", "York"), ("B-PER", "O", "B-LOC", "I-LOC")),
        TagRow(("nothing", "here"), ("O", "O")),
    ]
    said = [{"tags": ["B-PER", "O", "O", "B-LOC"]}, {"tags": ["O", "O"]}]
    (error,) = worst("token-classification", rows, said)  # a sentence without entities is no error
    assert (error["right"], error["said"]) == (["New York [LOC]"], ["York [LOC]"])
    words = [TagRow(("time", "flies"), ("NOUN", "VERB"))]
    (error,) = worst("token-classification", words, [{"tags": ["NOUN", "NOUN"]}])
    assert (error["right"], error["said"]) == (["flies [VERB]"], ["flies [NOUN]"])


def test_errors_of_scores_are_the_furthest_first() -> None:
    rows = [ScoreRow("x", "y", score) for score in (1.0, 2.0, 3.0, 4.0)]
    errors = worst("sentence-similarity", rows, [{"score": x} for x in (0.1, 0.6, 0.9, 0.3)])  # a cosine
    assert [(error["right"], error["said"]) for error in errors] == [(4.0, 0.3), (2.0, 0.6), (3.0, 0.9)]


def test_errors_of_questions_show_what_surrounds_the_answer() -> None:
    context = "x " * 500 + "It is blue. " + "y " * 500
    row = QuestionRow("Which?", context, (Span("blue", context.index("blue"), 0), Span("blue", None, 0)))
    (error,) = worst("question-answering", [row], [{"answer": "x"}])
    assert error["right"] == "blue"
    assert "It is blue." in error["texts"][1]
    assert len(error["texts"][1]) < 400
