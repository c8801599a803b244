"""Recipes are whole: each is a config, and what is fine-tuned was pretrained beside it, on rows as long."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from melete import config as configs
from melete.data.labelled.sets import SETS, VALID_FRACTION
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
def test_what_is_fine_tuned_was_pretrained_beside_it(path: Path) -> None:
    before, after = configs.load(path.with_name("pretrain.toml")), configs.load(path)
    assert Path(after.model.source) == Path(before.folder) / before.name
    assert after.training.context <= before.training.context
    assert SETS[after.data.train[0]].task == after.objective.name
    held_out = after.data.train[0] != "trec" or after.data.valid_fraction == VALID_FRACTION
    assert held_out, "pretraining has read rows that this one measures on"


def test_every_promise_has_recipes_in_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import bars_tasks

    assert set(bars_tasks.PROMISES) == {path.parent.name for path in TUNED}
    for name, promise in bars_tasks.PROMISES.items():
        parts = [configs.load(ROOT / "recipes" / name / f"{part}.toml") for part in ("pretrain", "finetune")]
        assert parts[0].training.minutes + parts[1].finetuning.minutes < promise.minutes
    assert sum(bars_tasks.PROMISES[name].minutes for name in bars_tasks.HALF) <= 75
    del sys.modules["bars_tasks"], sys.modules["_bars"]
