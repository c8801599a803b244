"""Runs of a model on labelled rows: what all tasks share. What each task is stands in `finetuning_tasks`."""

from __future__ import annotations

import math
import time
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Self

import msgspec
import numpy as np
from torch import Tensor

from melete import config as configs
from melete.baselines.labelled import baselines_for
from melete.config import DecodingSection, FinetuningSection, RunConfig
from melete.console import duration, say
from melete.data.augmentation import Augmentation
from melete.data.batch import Batch, Example
from melete.data.labelled.rows import CLASSIFICATION, TAGGING, LabelledRow
from melete.data.labelled.sets import LabelledSet
from melete.data.sampling import rng_for
from melete.data.text_batches import AllTexts, TextBatches
from melete.data.tokenizers import Tokenizer
from melete.errors import InputError
from melete.evaluation.exams import exam_of
from melete.evaluation.task_scorecard import answer_rows, score_answers
from melete.models import causal_families, family, is_spec, preset, random_model, skeleton
from melete.models.base import ModelConfig, Network
from melete.models.checkpoint import load_config, load_network, locate, named_head
from melete.objectives.base import Objective
from melete.objectives.craft import Craft, CraftedObjective, Lora
from melete.objectives.labelled import LabelledObjective, LabelledPiece
from melete.tasks import predictor_class, task_of
from melete.tasks.base import Answer
from melete.tasks.labelled import LabelledPredictor, RowPredictor
from melete.training.budget import measure
from melete.training.building import check_vocabulary, expected_vocabulary, fields_of, tokenizer_of_model
from melete.training.job import About, Card, Job, Sources
from melete.training.labelled_data import (
    Pieces,
    checked,
    encode,
    fingerprints,
    labelled,
    read_rows,
    sentence_numbers,
)
from melete.training.rate_finder import find_rate

# Evaluations of a training: the more, the finer the choice of the best weights; less where they would take too long.
_EVALUATIONS = 10
_EVALUATION_SHARE = 0.15
_MEASURED = 4  # steps whose time is taken
_AVERAGED_SHARE = 0.2  # of the training, at its end, from which checkpoints are averaged
# A pass without gradients costs a third of one with them.
_FORWARD = 1 / 3


