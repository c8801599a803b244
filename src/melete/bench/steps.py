"""Steps of the trainer on random tokens, as fast as on any others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from melete import config as configs
from melete.bench.sides import Side, Sizes, attention_cost, block_weights, config_of
from melete.config import RunConfig
from melete.data.batch import Example
from melete.data.batching import like_lengths
from melete.data.encoder_text import Sample
from melete.data.sampling import PackedRow, rng_for
from melete.machine import keep_freed_memory
from melete.models.base import Decoder, Network
from melete.objectives.base import Objective
from melete.training.budget import micro_batch_rows
from melete.training.job import job_of, named
from melete.training.log import EventLog
from melete.training.run import choose_machine
from melete.training.trainer import Trainer

CONTEXT = 256  # tokens of a row, where the model reads so far


def training_cost(objective: Objective, lengths: np.ndarray) -> float:
    """Operations of a training step for a token: two for each number of a matrix forward, four backward.

    Of attention only what a causal mask leaves; of a masked LM's output matrix only what the hidden tokens meet.

    Args:
        lengths: of the texts that are read, int64 (N,).
    """
    networks = [module for module in objective.modules() if isinstance(module, Network)]
    cost = sum(6.0 * block_weights(network) for network in networks)
    cost += sum(3 * attention_cost(network, lengths) for network in networks)
    if isinstance(objective.model, Decoder):
        return cost + 6.0 * objective.model.head_weight.numel()
    guesser: Any = getattr(objective, "generator", objective.model)
    hidden: Any = objective
    return cost + 6.0 * hidden.corruption.rate * guesser.mlm_weight.numel()


class _Rows:
    """Steps of random tokens: for a decoder full rows, for an encoder texts as long as sentences are."""

    def __init__(self, config: RunConfig, vocab_size: int, ragged: bool) -> None:
        t, rng = config.training, np.random.default_rng(0)
        self.rows, self.vocab_size = t.micro_batch_rows, vocab_size
        self.context, count = t.context, t.batch_tokens // t.context
        if ragged:  # sentences: half of them of 11 to 36 tokens
            drawn = rng.lognormal(3.0, 0.85, t.batch_tokens).round().astype(np.int64)
            drawn = drawn.clip(2, t.context - 2)
            self.lengths = drawn[: 1 + int(np.searchsorted(drawn.cumsum(), t.batch_tokens))]
        else:
            self.lengths = np.full(count, t.context)
        self.ragged = ragged

    def micro_batches(self, step: int) -> list[list[Example]]:
        """As a run has them: see `data.sampling.Source`."""
        budget = self.rows * self.context
        parts = like_lengths(np.arange(len(self.lengths)), self.lengths + 2 * self.ragged, budget)
        return [[self._example(step, int(i)) for i in part] for part in parts]

    def _example(self, step: int, index: int) -> Example:
        key, length = (0, step, index), int(self.lengths[index])
        if self.ragged:
            ids = rng_for(key).integers(5, self.vocab_size, length)
            return Example(key, Sample(ids, np.ones(length, dtype=bool)))
        ids = rng_for(key).integers(self.vocab_size, size=length + 1)
        return Example(key, PackedRow(ids, np.empty(0, dtype=np.int64)))


def run_of(source: str, sizes: Sizes, device: torch.device) -> RunConfig:
    """The config of a run that trains this model from plain text.

    Raises:
        InputError: rows longer than the model's context; a model that no such run trains.
    """
    known = config_of(source)
    context = sizes.context or min(CONTEXT, known.max_position_embeddings)
    changes: dict[str, Any] = {
        "model.source": source,
        "tokenizer.vocab_size": known.vocab_size,
        "training.context": context,
        "training.batch_tokens": sizes.rows * context,
        "training.device": str(device),
        "training.steps": 1_000_000,
        "optimizer.learning_rate": 1e-6,  # what is learnt from random tokens is no use
        "optimizer.matrix_learning_rate": 1e-6,
        "guard.sigma": 0.0,
    }
    config = named(configs.change(RunConfig(), changes))
    job_of(config).check(config)
    return config


def training(source: str, sizes: Sizes, device: torch.device, scratch: Path) -> Iterator[Side]:
    """Steps of the trainer, chosen as a run chooses them; the weights are thrown away."""
    keep_freed_memory()
    config = choose_machine(run_of(source, sizes, device))
    torch.manual_seed(0)
    objective = job_of(config).rehearse(config)
    config = configs.change(config, {"training.micro_batch_rows": micro_batch_rows(config, objective)[0]})
    ragged = not isinstance(objective.model, Decoder)
    rows = _Rows(config, objective.model.config.vocab_size, ragged)
    cost = training_cost(objective, rows.lengths)
    trainer = Trainer(config, objective, rows, folder=scratch, log=EventLog(None))

    def work() -> int:
        before = trainer.counters.tokens
        trainer.step()
        return trainer.counters.tokens - before

    shape = f"{len(rows.lengths)} sentences" if ragged else f"{sizes.rows} x {rows.context}"
    precision = config.training.precision
    yield Side(source, "training", precision, f"{shape}, {config.optimizer.name}", precision, cost, work)
