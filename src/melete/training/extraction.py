"""Runs that teach a model to pick the sentences of a text that belong to its summary."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from melete.config import RunConfig
from melete.console import Progress, say
from melete.data.labelled.rows import SUMMARIZATION, TAGGING, LabelledRow, WrittenRow
from melete.data.labelled.sets import LabelledSet
from melete.data.sentences import split_sentences
from melete.data.tokenizers import Tokenizer
from melete.errors import InputError
from melete.metrics.rouge import greedy_choice
from melete.models.base import Network
from melete.objectives.craft import Craft, CraftedObjective, Lora
from melete.objectives.extraction import Extraction
from melete.tasks.extractive_summarization import ExtractiveSummarization
from melete.training.finetuning import FinetuneJob
from melete.training.job import About
from melete.training.labelled_data import Pieces

_LABEL = "summary"


class ExtractionJob(FinetuneJob):
    """Texts and their summaries, and a model that scores sentences.

    Which sentences it should pick is chosen greedily, by the words that they share with the summary; see
    `metrics.rouge.greedy_choice`. The finished model picks as many as were chosen for a training row on average.
    """

    task = SUMMARIZATION
    head_task = TAGGING  # one label, and what it scores are sentences
    predictor_kind = ExtractiveSummarization
    windowed = True
    kept = ("sentences",)
    rehearsed: ClassVar[dict[str, Any]] = {"id2label": (_LABEL,)}

    def __init__(
        self, config: RunConfig, rows: LabelledSet, tokenizer: Tokenizer, notes: Sequence[str]
    ) -> None:
        self._chosen = [_chosen(part) for part in (rows.train, rows.valid)]
        average = float(np.mean([own.sum() for own in self._chosen[0]]))
        if not average:
            where, do = rows.train[0].where, "let a model write them: melete finetune summarization"
            raise InputError("no summary shares a word with its text", where=where, do=do)
        self.sentences = max(1, round(average))
        super().__init__(config, rows, tokenizer, notes)
        best = self.exam.figures(self.exam.mark([self._best(i) for i in range(len(rows.valid))]))
        figures = ", ".join(f"{name} {value:.1f}" for name, value in best.items())
        note = (
            f"{self.sentences} sentences a summary, as in the training rows on average ({average:.1f}); the sentences "
            f"of the validation rows that share most with their summaries have {figures}"
        )
        say(note)
        self.notes = (*self.notes, note)

    def _best(self, row: int) -> dict[str, str]:
        """What the model would answer to a validation row if it knew the summary."""
        (text,) = self.rows.valid[row].texts
        pairs = zip(split_sentences(text), self._chosen[1][row], strict=True)
        return {"text": "\n".join(text[start:stop] for (start, stop), belongs in pairs if belongs)}

    def reader(
        self, config: RunConfig, model: Network, tokenizer: Tokenizer, folder: Path
    ) -> ExtractiveSummarization:
        """See `FinetuneJob.reader`."""
        overlap = config.finetuning.overlap
        return ExtractiveSummarization(model, tokenizer, folder, self.sentences, overlap)

    def head_fields(self) -> dict[str, Any]:
        """See `FinetuneJob.head_fields`."""
        return {"id2label": (_LABEL,)}

    def labels_of(self, rows: Sequence[LabelledRow], encoded: Pieces) -> Iterable[Any]:
        """See `FinetuneJob.labels_of`; see `objectives.extraction.Extraction`."""
        chosen = self._chosen[rows is self.rows.valid]
        for piece, owner in zip(encoded.pieces, encoded.owners.tolist(), strict=True):
            yield piece.data.parts, chosen[owner][piece.data.numbers]

    def objective(self, config: RunConfig, model: Network) -> CraftedObjective:
        """See `FinetuneJob.objective`; the folder says how many sentences a summary has."""
        extraction = super().objective(config, model)
        assert isinstance(extraction, Extraction)
        extraction.sentences = self.sentences
        return extraction

    @classmethod
    def minimised(
        cls, config: RunConfig, model: Network, craft: Craft, pad_id: int, lora: Lora | None = None
    ) -> Extraction:
        """See `FinetuneJob.minimised`."""
        return Extraction(model, craft, pad_id, lora)

    @classmethod
    def blank_label(cls, model: Network, length: int) -> Any:
        """See `FinetuneJob.blank_label`."""
        return np.zeros(length, dtype=np.int64), np.zeros(1, dtype=np.float32)

    def describe(self, config: RunConfig) -> About:
        """See `Job.describe`."""
        sentence = (
            "Scores the tokens of a text; the sentences with the highest mean are its summary. `melete predict` gives "
            f"the best {self.sentences} of them."
        )
        return About(TAGGING, sentence, "nats")


def _chosen(rows: Sequence[LabelledRow]) -> list[np.ndarray]:
    """Which sentences of each text belong to its summary, float32 (S,); by the summary they are nearest to."""
    found: list[np.ndarray] = []
    with Progress("choosing sentences", "rows", len(rows)) as progress:
        for row in rows:
            assert isinstance(row, WrittenRow)
            sentences = [row.source[start:stop] for start, stop in split_sentences(row.source)]
            choices = [greedy_choice(sentences, target) for target in row.targets or ()]
            belongs = np.zeros(len(sentences), dtype=np.float32)
            belongs[max(choices, key=lambda choice: choice[1])[0]] = 1.0
            found.append(belongs)
            progress.advance(1)
    return found
