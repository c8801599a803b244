"""The config is strict, and what it says can be said again."""

from __future__ import annotations

import shlex
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melete import config as configs
from melete.config import RunConfig
from melete.errors import InputError, StorageError


def refused(*changes: str) -> str:
    with pytest.raises(InputError) as error:
        configs.change_by_text(RunConfig(), changes)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ("training.step=5", "unknown key 'training.step'; expected one like 'training.steps'"),
        ("lerning_rate=1", "unknown key 'lerning_rate'; expected one like 'optimizer.learning_rate'"),
        ("trainning.steps=5", "unknown key 'trainning'; expected one like 'training."),
        ("zzz=5", "unknown key 'zzz'; expected one of name, folder, seed"),
        ("training=5", "'training' is a section, not a value; expected [training] or training.key"),
        ("training.steps.x=5", "'steps' is a value, not a section"),
        ("training.steps=many", "training.steps: Expected `int`, got `str`"),
        ("training.steps=1.5", "training.steps: Expected `int`, got `float`"),
        ("seed=true", "seed: Expected `int`, got `bool`"),
        ("data.train=my.txt", "data.train: Expected `array`, got `str`"),
        ("optimizer.betas=[0.9]", "optimizer.betas: Expected `array` of length 2"),
        ("training.steps", "'training.steps' is not a change; expected section.key=value"),
        ("=5", "'=5' is not a change"),
    ],
)
def test_a_wrong_change_is_one_line_that_helps(change: str, line: str) -> None:
    assert line in refused(change)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("optimizer.name=adam", "one of adamw, muon, rmsprop, adafactor"),
        (
            "schedule.name=step",
            "one of constant, linear, linear-overlap, cosine, wsd, inverse-sqrt, piecewise",
        ),
        ("schedule.name=piecewise", "schedule.points is []; expected like [[0.0, 1.0], [1.0, 0.0]]"),
        ("objective.name=mlm", "objective.name is 'mlm'; expected one of causal-lm, masked-lm"),
        ("objective.pair=nps", "objective.pair is 'nps'; expected one of nsp, sop"),
        ("objective.mask_unit=words", "objective.mask_unit is 'words'; expected one of token, word, span"),
        ("objective.mask_rate=0", "objective.mask_rate is 0"),
        ("objective.last_mask_rate=1", "at least 0 and below 1"),
        ("objective.generator_share=2", "more than 0 and at most 1"),
        ("objective.discriminator_weight=-1", "at least 0"),
        ("training.packing=tight", "one of auto, sorted, packed"),
        ("name=a/b", "the name of a folder"),
        ("name=..", "the name of a folder"),
        ("seed=-1", "seed is -1; expected at least 0 and below 2.14748e+09"),
        ("training.steps=0", "training.steps is 0; expected at least 1"),
        ("training.context=1", "at least 2"),
        (
            "training.batch_tokens=100",
            "training.batch_tokens is 100; expected at least training.context (256)",
        ),
        ("training.ema_decay=1", "at least 0 and below 1"),
        ("training.keep=0", "at least 1"),
        ("training.save_every=-1", "at least 0"),
        ("training.minutes=-1", "at least 0"),
        ("training.minutes=inf", "at least 0"),
        ("optimizer.learning_rate=-1", "at least 0"),
        ("optimizer.learning_rate=nan", "at least 0"),
        ("training.context_schedule=[[0.1, 64]]", "(progress, tokens) pairs from progress 0 on"),
        ("training.context_schedule=[[0.0, 512]]", "of at most training.context (256) tokens"),
        ("training.context_schedule=[[0.0, 64], [0.5, 32], [0.2, 16]]", "pairs from progress 0 on"),
        ("optimizer.betas=[0.9, 1.0]", "optimizer.betas is (0.9, 1.0)"),
        ("objective.label_smoothing=1", "below 1"),
        ("schedule.decay_fraction=2", "0 to 1"),
        ("data.valid_fraction=0", "more than 0 and at most 0.5"),
        ("data.valid_fraction=0.6", "more than 0 and at most 0.5"),
        ("guard.window=1", "0 (off), or 2 and more"),
        ("guard.rollback_after=0", "at least 1"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_with_what_would(change: str, expected: str) -> None:
    line = refused(change)
    assert expected in line
    assert change.partition("=")[0] in line or "schedule.points" in line


def test_every_bounded_key_exists_and_accepts_its_default() -> None:
    for path, _, _ in configs._RANGES:
        assert path in configs._all_keys()
    configs.from_tree({}, where="test")


def test_a_recipe_and_changes_on_top(tmp_path: Path) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text("seed = 3\n[training]\nsteps = 7\n[model]\nconfig = {num_hidden_layers = 2}\n")
    config = configs.load(recipe, ["training.steps = 9", "model.config.hidden_size=32", "name=x y"])
    assert (config.seed, config.training.steps, config.name) == (3, 9, "x y")
    assert config.model.config == {"num_hidden_layers": 2, "hidden_size": 32}
    assert config.training.context == RunConfig().training.context


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"[training\nsteps = 1", "broken TOML"),
        (b"a = \xff", "not valid UTF-8 at byte 4"),
        (b"[training]\nstep = 1", "unknown key 'training.step'; expected one like 'training.steps'"),
        (b'[training]\nsteps = "1"', "training.steps: Expected `int`, got `str`"),
        (b"training = 1", "'training' is a section"),
    ],
)
def test_a_broken_recipe_is_named(content: bytes, line: str, tmp_path: Path) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_bytes(content)
    with pytest.raises(InputError) as error:
        configs.load(recipe)
    assert str(error.value).startswith(str(recipe))
    assert line in str(error.value)


