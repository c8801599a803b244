"""What a kind of run is to the code that runs it. `run.py`, `budget.py` and `trainer.py` know nothing more of it."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from melete import config as configs
from melete.config import ObjectiveSection, RunConfig
from melete.data.batch import Batch
from melete.data.sampling import Source
from melete.data.tokenizers import Tokenizer
from melete.errors import InputError
from melete.models import is_spec
from melete.models.checkpoint import locate, named_head
from melete.objectives.base import Objective

# objective.name -> module:class; a family whose model says nothing else is trained by the first that suits it.
JOBS: dict[str, str] = {
    "causal-lm": "melete.training.causal:CausalJob",
    "replaced-token": "melete.training.encoders:ReplacedJob",
    "masked-lm": "melete.training.encoders:MaskedJob",
    "span-corruption": "melete.training.denoising:SpanCorruptionJob",
    "text-infilling": "melete.training.denoising:TextInfillingJob",
    "text-classification": "melete.training.finetuning_tasks:ClassificationJob",
    "sentence-similarity": "melete.training.finetuning_tasks:SimilarityJob",
    "sentence-embedding": "melete.training.finetuning_tasks:EmbeddingJob",
    "token-classification": "melete.training.finetuning_tasks:TaggingJob",
    "question-answering": "melete.training.finetuning_tasks:QuestionJob",
    "translation": "melete.training.writing:TranslationJob",
    "summarization": "melete.training.writing:SummarizationJob",
    "text2text-generation": "melete.training.writing:AnyTextJob",
    "extractive-summarization": "melete.training.extraction:ExtractionJob",
}


def job_of(config: RunConfig) -> type[Job]:
    """The kind of run that a config asks for, `named` or not."""
    return _load(config.objective.name or _own(family_of(config)))


def named(config: RunConfig) -> RunConfig:
    """The config with the defaults that belong to its kind of run: objective and tokenizer are called by name.

    Raises:
        InputError: the model's family is not trained that way, or a key of the objective belongs to another one.
    """
    family = family_of(config)
    name = config.objective.name or _own(family)
    job, default = _load(name), ObjectiveSection()
    if not job.suits(family):
        suiting = [other for other in JOBS if _load(other).suits(family)]
        raise InputError(
            f"{family} is not trained by {name}", where="objective.name", expected=" or ".join(suiting)
        )
    for key in ObjectiveSection.__struct_fields__:
        changed = getattr(config.objective, key) != getattr(default, key)
        if changed and key not in ("name", *job.reads):
            raise InputError(f"{name} has no use for it", where=f"objective.{key}", do="leave it out")
    kind = config.tokenizer.kind or job.tokenizer_kind
    return configs.change(config, {"objective.name": name, "tokenizer.kind": kind})


def family_of(config: RunConfig) -> str:
    """The family of the config's model.

    Raises:
        InputError: no such family, no such folder, or none of our models in it.
    """
    source = config.model.source
    if is_spec(source):
        return source.partition(":")[0]
    return named_head(locate(source))[0]


def _own(family: str) -> str:
    """What a family is trained by where nobody says otherwise."""
    for name in JOBS:
        if _load(name).suits(family):
            return name
    raise InputError(f"no kind of run trains {family}", where="model.source")


def _load(name: str) -> type[Job]:
    module, _, kind = JOBS[name].partition(":")
    return getattr(importlib.import_module(module), kind)


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

    A run goes `check` -> `prepare` -> `settle` -> `build` (a time budget builds other sizes) -> `tune` -> `sources` ->
    training, with `samples` now and then -> `describe` -> `score`. A resume goes `prepare` -> `reopen` -> `sources`.

    A new kind (fine-tuning for a task, say) is a module beside `causal.py` with a subclass, its objective's name in
    `config.OBJECTIVES`, what it has to set in a section of the config, and a line in `JOBS`.

    Attributes:
        reads: keys of the section `objective` that mean something to it.
        tokenizer_kind: what is trained where nobody names a tokenizer.
        tokenizer: kept in the run folder, and saved with every checkpoint.
        notes: what was found and decided about the data, line by line.
        tokens: of the training text: those of one epoch.
        init_seconds: what `build` took: weights may be counted from the text, and that is training, too.
    """

    reads: ClassVar[tuple[str, ...]]
    tokenizer_kind: ClassVar[str]

    tokenizer: Tokenizer
    notes: tuple[str, ...]
    tokens: int
    init_seconds: float = 0.0

    @classmethod
    @abstractmethod
    def suits(cls, family: str) -> bool:
        """Whether models of this family can be trained that way."""

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

    def tune(self, config: RunConfig, objective: Objective) -> RunConfig:
        """The config with what is measured on this machine once all else is chosen, and why."""
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
