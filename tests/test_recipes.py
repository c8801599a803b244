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
from melete.training.run import score, start

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "recipes").glob("*/*.toml"))
TUNED = sorted((ROOT / "recipes").glob("*/finetune.toml"))
GPU = ROOT / "recipes" / "wikitext2-gpu"
# What a recipe for a GPU becomes on a CPU: as it is, but for its sizes.
SMALL = (
    "training.device=cpu",
    "training.steps=2",
    "training.context=32",
    "training.context_schedule=[[0.0, 16], [0.5, 32]]",
    "training.batch_tokens=64",
    "training.micro_batch_rows=2",
    "model.config.hidden_size=32",
    "model.config.num_hidden_layers=2",
    "evaluation.context=32",
    "evaluation.stride=8",
)


def named(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


@pytest.mark.parametrize("path", RECIPES, ids=named)
def test_a_recipe_is_a_config_with_a_job_and_a_result(path: Path) -> None:
    assert job_of(configs.load(path))
    assert (path.parent / "RESULT.md").exists()


def test_the_recipe_for_a_gpu_takes_two_steps_and_is_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MELETE_CACHE", str(tmp_path / "cache"))
    words = [f"word{i * i % 97}" for i in range(400)]
    for name, some in (("train", words), ("valid", words[:100])):
        (tmp_path / f"{name}.txt").write_text(" ".join(some), encoding="utf-8")
    data = (f'data.{name}=["{tmp_path / name}.txt"]' for name in ("train", "valid"))
    config = configs.load(GPU / "train.toml", [*SMALL, *data, f"folder={tmp_path}"])
    assert config.training.ema_decay
    assert config.model.config["weight_dropout"]
    finished = start(config)
    assert finished.reason == "done"
    row = score(finished).figures["table"][0]
    assert row["words"] == row["tokens"] - 1 == 100  # a token a word, and the end
    assert 1 < row["word_perplexity"] < 1e9


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