def test_a_missing_recipe_is_a_mistake_and_an_unreadable_one_is_the_machines(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such recipe"):
        configs.load(tmp_path / "none.toml")
    with pytest.raises(StorageError, match="Is a directory"):
        configs.load(tmp_path)


# -- what is written can be read --

words = st.text(max_size=12)
numbers = st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    words | numbers | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)
changes = st.fixed_dictionaries(
    {},
    optional={
        "name": words.filter(lambda name: "/" not in name and name not in (".", "..") and "\0" not in name),
        "folder": words,
        "seed": st.integers(0, 2**31 - 1),
        "model.source": words,
        "model.config": st.dictionaries(words, values, max_size=3),
        "data.train": st.lists(words, max_size=3),
        "data.text_column": words,
        "data.valid_fraction": st.floats(1e-9, 0.5),
        "training.prompts": st.lists(words, max_size=3),
        "training.steps": st.integers(1, 10**9),
        "training.minutes": st.floats(0, 1e3),
        "optimizer.name": st.sampled_from(configs.OPTIMIZERS),
        "optimizer.learning_rate": st.floats(1e-12, 1e3),
        "training.context_schedule": st.just([(0.0, 32), (0.25, 128)]),
        "optimizer.betas": st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)),
        "schedule.points": st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=3),
        "evaluation.baseline": st.booleans(),
    },
)


def plain(config: RunConfig) -> dict[str, Any]:
    tree = msgspec.to_builtins(config)
    del tree["choices"], tree["training"]["minutes"]
    return tree


@given(changes)
@settings(max_examples=150, deadline=None)
def test_the_equivalent_command_builds_the_same_config(tree: dict[str, Any]) -> None:
    config = configs.change(RunConfig(), tree, {"training.steps": "because"})
    program, verb, *arguments = shlex.split(configs.equivalent_command(config))
    assert (program, verb) == ("melete", "train")
    again = configs.load(None, arguments)
    assert plain(again) == plain(config)
    assert again.training.minutes == 0  # what the budget chose is not chosen again


@given(changes)
@settings(max_examples=100, deadline=None)
def test_a_dumped_config_reads_back_whole(tree: dict[str, Any]) -> None:
    config = configs.change(RunConfig(), tree, {"training.steps": 'because "so"'})
    assert configs.from_tree(tomllib.loads(configs.dump(config)), where="dump") == config


def test_changes_leave_the_original_alone() -> None:
    config = RunConfig()
    changed = configs.change(config, {"model.config.hidden_size": 8}, {"model.config": "why"})
    assert config.model.config == {}
    assert config.choices == {}
    assert changed.choices == {"model.config": "why"}
