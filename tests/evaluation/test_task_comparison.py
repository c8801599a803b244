"""Two models on the same rows: how right each row is, which rows differ, and what may be said of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from melete.data.labelled.rows import LabelledRow, QuestionRow, ScoreRow, Span, TagRow, TextRow
from melete.evaluation.exams import exam_of
from melete.evaluation.task_comparison import compare_answers


def said(labels: str) -> list[dict[str, Any]]:
    return [{"label": label} for label in labels]


def test_the_rows_on_which_one_is_right_and_the_other_is_not() -> None:
    rows = [
        TextRow(f"text {i}", labels=(label,), file="t.tsv", line=i) for i, label in enumerate("abab" * 20)
    ]
    exam = exam_of("text-classification", rows, ["a", "b"])
    found = compare_answers(exam, {"one": said("abab" * 20), "two": said("abaa" * 20)})
    assert json.loads(json.dumps(found.figures)) == found.figures
    assert found.figures["better"] == {"one": 20, "two": 0}
    assert [row["where"] for row in found.figures["differing"]] == [f"t.tsv:{i}" for i in range(3, 80, 4)]
    assert found.figures["differing"][0] == {
        "where": "t.tsv:3",
        "texts": ["text 3"],
        "right": "b",
        "said": {"one": "b", "two": "a"},
        "better": "one",
    }
    assert found.verdict == "one is better by accuracy (paired test: p < 0.001)"


@pytest.mark.parametrize("wrong", ["b", "ab"])
def test_too_few_differences_prove_nothing(wrong: str) -> None:
    rows = [TextRow(f"text {i}", labels=("a",)) for i in range(40)]
    exam = exam_of("text-classification", rows, ["a", "b"])
    found = compare_answers(exam, {"one": said(wrong + "a" * (40 - len(wrong))), "two": said("a" * 40)})
    assert sum(found.figures["better"].values()) == 1
    assert found.verdict == "these rows do not tell which is better (paired test: p = 1.000)"


def test_tags_are_told_where_they_differ() -> None:
    row = TagRow(("Ann", "saw", "New", "York"), ("B-PER", "O", "B-LOC", "I-LOC"), file="t.conll", line=1)
    exam = exam_of("token-classification", [row])
    tags = {"one": ["B-PER", "O", "B-LOC", "O"], "two": ["B-PER", "O", "B-LOC", "I-LOC"]}
    found = compare_answers(exam, {name: [{"tags": own}] for name, own in tags.items()})
    (differing,) = found.figures["differing"]
    assert differing["right"] == ["New York [LOC]"]
    assert differing["said"] == {"one": ["New [LOC]"], "two": ["New York [LOC]"]}
    assert differing["better"] == "two"


ENTITIES = [TagRow(("New", "York", "is"), ("B-LOC", "I-LOC", "O")), TagRow(("so",), ("O",))]
CASES: list[tuple[str, list[LabelledRow], list[dict[str, Any]], list[float]]] = [
    (
        "token-classification",
        [*ENTITIES, ENTITIES[0]],
        [{"tags": ["B-LOC", "I-LOC", "O"]}, {"tags": ["O"]}, {"tags": ["B-LOC", "O", "O"]}],
        [1.0, 1.0, 0.0],  # nothing there and nothing said is right
    ),
    ("token-classification", [TagRow(("it", "is"), ("PRON", "VERB"))], [{"tags": ["PRON", "AUX"]}], [0.5]),
    (
        "sentence-similarity",
        [ScoreRow("a", "b", score) for score in (1.0, 2.0, 3.0)],
        [{"score": score} for score in (0.1, 0.9, 0.8)],  # on another scale
        [1.0, 2 / 3, 2 / 3],
    ),
    (
        "question-answering",
        [QuestionRow("?", "It was the 1930s.", (Span("the 1930s", 7, 7),))],
        [{"answer": "the late 1930s"}],
        [2 / 3],
    ),
]


@pytest.mark.parametrize(("task", "rows", "answers", "right"), CASES)
def test_each_row_by_itself(
    task: str, rows: list[LabelledRow], answers: list[dict[str, Any]], right: list[float]
) -> None:
    exam = exam_of(task, rows)
    assert exam.each(exam.mark(answers)).tolist() == pytest.approx(right)


def test_several_labels_by_the_share_that_is_right() -> None:
    rows = [TextRow("x", labels=tuple(labels)) for labels in ("ab", "", "b")]
    exam = exam_of("text-classification", rows, ["a", "b"], multi_label=True)
    marks = exam.mark([{"labels": ["a"]}, {"labels": []}, {"labels": ["a"]}])
    assert exam.each(marks).tolist() == [0.5, 1.0, 0.0]
