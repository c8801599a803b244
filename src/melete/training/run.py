"""A run from config to finished model: data, tokenizer, model, choices, training, final weights, scores."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
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
from melete.data.corpus import Corpus
from melete.data.sampling import PackedRows, Phases
from melete.data.tokenizers import Tokenizer
from melete.errors import InputError, StorageError
from melete.generation.generate import complete
from melete.machine import keep_freed_memory
from melete.models import build, is_spec
from melete.models.base import Decoder
from melete.models.checkpoint import load_model, locate
from melete.objectives.causal_lm import CausalLM
from melete.training import state as checkpoints
from melete.training.budget import check_model, choose
from melete.training.log import EventLog, TerminalProgress, read_events
from melete.training.precision import choose_device, choose_precision
from melete.training.prepare import Prepared, prepare_data
from melete.training.trainer import Trainer


@dataclass(frozen=True)
class Finished:
    """How a run ended.

    Attributes:
        folder: the run folder.
        reason: `done`, `early stop` or `signal`.
        signal: number of the signal that stopped it.
    """

    folder: Path
    reason: str
    data: Prepared
    signal: int | None = None


def start(config: RunConfig, begun: float | None = None) -> Finished:
    """Begin a new run.

    Args:
        config: of the run; `auto` values and zeros that mean "choose" are chosen here, and written down.
        begun: `time.monotonic()` from which a time budget counts.

    Raises:
        InputError: the run folder exists, or something in the config or the data is wrong.
    """
    begun = time.monotonic() if begun is None else begun
    _refuse_several_processes()
    keep_freed_memory()
    folder = _run_folder(config)
    config = _choose_machine(config)
    _use(config)
    check_model(config)
    data = prepare_data(config, _tokenizer_of_model(config))
    model = _build_model(config, data.tokenizer)
    config, model = choose(config, model, data, begun)
    _check(config, model, data)
    _write_run_folder(folder, config, data)
    say(f"run: {folder}  seed: {config.seed}")
    for key, reason in config.choices.items():
        say(f"  {key}: {reason}")
    say(f"the same without choosing again: {configs.equivalent_command(config)}")
    with _locked(folder):
        return _train(config, folder, model, data, None)


def resume(folder: Path) -> Finished:
    """Go on with a run from its newest whole checkpoint, or from its start if it has none yet.

    Raises:
        InputError: no run there, it is finished, or its data has changed since.
    """
    path = folder / "config.toml"
    if not path.exists():
        raise InputError(
            "not a run folder",
            where=str(folder),
            expected="a folder with config.toml",
            do="see `melete runs`",
        )
    finished = (folder / "final").exists()
    if finished and any(event["event"] == "result" for event in read_events(folder / "events.jsonl")):
        raise InputError("this run is finished", where=str(folder), do=f"`melete generate {folder}` uses it")
    _refuse_several_processes()
    keep_freed_memory()
    config = configs.load(path)
    _use(config)
    with _locked(folder):
        tokenizer = Tokenizer.load(folder / "tokenizer")
        data = prepare_data(config, tokenizer)
        written = json.loads((folder / "environment.json").read_text("utf-8"))["data"]
        if written != data.fingerprints():
            raise InputError(
                "the data is not what this run began with", where=str(folder), do="start a new run"
            )
        if finished:  # stopped while it was scored
            return Finished(folder, "done", data)
        checkpoint = checkpoints.newest(folder / "checkpoints", say)
        model = load_model(checkpoint) if checkpoint else _build_model(config, tokenizer)
        return _train(config, folder, model, data, checkpoint)


def _train(
    config: RunConfig, folder: Path, model: Decoder, data: Prepared, checkpoint: Path | None
) -> Finished:
    t = config.training
    objective = CausalLM(model, config.objective.label_smoothing, config.objective.z_loss)
    rows = t.batch_tokens // t.context
    train = _training_rows(config, data)
    valid, valid_steps = _validation(data.valid, t.context, t.micro_batch_rows, t.eval_tokens)
    log = EventLog(folder / "events.jsonl", TerminalProgress(t.steps))
    trainer = Trainer(
        config,
        objective,
        train,
        folder=folder,
        log=log,
        valid=valid,
        valid_steps=valid_steps,
        tokenizer=folder / "tokenizer",
        sample=lambda: _samples(model, data.tokenizer, t.prompts),
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
            parameters=sum(p.numel() for p in model.parameters()),
            family=model.family,
            tokens_per_step=rows * t.context,
            steps=t.steps,
            device=t.device,
            precision=t.precision,
            threads=torch.get_num_threads(),
            command=" ".join(sys.argv),
        )
    reason = trainer.train()
    if reason != "signal":
        _write_final(config, folder, trainer, objective)
        for prompt, text in _samples(model, data.tokenizer, t.prompts):
            log.write("sample", step=trainer.counters.step, prompt=prompt, text=text)
    log.write("end", reason=reason, elapsed=trainer.counters.elapsed)
    return Finished(folder, reason, data, trainer.stop_signal)


def _training_rows(config: RunConfig, data: Prepared) -> Phases:
    """Rows of `training.context`, or of what the context schedule says; a micro-batch keeps its tokens."""
    t = config.training
    phases: list[tuple[int, PackedRows]] = []
    for progress, context in t.context_schedule or ((0.0, t.context),):
        micro_batch_rows = max(1, t.micro_batch_rows * t.context // context)
        rows = PackedRows(data.train, context, t.batch_tokens // context, micro_batch_rows, config.seed)
        phases.append((int(progress * t.steps), rows))
    return Phases(phases)


def _validation(corpus: Corpus, context: int, rows: int, tokens: int) -> tuple[PackedRows | None, int]:
    """The first `tokens` of the validation text in rows; nothing where it is shorter than one row."""
    available = min(tokens, len(corpus) - 1) // context
    if available < 1:
        what = (
            "training.eval_tokens"
            if tokens < len(corpus) - 1
            else f"the validation text ({len(corpus):,} tokens)"
        )
        say(f"{what} is shorter than one row: no evaluation while training")
        return None, 0
    return PackedRows(corpus, context, available, min(rows, available), shuffle=False), 1


def _samples(model: Decoder, tokenizer: Tokenizer, prompts: Sequence[str]) -> list[tuple[str, str]]:
    answers = complete(model, tokenizer, prompts)
    return [(prompt, tokenizer.decode(ids)) for prompt, ids in zip(prompts, answers, strict=True)]


# ---------------------------------------------------------------------- final weights


def _write_final(config: RunConfig, folder: Path, trainer: Trainer, objective: CausalLM) -> None:
    weights, which = _final_weights(config, folder, trainer, objective)
    trainer.ema = None
    trainer.masters.load(weights)
    objective.eval()
    loss = trainer.validation_loss() if trainer.valid_source is not None else None
    card = _model_card(config, folder, which, loss)

    def fill(target: Path) -> None:
        objective.save(target, weights, folder / "tokenizer")
        (target / "README.md").write_text(card, encoding="utf-8")

    checkpoints.write_folder(folder / "final", fill)
    say(f"final weights: {which}" + ("" if loss is None else f", validation loss {loss:.4f}"))


def _final_weights(
    config: RunConfig, folder: Path, trainer: Trainer, objective: CausalLM
) -> tuple[dict[str, Tensor], str]:
    """Averaged checkpoints where they were asked for, else the best step if it beats the last one."""
    best, t = trainer.counters.best_step, config.training

    def whole(step: int) -> bool:
        fault = checkpoints.verify(folder / "checkpoints" / checkpoints.name_of(step))
        if fault is not None:
            say(f"{checkpoints.name_of(step)} is damaged ({fault}) and left out")
        return fault is None

    if t.average_last:
        names = [checkpoints.name_of(step) for step in trainer.steps_to_average() if whole(step)]
        mean = checkpoints.average((folder / "checkpoints" / name for name in names), objective.load)
        return mean, f"mean of {', '.join(names)}"
    at = f"last step, {trainer.counters.step:,}"
    if best is not None and best != trainer.counters.step and whole(best):
        trainer.restore(folder / "checkpoints" / checkpoints.name_of(best))
        at = f"best step by validation loss, {best:,}"
    if trainer.ema is not None:
        at = f"moving average (decay {t.ema_decay:g}) at the {at}"
    return trainer.weights(), at


def _model_card(config: RunConfig, folder: Path, which: str, loss: float | None) -> str:
    data = json.loads((folder / "environment.json").read_text("utf-8"))["data"]
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "---",
        "",
        f"# {folder.name}",
        "",
        f"A base language model trained by Melete {__version__}; it continues text and follows no instructions.",
        "",
        f"- weights: {which}",
        f"- validation loss: {'not measured' if loss is None else f'{loss:.4f} nats per token'}",
        *(f"- {split} data: {value}" for split, value in data.items()),
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


def _run_folder(config: RunConfig) -> Path:
    if config.name:
        folder = Path(config.folder) / config.name
        if folder.exists():
            raise InputError(
                "this run exists already",
                where=str(folder),
                do="choose another --name, or `melete resume` it",
            )
        return folder
    words = [config.model.source.replace(":", "-").rstrip("/").split("/")[-1]]
    words += [Path(name).name.split(".")[0] or "data" for name in config.data.train[:1]]
    return free_folder(Path(config.folder), "-".join(words))


def free_folder(parent: Path, base: str) -> Path:
    """`parent/base`, or the first of `base-2`, `base-3`, ... that is not there."""
    number = 1
    while (folder := parent / (base if number == 1 else f"{base}-{number}")).exists():
        number += 1
    return folder


def _choose_machine(config: RunConfig) -> RunConfig:
    t = config.training
    device = choose_device(t.device)
    precision, why = choose_precision(t.precision, device)
    threads = t.threads or torch.get_num_threads()  # OMP_NUM_THREADS, else the cores there are
    asked = {"training.device": t.device, "training.precision": t.precision, "training.threads": t.threads}
    changes: dict[str, Any] = {
        "training.device": str(device),
        "training.precision": precision,
        "training.threads": threads,
    }
    reasons = {
        "training.device": f"{device}" + (", there is no GPU" if device.type == "cpu" else ""),
        "training.precision": f"{precision}, {why}",
        "training.threads": f"{threads}, all that PyTorch may use here",
    }
    return configs.change(
        config, changes, {key: why for key, why in reasons.items() if asked[key] in ("auto", 0)}
    )


def _use(config: RunConfig) -> None:
    torch.set_num_threads(config.training.threads)
    torch.manual_seed(config.seed)


def _tokenizer_of_model(config: RunConfig) -> Tokenizer | None:
    """The tokenizer that comes with a model that is trained on; None for one from scratch."""
    if is_spec(config.model.source):
        return None
    folder = locate(config.model.source)
    own = Tokenizer.load(folder)
    asked = config.tokenizer.source
    if asked and Tokenizer.load(Path(asked)).fingerprint != own.fingerprint:
        raise InputError(
            f"not the tokenizer of {folder}",
            where=asked,
            do="leave tokenizer.source out: the model's own is used",
        )
    return own


def _build_model(config: RunConfig, tokenizer: Tokenizer) -> Decoder:
    section, t = config.model, config.training
    if not is_spec(section.source):
        return load_model(locate(section.source)).train()
    fields = {"max_position_embeddings": t.context, **section.config}
    fields |= {
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id,
        "pad_token_id": tokenizer.pad_id,
    }
    vocab_size, init = tokenizer.vocab_size, section.init or None
    return build(section.source, vocab_size=vocab_size, seed=config.seed, init=init, **fields)


def _check(config: RunConfig, model: Decoder, data: Prepared) -> None:
    """What can only fail later is refused before there is a run folder."""
    if data.tokenizer.vocab_size > model.config.vocab_size:
        raise InputError(
            f"the tokenizer has {data.tokenizer.vocab_size:,} tokens, the model {model.config.vocab_size:,}",
            where=config.model.source,
            do="use the tokenizer that the model was trained with",
        )
    _training_rows(config, data)


def _write_run_folder(folder: Path, config: RunConfig, data: Prepared) -> None:
    def fill(target: Path) -> None:
        (target / "config.toml").write_text(configs.dump(config), encoding="utf-8")
        (target / "environment.json").write_text(
            json.dumps(_environment(data), indent=1, ensure_ascii=False), encoding="utf-8"
        )
        data.tokenizer.save(target / "tokenizer")
        (target / "checkpoints").mkdir()

    temporary = folder.with_name(f".{folder.name}.tmp-{os.getpid()}")
    try:
        temporary.mkdir(parents=True)
        fill(temporary)
        os.rename(temporary, folder)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if not isinstance(error, OSError):
            raise
        raise StorageError(
            f"could not make the run folder: {error.strerror}",
            where=str(folder),
            do="choose another with folder=",
        ) from None


def _environment(data: Prepared) -> dict[str, Any]:
    return {
        "melete": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "command": " ".join(sys.argv),
        "data": data.fingerprints(),
        "notes": data.notes,
    }


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Two trainings never share a run folder."""
    with (folder / ".lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError("another process is training here", where=str(folder)) from None
        yield
