"""What a model for a task is worth: its answers to held-out rows, beside those of others, and where it is wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from melete.console import Progress
from melete.data.labelled.rows import LabelledRow, QuestionRow, TagRow, WrittenRow
from melete.evaluation.exams import Answer, Entities, Exam, OneLabel
from melete.metrics.classification import calibration, confusion
from melete.metrics.intervals import Comparison
from melete.metrics.tagging import entities
from melete.tasks.base import Predictor

MOST_ERRORS, MOST_TYPICAL = 20, 5
# Most labels whose confusions are shown.
MOST_LABELS = 30
# Of a text whose answer is wrong.
MOST_CHARACTERS = 300


@dataclass(frozen=True)
class Scored:
    """Models on the same rows.

    Attributes:
        figures: for JSON, and for the event `result`.
        rows: the table for a terminal, its heading first.
    """

    figures: dict[str, Any]
    rows: list[list[str]]


def score_answers(exam: Exam, answers: Mapping[str, Sequence[Answer]]) -> Scored:
    """Figures, intervals and differences of what several models say of the same rows.

    Args:
        answers: to all rows of the exam, by the name of the model; the first is the one that the others stand beside.

    Returns:
        Figures: `table` (a dict a model: its figures, and `low` and `high` of the main one; `difference` with its
        bounds to the first model), `metric`, `errors`, where there is one label a row `confusion`, `calibration`, and
        of texts `scale`, `signatures` and `typical` (rows that are neither good nor bad).
    """
    marks = {name: exam.mark(own) for name, own in answers.items()}
    first, *others = marks
    compared = {name: exam.compare(marks[name], marks[first]) for name in others}
    table = [_row(exam, name, own, compared.get(name)) for name, own in marks.items()]
    figures: dict[str, Any] = {"metric": exam.main, "rows": len(exam.rows), "table": table}
    if isinstance(exam, OneLabel):
        figures |= _one_label(exam, marks[first])
    figures["errors"] = _errors(exam, answers[first], marks[first])
    if isinstance(exam.rows[0], WrittenRow):
        figures |= {"scale": exam.scale, "signatures": dict(exam.signatures)}
        figures["typical"] = _typical(exam, answers[first], marks[first])
    return Scored(figures, _lines(exam, table))


def answer_rows(predictor: Predictor, rows: Sequence[LabelledRow]) -> list[dict[str, Any]]:
    """What a predictor says of rows."""
    with Progress("predicting", "rows", len(rows)) as progress:
        return list(predictor.stream((row.inputs for row in rows), advance=progress.advance))


def _row(exam: Exam, name: str, marks: np.ndarray, beside: Comparison | None) -> dict[str, Any]:
    interval = exam.interval(marks)
    row: dict[str, Any] = {"name": name, **exam.figures(marks), "low": interval.low, "high": interval.high}
    if beside is not None:
        better = beside.difference
        row |= {"difference": [better.value, better.low, better.high], "p_value": beside.p_value}
    return row


def _lines(exam: Exam, table: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """A line a model; the last column says by how much the first is better."""
    several = len(table) > 1
    lines = [["model", exam.main, "95 % interval", *exam.names[1:]]]
    digits = 4 if exam.scale == 1 else 2
    lines[0] += [f"{table[0]['name']} is better by"] * several
    for row in table:
        low, high = (f"{row[bound]:.{digits}f}" for bound in ("low", "high"))
        cells = [row["name"], f"{row[exam.main]:.{digits}f}", f"{low} to {high}"]
        cells += [f"{row[name]:.{digits}f}" for name in exam.names[1:]]
        if several:
            better = row.get("difference")
            by, least, most = (f"{bound:+.{digits}f}" for bound in better or (0.0, 0.0, 0.0))
            cells.append(f"{by} ({least} to {most})" if better else "")
        lines.append(cells)
    return lines


def _one_label(exam: OneLabel, marks: np.ndarray) -> dict[str, Any]:
    """Which labels are taken for which, and whether the model is right as often as it says."""
    said, count = marks[:, 0].astype(np.int64), len(exam.labels)
    found = calibration(marks[:, 1:].max(1), said == exam.truth)
    table = confusion(exam.truth, said, count + 1)[:count, :count]
    return {
        "labels": list(exam.labels[:MOST_LABELS]),
        "confusion": table[:MOST_LABELS, :MOST_LABELS].tolist(),
        "calibration": {
            "error": found.error,
            "confidence": found.confidence.tolist(),
            "accuracy": found.accuracy.tolist(),
            "counts": found.counts.tolist(),
        },
    }


def _errors(exam: Exam, answers: Sequence[Answer], marks: np.ndarray) -> list[dict[str, Any]]:
    """The rows that are most wrong, the surest first."""
    each = exam.each(marks)
    sure = np.array([_certainty(answer) for answer in answers])
    worst = [i for i in np.lexsort((-sure, each))[:MOST_ERRORS].tolist() if each[i] < 1]
    return [
        _beside(exam, i, answers[i]) | {"probability": None if math.isnan(sure[i]) else float(sure[i])}
        for i in worst
    ]


def _typical(exam: Exam, answers: Sequence[Answer], marks: np.ndarray) -> list[dict[str, Any]]:
    """The rows in the middle, from better to worse."""
    order = np.argsort(-exam.each(marks), kind="stable")
    first = max((len(order) - MOST_TYPICAL) // 2, 0)
    return [_beside(exam, i, answers[i]) for i in order[first : first + MOST_TYPICAL].tolist()]


def _beside(exam: Exam, number: int, answer: Answer) -> dict[str, Any]:
    """A row, what would be right, and what was said."""
    row = exam.rows[number]
    right, said = right_and_said(exam, number, answer)
    return {"where": row.where, "texts": shown(row), "right": right, "said": said}


def _certainty(answer: Answer) -> float:
    """How sure a model was; NaN where it does not say."""
    shares = answer.get("probabilities")
    if isinstance(shares, Mapping):
        return max(shares.values(), default=math.nan)
    if isinstance(shares, Sequence):
        return min(shares, default=math.nan)
    return float(answer.get("score", math.nan)) if "answer" in answer else math.nan


def shown(row: LabelledRow) -> list[str]:
    """The texts of a row as far as a page has room; of a context, what surrounds the answer."""
    if isinstance(row, QuestionRow):
        place = next((span.start for span in row.answers or () if span.start is not None), 0)
        begin = max(place - MOST_CHARACTERS // 2, 0)
        around = row.context[begin : begin + MOST_CHARACTERS]
        return [row.question, f"…{around}" if begin else around]
    return [text[:MOST_CHARACTERS] for text in row.texts]


def right_and_said(exam: Exam, number: int, *answers: Answer) -> list[Any]:
    """What would be right for a row, and what each model said, as JSON has it; of tags only where these differ."""
    row = exam.rows[number]
    keys = ("label", "labels", "tags", "answer", "text", "score")
    said = [next(answer[key] for key in keys if key in answer) for answer in answers]
    if isinstance(row, TagRow):
        stretches = _entities if isinstance(exam, Entities) else _tagged
        every = [stretches(row, tags) for tags in (row.classes, *said)]
        return [[one for one in own if not all(one in other for other in every)] for own in every]
    right = row.answer
    if isinstance(right, tuple):
        right = list(dict.fromkeys(right))
        right = right[0] if len(right) == 1 else right
    return [right, *said]


def _entities(row: TagRow, tags: Sequence[str]) -> list[str]:
    return [
        f"{replace(row, words=row.words[start:stop]).texts[0]} [{kind}]"
        for kind, start, stop in entities(tags)
    ]


def _tagged(row: TagRow, tags: Sequence[str]) -> list[str]:
    return [f"{word} [{tag}]" for word, tag in zip(row.words, tags, strict=True)]
