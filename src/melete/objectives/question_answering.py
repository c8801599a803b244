"""Say where a text answers a question: the first and the last token of the answer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from melete.data.batch import Batch
from melete.models.base import Network
from melete.objectives.labelled import Craft, LabelledObjective, LabelledPiece, Lora
from melete.tasks.question_answering import SETTINGS_FILE


class QuestionAnsweringLoss(LabelledObjective):
    """Mean of the cross-entropies of both ends, over the tokens of the context and the first one.

    The label of a piece is its first and last token, and the columns that may be either: `(start, end, low, high)`.
    Without an answer in this window both are the first token of all (Devlin et al. 2019, section 4.3).

    Args:
        no_answer: whether some questions of the set have none.
    """

    term = "question_answering"

    def __init__(
        self, model: Network, craft: Craft, pad_id: int, lora: Lora | None = None, *, no_answer: bool = False
    ) -> None:
        super().__init__(model, craft, pad_id, lora)
        self.no_answer = no_answer

    def label_batch(self, batch: Batch, pieces: Sequence[LabelledPiece]) -> dict[str, Tensor]:
        """Both ends, int64 (2 N,), the beginnings first; and where they may be, bool (N, T)."""
        labels = torch.from_numpy(np.array([piece.label for piece in pieces], dtype=np.int64))  # (N, 4)
        columns = torch.arange(batch.input_ids.shape[1])
        possible = (columns >= labels[:, 2, None]) & (columns < labels[:, 3, None])
        possible[:, 0] = True
        return {self.term: labels[:, :2].T.flatten(), "possible": possible}

    def items(self, batch: Batch) -> Tensor:
        """Windows."""
        return torch.tensor(len(batch.labels[self.term]) // 2)

    def logits(self, batch: Batch) -> Tensor:
        """(N, T, 2)."""
        logits = self.model.span_logits(self.model.encode(batch))
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def scores(self, logits: Tensor, batch: Batch) -> Tensor:
        """Of each possible column, (2 N, T): the beginnings first."""
        lowest = torch.finfo(logits.dtype).min
        both = logits.masked_fill(~batch.labels["possible"][..., None], lowest)
        return torch.cat([both[..., 0], both[..., 1]])

    def loss(self, scores: Tensor, batch: Batch) -> Tensor:
        """In nats."""
        smoothing = self.craft.label_smoothing if self.training else 0.0
        labels = batch.labels[self.term]
        loss = F.cross_entropy(scores, labels, reduction="sum") / 2
        if smoothing:  # over the possible columns alone
            possible = batch.labels["possible"].repeat(2, 1)
            logs = scores.log_softmax(-1).masked_fill(~possible, 0.0)
            spread = -(logs.sum(1) / possible.sum(1)).sum() / 2
            loss = (1 - smoothing) * loss + smoothing * spread
        return loss

    def save(self, folder: Path, masters: dict[str, Tensor], tokenizer: Path | None) -> None:
        """The model's folder, and whether it may say that there is no answer; see `Objective.save`."""
        super().save(folder, masters, tokenizer)
        (folder / SETTINGS_FILE).write_text(
            json.dumps({"no_answer": self.no_answer}) + "\n", encoding="utf-8"
        )
