"""Ten steps are five, a stop, and five more: bit for bit, from any step, with everything that has a state."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest

from melete.config import OPTIMIZERS
from melete.data.batch import Example
from melete.data.sampling import PackedRows
from melete.nn import native
from melete.training.precision import choose_kernels
from rig import DROPOUT, TextInMemory, checkpoint, digest, events, plain_state, rows, run_config, trainer

EVERYTHING = {"training__ema_decay": 0.9, "training__save_every": 1, "training__keep": 10}


def go_on(source: Path, step: int, folder: Path, **other: object) -> Path:
    """Copy a run as it was at a checkpoint, with the events that came after, and train it to its end."""
    checkpoint(folder, 1).parent.mkdir(parents=True)
    shutil.copytree(checkpoint(source, step), checkpoint(folder, step))
    shutil.copyfile(source / "events.jsonl", folder / "events.jsonl")
    # The weights of another seed: all that counts must come from the checkpoint.
    again = trainer(folder, run_config(**{**EVERYTHING, **other}), seed=99, **DROPOUT)
    again.resume(checkpoint(folder, step))
    assert again.train() == "done"
    return folder


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted")
    trainer(folder, run_config(**EVERYTHING), **DROPOUT).train()
    return folder


def test_ten_steps_cross_epoch_borders(uninterrupted: Path) -> None:
    source = rows(run_config())
    assert source.rows_per_step < source.rows < 5 * source.rows_per_step
    assert source.rows % source.rows_per_step  # a border inside a step


@pytest.mark.parametrize("step", range(1, 10))
def test_resume_at_every_step_is_exact(uninterrupted: Path, step: int, tmp_path: Path) -> None:
    folder = go_on(uninterrupted, step, tmp_path / "run")
    end = checkpoint(uninterrupted, 10)
    assert digest(checkpoint(folder, 10)) == digest(end)
    assert plain_state(checkpoint(folder, 10)) == plain_state(end)
    assert [event["step"] for event in events(folder, "step")] == list(range(10))
    losses = [event["loss"] for event in events(folder, "step")]
    assert losses == [event["loss"] for event in events(uninterrupted, "step")]


def test_resume_with_native_kernels_is_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "cc")
    narrow = {"training__precision": "bfloat16"}
    trainer(tmp_path / "torch", run_config(**EVERYTHING, **narrow), **DROPOUT).train()
    if choose_kernels("native", "cpu", "bfloat16")[0] != "native":
        pytest.skip("they cannot be had here")
    try:
        trainer(tmp_path / "a", run_config(**EVERYTHING, **narrow), **DROPOUT).train()
        go_on(tmp_path / "a", 5, tmp_path / "b", **narrow)
    finally:
        native.use(None)
    assert digest(checkpoint(tmp_path / "b", 10)) == digest(checkpoint(tmp_path / "a", 10))
    first, same = (events(tmp_path / name, "step")[0]["loss"] for name in ("a", "torch"))
    assert first == pytest.approx(same, rel=0.01) and first != same  # other noise, other rounding


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "muon"])
def test_every_optimizer_resumes_exactly(name: str, tmp_path: Path) -> None:
    choice = {"optimizer__name": name, "optimizer__l1": 1e-3}
    trainer(tmp_path / "a", run_config(**EVERYTHING, **choice), **DROPOUT).train()
    go_on(tmp_path / "a", 5, tmp_path / "b", **choice)
    assert digest(checkpoint(tmp_path / "b", 10)) == digest(checkpoint(tmp_path / "a", 10))


@pytest.mark.parametrize("precision", ["bfloat16", "float64"])
def test_every_precision_resumes_exactly(precision: str, tmp_path: Path) -> None:
    choice = {"training__precision": precision}
    trainer(tmp_path / "a", run_config(**EVERYTHING, **choice), **DROPOUT).train()
    go_on(tmp_path / "a", 5, tmp_path / "b", **choice)
    assert digest(checkpoint(tmp_path / "b", 10)) == digest(checkpoint(tmp_path / "a", 10))


def test_a_signal_stops_after_the_step_and_changes_nothing(tmp_path: Path) -> None:
    config = run_config(training__ema_decay=0.9, training__save_every=4, training__average_last=2)
    whole = trainer(tmp_path / "a", config, **DROPOUT)
    whole.train()

    class Interrupted(PackedRows):
        def micro_batches(self, step: int) -> list[list[Example]]:
            if step == 5:
                signal.raise_signal(signal.SIGTERM)
            return super().micro_batches(step)

    source = Interrupted(TextInMemory(), 16, 8, 2)  # pyright: ignore[reportArgumentType]
    stopped = trainer(tmp_path / "b", config, train=source, **DROPOUT)
    before = signal.getsignal(signal.SIGTERM)
    assert stopped.train() == "signal"
    assert stopped.stop_signal == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before
    assert [event["step"] for event in events(tmp_path / "b", "step")] == list(range(6))
    again = trainer(tmp_path / "b", config, seed=99, **DROPOUT)
    again.resume(checkpoint(tmp_path / "b", 6))
    assert again.train() == "done"
    assert digest(checkpoint(tmp_path / "b", 10)) == digest(checkpoint(tmp_path / "a", 10))
    # The extra checkpoint of the signal is not one of those that are averaged.
    assert again.steps_to_average() == whole.steps_to_average() == [8, 10]


def test_a_second_signal_quits_at_once(tmp_path: Path) -> None:
    class Interrupted(PackedRows):
        def micro_batches(self, step: int) -> list[list[Example]]:
            if step == 2:
                signal.raise_signal(signal.SIGINT)
                signal.raise_signal(signal.SIGINT)
            return super().micro_batches(step)

    source = Interrupted(TextInMemory(), 16, 8, 2)  # pyright: ignore[reportArgumentType]
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path, run_config(), train=source).train()
    assert not list((tmp_path / "checkpoints").iterdir())


def test_a_run_that_was_stopped_at_its_end_does_nothing_more(tmp_path: Path) -> None:
    config = run_config(training__steps=4, training__eval_every=2)
    text = TextInMemory(seed=1)
    trainer(tmp_path, config, valid_text=text).train()
    before = (tmp_path / "events.jsonl").read_text().splitlines()
    again = trainer(tmp_path, config, valid_text=text)
    again.resume(checkpoint(tmp_path, 4))
    assert again.train() == "done"
    after = (tmp_path / "events.jsonl").read_text().splitlines()
    assert after == before[:-1]  # but for the word that the checkpoint was written
    assert "checkpoint" in before[-1]


def test_an_early_stop_stays_one_after_a_resume(tmp_path: Path) -> None:
    config = run_config(
        training__steps=40, training__eval_every=2, training__patience=2, optimizer__learning_rate=0.05
    )
    text = TextInMemory(seed=1)  # random: the validation loss soon rises
    first = trainer(tmp_path, config, valid_text=text)
    assert first.train() == "early stop"
    step, best = first.counters.step, first.counters.best_step
    assert best is not None
    assert step == best + 4 < 40
    assert [event["step"] for event in events(tmp_path, "eval")] == list(range(2, step + 1, 2))
    assert (tmp_path / "best.json").read_text() == f'{{"checkpoint": "step-{best:08d}"}}\n'
    assert checkpoint(tmp_path, best).is_dir()
    again = trainer(tmp_path, config, valid_text=text)
    again.resume(checkpoint(tmp_path, step))
    assert again.train() == "early stop"
    assert again.counters.step == step


def test_events_that_were_lost_leave_no_hole(tmp_path: Path) -> None:
    """After a power cut the log may be shorter than the checkpoint remembers."""
    config = run_config(training__save_every=2, training__keep=9)
    trainer(tmp_path, config).train()
    log = tmp_path / "events.jsonl"
    log.write_bytes(log.read_bytes()[:100])
    again = trainer(tmp_path, config)
    again.resume(checkpoint(tmp_path, 8))
    again.train()
    assert b"\0" not in log.read_bytes()
    assert [event["step"] for event in events(tmp_path, "step")][-2:] == [8, 9]


def test_another_thread_count_is_said(tmp_path: Path) -> None:
    import torch

    config = run_config(training__steps=2)
    trainer(tmp_path, config).train()
    again = trainer(tmp_path, config)
    torch.set_num_threads(2)
    try:
        again.resume(checkpoint(tmp_path, 2))
    finally:
        torch.set_num_threads(1)
    assert "threads 1, now 2" in events(tmp_path, "note")[0]["text"]
