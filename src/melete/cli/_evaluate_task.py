"""`melete evaluate` of a model that answers labelled rows."""

from __future__ import annotations

import shlex
from typing import Any

import click

from melete.cli._labelled import (
    WRITING_SETTINGS,
    check_labels,
    given,
    labelled_rows,
    language_of,
    unstopped,
)
from melete.cli._table import table
from melete.console import say


def evaluate_task(model: str, data: str, as_json: bool, options: dict[str, Any]) -> None:
    """Score a fine-tuned model on labelled rows."""
    from melete.api import load
    from melete.evaluation.exams import exam_of
    from melete.evaluation.task_scorecard import answer_rows, score_answers

    predictor = unstopped(load(model, device=options["device"]))
    predictor = predictor.with_settings(**given(options, WRITING_SETTINGS))
    split, seed = options["split"], options["seed"]
    rows = labelled_rows(data, predictor.rows_task, options["columns"], split=split, seed=seed)
    check_labels(rows, predictor, model)
    several = predictor.model.config.problem_type == "multi_label_classification"
    exam = exam_of(predictor.rows_task, rows, predictor.labels, several, language_of(predictor))
    scored = score_answers(exam, {model: answer_rows(predictor, rows)})
    if as_json:
        import msgspec

        click.echo(msgspec.json.encode({"model": model, "data": data, **scored.figures}))
    else:
        click.echo(table(scored.rows))
        click.echo(f"{len(rows):,} rows of {rows[0].file}")
        for name, how in exam.signatures.items():
            click.echo(f"{name}: {how}")
    again = "FILE" if data == "-" else shlex.quote(data)
    say(f"next: melete predict {shlex.quote(model)} --data {again}")
