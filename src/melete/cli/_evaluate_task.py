"""`melete evaluate` of a model that answers labelled rows."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING, Any

import click

from melete.cli._table import table
from melete.console import say
from melete.errors import InputError

if TYPE_CHECKING:
    from melete.data.labelled.rows import LabelledRow
    from melete.tasks.labelled import LabelledPredictor


def evaluate_task(model: str, data: str, as_json: bool, options: dict[str, Any]) -> None:
    """Score a fine-tuned model on labelled rows."""
    from melete.api import load
    from melete.evaluation.exams import exam_of
    from melete.evaluation.task_scorecard import answer_rows, score_answers

    predictor: LabelledPredictor = load(model, device=options["device"])
    rows = _rows(data, predictor.rows_task, options)
    _check(rows, predictor)
    several = predictor.model.config.problem_type == "multi_label_classification"
    exam = exam_of(predictor.rows_task, rows, predictor.labels, several)
    scored = score_answers(exam, {model: answer_rows(predictor, rows)})
    if as_json:
        import msgspec

        click.echo(msgspec.json.encode({"model": model, "data": data, **scored.figures}))
    else:
        click.echo(table(scored.rows))
        click.echo(f"{len(rows):,} rows of {rows[0].file}")
    say(f"next: melete predict {shlex.quote(model)} --data {shlex.quote(data)}")


def _rows(data: str, task: str, options: dict[str, Any]) -> list[LabelledRow]:
    """All rows of a file; the validation part of a named set or a folder of parts, unless another is asked for."""
    from melete.data.labelled.files import read_labelled
    from melete.data.labelled.sets import SETS, load_labelled

    split = options["split"] or ("valid" if data in SETS or os.path.isdir(data) else None)
    if split is None:
        return list(read_labelled(data, task, columns=options["columns"]))
    found = load_labelled(data, task, columns=options["columns"], seed=options["seed"])
    return {"train": found.train, "valid": found.valid, "all": [*found.train, *found.valid]}[split]


def _check(rows: list[LabelledRow], predictor: LabelledPredictor) -> None:
    """Refuse rows that are for another model.

    Raises:
        InputError: a label that the model does not have.
    """
    known = set(predictor.labels)
    for row in rows:
        if unknown := next((name for name in row.classes if name not in known), None):
            names = ", ".join(predictor.labels[:20]) + (", ..." if len(known) > 20 else "")
            raise InputError(f"label {unknown!r}", where=row.where, expected=f"one of the model's: {names}")