class FinetuneJob(Job):
    """A model, the head of a task, and labelled rows; scored beside a linear model of the same rows.

    Attributes:
        task: its name on the Hub.
        head_task: the head that the model wears; "" = that of the task; see `head`.
        predictor_kind: how it reads rows and answers them.
        changes: ways in which augmentation may change its texts.
        windowed: whether long texts are read in windows, not cut.
        writes: whether answers are written, token by token.
        kept: fields of the predictor that the model's folder knows.
        rehearsed: fields of the model's config where no labels are known.
    """

    reads = ()
    tokenizer_kind = ""  # of a new tokenizer: the model's family decides

    task: ClassVar[str]
    head_task: ClassVar[str] = ""
    predictor_kind: ClassVar[type[RowPredictor]]
    changes: ClassVar[tuple[str, ...]] = ()
    windowed: ClassVar[bool] = False
    writes: ClassVar[bool] = False
    kept: ClassVar[tuple[str, ...]] = ()
    rehearsed: ClassVar[dict[str, Any]] = {}

    def __init__(
        self, config: RunConfig, rows: LabelledSet, tokenizer: Tokenizer, notes: Sequence[str]
    ) -> None:
        self.rows, self.tokenizer, self.notes = rows, tokenizer, tuple(notes)
        self.begun = time.monotonic()
        name, of_model = self._model_config(config)
        self.context = min(config.training.context, of_model.max_position_embeddings)
        # What is longer is cut by whoever opens the folder.
        tokenizer.config["model_max_length"] = self.context
        shell = skeleton(name, of_model, self.head(name))
        self.predictor = self.reader(config, shell, tokenizer, Path())
        self.exam = exam_of(self.task, rows.valid, rows.labels, rows.multi_label, rows.language)
        metric, names = config.finetuning.metric, (*self.exam.names, "loss")
        if metric and metric not in names:
            where = "finetuning.metric"
            raise InputError(f"no figure {metric!r}", where=where, expected=f"one of {', '.join(names)}")
        self.train = encode(self.predictor, rows.train, "tokenising")
        self.valid = encode(self.predictor, rows.valid, "tokenising")
        self.tokens = int(self.train.lengths.sum())

    # ------------------------------------------------------------------ what a task says

    @abstractmethod
    def head_fields(self) -> dict[str, Any]:
        """Fields of the model's config that the labels decide."""

    @abstractmethod
    def labels_of(self, rows: Sequence[LabelledRow], encoded: Pieces) -> Iterable[Any]:
        """The label of each piece."""

    @classmethod
    @abstractmethod
    def minimised(
        cls, config: RunConfig, model: Network, craft: Craft, pad_id: int, lora: Lora | None = None
    ) -> CraftedObjective:
        """The objective over a model."""

    def objective(self, config: RunConfig, model: Network) -> CraftedObjective:
        """That of this run's rows."""
        return self.minimised(config, model, self.craft(config), self.pad_id, _lora(config))

    @classmethod
    @abstractmethod
    def blank_label(cls, model: Network, length: int) -> Any:
        """A label for a piece of `length` tokens, as good as any."""

    @classmethod
    def head(cls, family: str) -> str:
        """The head that a model of a family wears."""
        return cls.head_task or cls.task

    def reader(self, config: RunConfig, model: Network, tokenizer: Tokenizer, folder: Path) -> RowPredictor:
        """The predictor over a model."""
        return self.predictor_kind(model, tokenizer, folder)

    @classmethod
    def text_of(cls, row: LabelledRow) -> str:
        """A row as plain text, for a new tokenizer to learn from."""
        return " ".join(row.texts)

    # ------------------------------------------------------------------ the run

    @classmethod
    def suits(cls, family: str) -> bool:
        """See `Job.suits`."""
        return cls.head(family) in _heads(family)

    @classmethod
    def check(cls, config: RunConfig) -> None:
        """See `Job.check`."""
        section = config.model
        if is_spec(section.source):
            if "vocab_size" in section.config:
                where, do = "model.config.vocab_size", "set tokenizer.vocab_size"
                raise InputError("the tokenizer decides it", where=where, do=do)
            preset(section.source, **section.config)
        else:
            load_config(locate(section.source))
        tuning = config.finetuning
        for way, share in msgspec.structs.asdict(tuning.augmentation).items():
            if share and way not in cls.changes:
                where, ways = f"finetuning.augmentation.{way}", " or ".join(cls.changes) or "none"
                raise InputError(f"the labels of {cls.task} belong to words", where=where, expected=ways)
        if tuning.class_weights and cls.task not in (CLASSIFICATION, TAGGING):
            raise InputError(f"{cls.task} has no labels to weigh", where="finetuning.class_weights")
        if not cls.writes:
            for key, asked in (
                ("finetuning.bpe_dropout", tuning.bpe_dropout),
                ("decoding", config.decoding != DecodingSection()),
            ):
                if asked:
                    raise InputError(f"{cls.task} has no use for it", where=key)
        if tuning.crf and cls.task != TAGGING:
            raise InputError(f"{cls.task} has no tags", where="finetuning.crf", expected=TAGGING)
        for name in config.evaluation.beside:
            task_of(locate(name), cls.predictor_kind.task)
        if config.evaluation.baseline and cls.task == CLASSIFICATION and find_spec("sklearn") is None:
            do = "install it with `pip install 'melete[baselines]'`, or leave the baseline out with --no-baseline"
            raise InputError("the linear baseline needs scikit-learn", do=do)
        if tuning.lora.rank and is_spec(section.source):
            raise InputError(
                "LoRA trains beside a model that has learnt something", where="finetuning.lora.rank"
            )

    @classmethod
    def rehearse(cls, config: RunConfig) -> Objective:
        """See `Job.rehearse`; labels count for nothing."""
        section = config.model
        if is_spec(section.source):
            fields = {"max_position_embeddings": config.training.context, **section.config}
            fields |= {"vocab_size": expected_vocabulary(config)}
            of_model = preset(section.source, **fields, **cls.rehearsed)
            name = section.source.partition(":")[0]
            model = random_model(name, of_model, cls.head(name))
        else:
            folder = locate(section.source)
            model = load_network(folder, task=cls.head(named_head(folder)[0]), changes=cls.rehearsed)
        return cls.minimised(config, model, Craft(), 0)

    @classmethod
    def prepare(cls, config: RunConfig, tokenizer: Tokenizer | None = None) -> Self:
        """See `Job.prepare`."""
        notes: list[str] = []
        rows = read_rows(config, cls.task, _told(notes))
        tokenizer = tokenizer or tokenizer_of_model(config) or cls._new_tokenizer(config, rows)
        rows = checked(config, rows, None if cls.windowed else tokenizer, _told(notes))
        return cls(config, rows, tokenizer, notes)

    @classmethod
    def _new_tokenizer(cls, config: RunConfig, rows: LabelledSet) -> Tokenizer:
        section = config.tokenizer
        if section.source:
            return Tokenizer.load(Path(section.source))
        decoder = config.model.source.partition(":")[0] in causal_families()
        kind = section.kind or ("byte-bpe" if decoder else "wordpiece")
        texts = (cls.text_of(row) for row in rows.train)
        return Tokenizer.train(texts, kind, section.vocab_size, lowercase=section.lowercase)

    def fingerprints(self) -> dict[str, str]:
        """See `Job.fingerprints`."""
        return fingerprints(self.rows)

    def settle(self, config: RunConfig) -> RunConfig:
        """Steps from epochs where none are given, intervals from steps, and a learning rate from the model's width."""
        t, default = config.training, RunConfig()
        epoch, epochs = self.epoch_steps(config), config.finetuning.epochs
        given = t.steps != default.training.steps
        steps = t.steps if given else max(1, round(epochs * epoch))
        epochs = steps / epoch if given else epochs
        spent = self.valid.lengths.sum() * _FORWARD / max(self.tokens * epochs, 1)
        times = int(np.clip(_EVALUATION_SHARE / max(spent, 1e-9), 1, _EVALUATIONS))
        changes: dict[str, Any] = {
            "training.context": self.context,
            "training.batch_tokens": self.step_tokens(config),
            "training.steps": steps,
            "finetuning.epochs": epochs,
        }
        why = f"{epochs:.4g} times {epoch:,} steps of {self.step_words(config)}"
        reasons = {"training.steps": f"as given: {why}" if given else why}
        if t.eval_every == default.training.eval_every:
            changes["training.eval_every"] = max(1, math.ceil(steps / times))
        if t.save_every == default.training.save_every:  # no more than are averaged at the end
            every = max(1, round(_AVERAGED_SHARE * steps / max(t.average_last, 1)))
            changes["training.save_every"] = every if t.average_last else 0
        if config.schedule.warmup_steps == 0:
            changes["schedule.warmup_steps"] = round(0.1 * steps)
        if config.optimizer.learning_rate == 0:
            rate, why = _usual_rate(config, self.predictor.model.config)
            changes["optimizer.learning_rate"] = rate
            reasons["optimizer.learning_rate"] = why
        return configs.change(config, changes, reasons)

    def tune(self, config: RunConfig, objective: Objective) -> RunConfig:
        """The learning rate where it is to be looked for; fewer steps where all would take too long."""
        if config.finetuning.find_rate:
            rate = find_rate(config, self).rate
            config = configs.change(
                config,
                {"optimizer.learning_rate": rate, "finetuning.find_rate": False},
                {"optimizer.learning_rate": f"{rate:g}: a tenth of that at which a short training went best"},
            )
        minutes = config.finetuning.minutes
        if not minutes:
            return config
        train = self.sources(config).train
        batches = [objective.prepare(train.micro_batches(step)[0], rng_for) for step in range(_MEASURED)]
        speeds = [measure(config, objective, 0, repeats=1, batch=batch) for batch in batches]
        token = sum(s.token * batch.tokens for s, batch in zip(speeds, batches, strict=True))
        token /= sum(batch.tokens for batch in batches)
        epoch = self.epoch_steps(config)
        each = 1.1 * (token * self.tokens / epoch + speeds[-1].update)
        left = max(60 * minutes - (time.monotonic() - self.begun), 1.0) * (1 - _EVALUATION_SHARE)
        steps = max(1, int(left / each))
        if steps >= config.training.steps:
            return config
        times = math.ceil(config.training.steps / config.training.eval_every)
        saving = config.training.save_every and max(
            1, round(config.training.save_every * steps / config.training.steps)
        )
        why = (
            f"{steps:,} of {config.training.steps:,}: {duration(left)} at {each:.2f} s each, measured, "
            f"{steps / epoch:.1f} epochs"
        )
        return configs.change(
            config,
            {
                "training.steps": steps,
                "finetuning.epochs": steps / epoch,
                "training.eval_every": max(1, math.ceil(steps / times)),
                "training.save_every": saving,
                "schedule.warmup_steps": min(config.schedule.warmup_steps, round(0.1 * steps)),
                "finetuning.minutes": 0.0,
            },
            {"training.steps": why},
        )

    def build(self, config: RunConfig) -> Objective:
        """See `Job.build`."""
        name, of_model = self._model_config(config)
        section = config.model
        if is_spec(section.source):
            model = random_model(name, of_model, self.head(name), seed=config.seed, init=section.init or None)
        else:
            changes = {field: getattr(of_model, field) for field in self._changed_fields(config)}
            folder, head = locate(section.source), self.head(name)
            model = load_network(folder, task=head, changes=changes, seed=config.seed)
        check_vocabulary(config, self.tokenizer, model)
        return self._examined(config, self.objective(config, model.train()))

    def reopen(self, config: RunConfig, checkpoint: Path) -> Objective:
        """See `Job.reopen`; with LoRA the model is the one that was begun with."""
        if config.finetuning.lora.rank:
            return self.build(config)
        model = load_network(checkpoint, task=self.head(named_head(checkpoint)[0]))
        return self._examined(config, self.objective(config, model.train()))

    def sources(self, config: RunConfig) -> Sources:
        """See `Job.sources`."""
        t, tuning = config.training, config.finetuning
        budget = max(t.micro_batch_rows, 1) * t.context
        train, lengths = self.units(self.rows.train, self.train, self._sentences(config))
        valid, valid_lengths = self.units(self.rows.valid, self.valid, None)
        return Sources(
            TextBatches(train, lengths, tuning.batch_size, budget, config.seed),
            AllTexts(valid, valid_lengths, 2 * budget),
            1,
        )

    def epoch_steps(self, config: RunConfig) -> int:
        """Steps in which every training row is read once, or about as many."""
        return math.ceil(self.count / config.finetuning.batch_size)

    def step_tokens(self, config: RunConfig) -> int:
        """Most tokens of a step."""
        return config.finetuning.batch_size * self.context

    def step_words(self, config: RunConfig) -> str:
        """What a step is, in words."""
        return f"{config.finetuning.batch_size} texts"

    @property
    def count(self) -> int:
        """Units of the training rows."""
        return len(self.train.pieces)

    def units(
        self, rows: Sequence[LabelledRow], encoded: Pieces, free: Iterable[np.ndarray] | None
    ) -> tuple[Sequence[Any], np.ndarray]:
        """What a step has a number of, and the tokens of each: pieces, unless a task says otherwise.

        Args:
            free: where each piece may be changed; None: nowhere.
        """
        return labelled(encoded, self.labels_of(rows, encoded), free), encoded.lengths

    @classmethod
    def measuring_batch(cls, config: RunConfig, objective: Objective, rows: int) -> Batch:
        """See `Job.measuring_batch`."""
        model, length = objective.model, config.training.context
        ids = np.random.default_rng(0).integers(0, model.config.vocab_size, (rows, length))
        pieces = [LabelledPiece(row, None, cls.blank_label(model, length)) for row in ids]
        return objective.prepare([Example((0, 0, i), piece) for i, piece in enumerate(pieces)], rng_for)

    def describe(self, config: RunConfig) -> About:
        """See `Job.describe`."""
        return About(self.task, f"A model for {self.task}.", "nats")

    def score(self, config: RunConfig, final: Path) -> Card:
        """See `Job.score`."""
        kind = type(self.predictor).load(final, config.training.device)
        predictor = self.reader(config, kind.model, kind.tokenizer, final)
        predictor = replace(predictor, **{name: getattr(kind, name) for name in self.kept})
        rows = self.rows.valid
        answers: dict[str, Sequence[Answer]] = {config.model.source: answer_rows(predictor, rows)}
        for name in config.evaluation.beside:
            say(f"{name}: answering the same rows")
            answers[name] = answer_rows(_other(name, self.predictor.task, config.training.device), rows)
        if config.evaluation.baseline:
            for baseline in reversed(baselines_for(self.rows)):
                say(f"{baseline.name}: learning from the same rows")
                answers[baseline.name] = baseline.fit(self.rows.train).predict(rows)
        scored = score_answers(self.exam, answers)
        scored.figures["parameters"] = sum(p.numel() for p in predictor.model.parameters())
        scored.figures.update(self.pictures(predictor, answers[config.model.source]))
        signatures = "".join(f"\n{name}: {how}" for name, how in self.exam.signatures.items())
        return Card(
            scored.figures,
            scored.rows,
            f"{len(rows):,} rows of {rows[0].file}, which also decided which weights are kept{signatures}",
            f"melete predict {final.parent} --data FILE",
        )

    def pictures(self, predictor: RowPredictor, answers: Sequence[Answer]) -> dict[str, Any]:
        """More for the page of a run, from the finished model and its answers to the validation rows."""
        return {}

    # ------------------------------------------------------------------ parts

    def _model_config(self, config: RunConfig) -> tuple[str, ModelConfig]:
        """Family and config of the model with the head of this task."""
        source = config.model.source
        changes = self._changed_fields(config)
        if is_spec(source):
            name = source.partition(":")[0]
            known = family(name).Config.__struct_fields__
            roles = [role for role in ("bos", "eos", "pad", "cls", "sep") if f"{role}_token_id" in known]
            fields = {"max_position_embeddings": config.training.context, **config.model.config}
            return name, preset(source, **fields, **fields_of(self.tokenizer, *roles), **changes)
        folder = locate(source)
        return named_head(folder)[0], load_config(folder, changes)

    def _changed_fields(self, config: RunConfig) -> dict[str, Any]:
        source, changes = (
            config.model.source,
            {"classifier_dropout": config.finetuning.dropout, **self.head_fields()},
        )
        if not is_spec(source):
            saved = load_config(locate(source))
            if set(saved.labels) == set(changes.get("id2label") or ()):
                changes["id2label"] = saved.labels  # the head goes on, in its own order
            if saved.pad_token_id is None:
                changes["pad_token_id"] = self.pad_id
            changes |= config.model.config
        return changes

    def outputs_of(self, logits: Tensor, units: Sequence[int]) -> list[Any]:
        """What is kept of the logits of some validation units."""
        assert isinstance(self.predictor, LabelledPredictor)
        return self.predictor.outputs(logits, [self.valid.pieces[unit] for unit in units])

    def answer_of(self, row: int, outputs: Mapping[int, Any]) -> Answer:
        """The answer to a validation row, from the outputs of all units."""
        own = self.valid.of(row)
        said = [outputs[unit] for unit in range(own.start, own.stop)]
        return self.predictor.answer(self.rows.valid[row].inputs, self.valid.pieces[own], said)

    @property
    def pad_id(self) -> int:
        """What fills rows."""
        found = (self.tokenizer.pad_id, self.tokenizer.eos_id, 0)
        return next(id_ for id_ in found if id_ is not None)

    def _examined(self, config: RunConfig, objective: CraftedObjective) -> CraftedObjective:
        assert isinstance(objective, LabelledObjective)
        objective.examiner = Examiner(self)
        objective.deciding = config.finetuning.metric or self.exam.main
        return objective

    def _sentences(self, config: RunConfig) -> Iterable[np.ndarray] | None:
        """Where each training piece may be changed, if anything is."""
        tuning = config.finetuning
        return self.free(tuning) if _augmentation(tuning, self.tokenizer).active else None

    def free(self, tuning: FinetuningSection) -> Iterable[np.ndarray]:
        """What may be changed of each training piece; see `LabelledPiece.sentence`."""
        for piece, owner in zip(self.train.pieces, self.train.owners, strict=True):
            if tuning.augmentation.shuffle:
                yield sentence_numbers(piece, self.rows.train[owner].texts, self.tokenizer)
                continue
            free = np.zeros(len(piece.ids), dtype=np.int64)
            for number, (start, kept) in enumerate(zip(piece.data.starts, piece.data.kept, strict=True), 1):
                free[start : start + kept] = number
            yield free

    def craft(self, config: RunConfig) -> Craft:
        """What the config says of how to train on few labels."""
        tuning = config.finetuning
        return Craft(
            label_smoothing=tuning.label_smoothing,
            class_weights=self.class_weights(tuning),
            layer_decay=tuning.layer_decay,
            head_rate=tuning.head_rate,
            freeze_layers=tuning.freeze_layers,
            head_only=tuning.head_only,
            unfreeze=tuning.unfreeze,
            r_drop=tuning.r_drop,
            adversarial=tuning.adversarial,
            augmentation=_augmentation(tuning, self.tokenizer),
        )

    def class_weights(self, tuning: FinetuningSection) -> tuple[float, ...]:
        """A factor for each label, 1 on average over the rows; nothing where all weigh the same."""
        if not tuning.class_weights:
            return ()
        counts = np.zeros(len(self.predictor.labels))
        number = {name: i for i, name in enumerate(self.predictor.labels)}
        for row in self.rows.train:
            for name in row.classes:
                counts[number[name]] += 1
        return tuple((counts.sum() / (len(counts) * np.maximum(counts, 1))).tolist())


