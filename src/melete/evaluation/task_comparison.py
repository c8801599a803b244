"""Two models on the same labelled rows: which is better, how sure that is, and where they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from melete.evaluation.exams import Answer, Exam
from melete.evaluation.task_scorecard import right_and_said, score_answers, shown

_SURE = 0.05  # a difference that chance makes less often than this is called one


@dataclass(frozen=True)
class Compared:
    """Two models, side by side.

    Attributes:
        figures: for JSON: `metric`, `rows`, `table` (see `score_answers`), `better` (by name: on how many rows each is
            better), `differing` (those rows: where, texts, right, said by name, better; the clearest first).
        rows: the table for a terminal, its heading first.
        verdict: what follows, in a sentence.
    """

    figures: dict[str, Any]
    rows: list[list[str]]
    verdict: str


def compare_answers(exam: Exam, answers: Mapping[str, Sequence[Answer]]) -> Compared:
    """Two models' answers to all rows of an exam, by name."""
    first, second = answers
    scored = score_answers(exam, answers)
    one, other = (exam.each(exam.mark(answers[name])) for name in (first, second))
    ahead = one - other
    better = {first: int((ahead > 0).sum()), second: int((ahead < 0).sum())}
    order = np.argsort(-np.abs(ahead), kind="stable")
    differing: list[dict[str, Any]] = []
    for i in order[: sum(better.values())].tolist():
        right, *said = right_and_said(exam, i, answers[first][i], answers[second][i])
        row = {"where": exam.rows[i].where, "texts": shown(exam.rows[i]), "right": right}
        row |= {"said": dict(zip((first, second), said, strict=True))}
        differing.append(row | {"better": first if ahead[i] > 0 else second})
    table = scored.figures["table"]
    figures = {"metric": exam.main, "rows": len(exam.rows), "table": table}
    figures |= {"better": better, "differing": differing}
    return Compared(figures, scored.rows, _verdict(exam.main, table))


def _verdict(metric: str, table: Sequence[Mapping[str, Any]]) -> str:
    first, second = table
    (value, low, high), p_value = second["difference"], second["p_value"]
    test = f"paired test: p = {p_value:.3f}" if p_value >= 0.001 else "paired test: p < 0.001"
    if p_value >= _SURE or low <= 0 <= high:
        return f"these rows do not tell which is better ({test})"
    best = first if value > 0 else second
    return f"{best['name']} is better by {metric} ({test})"
