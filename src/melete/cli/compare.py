"""`melete compare`: which of two models is better on the same labelled rows."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from melete.cli._labelled import COLUMNS, check_labels, labelled_rows, language_of, unstopped
from melete.cli._table import table
from melete.console import printable, say
from melete.errors import InputError

if TYPE_CHECKING:
    from melete.baselines.labelled import LabelledBaseline
    from melete.data.labelled.rows import LabelledRow
    from melete.tasks.labelled import RowPredictor

BASELINE = "baseline"
_CHARACTERS = 160  # shown of a row


@click.command()
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@click.option(
    "--data", "-d", required=True, metavar="FILE|FOLDER|NAME", help="Labelled rows that both answer."
)
@click.option(
    "--train", metavar="FILE|NAME", help="What the baseline learns from. Default: what the run beside it did."
)
@COLUMNS
@click.option(
    "--show", type=click.IntRange(min=0), default=10, show_default=True, help="Rows that are shown."
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or mps.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object, with all rows on which they differ."
)
def command(
    first: str, second: str, data: str, columns: dict[str, str], show: int, as_json: bool, **options: Any
) -> None:
    """Which of two models is better on the same labelled rows, how sure that is, and on which rows they differ.

    A and B are runs, folders or Hub ids of models for one task; in place of one of them, the word baseline stands for
    the linear model that finetune scores beside its own. The main figure has a 95 % interval (bootstrap over the rows),
    and so has the difference; the test deals the answers of each row to the two by chance.

    \b
    Examples:
      melete compare runs/bert runs/electra --data dev.tsv
      melete compare runs/bert baseline --data sst2 --show 30
      melete compare runs/bert baseline --data dev.tsv --train train.tsv --json
    """
    from melete.evaluation.exams import exam_of
    from melete.evaluation.task_comparison import compare_answers
    from melete.evaluation.task_scorecard import answer_rows

    if first == second:
        raise InputError(f"{first} twice", expected="two different models")
    models = {name: _load(name, options["device"]) for name in (first, second) if name != BASELINE}
    task, several = _in_common(models)
    rows = labelled_rows(data, task, columns)
    for name, model in models.items():
        check_labels(rows, model, name)
    labels = dict.fromkeys(label for model in models.values() for label in model.labels)
    language = next(filter(None, map(language_of, models.values())), "")
    exam = exam_of(task, rows, tuple(labels), several, language)
    answers: dict[str, Any] = {}
    for name in (first, second):
        if name in models:
            answers[name] = answer_rows(models[name], rows)
        else:
            (beside,) = models
            baseline = _baseline(_learnt_by(beside, task, options["train"], columns), task, several)
            answers[baseline.name] = baseline.predict(rows)
    compared = compare_answers(exam, answers)
    if as_json:
        import msgspec

        click.echo(msgspec.json.encode({"data": data, **compared.figures}))
    else:
        click.echo(table(compared.rows))
        _show(rows, compared.figures, show)
    say(compared.verdict)
    say(f"next: melete predict {shlex.quote(next(iter(models)))} --data FILE")


def _load(name: str, device: str) -> RowPredictor:
    from melete.api import load
    from melete.tasks.labelled import RowPredictor

    loaded = load(name, device=device)
    if not isinstance(loaded, RowPredictor):
        expected = "a model that was fine-tuned on labelled rows"
        raise InputError("not a model for labelled rows", where=name, expected=expected)
    return unstopped(loaded)


def _in_common(models: dict[str, RowPredictor]) -> tuple[str, bool]:
    """The task of all models, and whether a row may have several labels."""
    found = {
        name: (model.rows_task, model.model.config.problem_type == "multi_label_classification")
        for name, model in models.items()
    }
    if len(set(found.values())) > 1:
        tasks = [
            f"{name} is for {task}{' with several labels' if several else ''}"
            for name, (task, several) in found.items()
        ]
        raise InputError(", ".join(tasks), expected="two models for one task")
    return next(iter(found.values()))


def _learnt_by(run: str, task: str, train: str | None, columns: dict[str, str]) -> list[LabelledRow]:
    """What a baseline learns from: the rows that were asked for, else those that a run was trained on."""
    if train is not None:
        return labelled_rows(train, task, columns, part="train")
    from melete import config as configs
    from melete.training.labelled_data import read_rows

    folder = Path(run).parent if Path(run).name == "final" else Path(run)
    if not (folder / "config.toml").is_file():
        do = "say what the baseline learns from: --train FILE"
        raise InputError("not a run, so what it was trained on is not known", where=run, do=do)
    return read_rows(configs.load(folder / "config.toml"), task).train


def _baseline(learnt: list[LabelledRow], task: str, several: bool) -> LabelledBaseline[Any]:
    """The strongest baseline, once it has learnt."""
    from melete.baselines.labelled import baselines_for
    from melete.data.labelled.sets import LabelledSet

    baseline = baselines_for(LabelledSet("", task, learnt, [], multi_label=several))[-1]
    say(f"{baseline.name}: learning from {len(learnt):,} rows of {learnt[0].file}")
    return baseline.fit(learnt)


def _show(rows: list[LabelledRow], figures: dict[str, Any], most: int) -> None:
    """On how many rows they differ, and some of them."""
    better = figures["better"]
    ahead = ", ".join(f"{name} does better on {count:,}" for name, count in better.items())
    equal = figures["rows"] - sum(better.values())
    click.echo(f"{figures['rows']:,} rows of {rows[0].file}: {ahead}, they are equal on {equal:,}")
    for found in figures["differing"][:most]:
        text = " | ".join(found["texts"])
        short = text[:_CHARACTERS] + ("..." if len(text) > _CHARACTERS else "")
        click.echo(printable(" ".join(f"{found['where']}: {short}".split())))
        said = {"right": found["right"], **found["said"]}
        click.echo(printable("    " + "; ".join(f"{name}: {_plain(value)}" for name, value in said.items())))


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    return (", ".join(map(str, value)) or "nothing") if isinstance(value, list) else str(value)
