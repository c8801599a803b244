"""Say what a text is: one of several labels, any of them, or a number."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from melete.data.batch import Batch
from melete.errors import InputError
from melete.models.base import Network
from melete.objectives.labelled import Craft, LabelledObjective, LabelledPiece, Lora

SINGLE, MULTI, REGRESSION = "single_label_classification", "multi_label_classification", "regression"


class Classification(LabelledObjective):
    """Cross-entropy for one label a text, binary cross-entropy for any number of them, squared error for a number.

    The label of a piece is the number of a label, a float for each label (0 or 1), or a float. Which of the three is
    `model.config.problem_type`, as it is in transformers.
    """

    term = "classification"

    def __init__(self, model: Network, craft: Craft, pad_id: int, lora: Lora | None = None) -> None:
        self.problem = model.config.problem_type
        assert self.problem in (SINGLE, MULTI, REGRESSION)
        self.agreeing = self.problem == SINGLE
        super().__init__(model, craft, pad_id, lora)
        if self.problem == REGRESSION and (craft.label_smoothing or craft.class_weights):
            raise InputError("a number has no labels to smooth or to weigh", where="finetuning")
        weights = torch.tensor(craft.class_weights or [1.0] * len(model.config.labels))
        assert len(weights) == len(model.config.labels)
        self.register_buffer("class_weights", weights, persistent=False)
        self.class_weights: Tensor

    def label_batch(self, batch: Batch, pieces: Sequence[LabelledPiece]) -> dict[str, Tensor]:
        """int64 (N,), or float32 (N, labels), or float32 (N,)."""
        labels = np.array([piece.label for piece in pieces])
        return {self.term: torch.from_numpy(labels if self.problem == SINGLE else labels.astype(np.float32))}

    def items(self, batch: Batch) -> Tensor:
        """Texts; where labels weigh differently, the weights of their labels."""
        labels = batch.labels[self.term]
        if self.problem != SINGLE:
            return torch.tensor(len(labels))
        return self.class_weights.to(labels.device)[labels].sum()

    def logits(self, batch: Batch) -> Tensor:
        """(N, labels)."""
        logits = self.model.class_logits(self.model.encode(batch), batch)
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def loss(self, scores: Tensor, batch: Batch) -> Tensor:
        """In nats, or squared units; the mean over the labels where each is decided by itself."""
        labels = batch.labels[self.term]
        smoothing = self.craft.label_smoothing if self.training else 0.0
        weights = self.class_weights.to(scores.dtype)
        if self.problem == SINGLE:
            return F.cross_entropy(scores, labels, weights, reduction="sum", label_smoothing=smoothing)
        labels = labels.to(scores.dtype)
        if self.problem == REGRESSION:
            return F.mse_loss(scores.squeeze(-1), labels, reduction="sum")
        targets = labels * (1 - smoothing) + smoothing / 2
        each = F.binary_cross_entropy_with_logits(scores, targets, weights, reduction="none")  # (N, labels)
        return each.mean(1).sum()
