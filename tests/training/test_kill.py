"""A training that is killed at any moment, and resumed, ends in the weights of one that was not."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher import Done, Launcher
from rig import checkpoint, digest, events

RECIPE = """
[model]
source = "gpt2:nano"
config = {{hidden_size = 32, num_hidden_layers = 2, num_attention_heads = 2, hidden_dropout = 0.1}}
[tokenizer]
kind = "char"
[data]
train = ["text.txt"]
[training]
steps = {steps}
context = 16
batch_tokens = 128
micro_batch_rows = 2
save_every = {every}
eval_every = 7
eval_tokens = 256
sample_every = 11
ema_decay = 0.9
threads = 1
precision = "float32"
[evaluation]
baseline = false
"""


def write_text(path: Path) -> None:
    words = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "one", "dog", "run", "by", "while"]
    draw = random.Random(0)
    path.write_text("\n\n".join(" ".join(draw.choices(words, k=40)) + "." for _ in range(60)))


@pytest.fixture(scope="module")
def melete(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    folder = tmp_path_factory.mktemp("kill")
    write_text(folder / "text.txt")
    (folder / "recipe.toml").write_text(RECIPE.format(steps=40, every=3))
    with Launcher(folder) as launcher:
        yield launcher


@pytest.fixture(scope="module")
def whole(melete: Launcher) -> Path:
    """A run that nobody disturbs."""
    done = melete.run("train", "recipe.toml", "name=whole")
    assert done.code == 0, done.err
    return melete.folder / "runs" / "whole"


def assert_same_end(run: Path, whole: Path, steps: int) -> None:
    assert digest(run / "final", "model.safetensors") == digest(whole / "final", "model.safetensors")
    assert digest(checkpoint(run, steps)) == digest(checkpoint(whole, steps))
    assert [event["step"] for event in events(run, "step")] == list(range(steps))
    assert [e["metrics"] for e in events(run, "eval")] == [e["metrics"] for e in events(whole, "eval")]
    assert len(events(run, "result")) == 1
    assert not list(run.rglob(".*.tmp-*"))


def go_on(melete: Launcher, name: str) -> None:
    """Start the run again, as a person would: from its folder, or anew if it did not come so far."""
    if (melete.folder / "runs" / name).exists():
        melete.start("resume", f"runs/{name}")
    else:
        melete.start("train", "recipe.toml", f"name={name}")


def kill_and_resume(melete: Launcher, whole: Path, name: str, cycles: int, seed: int, longest: float) -> None:
    """Kill at `cycles` random moments; then let it end, and compare."""
    draw, run, kills = random.Random(seed), melete.folder / "runs" / name, 0
    done = Done(-9, "", "")
    while kills < cycles:
        go_on(melete, name)
        time.sleep(draw.uniform(0.0, longest))
        melete.kill()
        done = melete.wait()
        if done.code != -9:
            assert done.code == 0, done.err
            assert_same_end(run, whole, len(events(whole, "step")))
            shutil.rmtree(run)  # it was faster than its killer: once more
        else:
            kills += 1
    if done.code == -9:
        go_on(melete, name)
        done = melete.wait()
        assert done.code == 0, done.err
        assert_same_end(run, whole, len(events(whole, "step")))


def test_three_kills_change_nothing(melete: Launcher, whole: Path) -> None:
    kill_and_resume(melete, whole, "three", 3, seed=0, longest=1.0)


@pytest.mark.parametrize(
    "moment",
    [
        ("events.jsonl", '"step": 0'),  # before the first checkpoint
        ("checkpoints/.step-00000006.tmp-*/model.safetensors", ""),  # in the middle of a save
        ("events.jsonl", '"end"'),  # after the last step, before or while the result is made
    ],
    ids=["before the first checkpoint", "while saving", "while scoring"],
)
def test_a_kill_at_a_bad_moment_changes_nothing(
    melete: Launcher, whole: Path, moment: tuple[str, str], request: pytest.FixtureRequest
) -> None:
    name = request.node.callspec.id.replace(" ", "-")
    run = melete.folder / "runs" / name
    melete.start("train", "recipe.toml", f"name={name}")
    pattern, text = moment
    until = time.monotonic() + 60
    while not any(not text or text in path.read_text() for path in run.glob(pattern)):
        assert time.monotonic() < until
        time.sleep(0.001)
    melete.kill()
    assert melete.wait().code in (-9, 0)
    if not events(run, "result"):
        assert melete.run("resume", f"runs/{name}").code == 0
    assert_same_end(run, whole, 40)


@pytest.mark.slow
def test_twenty_kills_change_nothing(melete: Launcher) -> None:
    (melete.folder / "recipe.toml").write_text(RECIPE.format(steps=400, every=7))
    assert melete.run("train", "recipe.toml", "name=long").code == 0
    kill_and_resume(melete, melete.folder / "runs" / "long", "twenty", 20, seed=1, longest=1.5)
