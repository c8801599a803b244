"""A training of a second or less: a tiny model, a text in memory, and everything that a long run has."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kit import VOCAB, tiny
from melete import config as configs
from melete.config import RunConfig
from melete.data.sampling import PackedRows
from melete.objectives.base import Objective
from melete.objectives.causal_lm import CausalLM
from melete.training.log import EventLog, read_events
from melete.training.trainer import Trainer

CONTEXT = 16
DROPOUT = {"hidden_dropout": 0.1, "attention_dropout": 0.1, "embedding_dropout": 0.1, "weight_dropout": 0.1}


class TextInMemory:
    """What `PackedRows` needs of a corpus: ids and where documents start."""

    def __init__(self, length: int = 420, document: int = 23, seed: int = 0, vocab: int = VOCAB) -> None:
        self.ids = np.random.default_rng(seed).integers(0, vocab, length)
        self.starts = np.arange(0, length, document)

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, start: int, stop: int) -> np.ndarray:
        assert 0 <= start <= stop <= len(self)
        return self.ids[start:stop]

    def document_starts(self, start: int, stop: int) -> np.ndarray:
        return self.starts[(self.starts >= start) & (self.starts < stop)]


def run_config(**changes: Any) -> RunConfig:
    """Ten steps of 8 rows in 4 micro-batches, in float32 on one thread; keys with `__` for the dot."""
    fields: dict[str, Any] = {
        "training.steps": 10,
        "training.context": CONTEXT,
        "training.batch_tokens": 8 * CONTEXT,
        "training.micro_batch_rows": 2,
        "training.device": "cpu",
        "training.precision": "float32",
        "training.threads": 1,
        "training.eval_every": 0,
        "training.save_every": 0,
        "optimizer.learning_rate": 3e-3,
    }
    return configs.change(
        RunConfig(), fields | {key.replace("__", "."): value for key, value in changes.items()}
    )


def rows(config: RunConfig, text: TextInMemory | None = None) -> PackedRows:
    """The training rows of a config."""
    t = config.training
    count = t.batch_tokens // t.context
    return PackedRows(text or TextInMemory(), t.context, count, t.micro_batch_rows, config.seed)  # pyright: ignore[reportArgumentType]


def trainer(
    folder: Path,
    config: RunConfig,
    *,
    objective: Objective | None = None,
    family: str = "gpt2",
    seed: int = 0,
    train: Any = None,
    valid_text: TextInMemory | None = None,
    **sizes: Any,
) -> Trainer:
    """A trainer in a run folder of its own; `seed` is that of the weights."""
    torch.set_num_threads(1)
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    valid = None
    if valid_text is not None:
        valid = PackedRows(valid_text, CONTEXT, 4, 4, shuffle=False)  # pyright: ignore[reportArgumentType]
    return Trainer(
        config,
        objective or CausalLM(tiny(family, seed=seed, **sizes)),
        train or rows(config),
        folder=folder,
        log=EventLog(folder / "events.jsonl"),
        valid=valid,
        valid_steps=2 if valid else 0,
    )


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    """The events of one kind, in order."""
    return [event for event in read_events(folder / "events.jsonl") if event["event"] == kind]


def checkpoint(folder: Path, step: int) -> Path:
    """The checkpoint of a step."""
    return folder / "checkpoints" / f"step-{step:08d}"


def digest(folder: Path, *names: str) -> str:
    """SHA-256 of the tensors of a checkpoint and of its training state."""
    sha = hashlib.sha256()
    for name in names or ("model.safetensors", "train_state.safetensors"):
        sha.update((folder / name).read_bytes())
    return sha.hexdigest()


def plain_state(folder: Path) -> dict[str, Any]:
    """The plain values of a checkpoint that do not tell the time."""
    values = json.loads((folder / "train_state.json").read_text())
    del values["counters"]["elapsed"], values["events_offset"]
    return values
