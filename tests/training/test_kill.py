"""A training that is killed at any moment, and resumed, ends in the weights of one that was not."""

from __future__ import annotations

import json
import random
import shutil
import time
from pathlib import Path

import pytest

from finetune_rig import write_rows
from launcher import Done, Launcher
from rig import checkpoint, digest, events

SIZES = "hidden_size = 32, num_hidden_layers = 2, num_attention_heads = 2, hidden_dropout = 0.1"
WORDS = "[tokenizer]\nvocab_size = 100"
WRITING = """
[tokenizer]
vocab_size = 300
[objective]
name = "translation"
[finetuning]
bpe_dropout = 0.2
r_drop = 0.5
"""
KINDS = {
    "causal-lm": ("gpt2:nano", SIZES, '[tokenizer]\nkind = "char"'),
    "masked-lm-nsp": ("bert:nano", f"{SIZES}, intermediate_size = 48", f'{WORDS}\n[objective]\npair = "nsp"'),
    "masked-lm-sop": ("bert:nano", f"{SIZES}, intermediate_size = 48", f'{WORDS}\n[objective]\npair = "sop"'),
    "replaced-token": ("electra:nano", f"{SIZES}, intermediate_size = 48, embedding_size = 24", WORDS),
    "translation": ("marian:nano", f"{SIZES}, intermediate_size = 48, num_decoder_layers = 2", WRITING),
}
RECIPE = """
[model]
source = "{source}"
config = {{{sizes}}}
{rest}
[data]
train = ["{data}"]
[training]
steps = {steps}
context = 16
batch_tokens = 128
micro_batch_rows = 2
save_every = {every}
eval_every = 7
eval_tokens = 256
sample_every = 25
ema_decay = 0.9
threads = 1
precision = "float32"
packing = "sorted"
[evaluation]
baseline = false
"""


def write_texts(path: Path) -> None:
    words = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "one", "dog", "run", "by", "while"]
    draw = random.Random(0)
    documents = [" ".join(" ".join(draw.choices(words, k=8)) + "." for _ in range(5)) for _ in range(60)]
    path.write_text("".join(json.dumps({"text": document}) + "\n" for document in documents))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kill")
    write_texts(folder / "texts.jsonl")
    write_rows(folder, "translation")
    for kind, (source, sizes, rest) in KINDS.items():
        for length, steps, every in (("short", 40, 3), ("long", 400, 7)):
            data = "translation.jsonl" if rest is WRITING else "texts.jsonl"
            text = RECIPE.format(source=source, sizes=sizes, rest=rest, data=data, steps=steps, every=every)
            (folder / f"{length}-{kind}.toml").write_text(text)
    return folder


@pytest.fixture(scope="module")
def whole(launcher: Launcher, folder: Path) -> Path:
    """A run that nobody disturbs."""
    return undisturbed(launcher, folder, "short-causal-lm")


def undisturbed(launcher: Launcher, folder: Path, recipe: str) -> Path:
    done = launcher.run(folder, "train", f"{recipe}.toml", f"name=whole-{recipe}")
    assert done.code == 0, done.err
    return folder / "runs" / f"whole-{recipe}"


def assert_same_end(run: Path, whole: Path, steps: int) -> None:
    names = [str(path.relative_to(whole / "final")) for path in sorted(whole.glob("final/**/*.safetensors"))]
    assert digest(run / "final", *names) == digest(whole / "final", *names)
    assert digest(checkpoint(run, steps)) == digest(checkpoint(whole, steps))
    assert [event["step"] for event in events(run, "step")] == list(range(steps))
    assert [e["metrics"] for e in events(run, "eval")] == [e["metrics"] for e in events(whole, "eval")]
    assert len(events(run, "result")) == 1
    assert not list(run.rglob(".*.tmp-*"))


def go_on(launcher: Launcher, run: Path, recipe: str) -> None:
    """Start the run again, as a person would: from its folder, or anew if it did not come so far."""
    folder = run.parent.parent
    if run.exists():
        launcher.start(folder, "resume", f"runs/{run.name}")
    else:
        launcher.start(folder, "train", f"{recipe}.toml", f"name={run.name}")


def kill_and_resume(launcher: Launcher, whole: Path, recipe: str, cycles: int, longest: float) -> None:
    """Kill at `cycles` random moments; then let it end, and compare."""
    draw, run, kills, done = random.Random(0), whole.with_name(f"killed-{recipe}"), 0, Done(-9, "", "")
    steps = len(events(whole, "step"))
    while kills < cycles or done.code == -9:
        go_on(launcher, run, recipe)
        if kills < cycles:
            time.sleep(draw.uniform(0.0, longest))
            launcher.kill()
        done = launcher.wait()
        if done.code == -9:
            kills += 1
            continue
        assert done.code == 0, done.err
        assert_same_end(run, whole, steps)
        shutil.rmtree(run)  # it was faster than its killer, or it is over


@pytest.mark.parametrize("kind", ["causal-lm", "replaced-token"])
def test_three_kills_change_nothing(launcher: Launcher, folder: Path, whole: Path, kind: str) -> None:
    recipe = f"short-{kind}"
    undisturbed_one = whole if kind == "causal-lm" else undisturbed(launcher, folder, recipe)
    kill_and_resume(launcher, undisturbed_one, recipe, 3, longest=1.0)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("events.jsonl", '"step": 0'),
        ("checkpoints/.step-00000006.tmp-*/model.safetensors", ""),
        ("events.jsonl", '"end"'),
    ],
    ids=["before-the-first-checkpoint", "while-saving", "while-scoring"],
)
def test_a_kill_at_a_bad_moment_changes_nothing(
    launcher: Launcher, whole: Path, pattern: str, text: str, request: pytest.FixtureRequest
) -> None:
    name = request.node.callspec.id
    run = whole.with_name(name)
    folder = run.parent.parent
    launcher.start(folder, "train", "short-causal-lm.toml", f"name={name}")
    launcher.wait_for(f"runs/{name}/{pattern}", text)
    launcher.kill()
    assert launcher.wait().code in (-9, 0)
    if not events(run, "result"):
        assert launcher.run(folder, "resume", f"runs/{name}").code == 0
    assert_same_end(run, whole, 40)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_twenty_kills_change_nothing(launcher: Launcher, folder: Path, kind: str) -> None:
    recipe = f"long-{kind}"
    kill_and_resume(launcher, undisturbed(launcher, folder, recipe), recipe, 20, longest=3.0)
