"""What a run folder says about its run, in whatever state it is."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from melete.cli import melete
from melete.errors import InputError
from melete.evaluation.runs import (
    SILENCE_SECONDS,
    differing_keys,
    find_runs,
    read_config,
    run_folder,
    summarise,
)
from melete.training.lock import locked

START = {"event": "start", "family": "gpt2", "parameters": 9000, "steps": 4}
STEP = {"event": "step", "step": 1, "loss": 3.5, "tokens": 64, "elapsed": 8.0}
EVALS = [
    {"event": "eval", "step": step, "metrics": {"loss": loss}}
    for step, loss in ((1, 3.25), (2, 3.0), (3, 3.5))
]


def make_run(
    folder: Path, name: str, events: list[dict[str, Any]], age: float = 0.0, config: str = ""
) -> Path:
    run = folder / name
    run.mkdir()
    path = run / "events.jsonl"
    path.write_text("".join(json.dumps(event) + "\n" for event in events), encoding="utf-8")
    (run / "config.toml").write_text(config, encoding="utf-8")
    os.utime(path, (time.time() - age,) * 2)
    return run


@pytest.mark.parametrize(
    ("events", "age", "state"),
    [
        ([], 0.0, "empty"),
        ([START], 1.0, "running"),
        ([START, STEP], SILENCE_SECONDS + 60, "interrupted"),
        ([START, STEP, {"event": "end", "reason": "signal", "elapsed": 9.0}], 0.0, "stopped"),
        ([START, STEP, {"event": "end", "reason": "signal"}, STEP], 0.0, "running"),
        ([START, STEP, {"event": "end", "reason": "early stop"}], SILENCE_SECONDS * 2, "finished"),
        ([START, STEP, {"event": "end", "reason": "done"}], 0.0, "finished"),
    ],
)
def test_state(tmp_path: Path, events: list[dict[str, Any]], age: float, state: str) -> None:
    assert summarise(make_run(tmp_path, "run", events, age)).state == state


def test_a_killed_run_is_known_by_its_lock_at_once(tmp_path: Path) -> None:
    run = make_run(tmp_path, "run", [START, STEP])
    with locked(run):
        assert summarise(run).state == "running"
    assert summarise(run).state == "interrupted"
    (run / ".lock").write_text("another machine")
    assert summarise(run).state == "running"


def test_summary_holds_the_best_validation_figure(tmp_path: Path) -> None:
    summary = summarise(make_run(tmp_path, "run", [START, STEP, *EVALS]))
    assert (summary.metric, summary.best) == ("loss", 3.0)
    assert (summary.step, summary.steps, summary.tokens, summary.loss) == (2, 4, 64, 3.5)


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a run folder"):
        summarise(tmp_path)
    make_run(tmp_path, "run", [], config="steps = ")
    with pytest.raises(InputError, match="broken TOML"):
        read_config(tmp_path / "run")


def test_runs_are_listed_latest_last(tmp_path: Path) -> None:
    make_run(tmp_path, "b", [START], age=10)
    make_run(tmp_path, "a", [START], age=1000)
    (tmp_path / "no-run").mkdir()
    assert [run.name for run in find_runs(tmp_path)] == ["a", "b"]
    assert find_runs(tmp_path / "nowhere") == []
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file: not a folder"):
        find_runs(tmp_path / "file")


def test_differing_keys_name_what_differs_and_nothing_else() -> None:
    one = {"name": "a", "seed": 0, "model": {"source": "x"}, "choices": {"seed": "drawn"}}
    other = {"name": "b", "seed": 0, "model": {"source": "y", "init": "z"}}
    assert differing_keys([one, other]) == {"model.init": [None, "z"], "model.source": ["x", "y"]}


def test_command_lists_and_compares(tmp_path: Path) -> None:
    make_run(tmp_path, "first", [START, STEP, *EVALS], config="[training]\nsteps = 4\n")
    make_run(tmp_path, "唐诗", [START], config="[training]\nsteps = 8\n")
    table = [{"name": "gpt2", "loss": 3.0, "bits_per_byte": 1.95}, {"name": "5-gram", "bits_per_byte": 2.0}]
    make_run(tmp_path, "scored", [START, STEP, *EVALS, {"event": "result", "table": table}])
    listed = CliRunner().invoke(melete, ["runs", "--folder", str(tmp_path)])
    assert "3.0000 loss" in listed.stdout
    assert "1.9500 bits per byte" in listed.stdout
    assert "唐诗" in listed.stdout
    compared = CliRunner().invoke(
        melete, ["runs", "--folder", str(tmp_path), "compare", "first", "唐诗", "--json"]
    )
    answer = json.loads(compared.stdout)
    assert answer["differences"] == {"training.steps": [4, 8]}
    assert [run["name"] for run in answer["runs"]] == ["first", "唐诗"]
    everything = CliRunner().invoke(melete, ["runs", "--folder", str(tmp_path), "--json"])
    assert len(json.loads(everything.stdout)["runs"]) == 3
    alone = CliRunner().invoke(melete, ["runs", "--folder", str(tmp_path), "compare", "first"])
    assert "the same" not in alone.stdout
    missing = CliRunner().invoke(melete, ["runs", "--folder", str(tmp_path), "compare", "nowhere"])
    assert isinstance(missing.exception, InputError)


def test_no_runs_yet_says_how_to_begin(tmp_path: Path) -> None:
    listed = CliRunner().invoke(melete, ["runs", "--folder", str(tmp_path)])
    assert "melete demo" in listed.stderr


def test_a_run_is_known_by_its_name_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "one").mkdir(parents=True)
    assert run_folder("one") == Path("runs/one")
    (tmp_path / "one").mkdir()
    assert run_folder("one") == Path("one")
    assert run_folder("two") == Path("two")
