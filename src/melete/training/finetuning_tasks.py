"""Each task that models are fine-tuned for: its labels, its objective and how it reads rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from melete import config as configs
from melete.config import AugmentationSection, FinetuningSection, RunConfig
from melete.data.batch import Batch, Example
from melete.data.labelled.rows import (
    CLASSIFICATION,
    QUESTIONS,
    SIMILARITY,
    TAGGING,
    LabelledRow,
    QuestionRow,
    ScoreRow,
    Span,
)
from melete.data.labelled.sets import LabelledSet
from melete.data.sampling import rng_for
from melete.errors import InputError
from melete.models.base import Network
from melete.objectives.base import Objective
from melete.objectives.classification import MULTI, REGRESSION, SINGLE, Classification
from melete.objectives.craft import Craft, CraftedObjective, Lora
from melete.objectives.labelled import LabelledObjective, LabelledPiece
from melete.objectives.question_answering import QuestionAnsweringLoss
from melete.objectives.similarity import Pair, Similarity
from melete.objectives.tagging import Tagging
from melete.tasks.base import Answer
from melete.tasks.feature_extraction import FeatureExtraction
from melete.tasks.question_answering import QuestionAnswering, Window
from melete.tasks.text_classification import TextClassification
from melete.tasks.token_classification import TokenClassification, spaced
from melete.training.finetuning import FinetuneJob
from melete.training.job import Sources
from melete.training.labelled_data import Pieces


class ClassificationJob(FinetuneJob):
    """Texts, or pairs of texts, and one label each, or any number of them."""

    task = CLASSIFICATION
    predictor_kind = TextClassification
    changes = AugmentationSection.__struct_fields__
    rehearsed: ClassVar[dict[str, Any]] = {"problem_type": SINGLE}

    def head_fields(self) -> dict[str, Any]:
        """See `FinetuneJob.head_fields`."""
        return {"id2label": self.rows.labels, "problem_type": MULTI if self.rows.multi_label else SINGLE}

    def labels_of(self, rows: Sequence[LabelledRow], encoded: Pieces) -> Iterable[Any]:
        """See `FinetuneJob.labels_of`."""
        number = {name: i for i, name in enumerate(self.predictor.labels)}
        for row in rows:
            if self.rows.multi_label:
                label = np.zeros(len(number))
                label[[number[name] for name in row.classes]] = 1.0
                yield label
            else:
                (name,) = row.classes
                yield number[name]

    @classmethod
    def minimised(
        cls, config: RunConfig, model: Network, craft: Craft, pad_id: int, lora: Lora | None = None
    ) -> LabelledObjective:
        """See `FinetuneJob.minimised`."""
        return Classification(model, craft, pad_id, lora)

    @classmethod
    def blank_label(cls, model: Network, length: int) -> Any:
        """See `FinetuneJob.blank_label`."""
        return 0 if model.config.problem_type == SINGLE else np.zeros(len(model.config.labels))


class SimilarityJob(FinetuneJob):
    """Pairs of texts, and a number that says how much they are alike."""

    task = SIMILARITY
    head_task = CLASSIFICATION  # the same head: its one output is the number
    predictor_kind = TextClassification
    changes = AugmentationSection.__struct_fields__
    rehearsed: ClassVar[dict[str, Any]] = {"id2label": ("score",), "problem_type": REGRESSION}

    def head_fields(self) -> dict[str, Any]:
        """See `FinetuneJob.head_fields`."""
        return {"id2label": ("score",), "problem_type": REGRESSION}

    def labels_of(self, rows: Sequence[LabelledRow], encoded: Pieces) -> Iterable[Any]:
        """See `FinetuneJob.labels_of`."""
        for row in rows:
            assert isinstance(row, ScoreRow)
            yield row.score

    @classmethod
    def minimised(
        cls, config: RunConfig, model: Network, craft: Craft, pad_id: int, lora: Lora | None = None
    ) -> LabelledObjective:
        """See `FinetuneJob.minimised`."""
        return Classification(model, craft, pad_id, lora)

    @classmethod
    def blank_label(cls, model: Network, length: int) -> Any:
        """See `FinetuneJob.blank_label`."""
        return 0.0


class EmbeddingJob(FinetuneJob):
    """Pairs of texts, each read by itself, and a number that says how near their vectors should be."""

    task = SIMILARITY
    head_task = "feature-extraction"
    predictor_kind = FeatureExtraction
    changes = AugmentationSection.__struct_fields__

    def reader(self, config: RunConfig, model: Network, tokenizer: Any, folder: Path) -> FeatureExtraction:
        """See `FinetuneJob.reader`."""
        return FeatureExtraction(model, tokenizer, folder, config.finetuning.pooling)

    def head_fields(self) -> dict[str, Any]:
        """See `FinetuneJob.head_fields`."""
        return {"id2label": (), "problem_type": None}

    def labels_of(self, rows: Sequence[LabelledRow], encoded: Pieces) -> Iterable[Any]:
        """See `FinetuneJob.labels_of`; from 0, the lowest score of the training rows, to 1."""
        scores = [row.score or 0.0 for row in self.rows.train if isinstance(row, ScoreRow)]
        low, high = min(scores), max(scores)
        for owner in encoded.owners.tolist():
            row = rows[owner]
            assert isinstance(row, ScoreRow)
            yield ((row.score or 0.0) - low) / max(high - low, 1e-9)

    @property
    def count(self) -> int:
        """Pairs."""
        return len(self.rows.train)

    def units(
        self, rows: Sequence[LabelledRow], encoded: Pieces, free: Iterable[np.ndarray] | None
    ) -> tuple[Sequence[Any], np.ndarray]:
        """See `FinetuneJob.units`; pairs."""
        pieces, lengths = super().units(rows, encoded, free)
        pairs = [Pair(*both) for both in zip(pieces[::2], pieces[1::2], strict=True)]
        return pairs, np.maximum(lengths[::2], lengths[1::2])

    def sources(self, config: RunConfig) -> Sources:
        """See `FinetuneJob.sources`; a contrastive step is never cut."""
        if config.finetuning.pairs == "contrastive":
            config = configs.change(config, {"training.micro_batch_rows": config.finetuning.batch_size})
        return super().sources(config)

    @classmethod
    def minimised(
        cls, config: RunConfig, model: Network, craft: Craft, pad_id: int, lora: Lora | None = None
    ) -> LabelledObjective:
        """See `FinetuneJob.minimised`."""
        tuning = config.finetuning
        how: dict[str, Any] = {"kind": tuning.pairs, "temperature": tuning.temperature}
        return Similarity(model, craft, pad_id, lora, **how, pooling=tuning.pooling)

    @classmethod
    def measuring_batch(cls, config: RunConfig, objective: Objective, rows: int) -> Batch:
        """See `Job.measuring_batch`."""
        length = config.training.context
        ids = np.random.default_rng(0).integers(0, objective.model.config.vocab_size, (2 * rows, length))
        pieces = [LabelledPiece(row, None, 1.0) for row in ids]
        pairs = [Pair(*both) for both in zip(pieces[::2], pieces[1::2], strict=True)]
        return objective.prepare([Example((0, 0, i), pair) for i, pair in enumerate(pairs)], rng_for)

    @classmethod
    def blank_label(cls, model: Network, length: int) -> Any:
        """See `FinetuneJob.blank_label`."""
        return 1.0

    def outputs_of(self, logits: Any, units: Sequence[int]) -> list[Any]:
        """See `FinetuneJob.outputs_of`; cosines."""
        first, second = logits.chunk(2, dim=1)
        return (first * second).sum(1).tolist()

    def answer_of(self, row: int, outputs: Mapping[int, Any]) -> Answer:
        """See `FinetuneJob.answer_of`."""
        return {"score": outputs[row]}


class TaggingJob(FinetuneJob):
    """Sentences as words, and a tag for each."""

    task = TAGGING
    predictor_kind = TokenClassification
    changes = ("replace", "mask")  # every word stays in its place
    windowed = True
    kept = ("crf",)

    def reader(self, config: RunConfig, model: Network, tokenizer: Any, folder: Path) -> TokenClassification:
        """See `FinetuneJob.reader`."""
        return TokenClassification(model, tokenizer, folder, overlap=config.finetuning.overlap)

    @classmethod
    def text_of(cls, row: LabelledRow) -> str:
        """See `FinetuneJob.text_of`."""
        return "".join(spaced(row.texts))

    def head_fields(self) -> dict[str, Any]:
        """See `FinetuneJob.head_fields`."""
        return {"id2label": self.rows.labels}

    def free(self, tuning: FinetuningSection) -> Iterable[np.ndarray]:
        """See `FinetuneJob.free`: all but what stands around the words."""
        special = list(self.tokenizer.special_ids)
        return (np.isin(piece.ids, special, invert=True).astype(np.int64) for piece in self.train.pieces)

    def labels_of(self, rows: Sequence[LabelledRow], encoded: Pieces) -> Iterable[Any]:
        """See `FinetuneJob.labels_of`."""
        number = {name: i for i, name in enumerate(self.predictor.labels)}
        for piece, owner in zip(encoded.pieces, encoded.owners.tolist(), strict=True):
            tags = rows[owner].classes
            label = np.full(len(piece.ids), -100, dtype=np.int64)
            label[piece.data.columns] = [number[tags[word]] for word in piece.data.words]
            yield label

    def objective(self, config: RunConfig, model: Network) -> CraftedObjective:
        """See `FinetuneJob.objective`; a CRF decides the tags of validation rows too."""
        tagging = super().objective(config, model)
        assert isinstance(self.predictor, TokenClassification)
        assert isinstance(tagging, Tagging)
        self.predictor = replace(self.predictor, crf=tagging.crf)
        return tagging

    @classmethod
    def minimised(
        cls, config: RunConfig, model: Network, craft: Craft, pad_id: int, lora: Lora | None = None
    ) -> LabelledObjective:
        """See `FinetuneJob.minimised`."""
        return Tagging(model, craft, pad_id, lora, crf=config.finetuning.crf)

    @classmethod
    def blank_label(cls, model: Network, length: int) -> Any:
        """See `FinetuneJob.blank_label`."""
        return np.zeros(length, dtype=np.int64)


class QuestionJob(FinetuneJob):
    """Questions, texts that may answer them, and where they do."""

    task = QUESTIONS
    predictor_kind = QuestionAnswering
    windowed = True
    kept = ("trained_without",)

    def __init__(self, config: RunConfig, rows: LabelledSet, tokenizer: Any, notes: Sequence[str]) -> None:
        usable = [row for row in rows.train if _place(row) is not None]
        if len(usable) < len(rows.train):
            notes = [
                *notes,
                f"{len(rows.train) - len(usable):,} answers do not stand in their contexts: left out",
            ]
        if not usable:
            where = rows.train[0].where
            raise InputError("no answer stands in its context", where=where, do="see `answer_start`")
        self.no_answer = any(not row.answer for row in usable)
        super().__init__(config, replace(rows, train=usable), tokenizer, notes)

    def reader(self, config: RunConfig, model: Network, tokenizer: Any, folder: Path) -> QuestionAnswering:
        """See `FinetuneJob.reader`."""
        return QuestionAnswering(model, tokenizer, folder, overlap=config.finetuning.overlap)

    def head_fields(self) -> dict[str, Any]:
        """See `FinetuneJob.head_fields`."""
        return {"id2label": (), "problem_type": None}

    def labels_of(self, rows: Sequence[LabelledRow], encoded: Pieces) -> Iterable[Any]:
        """See `FinetuneJob.labels_of`."""
        for piece, owner in zip(encoded.pieces, encoded.owners.tolist(), strict=True):
            window: Window = piece.data
            place = _place(rows[owner])
            ends = None if place is None else _tokens(window.spans, *place)
            first, last = (0, 0) if ends is None else (end + window.column for end in ends)
            yield (first, last, window.column, window.column + len(window.spans))

    def objective(self, config: RunConfig, model: Network) -> CraftedObjective:
        """See `FinetuneJob.objective`."""
        answering = super().objective(config, model)
        assert isinstance(self.predictor, QuestionAnswering)
        assert isinstance(answering, QuestionAnsweringLoss)
        self.predictor = replace(self.predictor, trained_without=self.no_answer)
        answering.no_answer = self.no_answer
        return answering

    @classmethod
    def minimised(
        cls, config: RunConfig, model: Network, craft: Craft, pad_id: int, lora: Lora | None = None
    ) -> LabelledObjective:
        """See `FinetuneJob.minimised`."""
        return QuestionAnsweringLoss(model, craft, pad_id, lora)

    @classmethod
    def blank_label(cls, model: Network, length: int) -> Any:
        """See `FinetuneJob.blank_label`."""
        return (1, 1, 1, length)


def _place(row: LabelledRow) -> tuple[int, int] | None:
    """Characters of the first answer that stands in the context; (0, 0) where there is none; None: it is not there."""
    assert isinstance(row, QuestionRow)
    if not row.answers:
        return (0, 0)
    spans: list[Span] = [span for span in row.answers if span.start is not None and span.text]
    if not spans:
        return None
    start = spans[0].start or 0
    return start, start + len(spans[0].text)


def _tokens(spans: np.ndarray, start: int, stop: int) -> tuple[int, int] | None:
    """First and last token of a stretch of characters; None where it is empty, or not all in this window."""
    if start == stop or not len(spans) or spans[0, 0] > start or spans[-1, 1] < stop:
        return None
    first = int(np.searchsorted(spans[:, 1], start, side="right"))
    last = int(np.searchsorted(spans[:, 0], stop, side="left")) - 1
    return first, max(first, last)
