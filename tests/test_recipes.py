"""Recipes are whole: each is a config, and what is fine-tuned was pretrained beside it, on rows as long."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from melete import config as configs
from melete.data.labelled.rows import CLASSIFICATION, TextRow
from melete.data.labelled.sets import SETS, VALID_FRACTION
from melete.evaluation.exams import exam_of
from melete.evaluation.task_scorecard import score_answers
from melete.training.job import job_of

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "recipes").glob("*/*.toml"))
TUNED = sorted((ROOT / "recipes").glob("*/finetune.toml"))


def named(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


@pytest.mark.parametrize("path", RECIPES, ids=named)
def test_a_recipe_is_a_config_with_a_job_and_a_result(path: Path) -> None:
    assert job_of(configs.load(path))
    assert (path.parent / "RESULT.md").exists()


@pytest.mark.parametrize("path", TUNED, ids=named)
def test_what_is_fine_tuned_goes_on_from_what_was_pretrained(path: Path) -> None:
    after = configs.load(path)
    before = configs.load(ROOT / "recipes" / Path(after.model.source).name / "pretrain.toml")
    assert Path(after.model.source) == Path(before.folder) / before.name
    assert after.training.context <= before.model.config["max_position_embeddings"]
    assert SETS[after.data.train[0]].task in (after.objective.name, "sentence-similarity")
    assert after.data.train[0] in before.data.train or after.data.train[0] == "sst2:phrases"
    held_out = after.data.train[0] != "trec" or after.data.valid_fraction == VALID_FRACTION
    assert held_out, "pretraining has read rows that this one measures on"


@pytest.fixture
def bars_tasks(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The benchmark as a module."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield importlib.import_module("bars_tasks")
    del sys.modules["bars_tasks"], sys.modules["_bars"]


@pytest.fixture
def bars_seq2seq(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The benchmark as a module."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield importlib.import_module("bars_seq2seq")
    del sys.modules["bars_seq2seq"], sys.modules["_bars"]


def test_every_promise_has_a_recipe_and_half_of_them_fit_the_time(bars_tasks: Any) -> None:
    assert set(bars_tasks.PROMISES) == {path.parent.name for path in TUNED}
    assert set(bars_tasks.HALF) <= set(bars_tasks.PROMISES)


def test_bars_are_read_from_what_a_run_prints(bars_tasks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [TextRow(f"text {i}", labels=("ab"[i % 2],)) for i in range(200)]
    exam = exam_of(CLASSIFICATION, rows, ["a", "b"])
    right, half = [{"label": row.classes[0]} for row in rows], [{"label": "a"}] * len(rows)
    card = score_answers(exam, {"bert": right, "linear": half}).figures
    for module in (bars_tasks, sys.modules["_bars"]):
        monkeypatch.setattr(module, "run", lambda command, scratch: (card, 400.0))
    clock, surely, by = bars_tasks.task("trec", Path())
    assert (clock.met, surely.met, by.met) == (False, True, True)  # 800 s of 600; +0.5 of +0.015
    card = score_answers(exam, {"bert": half, "linear": right}).figures
    assert [bar.met for bar in bars_tasks.task("sst2", Path())] == [True, False, False]


def test_what_is_written_from_scratch_is_promised_in_its_time(
    bars_seq2seq: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, promise in bars_seq2seq.PROMISES.items():
        for recipe in filter(None, (promise.recipe, promise.beside)):
            config = configs.load(ROOT / "recipes" / name.partition(":")[0] / recipe)
            assert config.objective.name == SETS[name].task
            assert config.data.train == [name]
            assert 0 < config.finetuning.minutes < promise.minutes
            if promise.reads and recipe == promise.recipe:
                before = configs.load(ROOT / "recipes" / name.partition(":")[0] / "pretrain.toml")
                assert Path(config.model.source) == Path(before.folder) / before.name
    card = {
        "table": [{"tokenised_bleu": 39.5}, {"name": "copy", "tokenised_bleu": 1.0}],
        "parameters": 4_000_000,
    }
    for module in (bars_seq2seq, sys.modules["_bars"]):
        monkeypatch.setattr(module, "run", lambda command, scratch: (card, 1300.0))
    assert [bar.met for bar in bars_seq2seq.trained("multi30k", Path())] == [True, True, False]
    figures = {"speed_up": 3.5, "identical": 511, "rows": 512, "rate": 70.0, "their_rate": 20.0}
    beside = {"another": {"rate": 80.0, "speed_up": 0.9, "identical": 500}}
    found = {**figures, "beside": beside}
    monkeypatch.setattr(bars_seq2seq, "run", lambda command, scratch: (found, 60.0))
    assert [bar.met for bar in bars_seq2seq.decoding(Path())] == [False, True, True]
