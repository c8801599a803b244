"""`melete pretrain`, `train` and `resume` as a person meets them: what they print, refuse, and leave behind."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import random
import shlex
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from commands import melete
from launcher import Launcher
from rig import events

RECIPE = """
[model]
source = "gpt2:nano"
config = {hidden_size = 32, num_hidden_layers = 2, num_attention_heads = 2}
[tokenizer]
kind = "char"
[data]
train = ["text.txt"]
[training]
steps = 6
context = 16
batch_tokens = 64
micro_batch_rows = 2
threads = 1
precision = "float32"
eval_tokens = 256
[evaluation]
baseline = false
"""


def write_folder(folder: Path) -> None:
    words = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "one", "dog", "run", "by", "while"]
    draw = random.Random(0)
    (folder / "text.txt").write_text(
        "\n\n".join(" ".join(draw.choices(words, k=30)) + "." for _ in range(50))
    )
    (folder / "recipe.toml").write_text(RECIPE)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of a person's own, in which commands run; its disk does not wait."""
    write_folder(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MELETE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 2) -> str:
    """The one line of a command that fails; there is no run folder after it."""
    capsys.readouterr()
    before = sorted(Path("runs").glob("*")) if Path("runs").exists() else []
    assert melete(*arguments) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    lines = [line for line in err.splitlines() if line.startswith("melete: error: ")]
    assert len(lines) == 1, err
    assert err.endswith(lines[0] + "\n")
    assert sorted([*Path("runs").glob("*"), *Path("runs").glob(".*")]) == before
    return lines[0].removeprefix("melete: error: ")


# -- a run from start to end --