class Examiner:
    """The task's own figures of the validation rows, from the logits that its loss is taken of."""

    def __init__(self, job: FinetuneJob) -> None:
        self.job = job
        self.outputs: dict[int, Any] = {}

    def note(self, logits: Tensor, rows: Sequence[int]) -> None:
        """See `objectives.labelled.Examiner`."""
        found = self.job.outputs_of(logits.detach().float(), rows)
        self.outputs.update(zip(rows, found, strict=True))

    def take(self) -> dict[str, float]:
        """See `objectives.labelled.Examiner`."""
        outputs, self.outputs = self.outputs, {}
        if not outputs:
            return {}
        answers = [self.job.answer_of(i, outputs) for i in range(len(self.job.rows.valid))]
        return self.job.exam.figures(self.job.exam.mark(answers))


def _told(notes: list[str]) -> Any:
    from melete.console import say

    def note(text: str) -> None:
        notes.append(text)
        say(text)

    return note


def _other(name: str, task: str, device: str) -> RowPredictor:
    """A model that stands beside the trained one; what is too long for it is cut, as in training."""
    folder = locate(name)
    predictor = predictor_class(task_of(folder, task)).load(folder, device)
    assert isinstance(predictor, RowPredictor)
    return predictor.with_settings(long="cut") if "long" in predictor.settings else predictor


