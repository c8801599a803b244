"""A run from config to finished model: data, model, choices, training, final weights, scores; of any kind."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from melete import __version__
from melete import config as configs
from melete.config import RunConfig
from melete.console import say
from melete.data.tokenizers import Tokenizer
from melete.data.writing import check_writable, refused
from melete.errors import InputError, StorageError
from melete.machine import keep_freed_memory
from melete.objectives.base import Objective
from melete.training import state as checkpoints
from melete.training.budget import choose, preview
from melete.training.job import Card, Job, job_of, named
from melete.training.lock import locked
from melete.training.log import EventLog, TerminalProgress, read_events
from melete.training.precision import choose_device, choose_kernels, choose_precision
from melete.training.trainer import Trainer

# A temporary folder that nobody has written to for this long is that of a process which was killed.
_FORGOTTEN_SECONDS = 600.0


@dataclass(frozen=True)
class Finished:
    """How a run ended.

    Attributes:
        folder: the run folder.
        reason: `done`, `early stop` or `signal`.
        job: what was done, and on which data.
        signal: number of the signal that stopped it.
    """

    folder: Path
    reason: str
    job: Job
    signal: int | None = None


def start(config: RunConfig, begun: float | None = None, *, called: str = "") -> Finished:
    """Begin a new run.

    Args:
        config: of the run; `auto` values and zeros that mean "choose" are chosen here, and written down.
        begun: `time.monotonic()` from which a time budget counts.
        called: what a run without a name is called, with a number where that is taken; empty = from model and data.

    Raises:
        InputError: the run folder exists, or something in the config or the data is wrong.
    """
    folder = _run_folder(config, called)
    check_writable(folder)
    config, job, objective = _chosen(config, begun)
    job.sources(config)  # what can only fail later is refused before there is a run folder
    folder = _write_run_folder(folder, config, job)
    say(f"run: {folder}  seed: {config.seed}")
    for key, reason in config.choices.items():
        say(f"  {key}: {reason}")
    say(f"the same without choosing again: {configs.equivalent_command(config)}")
    with locked(folder), _saying_how_to_go_on(folder):
        return _train(config, folder, job, objective, None)


def rehearse(config: RunConfig, begun: float | None = None) -> tuple[RunConfig, dict[str, Any]]:
    """What `start` would run: the config, and its size, arithmetic, memory and time.

    Under a time budget the data is read, and kept for the run: only then is every choice made.
    """
    if config.training.minutes:
        config, _, _ = _chosen(config, begun)
    return config, preview(config)


def _chosen(config: RunConfig, begun: float | None) -> tuple[RunConfig, Job, Objective]:
    begun = time.monotonic() if begun is None else begun
    _refuse_several_processes()
    keep_freed_memory()
    config = choose_machine(named(config))
    _use(config)
    kind = job_of(config)
    kind.check(config)
    job = kind.prepare(config)
    config = job.settle(config)
    config, objective = choose(config, job, job.build(config), begun)
    return job.tune(config, objective), job, objective


def resume(folder: Path) -> Finished:
    """Go on with a run from its newest whole checkpoint, or from its start if it has none yet.

    Raises:
        InputError: no run there, it is finished or damaged, or its data has changed since.
    """
    path = folder / "config.toml"
    if not path.exists():
        raise InputError(
            "not a run folder",
            where=str(folder),
            expected="a folder with config.toml",
            do="see `melete runs`",
        )
    # Final weights without the event of the end behind them: the run was killed between the two, and ends again.
    there = (folder / "final").exists()
    said = {event["event"] for event in read_events(folder / "events.jsonl")} if there else set()
    finished = "end" in said
    if finished and "result" in said:
        raise InputError("this run is finished", where=str(folder), do=f"`melete generate {folder}` uses it")
    _refuse_several_processes()
    keep_freed_memory()
    config = configs.load(path)
    _use(config)
    with locked(folder), _saying_how_to_go_on(folder):
        began_with = _data_of(folder)
        job = job_of(config).prepare(config, Tokenizer.load(folder / "tokenizer"))
        if began_with != job.fingerprints():
            raise InputError(
                "the data is not what this run began with", where=str(folder), do="start a new run"
            )
        if finished:  # stopped while it was scored
            return Finished(folder, "done", job)
        checkpoint = checkpoints.newest(folder / "checkpoints", say)
        if checkpoint is None:
            say("no whole checkpoint is there: this run begins again from its first step")
        objective = job.reopen(config, checkpoint) if checkpoint else job.build(config)
        return _train(config, folder, job, objective, checkpoint)


def score(finished: Finished) -> Card:
    """Score the final model of a run, add the result to its events, and write its page."""
    from melete.evaluation.report import write_report

    keep_freed_memory()
    folder = finished.folder
    with _saying_how_to_go_on(folder):
        card = finished.job.score(configs.load(folder / "config.toml"), folder / "final")
        EventLog(folder / "events.jsonl").write("result", **card.figures)
        write_report(folder)
    return card


def _train(
    config: RunConfig, folder: Path, job: Job, objective: Objective, checkpoint: Path | None
) -> Finished:
    t = config.training
    sources = job.sources(config)
    log = EventLog(folder / "events.jsonl", TerminalProgress(t.steps))
    trainer = Trainer(
        config,
        objective,
        sources.train,
        folder=folder,
        log=log,
        valid=sources.valid,
        valid_steps=sources.valid_steps,
        tokenizer=folder / "tokenizer",
        sample=lambda: job.samples(config, objective),
    )
    if checkpoint is not None:
        trainer.resume(checkpoint)
        say(f"going on from {checkpoint.name} of {t.steps:,} steps")
    else:
        log.cut(0)
        log.write(
            "start",
            run=folder.name,
            time=time.time(),
            seed=config.seed,
            parameters=sum(p.numel() for p in objective.parameters()),
            family=objective.model.family,
            tokens_per_step=t.batch_tokens // t.context * t.context,
            steps=t.steps,
            device=t.device,
            precision=t.precision,
            threads=torch.get_num_threads(),
            init_seconds=job.init_seconds,
            command=" ".join(sys.argv),
        )
    reason = trainer.train()
    if reason == "early stop":
        say(f"stopped early: {t.patience} evaluations in a row without a better {objective.deciding}")
    if reason != "signal":
        _write_final(config, folder, job, trainer)
        for prompt, text in job.samples(config, objective):
            log.write("sample", step=trainer.counters.step, prompt=prompt, text=text)
    log.write("end", reason=reason, elapsed=trainer.counters.elapsed)
    return Finished(folder, reason, job, trainer.stop_signal)


# ---------------------------------------------------------------------- final weights


def _write_final(config: RunConfig, folder: Path, job: Job, trainer: Trainer) -> None:
    weights, which = _final_weights(config, folder, trainer)
    trainer.ema = None
    trainer.masters.load(weights)
    trainer.objective.eval()
    loss = trainer.validation()["loss"] if trainer.valid_source is not None else None
    card = _model_card(config, folder, job, which, loss)

    def fill(target: Path) -> None:
        trainer.objective.save(target, weights, folder / "tokenizer")
        (target / "README.md").write_text(card, encoding="utf-8")

    checkpoints.write_folder(folder / "final", fill)
    measured = "" if loss is None else f"; validation loss {loss:.4f}, measured as while training"
    say(f"final weights: {which}{measured}")


def _final_weights(config: RunConfig, folder: Path, trainer: Trainer) -> tuple[dict[str, Tensor], str]:
    """Averaged checkpoints where they were asked for, else the best step if it beats the last one."""
    best, t = trainer.counters.best_step, config.training

    def whole(step: int) -> bool:
        fault = checkpoints.verify(folder / "checkpoints" / checkpoints.name_of(step))
        if fault is not None:
            say(f"{checkpoints.name_of(step)} is damaged ({fault}) and left out")
        return fault is None

    if t.average_last:
        names = [checkpoints.name_of(step) for step in trainer.steps_to_average() if whole(step)]
        paths = (folder / "checkpoints" / name for name in names)
        return checkpoints.average(paths, trainer.objective.load), f"mean of {', '.join(names)}"
    at = f"last step, {trainer.counters.step:,}"
    if best is not None and best != trainer.counters.step and whole(best):
        trainer.restore(folder / "checkpoints" / checkpoints.name_of(best))
        at = f"best step by validation {trainer.objective.deciding}, {best:,}"
    if trainer.ema is not None:
        at = f"moving average (decay {t.ema_decay:g}) at the {at}"
    return trainer.weights(), at


def _model_card(config: RunConfig, folder: Path, job: Job, which: str, loss: float | None) -> str:
    about = job.describe(config)
    lines = [
        "---",
        "library_name: transformers",
        f"pipeline_tag: {about.pipeline_tag}",
        "---",
        "",
        f"# {folder.name}",
        "",
        about.sentence,
        "",
        f"- weights: {which}",
        f"- validation loss: {'not measured' if loss is None else f'{loss:.4f} {about.unit}'}",
        *(f"- {split} data: {value}" for split, value in job.fingerprints().items()),
        f"- trained by Melete {__version__}",
        "",
        "```",
        configs.equivalent_command(config),
        "```",
        "",
    ]
    return "\n".join(lines)


# ---------------------------------------------------------------------- folders and machine


def _refuse_several_processes() -> None:
    """The trainer works in several, but one process alone may prepare data and write a run folder."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("a run is one process", where="WORLD_SIZE", do="start it without torchrun")


