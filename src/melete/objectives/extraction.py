"""Pick the sentences of a text that belong to its summary: each is in it, or is not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from melete.data.batch import Batch
from melete.models.base import Network
from melete.models.purpose import Purpose, write_purpose
from melete.nn.pooling import mean_of_parts
from melete.objectives.labelled import Craft, LabelledObjective, LabelledPiece, Lora
from melete.tasks import EXTRACTION
from melete.tasks.extractive_summarization import laid_out


class Extraction(LabelledObjective):
    """Binary cross-entropy of sentences, the score of each being the mean of those of its tokens.

    The layer that scores is linear, so this is the score of the mean of the tokens' vectors (Nallapati et al. 2017,
    section 2). The label of a piece is which sentence each token is in, as `Sentences.parts` has it, and which of them
    belong to the summary, float32 (S,).

    Args:
        sentences: how many the finished model gives.
    """

    term = "extraction"
    agreeing = False

    def __init__(
        self, model: Network, craft: Craft, pad_id: int, lora: Lora | None = None, *, sentences: int = 3
    ) -> None:
        super().__init__(model, craft, pad_id, lora)
        self.sentences = sentences

    def label_batch(self, batch: Batch, pieces: Sequence[LabelledPiece]) -> dict[str, Tensor]:
        """Which belong, float32 (M,); and which is where, int64 (B, T)."""
        belongs = np.concatenate([piece.label[1] for piece in pieces])
        parts = laid_out([piece.label[0] for piece in pieces], batch.input_ids.shape[1])
        return {self.term: torch.from_numpy(belongs), "parts": parts}

    def items(self, batch: Batch) -> Tensor:
        """Sentences."""
        return torch.tensor(len(batch.labels[self.term]))

    def logits(self, batch: Batch) -> Tensor:
        """Of each token, (B, T)."""
        logits = self.model.tag_logits(self.model.encode(batch))[..., 0]
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def scores(self, logits: Tensor, batch: Batch) -> Tensor:
        """Of each sentence, (M,)."""
        return mean_of_parts(logits, batch.labels["parts"])

    def loss(self, scores: Tensor, batch: Batch) -> Tensor:
        """In nats."""
        smoothing = self.craft.label_smoothing if self.training else 0.0
        targets = batch.labels[self.term].to(scores.dtype) * (1 - smoothing) + smoothing / 2
        return F.binary_cross_entropy_with_logits(scores, targets, reduction="sum")

    def save(self, folder: Path, masters: dict[str, Tensor], tokenizer: Path | None) -> None:
        """The model's folder, which says what its scores are for; see `Objective.save`."""
        super().save(folder, masters, tokenizer)
        write_purpose(folder, Purpose(EXTRACTION, settings={"sentences": self.sentences}))