@pytest.fixture(scope="module")
def finished(launcher: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a run `done` has been trained, and what it printed."""
    folder = tmp_path_factory.mktemp("finished")
    write_folder(folder)
    done = launcher.run(folder, "train", "recipe.toml", "name=done", "--json")
    assert done.code == 0, done.err
    (folder / "printed.json").write_text(done.out)
    (folder / "said.txt").write_text(done.err)
    return folder


def test_a_run_leaves_what_it_promises(finished: Path) -> None:
    run = finished / "runs" / "done"
    names = {path.name for path in run.iterdir() if not path.name.startswith(".")}
    files = {"config.toml", "environment.json", "events.jsonl", "report.html", "latest.json", "best.json"}
    assert names == files | {"checkpoints", "final", "tokenizer"}
    kinds = [json.loads(line)["event"] for line in (run / "events.jsonl").read_text().splitlines()]
    assert kinds == ["start", *["step"] * 6, "eval", "checkpoint", "sample", "end", "result"]
    assert not list(run.rglob("*.pt")) + list(run.rglob("*.bin")) + list(run.rglob("*.pkl"))


def test_json_is_one_object_and_all_else_goes_to_standard_error(finished: Path) -> None:
    card = json.loads((finished / "printed.json").read_text())
    assert Path(card["run"]).name == "done"
    assert card["table"][0]["bits_per_byte"] > 0
    said = (finished / "said.txt").read_text()
    for expected in (
        "seed: 0",
        "training.device: cpu",
        "step 6/6",
        "final weights: last step, 6",
        "next: melete gen",
    ):
        assert expected in said


def test_the_next_command_has_words_of_the_runs_own_text(finished: Path) -> None:
    said = (finished / "said.txt").read_text()
    prompt = shlex.split(said.split("next: ")[-1].partition("   or")[0])[-1]
    assert prompt and prompt in " ".join((finished / "text.txt").read_text().split())


def test_the_model_card_names_weights_data_and_command(finished: Path) -> None:
    run = finished / "runs" / "done"
    card = (run / "final" / "README.md").read_text()
    assert "weights: last step, 6" in card
    assert "validation loss: " in card
    data = json.loads((run / "environment.json").read_text())["data"]
    assert data["train"] != data["valid"]
    assert all(len(value) == 64 and value in card for value in data.values())
    command = next(line for line in card.splitlines() if line.startswith("melete train "))
    said = (finished / "said.txt").read_text()
    assert command in said


def test_the_printed_command_repeats_the_run(finished: Path, launcher: Launcher) -> None:
    said = (finished / "said.txt").read_text().splitlines()
    command = next(line.partition(": ")[2] for line in said if "without choosing" in line)
    words = [word for word in shlex.split(command)[1:] if not word.startswith("name=")]
    done = launcher.run(finished, *words, "name=again")
    assert done.code == 0, done.err
    weights = [
        (finished / "runs" / name / "final" / "model.safetensors").read_bytes() for name in ("done", "again")
    ]
    assert weights[0] == weights[1]


def test_transformers_opens_what_was_trained(finished: Path) -> None:
    import transformers

    final = finished / "runs" / "done" / "final"
    model = transformers.AutoModelForCausalLM.from_pretrained(final).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(final)
    ids = tokenizer("the cat", return_tensors="pt")["input_ids"]
    assert model(ids).logits.shape == (1, 7, model.config.vocab_size)


def test_dry_run_shows_and_writes_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(folder.rglob("*"))
    assert melete("train", "recipe.toml", "--dry-run", "--json") == 0
    out, _ = capsys.readouterr()
    figures = json.loads(out)
    assert figures["parameters"] > 0
    assert figures["tokens"] == 6 * 64
    assert {"flops", "memory_gib", "tokens_per_second", "seconds"} <= set(figures)
    assert melete("train", "recipe.toml", "--dry-run") == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert "steps = 6" in err
    assert "parameters: " in err
    assert sorted(folder.rglob("*")) == before


def test_flags_are_shorthands_for_keys(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [
        "--steps",
        7,
        "--context",
        8,
        "--batch-tokens",
        32,
        "--seed",
        3,
        "--precision",
        "float32",
        "--name",
        "x",
    ]
    assert melete("train", "recipe.toml", *flags, "--set", "training.keep=5", "--dry-run") == 0
    _, err = capsys.readouterr()
    for line in ("steps = 7", "context = 8", "batch_tokens = 32", "seed = 3", 'name = "x"', "keep = 5"):
        assert line in err


@pytest.mark.parametrize(
    ("changes", "weights"),
    [
        (["training.ema_decay=0.9"], "moving average (decay 0.9) at the last step, 6"),
        (["training.average_last=2", "training.save_every=2"], "mean of step-00000004, step-00000006"),
        (
            [
                "training.eval_every=2",
                "training.patience=1",
                "schedule.name=piecewise",  # a rate that ruins everything from the fourth step on
                "schedule.points=[[0.0, 1e-3], [0.34, 1e-3], [0.5, 1.0]]",
                "optimizer.learning_rate=3.0",
                "guard.sigma=0",
            ],
            "best step by validation loss, 2",
        ),
    ],
    ids=["average", "last two", "early stop"],
)
def test_final_weights_are_what_the_card_says(
    folder: Path, changes: list[str], weights: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert melete("train", "recipe.toml", "name=r", "optimizer.name=adamw", *changes) == 0
    assert f"final weights: {weights}" in capsys.readouterr().err
    assert f"weights: {weights}" in Path("runs/r/final/README.md").read_text()
    (end,) = events(Path("runs/r"), "end")
    assert end["reason"] == ("early stop" if "patience" in str(changes) else "done")


@pytest.mark.parametrize("scheme", ["normal", "zero-residual", "xavier", "kaiming", "orthogonal"])
def test_every_initialisation_trains(folder: Path, scheme: str) -> None:
    sizes = ["model.config.hidden_dropout=0.1", "model.config.weight_dropout=0.1"]
    assert melete("train", "recipe.toml", "name=r", f"model.init={scheme}", *sizes, "training.steps=2") == 0


def test_who_has_counted_knows_more_at_the_first_step(folder: Path, capsys: pytest.CaptureFixture) -> None:
    train, tied = ["train", "recipe.toml", "model.source=qwen3:nano"], "model.config.tie_word_embeddings"
    for name in ("zero-residual", "bigrams"):
        assert melete(*train, f"name={name}", f"model.init={name}", f"{tied}=false", "training.steps=1") == 0
    drawn, counted = (events(Path("runs", name), "step")[0] for name in ("zero-residual", "bigrams"))
    assert counted["loss"] < drawn["loss"] - 0.2
    assert events(Path("runs/bigrams"), "start")[0]["init_seconds"] > 0
    assert melete(*train, "name=refused", "model.init=bigrams", f"{tied}=true") == 2
    assert "bigrams need one embedding, and an output matrix of its own" in capsys.readouterr().err


def test_context_schedule_starts_with_short_rows(folder: Path) -> None:
    change = "training.context_schedule=[[0.0, 4], [0.5, 16]]"
    assert melete("train", "recipe.toml", "name=r", change) == 0
    assert [event["tokens"] for event in events(Path("runs/r"), "step")] == [64 * n for n in range(1, 7)]


# -- what is refused --


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["recipe.toml", "training.step=3"],
            "unknown key 'training.step'; expected one like 'training.steps'",
        ),
        (["recipe.toml", "training.steps=x"], "training.steps: Expected `int`, got `str`"),
        (["none.toml"], "none.toml: no such recipe"),
        (["recipe.toml", "data.train=['none.txt']"], "none.txt: no such file"),
        (["recipe.toml", "data.max_line_bytes=9"], "text.txt:1: line too long; expected at most 9 bytes"),
        (["recipe.toml", "data.train=[]"], "data.train: no training text"),
        (["recipe.toml", "model.source=gtp2:nano"], "gtp2:nano"),
        (["recipe.toml", "model.source=gpt2:huge"], "gpt2 has no preset 'huge'; expected one of nano, tiny"),
        (["recipe.toml", "model.init=ones"], "unknown initialisation 'ones'"),
        (["recipe.toml", "model.config.hiden_size=8"], "hiden_size"),
        (["recipe.toml", "--device", "tpu"], "unknown device 'tpu'; expected auto, cpu, cuda or mps"),
        (["recipe.toml", "--precision", "int4"], "unknown precision 'int4'; expected auto, float32"),
        (["recipe.toml", "optimizer.name=adam"], "optimizer.name is 'adam'; expected one of adamw, muon"),
        (["recipe.toml", "schedule.name=steps"], "schedule.name is 'steps'; expected one of constant"),
        (["recipe.toml", "tokenizer.kind=bytes"], "byte-bpe"),
        (
            ["recipe.toml", "model.config.max_position_embeddings=8"],
            "training.context = 16 is longer than the model's",
        ),
        (
            ["recipe.toml", "training.context=20000", "training.batch_tokens=20000"],
            "fewer than one row of training.context",
        ),
        (["recipe.toml", "--steps", "many"], "'many' is not a valid integer"),
        (["recipe.toml", "--no-such-flag"], "No such option"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    folder: Path, arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert line in refused(capsys, "train", *arguments)


def test_an_unknown_family_or_preset_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "unknown model family 'qwen'" in refused(capsys, "pretrain", "qwen", "-d", "text.txt")
    line = refused(capsys, "pretrain", "gpt2", "--preset", "giant", "-d", "text.txt")
    assert "gpt2 has no preset 'giant'; expected one of nano, tiny" in line
    assert "gpt2 has no preset 'giant'" in refused(capsys, "pretrain", "gpt2:giant", "-d", "text.txt")


def test_several_processes_are_refused_before_they_race(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert (
        refused(capsys, "train", "recipe.toml")
        == "WORLD_SIZE: a run is one process; start it without torchrun"
    )


def test_a_broken_recipe_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "broken.toml").write_text("[training\nsteps = 3\n")
    assert "broken.toml: broken TOML" in refused(capsys, "train", "broken.toml")


def test_an_existing_run_is_never_overwritten(
    finished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished)
    line = refused(capsys, "train", "recipe.toml", "name=done")
    assert "runs/done: this run exists already; choose another --name, or `melete resume` it" in line


def test_a_validation_text_shorter_than_a_row_is_said(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("short.txt").write_text("the cat")
    assert melete("train", "recipe.toml", "name=r", "data.valid=['short.txt']") == 0
    assert "is shorter than one row: no evaluation while training" in capsys.readouterr().err
    assert not events(Path("runs/r"), "eval")
    assert "not measured" in Path("runs/r/final/README.md").read_text()


def test_another_models_tokenizer_is_refused(
    finished: Path, model_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished)
    final = "runs/done/final"
    line = refused(
        capsys,
        "train",
        "recipe.toml",
        f"model.source={final}",
        f"tokenizer.source={model_folder}",
        "model.config={}",
    )
    assert f"not the tokenizer of {final}; leave tokenizer.source out" in line
    line = refused(capsys, "train", "recipe.toml", f"model.source={final}", "training.context=32")
    assert f"{final}: training.context = 32 is longer than the model's; expected at most 16" in line


def test_a_model_is_trained_on(finished: Path, launcher: Launcher) -> None:
    source = ["model.source=runs/done", "model.config={}"]
    done = launcher.run(finished, "train", "recipe.toml", "name=on", *source)
    assert done.code == 0, done.err
    first = events(finished / "runs" / "on", "step")[0]["loss"]
    assert first < events(finished / "runs" / "done", "step")[0]["loss"] - 0.1


# -- resume --


def test_resume_of_what_cannot_go_on(
    finished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished)
    assert "runs/done: this run is finished; `melete generate runs/done` uses it" in refused(
        capsys, "resume", "runs/done"
    )
    assert "runs/none: not a run folder; expected a folder with config.toml" in refused(
        capsys, "resume", "runs/none"
    )
    assert "runs/done/final: not a run folder" in refused(capsys, "resume", "runs/done/final")


@pytest.fixture
def stopped(folder: Path) -> Path:
    """A run without its final weights, as after a kill."""
    assert melete("train", "recipe.toml", "name=r", "training.save_every=2", "training.keep=9") == 0
    run = folder / "runs" / "r"
    shutil.rmtree(run / "final")
    return run


def test_two_trainings_never_share_a_folder(stopped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (stopped / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        assert "another process is training here" in refused(capsys, "resume", "runs/r")


def test_other_data_is_not_gone_on_with(stopped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("text.txt").write_text(Path("text.txt").read_text() + "\n\nand one more line")
    assert "the data is not what this run began with; start a new run" in refused(capsys, "resume", "runs/r")


def test_resume_goes_behind_a_damaged_checkpoint_and_says_so(
    stopped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = stopped / "checkpoints" / "step-00000006" / "model.safetensors"
    whole = target.read_bytes()
    target.write_bytes(whole[:-1])
    capsys.readouterr()
    assert melete("resume", "runs/r", "--json") == 0
    out, err = capsys.readouterr()
    assert "step-00000006 is damaged (model.safetensors is not what was written)" in err
    assert "going on from step-00000004 of 6 steps" in err
    assert target.read_bytes() == whole
    assert json.loads(out)["run"] == "runs/r"


def test_a_kill_behind_the_final_weights_loses_nothing(folder: Path) -> None:
    assert melete("train", "recipe.toml", "name=r") == 0
    path = folder / "runs" / "r" / "events.jsonl"
    whole, weights = path.read_text(), (folder / "runs/r/final/model.safetensors").read_bytes()
    path.write_text(whole[: whole.index('{"event": "sample"')])
    assert melete("resume", "runs/r") == 0
    kinds = [json.loads(line)["event"] for line in path.read_text().splitlines()]
    assert kinds == ["start", *["step"] * 6, "eval", "sample", "end", "result"]
    assert (folder / "runs/r/final/model.safetensors").read_bytes() == weights


def test_a_broken_run_folder_is_named(stopped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (stopped / "config.toml").write_text("[training]\nstep = 1\n")
    assert "config.toml: unknown key 'training.step'" in refused(capsys, "resume", "runs/r")


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"data": 3}'])
def test_a_run_that_forgot_its_data_is_not_gone_on_with(
    stopped: Path, content: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    path = stopped / "environment.json"
    path.unlink() if content is None else path.write_text(content)
    line = refused(capsys, "resume", "runs/r")
    assert "environment.json: this file is damaged or gone" in line


def test_a_run_that_loses_the_race_for_its_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rename = os.rename

    def late(source: Path, target: Path) -> None:
        if not target.exists():  # another process has just made it
            target.mkdir()
            (target / "config.toml").touch()
        monkeypatch.setattr(os, "rename", rename)
        rename(source, target)

    monkeypatch.setattr(os, "rename", late)
    forgotten = folder / "runs" / ".gpt2-nano-text.tmp-1"
    forgotten.mkdir(parents=True)
    os.utime(forgotten, (0, 0))
    assert melete("train", "recipe.toml", "training.steps=2") == 0
    assert "run: runs/gpt2-nano-text-2 " in capsys.readouterr().err
    assert not forgotten.exists()
    monkeypatch.setattr(os, "rename", late)
    assert melete("train", "recipe.toml", "name=mine") == 2
    assert "runs/mine: this run exists already" in capsys.readouterr().err
    assert {path.name for path in Path("runs").iterdir()} == {"gpt2-nano-text", "gpt2-nano-text-2", "mine"}


# -- the disk --


def full_disk(code: int, when: Callable[[str], bool]) -> Callable[..., Any]:
    """`Path.open` of a disk that refuses some files."""
    plain = Path.open

    def refuse(self: Path, mode: str = "r", *rest: Any, **other: Any) -> Any:
        if set(mode) & set("wax+") and when(str(self)):
            raise OSError(code, os.strerror(code), str(self))
        return plain(self, mode, *rest, **other)

    return refuse


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("where", ["config.toml", "environment.json", "tokenizer/"])
def test_a_disk_that_refuses_the_run_folder(
    folder: Path, code: int, where: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "open", full_disk(code, lambda path: ".r.tmp" in path and where in path))
    line = refused(capsys, "train", "recipe.toml", "name=r", code=1)
    assert os.strerror(code) in line
    assert "runs/r" in line
    assert ".tmp" not in line


def test_a_folder_that_cannot_be_made(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Path.mkdir

    def refuse(self: Path, *rest: Any, **other: Any) -> None:
        if "runs" in self.parts:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(self))
        plain(self, *rest, **other)

    monkeypatch.setattr(Path, "mkdir", refuse)
    line = refused(capsys, "train", "recipe.toml", "name=r", code=1)
    assert line == "runs/r: cannot be written: Permission denied; free or unlock its folder"


def test_a_disk_that_fills_up_while_training(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "open", full_disk(errno.ENOSPC, lambda path: "step-00000004.tmp" in path))
    assert melete("train", "recipe.toml", "name=r", "training.save_every=2") == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("melete: error: ")
    assert "No space left on device" in line
    assert [path.name for path in Path("runs/r/checkpoints").iterdir()] == ["step-00000002"]
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MELETE_CACHE", str(folder / "cache"))
    assert melete("resume", "runs/r") == 0  # once there is room again
    assert [event["step"] for event in events(folder / "runs" / "r", "step")] == list(range(6))


# -- signals --


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_prints_how_to_go_on(
    finished: Path, launcher: Launcher, number: int, code: int
) -> None:
    name = f"stopped-{code}"
    run = finished / "runs" / name
    launcher.start(finished, "train", "recipe.toml", f"name={name}", "training.steps=100000")
    launcher.wait_for(f"runs/{name}/events.jsonl", '"step": 3,')
    launcher.kill(number)
    done = launcher.wait()
    assert done.code == code
    assert "stopping after this step and saving; once more to quit at once" in done.err
    assert done.err.endswith(f"saved; go on with: melete resume runs/{name}\n")
    last = events(run, "step")[-1]["step"]
    assert (run / "checkpoints" / f"step-{last + 1:08d}" / "manifest.json").exists()
    assert events(run, "end")[0]["reason"] == "signal"
    assert not (run / "final").exists()


def test_ctrl_c_before_training_is_one_line(finished: Path, launcher: Launcher) -> None:
    os.mkfifo(finished / "slow.txt")
    launcher.start(finished, "train", "recipe.toml", "name=early", "data.train=['slow.txt']")
    time.sleep(0.3)
    launcher.kill(signal.SIGINT)
    done = launcher.wait()
    assert done.code == 130
    assert done.err.endswith("melete: error: stopped\n")
    assert "Traceback" not in done.err
    assert not (finished / "runs" / "early").exists()


# -- a time budget --


def test_a_dry_run_under_a_time_budget_makes_every_choice(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("melete.cli.pretrain.BEGUN", time.monotonic())
    arguments = ["--minutes", "1", "--context", "32", "--set", "tokenizer.kind=char", "--dry-run"]
    assert melete("pretrain", "gpt2", "--preset", "nano", "-d", "text.txt", *arguments) == 0
    err = capsys.readouterr().err
    assert "[choices]" in err
    assert '"training.steps" = "' in err
    assert not Path("runs").exists()


def test_a_time_budget_of_nothing_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, "pretrain", "gpt2", "-d", "text.txt", "--minutes", "0")
    assert "--minutes" in line


def test_a_run_without_a_whole_checkpoint_says_that_it_begins_again(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert melete("train", "recipe.toml", "name=r") == 0
    for gone in ("final", "checkpoints"):
        shutil.rmtree(folder / "runs" / "r" / gone)
    (folder / "runs" / "r" / "checkpoints").mkdir()
    capsys.readouterr()
    assert melete("resume", "r") == 0
    assert (
        "no whole checkpoint is there: this run begins again from its first step" in capsys.readouterr().err
    )


@pytest.mark.slow
def test_minutes_choose_and_end_in_time(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = time.monotonic()
    monkeypatch.setattr("melete.cli.pretrain.BEGUN", begun)  # this process has done other things before
    arguments = ["--minutes", "0.3", "--context", "32", "--set", "tokenizer.kind=char", "--set", "name=r"]
    assert melete("pretrain", "gpt2", "-d", "text.txt", *arguments, "--no-baseline") == 0
    seconds = time.monotonic() - begun
    assert seconds < 1.25 * 0.3 * 60
    err = capsys.readouterr().err
    for key in ("model.source: ", "training.steps: ", "training.batch_tokens: "):
        assert f"  {key}" in err
    assert "training.minutes" not in next(line for line in err.splitlines() if "without choosing" in line)