def _run_folder(config: RunConfig, called: str) -> Path:
    if config.name:
        folder = Path(config.folder) / config.name
        if folder.exists():
            raise _exists(folder)
        return folder
    return _free_folder(Path(config.folder) / (called or default_name(config)))


def default_name(config: RunConfig) -> str:
    """What a run is called after: its model and its data."""
    words = [config.model.source.replace(":", "-").rstrip("/").split("/")[-1]]
    words += [Path(name).name.split(".")[0] or "data" for name in config.data.train[:1]]
    return "-".join(words)


def _exists(folder: Path) -> InputError:
    return InputError(
        "this run exists already", where=str(folder), do="choose another --name, or `melete resume` it"
    )


def _free_folder(wanted: Path) -> Path:
    """The folder, or the first of `NAME-2`, `NAME-3`, ... that is not there."""
    number, folder = 1, wanted
    while folder.exists():
        number += 1
        folder = wanted.with_name(f"{wanted.name}-{number}")
    return folder


def choose_machine(config: RunConfig) -> RunConfig:
    """Device, number format, threads and kernels where the config leaves them open, and why; kernels are in use now.

    Raises:
        InputError: one that was asked for is not there.
    """
    t = config.training
    device = choose_device(t.device)
    precision, why = choose_precision(t.precision, device)
    threads = t.threads or torch.get_num_threads()  # OMP_NUM_THREADS, else the cores there are
    kernels, how = choose_kernels(t.kernels, device.type, precision)
    if t.kernels == "native" != kernels:
        raise InputError(f"there are no native kernels: {how}", where="training.kernels", do="use torch")
    asked = {
        "training.device": t.device,
        "training.precision": t.precision,
        "training.threads": t.threads,
        "training.kernels": t.kernels,
    }
    changes: dict[str, Any] = {
        "training.device": str(device),
        "training.precision": precision,
        "training.threads": threads,
        "training.kernels": kernels,
    }
    reasons = {
        "training.kernels": f"{kernels}: {how}",
        "training.device": f"{device}" + (", there is no GPU" if device.type == "cpu" else ""),
        "training.precision": f"{precision}, {why}",
        "training.threads": f"{threads}, all that PyTorch may use here",
    }
    return configs.change(
        config, changes, {key: why for key, why in reasons.items() if asked[key] in ("auto", 0)}
    )


