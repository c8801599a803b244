"""What a kind of run is to the code that runs it. `run.py`, `budget.py` and `trainer.py` know nothing more of it."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from melete.config import RunConfig
from melete.data.batch import Batch
from melete.data.tokenizers import Tokenizer
from melete.objectives.base import Objective
from melete.training.trainer import Source

# objective.name -> module:class
JOBS: dict[str, str] = {
    "causal-lm": "melete.training.causal:CausalJob",
}


def job_of(config: RunConfig) -> type[Job]:
    """The kind of run that a config asks for."""
    module, _, name = JOBS[config.objective.name].partition(":")
    return getattr(importlib.import_module(module), name)


@dataclass(frozen=True)
class Sources:
    """What the trainer reads.

    Attributes:
        train: the training examples.
        valid: the batches of one evaluation, by number; None evaluates nothing while training.
        valid_steps: how many of them there are.
    """

    train: Source
    valid: Source | None = None
    valid_steps: int = 0


@dataclass(frozen=True)
class About:
    """What the model card says of a kind of model.

    Attributes:
        pipeline_tag: the Hub's name of the task.
        sentence: what the model is and is not, after "# NAME".
        unit: of the validation loss.
    """

    pipeline_tag: str
    sentence: str
    unit: str


@dataclass(frozen=True)
class Card:
    """What a finished run is worth.

    Attributes:
        figures: for JSON, and for the event `result`: `table` (a dict a row, the model's first), `samples`, and more.
        rows: the table for a terminal, its heading first.
        below: what all of it was measured on, in a line.
        next: the commands to type now.
    """

    figures: dict[str, Any]
    rows: list[list[str]]
    below: str
    next: str


class Job(ABC):
    """One kind of run: what it reads, what it minimises, and what it says of itself.

    A run goes `check` -> `prepare` -> `settle` -> `build` -> (a time budget builds other sizes) -> `sources` ->
    training, with `samples` now and then -> `describe` -> `score`. A resume goes `prepare` -> `reopen` -> `sources`.

    A new kind (fine-tuning for a task, say) is a module beside `causal.py` with a subclass, its objective's name in
    `config.OBJECTIVES`, what it has to set in a section of the config, and a line in `JOBS`.

    Attributes:
        tokenizer: kept in the run folder, and saved with every checkpoint.
        notes: what was found and decided about the data, line by line.
        tokens: of the training text: those of one epoch.
    """

    tokenizer: Tokenizer
    notes: tuple[str, ...]
    tokens: int

    @classmethod
    @abstractmethod
    def check(cls, config: RunConfig) -> None:
        """Refuse what the config alone refuses, so that a slip does not wait for a long text to be read.

        Raises:
            InputError: the model does not exist, or a key contradicts another.
        """

    @classmethod
    @abstractmethod
    def rehearse(cls, config: RunConfig) -> Objective:
        """What `build` would give for data of the expected vocabulary: a dry run measures it."""

    @classmethod
    @abstractmethod
    def prepare(cls, config: RunConfig, tokenizer: Tokenizer | None = None) -> Self:
        """Read the data; equal configs and files give equal data.

        Args:
            tokenizer: that of the run folder when a run goes on; None: the model's, the one asked for, or a new one.

        Raises:
            InputError: no data, something is wrong in it, or the tokenizer is not the model's.
        """

    @abstractmethod
    def fingerprints(self) -> dict[str, str]:
        """SHA-256 of each split: a run goes on only with the data it began with."""

    def settle(self, config: RunConfig) -> RunConfig:
        """The config with what only the data could decide, and why."""
        return config

    @abstractmethod
    def build(self, config: RunConfig) -> Objective:
        """The objective over the model that `config.model` describes: new, or one that is trained on.

        Raises:
            InputError: model, tokenizer and objective do not fit.
        """

    @abstractmethod
    def reopen(self, config: RunConfig, checkpoint: Path) -> Objective:
        """The objective over the model of a checkpoint of this run."""

    @abstractmethod
    def sources(self, config: RunConfig) -> Sources:
        """What is read, once every choice is made.

        Raises:
            InputError: too little data for one batch.
        """

    @classmethod
    @abstractmethod
    def measuring_batch(cls, config: RunConfig, objective: Objective, rows: int) -> Batch:
        """A batch of `rows` full rows of random tokens, as good as any to measure time and memory with."""

    def samples(self, config: RunConfig, objective: Objective) -> list[tuple[str, str]]:
        """Pairs of what the model was given and what it made of it; the objective is in evaluation mode."""
        return []

    @abstractmethod
    def describe(self, config: RunConfig) -> About:
        """What the model card says."""

    @abstractmethod
    def score(self, config: RunConfig, final: Path) -> Card:
        """Score the finished model of a run, which stands in the folder `final`."""
