"""Runs that teach a model to write what somebody wrote for a text: translation, summarisation, any text for a text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from melete import config as configs
from melete.config import FinetuningSection, RunConfig, TrainingSection
from melete.data.batch import Batch, Example
from melete.data.labelled.rows import SUMMARIZATION, TEXT_TO_TEXT, TRANSLATION, LabelledRow, WrittenRow
from melete.data.labelled.sets import LabelledSet
from melete.data.pair_batches import AllPairs, Epoch, PairBatches
from melete.data.sampling import rng_for
from melete.data.segmentation import Segmentations
from melete.data.tokenizers import Tokenizer
from melete.errors import InputError
from melete.evaluation.alignment import alignments
from melete.models import family, is_spec
from melete.models.base import EncoderDecoder, Network
from melete.models.checkpoint import load_config, locate
from melete.models.purpose import Purpose
from melete.objectives.base import Objective
from melete.objectives.craft import Craft, CraftedObjective, Lora
from melete.objectives.seq2seq import Pair
from melete.objectives.writing import Writing
from melete.tasks.base import Answer
from melete.tasks.labelled import RowPredictor
from melete.tasks.text_to_text import AnyText, Summarization, TextToText, Translation
from melete.training.finetuning import FinetuneJob
from melete.training.job import Sources
from melete.training.labelled_data import Pieces

_SAMPLES = 3
# Pairs of a step, and the fewest and most tokens of it. Multi30k, post-norm, one core (2026-11-22): in steps of 60 the
# loss left the plateau of a decoder that does not yet look at its source after 4 minutes, in steps of 180 after 15.
_STEP_PAIRS, _STEP_TOKENS = 64, (2048, 8192)


class WritingJob(FinetuneJob):
    """A model that writes, and rows of texts and what was written for them.

    A row with several answers is as many pairs in training; in validation its first answer gives the loss.
    """

    writes = True
    kept = (*TextToText.settings[:5], "forbidden", "language")
    rehearsed: ClassVar[dict[str, Any]] = {"eos_token_id": 0}

    def __init__(
        self, config: RunConfig, rows: LabelledSet, tokenizer: Tokenizer, notes: Sequence[str]
    ) -> None:
        if tokenizer.eos_id is None and is_spec(config.model.source):
            raise InputError("the tokenizer has no token that ends a text", where="tokenizer")
        self._answers = [_targets(tokenizer, part) for part in (rows.train, rows.valid)]
        # Its end too, and what an answer may have to begin with.
        self._longest = 2 + max((len(ids) for own in self._answers[0] for ids in own), default=1)
        super().__init__(config, rows, tokenizer, notes)
        assert isinstance(self.predictor, TextToText)
        model, most = self.predictor.model, self.predictor.most_source
        self._begin = np.array(self.predictor.begin, dtype=np.int64)
        forced = getattr(model.config, "forced_bos_token_id", None)
        # An answer begins with it, whoever decodes.
        self._forced = np.array([] if forced is None else [forced], dtype=np.int64)
        # Read behind the token that begins an answer, or behind the source and its end.
        before = 1 if isinstance(model, EncoderDecoder) else most + 1
        self._room = (most, model.config.max_position_embeddings - before)
        self._train = self._pairs(self.train, self._answers[0])
        self._valid = self._pairs(self.valid, [own[:1] for own in self._answers[1]])
        self._lengths = [_lengths(pairs) for pairs in (self._train, self._valid)]
        self._segmentations: Segmentations | None = None
        if config.finetuning.bpe_dropout:
            self._segmentations = Segmentations(tokenizer, config.finetuning.bpe_dropout)
            self._words = self._word_pairs(self._segmentations)
        # The newest epoch is kept: a run asks for the first one several times before it begins.
        self._read = lru_cache(1)(self._epoch)
        self.tokens = int(self._read(config.seed, 0)[1].sum())

    def _pairs(self, encoded: Pieces, answers: Sequence[Sequence[np.ndarray]]) -> list[Pair]:
        """Each source with each of its answers, both cut where they are too long."""
        most = self._room[1]
        return [
            Pair(piece.ids[:-1], np.append(self._forced, answer)[:most])
            for piece, owner in zip(encoded.pieces, encoded.owners.tolist(), strict=True)
            for answer in answers[owner]
        ]

    def _word_pairs(self, table: Segmentations) -> list[Pair]:
        """The training pairs in words of a table."""
        rows = [self.rows.train[owner] for owner in self.train.owners.tolist()]
        return [Pair(table.words(row.texts[0]), table.words(text)) for row in rows for text in _written(row)]

    def _epoch(self, seed: int, epoch: int) -> Epoch:
        """The training pairs, their words in other tokens each epoch if that is asked for."""
        table = self._segmentations
        if table is None:
            return self._train, self._lengths[0]
        most_source, most_answer = self._room
        pairs = []
        for i, words in enumerate(self._words):
            rng = rng_for((seed, epoch, i))
            source, answer = table.draw(words.source, rng), table.draw(words.target, rng)
            answer = np.append(self._forced, answer)[:most_answer]
            pairs.append(Pair(np.append(self._begin, source[:most_source]), answer))
        return pairs, _lengths(pairs)

    # ------------------------------------------------------------------ what the task says

    def head_fields(self) -> dict[str, Any]:
        """See `FinetuneJob.head_fields`; a written answer has none."""
        return {}

    def labels_of(self, rows: Sequence[LabelledRow], encoded: Pieces) -> Iterable[Any]:
        """See `FinetuneJob.labels_of`; pairs have their own, see `sources`."""
        return []

    @classmethod
    def blank_label(cls, model: Network, length: int) -> Any:
        """See `FinetuneJob.blank_label`."""
        return None

    @classmethod
    def head(cls, family: str) -> str:
        """See `FinetuneJob.head`: that of an encoder-decoder, else that of a decoder."""
        return TEXT_TO_TEXT if TEXT_TO_TEXT in _heads(family) else "text-generation"

    @classmethod
    def check(cls, config: RunConfig) -> None:
        """See `Job.check`."""
        super().check(config)
        for key in ("adversarial", "head_only"):
            if getattr(config.finetuning, key):
                raise InputError(f"{cls.task} has no use for it", where=f"finetuning.{key}")
        if config.finetuning.batch_size != FinetuningSection().batch_size:
            do = "set training.batch_tokens"
            raise InputError("steps are of so many tokens", where="finetuning.batch_size", do=do)

    @classmethod
    def minimised(
        cls, config: RunConfig, model: Network, craft: Craft, pad_id: int, lora: Lora | None = None
    ) -> CraftedObjective:
        """See `FinetuneJob.minimised`."""
        return Writing(model, craft, lora, purpose=Purpose(cls.task))

    def objective(self, config: RunConfig, model: Network) -> CraftedObjective:
        """See `FinetuneJob.objective`; the folder says how the model writes best."""
        writing = super().objective(config, model)
        assert isinstance(writing, Writing)
        decoding = config.decoding
        generation = {
            "num_beams": decoding.beams,
            "length_penalty": decoding.length_penalty,
            "max_new_tokens": self._most_answer(config),
            "no_repeat_ngram_size": decoding.no_repeat_ngram_size,
            **({"coverage_penalty": decoding.coverage_penalty} if decoding.coverage_penalty else {}),
            "do_sample": False,
            "early_stopping": False,
        }
        writing.purpose = Purpose(self.task, getattr(self.exam, "language", ""), generation=generation)
        return writing

    def reader(self, config: RunConfig, model: Network, tokenizer: Tokenizer, folder: Path) -> TextToText:
        """See `FinetuneJob.reader`; what is too long is cut, as `data.lint` has told."""
        kind, decoding = self.predictor_kind, config.decoding
        assert issubclass(kind, TextToText)
        return kind(
            model,
            tokenizer,
            folder,
            beams=decoding.beams,
            length_penalty=decoding.length_penalty,
            max_new_tokens=self._most_answer(config),
            no_repeat_ngram_size=decoding.no_repeat_ngram_size,
            coverage_penalty=decoding.coverage_penalty,
            long="cut",
        )

    def _most_answer(self, config: RunConfig) -> int:
        return config.decoding.max_new_tokens or self._longest

    # ------------------------------------------------------------------ the run

    def settle(self, config: RunConfig) -> RunConfig:
        """See `FinetuneJob.settle`; a step of few pairs where none is given."""
        if config.training.batch_tokens == TrainingSection().batch_tokens:
            mean = float(self._lengths[0].sum(1).mean())
            tokens = int(np.clip(_STEP_PAIRS * mean, *_STEP_TOKENS))
            why = f"{tokens:,}, about {tokens / mean:.0f} pairs: decoders find the source in many steps, not many pairs"
            config = configs.change(config, {"training.batch_tokens": tokens}, {"training.batch_tokens": why})
        return super().settle(config)

    @classmethod
    def _new_tokenizer(cls, config: RunConfig, rows: LabelledSet) -> Tokenizer:
        """One for both sides."""
        section = config.tokenizer
        if section.source:
            return Tokenizer.load(Path(section.source))
        texts = (text for row in rows.train for text in (*row.texts, *_written(row)))
        return Tokenizer.train(texts, section.kind or "byte-bpe", section.vocab_size).ended()

    def _changed_fields(self, config: RunConfig) -> dict[str, Any]:
        source, section = config.model.source, config.model.config
        if not is_spec(source):
            blank = load_config(locate(source)).pad_token_id is None
            return ({"pad_token_id": self.pad_id} if blank else {}) | section
        module = family(source.partition(":")[0])
        changes: dict[str, Any] = {}
        if issubclass(module.Model, EncoderDecoder):
            changes = {"decoder_start_token_id": self.pad_id, "forced_eos_token_id": self.tokenizer.eos_id}
        drops = module.PRESETS[source.partition(":")[2] or "tiny"].hidden_dropout
        if not drops and "hidden_dropout" not in section:
            changes["hidden_dropout"] = config.finetuning.dropout
        return changes

    def epoch_steps(self, config: RunConfig) -> int:
        """See `FinetuneJob.epoch_steps`."""
        return self._batches(config).steps

    def step_tokens(self, config: RunConfig) -> int:
        """See `FinetuneJob.step_tokens`: `training.batch_tokens`, source and answer and padding together."""
        return config.training.batch_tokens

    def step_words(self, config: RunConfig) -> str:
        """See `FinetuneJob.step_words`."""
        return f"up to {config.training.batch_tokens:,} tokens, sources and answers"

    def _batches(self, config: RunConfig) -> PairBatches:
        t = config.training
        # What a step holds beyond whole rows makes no micro-batch of its own.
        budget = max(t.micro_batch_rows, 1) * t.context + t.batch_tokens % t.context
        return PairBatches(partial(self._read, config.seed), t.batch_tokens, budget, config.seed)

    def sources(self, config: RunConfig) -> Sources:
        """See `Job.sources`."""
        train = self._batches(config)
        return Sources(train, AllPairs(self._valid, self._lengths[1], 2 * train.budget), 1)

    @classmethod
    def measuring_batch(cls, config: RunConfig, objective: Objective, rows: int) -> Batch:
        """See `Job.measuring_batch`; source and answer have half of a row each."""
        model, length = objective.model, max(config.training.context // 2 - 1, 1)
        ids = np.random.default_rng(0).integers(0, model.config.vocab_size, (2 * rows, length))
        pairs = [Pair(*both) for both in zip(ids[:rows], ids[rows:], strict=True)]
        return objective.prepare([Example((0, 0, i), pair) for i, pair in enumerate(pairs)], rng_for)

    def samples(self, config: RunConfig, objective: Objective) -> list[tuple[str, str]]:
        """See `Job.samples`; the first validation rows, the likeliest token each time."""
        rows = self.rows.valid[:_SAMPLES]
        answers = self.written_by(objective.model, rows)
        return [(row.texts[0], answer["text"]) for row, answer in zip(rows, answers, strict=True)]

    def pictures(self, predictor: RowPredictor, answers: Sequence[Answer]) -> dict[str, Any]:
        """See `FinetuneJob.pictures`; which words of a source an answer was written from."""
        assert isinstance(predictor, TextToText)
        found = alignments(predictor, self.rows.valid, answers)
        return {"alignments": found} if found else {}

    def written_by(self, model: Network, rows: Sequence[LabelledRow]) -> list[Answer]:
        """What a model answers to rows, the likeliest token each time."""
        greedy = replace(self.predictor, model=model, beams=1)
        return list(greedy.stream(row.inputs for row in rows))

    def _examined(self, config: RunConfig, objective: CraftedObjective) -> CraftedObjective:
        """The loss decides, unless a figure is asked for: then the validation rows are answered each time."""
        metric = config.finetuning.metric
        if metric and metric != "loss":
            assert isinstance(objective, Writing)
            objective.examiner = Examiner(self, objective)
            objective.deciding = metric
        return objective


class Examiner:
    """Figures of the validation rows as the model writes them while it learns, the likeliest token each time."""

    def __init__(self, job: WritingJob, objective: Writing) -> None:
        self.job, self.objective, self.read = job, objective, False

    def note(self, rows: Sequence[int]) -> None:
        """See `objectives.writing.WritingExaminer`."""
        self.read = True

    def take(self) -> dict[str, float]:
        """See `objectives.writing.WritingExaminer`."""
        if not self.read:
            return {}
        self.read = False
        answers = self.job.written_by(self.objective.model, self.job.rows.valid)
        return self.job.exam.figures(self.job.exam.mark(answers))


class TranslationJob(WritingJob):
    """Texts and their translations."""

    task = TRANSLATION
    predictor_kind = Translation


class SummarizationJob(WritingJob):
    """Texts and their summaries, or their titles."""

    task = SUMMARIZATION
    predictor_kind = Summarization


class AnyTextJob(WritingJob):
    """Texts and any texts that were written for them."""

    task = TEXT_TO_TEXT
    predictor_kind = AnyText


def _heads(name: str) -> Any:
    return family(name).HEADS


def _written(row: LabelledRow) -> tuple[str, ...]:
    assert isinstance(row, WrittenRow)
    return row.targets or ()


def _targets(tokenizer: Tokenizer, rows: Sequence[LabelledRow]) -> list[list[np.ndarray]]:
    """The tokens of each answer to each row."""
    encoded = iter(tokenizer.encode_batch([target for row in rows for target in _written(row)]))
    return [[next(encoded) for _ in _written(row)] for row in rows]


def _lengths(pairs: Sequence[Pair]) -> np.ndarray:
    """Tokens of each source and answer with its end, int64 (N, 2)."""
    return np.array([(len(pair.source) + 1, len(pair.target) + 1) for pair in pairs], dtype=np.int64)