def _use(config: RunConfig) -> None:
    t = config.training
    kernels, why = choose_kernels(t.kernels, t.device, t.precision)
    if kernels != t.kernels:
        say(f"this run began with {t.kernels} kernels, now {kernels} ({why}): equal up to rounding")
    torch.set_num_threads(config.training.threads)
    torch.manual_seed(config.seed)


def _write_run_folder(folder: Path, config: RunConfig, job: Job) -> Path:
    """Make the run folder, whole or not at all; another one, where a run without a name lost a race for it."""
    temporary = folder.with_name(f".{folder.name}.tmp-{os.getpid()}")
    try:
        _remove_forgotten(folder)
        temporary.mkdir(parents=True)
        _fill(temporary, config, job)
        while True:
            try:
                os.rename(temporary, folder)
                return folder
            except OSError:
                if not folder.exists():
                    raise
                if config.name:
                    raise _exists(folder) from None
                folder = _free_folder(folder)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if not isinstance(error, OSError | StorageError):
            raise
        raise refused(error, folder, temporary) from None


def _fill(folder: Path, config: RunConfig, job: Job) -> None:
    (folder / "config.toml").write_text(configs.dump(config), encoding="utf-8")
    environment = json.dumps(_environment(job), indent=1, ensure_ascii=False)
    (folder / "environment.json").write_text(environment, encoding="utf-8")
    job.tokenizer.save(folder / "tokenizer")
    (folder / "checkpoints").mkdir()


def _remove_forgotten(folder: Path) -> None:
    """What processes left that were killed while they made this folder."""
    for path in folder.parent.glob(f".{folder.name}.tmp-*"):
        if time.time() - path.stat().st_mtime > _FORGOTTEN_SECONDS:
            shutil.rmtree(path, ignore_errors=True)


def _environment(job: Job) -> dict[str, Any]:
    return {
        "melete": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "command": " ".join(sys.argv),
        "data": job.fingerprints(),
        "notes": job.notes,
    }


def _data_of(folder: Path) -> dict[str, str]:
    """The fingerprints of the data that a run began with.

    Raises:
        InputError: the file that says so is gone or damaged.
    """
    path = folder / "environment.json"
    try:
        return dict(json.loads(path.read_text("utf-8"))["data"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        raise InputError(
            "this file is damaged or gone: it says which data the run began with",
            where=str(path),
            do="start a new run",
        ) from None


@contextmanager
def _saying_how_to_go_on(folder: Path) -> Iterator[None]:
    """A person who cannot wait for a step or a score to end learns how to go on from what is saved."""
    try:
        yield
    except KeyboardInterrupt:
        say(f"go on with: melete resume {folder}")
        raise