def _heads(name: str) -> Mapping[str, Any]:
    return family(name).HEADS


def _augmentation(tuning: FinetuningSection, tokenizer: Tokenizer) -> Augmentation:
    asked = tuning.augmentation
    ordinary = np.setdiff1d(np.arange(tokenizer.vocab_size), list(tokenizer.special_ids))
    mask_id = tokenizer.mask_id if tokenizer.mask_id is not None else tokenizer.unk_id
    return Augmentation(asked.delete, asked.swap, asked.replace, asked.mask, asked.shuffle, ordinary, mask_id)


def _lora(config: RunConfig) -> Lora | None:
    asked = config.finetuning.lora
    if not asked.rank:
        return None
    base = locate(config.model.source)
    return Lora(base, asked.rank, asked.alpha, asked.dropout, tuple(asked.targets), config.seed)


def _usual_rate(config: RunConfig, model: ModelConfig) -> tuple[float, str]:
    """What trains models of this width well: narrow ones need larger steps, and those without pretraining too."""
    if is_spec(config.model.source):
        return 5e-4, "5e-4, usual for a small model from scratch"
    rate = float(f"{min(3e-4, 0.025 / model.hidden_size):.1g}")
    return rate, f"{rate:g}, usual for a pretrained model of width {model.hidden_size}"
