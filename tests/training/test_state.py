"""Checkpoints are whole or absent, whatever happens while they are written and after."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from melete.errors import InputError, StorageError
from melete.training import state
from melete.training.trainer import Trainer
from rig import CONTEXT, checkpoint, events, run_config, trainer


def fill(number: int) -> Callable[[Path], None]:
    """Writes three files, one of them in a folder of its own."""

    def write(folder: Path) -> None:
        save_file({"w": torch.full((8,), float(number))}, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps({"number": number}))
        (folder / "inner").mkdir()
        (folder / "inner" / "state.json").write_text("{}")

    return write


def number_in(folder: Path) -> int:
    return json.loads((folder / "config.json").read_text())["number"]


def leftovers(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if ".tmp" in path.name]


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """Checkpoints of steps 1 and 2."""
    for step in (1, 2):
        state.write_folder(tmp_path / state.name_of(step), fill(step))
    return tmp_path


def test_a_copy_of_a_checkpoint_is_left_alone(two: Path) -> None:
    copy = shutil.copytree(two / state.name_of(2), two / f"{state.name_of(2)} before the crash")
    assert state.steps_in(two) == [1, 2]
    assert state.newest(two, pytest.fail) == two / state.name_of(2)
    state.rotate(two, [1])
    assert number_in(copy) == 2


class Killed(BaseException):
    """The process is gone: nothing that comes after runs, cleaning up included."""


def interrupt(monkeypatch: pytest.MonkeyPatch, at: int, fault: BaseException) -> list[str]:
    """Raise at the `at`-th call into the system, whichever that is. Returns the calls that were made."""
    made: list[str] = []

    def wrap(name: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if made and made[-1] == "dead":
                return None  # what runs after a kill only runs because this is a test
            made.append(name)
            if len(made) == at:
                if isinstance(fault, Killed):
                    made.append("dead")
                raise fault
            return inner(*args, **kwargs)

        return call

    monkeypatch.setattr(os, "fsync", wrap("fsync", lambda handle: None))
    monkeypatch.setattr(os, "rename", wrap("rename", os.rename))
    monkeypatch.setattr(os, "open", wrap("open", os.open))
    monkeypatch.setattr(Path, "mkdir", wrap("mkdir", Path.mkdir))
    monkeypatch.setattr(Path, "write_text", wrap("write", Path.write_text))
    monkeypatch.setattr(shutil, "rmtree", wrap("rmtree", shutil.rmtree))
    monkeypatch.setattr(state, "save_file", wrap("save_file", save_file))
    return made


def count_calls(folder: Path) -> int:
    with pytest.MonkeyPatch.context() as patch:
        made = interrupt(patch, -1, OSError())
        state.write_folder(folder / state.name_of(3), fill(3))
    return len(made)


def test_a_kill_at_any_call_leaves_the_old_or_the_new(two: Path) -> None:
    calls = count_calls(two)
    assert calls > 8
    for at in range(1, calls + 1):
        shutil.rmtree(two / state.name_of(3), ignore_errors=True)
        with pytest.MonkeyPatch.context() as patch:
            interrupt(patch, at, Killed())
            with pytest.raises(Killed):
                state.write_folder(two / state.name_of(3), fill(3))
        found = state.newest(two, print)
        assert found is not None, at
        assert number_in(found) in (2, 3), at
        # The next save is not disturbed by what was left, and clears it away.
        state.write_folder(two / state.name_of(3), fill(3))
        state.rotate(two, [1, 2, 3])
        assert not leftovers(two)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EACCES])
def test_a_refusal_at_any_call_is_one_line_and_leaves_nothing(code: int, two: Path) -> None:
    calls = count_calls(two)
    for at in range(1, calls + 1):
        shutil.rmtree(two / state.name_of(3), ignore_errors=True)
        with pytest.MonkeyPatch.context() as patch:
            interrupt(patch, at, OSError(code, os.strerror(code)))
            with pytest.raises(StorageError, match=os.strerror(code)) as error:
                state.write_folder(two / state.name_of(3), fill(3))
        assert "\n" not in str(error.value)
        assert error.value.exit_code == 1
        assert not leftovers(two)
        found = state.newest(two, print)
        assert found is not None
        assert number_in(found) in (2, 3)


def test_a_full_disk_under_safetensors_is_one_line_too(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(state, "save_file", refuse)
    with pytest.raises(StorageError, match="No space left on device"):
        state.write_folder(two / state.name_of(3), lambda folder: state.save_state(folder, {}, {}))
    assert not leftovers(two)


def test_a_full_disk_in_training_leaves_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = trainer(tmp_path, run_config(training__save_every=3))
    write = state.save_state

    def full(folder: Path, *rest: Any) -> None:
        if "step-00000006" in str(folder):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(folder, *rest)

    monkeypatch.setattr(state, "save_state", full)
    with pytest.raises(
        StorageError, match=r"step-00000006: cannot be written: No space left.*; free or unlock"
    ):
        runner.train()
    assert state.newest(tmp_path / "checkpoints", print) == checkpoint(tmp_path, 3)
    assert "00000003" in (tmp_path / "latest.json").read_text()
    assert not leftovers(tmp_path)


def test_a_full_disk_under_the_event_log_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = trainer(tmp_path, run_config())
    plain = Path.open

    def full(self: Path, mode: str = "r", *rest: Any, **other: Any) -> Any:
        if self.name == "events.jsonl" and mode == "ab":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))
        return plain(self, mode, *rest, **other)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(StorageError, match=r"events.jsonl: could not write: No space left on device"):
        runner.train()


def test_a_pointer_is_old_or_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pointer = tmp_path / "latest.json"
    state.point(pointer, "step-00000001")

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StorageError, match="No space left"):
        state.point(pointer, "step-00000002")
    assert json.loads(pointer.read_text()) == {"checkpoint": "step-00000001"}
    assert [path.name for path in tmp_path.iterdir()] == ["latest.json"]


# -- damage --


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    trainer(folder, run_config(training__steps=4, training__save_every=2)).train()
    return folder


FILES = [
    "config.json",
    "generation_config.json",
    "manifest.json",
    "model.safetensors",
    "train_state.json",
    "train_state.safetensors",
]


def test_a_checkpoint_is_these_files_and_no_pickle(trained: Path) -> None:
    assert sorted(path.name for path in checkpoint(trained, 4).iterdir()) == FILES
    for path in checkpoint(trained, 4).iterdir():
        start = path.read_bytes()[:2]
        assert not start.startswith((b"\x80", b"PK"))  # a pickle, a zip of pickles
        json.loads(path.read_text()) if path.suffix == ".json" else load_file(path)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "damage", [flip, cut_off, Path.unlink], ids=["a flipped bit", "cut short", "missing"]
)
def test_damage_is_seen_and_the_one_before_is_taken(
    trained: Path, name: str, damage: Callable[[Path], None], tmp_path: Path
) -> None:
    folder = shutil.copytree(trained, tmp_path / "run")
    damage(checkpoint(folder, 4) / name)
    told: list[str] = []
    assert state.newest(folder / "checkpoints", told.append) == checkpoint(folder, 2)
    (line,) = told
    assert line.startswith("step-00000004 is damaged (")
    assert name in line or name == "manifest.json"  # its damage may look like that of a file it names
    assert line.endswith("looking at the one before")


def test_a_file_too_many_is_seen(trained: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(trained, tmp_path / "run")
    (checkpoint(folder, 4) / "extra.bin").write_bytes(b"")
    assert state.verify(checkpoint(folder, 4)) == "extra.bin missing or too many"


def test_no_whole_checkpoint_is_none(trained: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(trained, tmp_path / "run")
    for step in (2, 4):
        flip(checkpoint(folder, step) / "model.safetensors")
    assert state.newest(folder / "checkpoints", lambda text: None) is None
    assert state.newest(tmp_path / "nothing", print) is None


def test_a_damaged_checkpoint_is_written_again_and_drives_out_no_whole_one(tmp_path: Path) -> None:
    config = run_config(training__steps=6, training__save_every=2, training__keep=1)
    trainer(tmp_path, config).train()
    end = (checkpoint(tmp_path, 6) / "model.safetensors").read_bytes()
    first = run_config(training__steps=4, training__save_every=2, training__keep=3)
    shutil.rmtree(tmp_path / "checkpoints")
    trainer(tmp_path, first).train()
    shutil.copytree(checkpoint(tmp_path, 4), checkpoint(tmp_path, 6))
    flip(checkpoint(tmp_path, 6) / "model.safetensors")  # the newest is damaged, and keep is 1
    again = trainer(tmp_path, config)
    found = state.newest(tmp_path / "checkpoints", lambda text: None)
    assert found == checkpoint(tmp_path, 4)
    again.resume(found)
    again.save()
    assert state.steps_in(tmp_path / "checkpoints") == [4]
    again.train()
    assert state.verify(checkpoint(tmp_path, 6)) is None
    assert len((checkpoint(tmp_path, 6) / "model.safetensors").read_bytes()) == len(end)


# -- rotation --


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    class Measured(Trainer):
        """A validation loss that is lowest at step 4."""

        def validation(self) -> dict[str, float]:
            return {"loss": abs(self.counters.step - 4.0)}

    plain = trainer(tmp_path, run_config(training__steps=12, training__save_every=1, training__eval_every=2))
    plain.__class__ = Measured
    plain.valid_source, plain.valid_steps = plain.train_source, 1
    plain.train()
    assert state.steps_in(tmp_path / "checkpoints") == [4, 11, 12]
    assert "00000004" in (tmp_path / "best.json").read_text()
    assert "00000012" in (tmp_path / "latest.json").read_text()


def test_nothing_is_removed_before_the_new_one_reads_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = trainer(tmp_path, run_config(training__save_every=2, training__keep=1))
    verify = state.verify

    def lying_disk(folder: Path) -> str | None:
        if folder.name == "step-00000006":
            flip(folder / "model.safetensors")
        return verify(folder)

    monkeypatch.setattr(state, "verify", lying_disk)
    with pytest.raises(StorageError, match=r"does not read back: model\.safetensors is not what was written"):
        runner.train()
    monkeypatch.undo()
    assert state.newest(tmp_path / "checkpoints", lambda text: None) == checkpoint(tmp_path, 4)


def test_the_average_is_that_of_the_last_scheduled_ones(tmp_path: Path) -> None:
    config = run_config(training__save_every=2, training__keep=1, training__average_last=3)
    runner = trainer(tmp_path, config)
    runner.train()
    assert runner.steps_to_average() == [6, 8, 10] == state.steps_in(tmp_path / "checkpoints")
    folders = [checkpoint(tmp_path, step) for step in (6, 8, 10)]
    mean = state.average(folders, runner.objective.load)
    each = [load_file(folder / "model.safetensors")["transformer.wte.weight"] for folder in folders]
    torch.testing.assert_close(mean["model.token_embeddings.weight"], torch.stack(each).mean(0))


def test_a_model_folder_is_no_checkpoint(model_folder: Path) -> None:
    with pytest.raises(InputError, match="no training state; train the model on in a new run: melete pre"):
        state.load_state(model_folder)


def test_transformers_opens_a_checkpoint(model_folder: Path, tmp_path: Path) -> None:
    import transformers

    from melete.models.checkpoint import load_model
    from melete.objectives.causal_lm import CausalLM

    runner = trainer(tmp_path, run_config(training__steps=2), objective=CausalLM(load_model(model_folder)))
    runner.tokenizer = model_folder
    runner.train()
    folder = checkpoint(tmp_path, 2)
    assert state.verify(folder) is None
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("To be", return_tensors="pt")["input_ids"]
    assert ids.tolist() == [[*b"To be"]] or ids.shape[1] == 5
    assert ids.shape[1] <= CONTEXT
    from melete.data.batch import Batch

    batch = Batch.from_rows(list(ids))
    runner.objective.eval()
    with torch.no_grad():
        ours = runner.objective.model.logits(runner.objective.model.encode(batch))
        torch.testing.assert_close(theirs(ids).logits, ours, rtol=0, atol=1e-5)
    assert not events(tmp_path, "note")
