"""What the objectives of all tasks with labels share: batches of like length, and the craft of small data.

Small data overfits, and a pretrained model forgets. Against both: other learning rates for other depths, parts that
stay as they are, two passes that must agree, passes over inputs made worse on purpose, texts changed a little.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from melete.data.augmentation import Augmentation, augmented
from melete.data.batch import Batch, Example, ExampleKey
from melete.data.batching import lay_out
from melete.models.base import Network
from melete.objectives.base import Context
from melete.objectives.craft import Craft, CraftedObjective, Lora


@dataclass(frozen=True)
class LabelledPiece:
    """What the model reads in one go, and what it should say.

    Attributes:
        ids: int64 (N,), special tokens included.
        types: int64 (N,), which text of a pair a token is in; None: there is one text.
        label: as the task has it.
        sentence: number of the sentence of each token, 0 where augmentation must not touch it, int64 (N,); None:
            nowhere may it, as in validation.
    """

    ids: np.ndarray
    types: np.ndarray | None
    label: Any
    sentence: np.ndarray | None = None


class Examiner(Protocol):
    """Reads what the model says of the validation rows, and tells how good it is by the task's own measure."""

    def note(self, logits: Tensor, rows: Sequence[int]) -> None:
        """The logits of a batch, and the numbers of its pieces."""

    def take(self) -> dict[str, float]:
        """Figures of what was noted since the last call."""
        ...


class LabelledObjective(CraftedObjective):
    """A task: scores of what may be said, and the loss of the scores.

    Attributes:
        term: name of the loss.
        agreeing: whether `loss` is a softmax over the last dimension of `scores`, so that R-Drop is defined.
        examiner: asked in evaluation mode.

    Args:
        pad_id: what fills rows; otherwise as `CraftedObjective`.
    """

    term: ClassVar[str]
    examiner: Examiner | None = None

    def __init__(self, model: Network, craft: Craft, pad_id: int, lora: Lora | None = None) -> None:
        super().__init__(model, craft, lora)
        self.pad_id = pad_id
        self.weights = {self.term: 1.0}
        if craft.r_drop:
            self.weights["r_drop"] = craft.r_drop
        if craft.adversarial:
            self.weights["adversarial"] = 1.0

    @abstractmethod
    def logits(self, batch: Batch) -> Tensor:
        """What the model says of a batch, in float32 or wider: a row for each piece, in their order."""

    def scores(self, logits: Tensor, batch: Batch) -> Tensor:
        """What counts of the logits: (M, C), a row for each text, word or end of an answer."""
        return logits

    @abstractmethod
    def loss(self, scores: Tensor, batch: Batch) -> Tensor:
        """The sum over all that counts."""

    @abstractmethod
    def label_batch(self, batch: Batch, pieces: Sequence[LabelledPiece]) -> dict[str, Tensor]:
        """The labels of a batch, by name."""

    @abstractmethod
    def items(self, batch: Batch) -> Tensor:
        """How much counts, from labels alone."""

    def prepare(
        self, examples: Sequence[Example], rng_for: Callable[[ExampleKey], np.random.Generator]
    ) -> Batch:
        """Pad; change what may be changed."""
        pieces: list[LabelledPiece] = [example.data for example in examples]
        if self.craft.augmentation.active:
            pieces = [
                augmented_piece(piece, self.craft.augmentation, rng_for(example.key))
                for piece, example in zip(pieces, examples, strict=True)
            ]
        columns = {"input_ids": [piece.ids for piece in pieces]}
        if any(piece.types is not None for piece in pieces):
            columns["token_type_ids"] = [
                np.zeros_like(piece.ids) if piece.types is None else piece.types for piece in pieces
            ]
        batch = lay_out(columns, {"input_ids": self.pad_id, "token_type_ids": 0})
        batch.labels.update(self.label_batch(batch, pieces))
        batch.labels["row"] = torch.tensor([example.key[2] for example in examples])
        return batch

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """What `items` says, for every term."""
        return dict.fromkeys(self.weights, self.items(batch))

    def forward(self, batch: Batch, ctx: Context) -> dict[str, Tensor]:
        """The loss; in training also the divergence of two passes, and the loss of a worse input."""
        if self.training:
            self._freeze(ctx.progress)
        logits = self.logits(batch)
        if not self.training and self.examiner is not None:
            self.examiner.note(logits, batch.labels["row"].tolist())
        scores = self.scores(logits, batch)
        loss = self.loss(scores, batch)
        parts = {self.term: loss}
        if self.training and self.craft.r_drop:
            again = self.scores(self.logits(batch), batch)
            parts[self.term] = (loss + self.loss(again, batch)) / 2
            parts["r_drop"] = divergence(scores, again)
        if self.training and self.craft.adversarial:
            parts["adversarial"] = self._worse(batch, loss)
        return parts

    def _worse(self, batch: Batch, loss: Tensor) -> Tensor:
        """The loss with the embeddings moved a step in the direction that makes it larger."""
        weight = _embedding(self.model).weight
        if not weight.requires_grad:  # not thawed yet
            return loss
        (gradient,) = torch.autograd.grad(loss, weight, retain_graph=True)
        norm = gradient.float().norm()
        kept = weight.detach().clone()
        # An embedding's backward pass reads the ids alone, so that its values may change between two passes.
        weight.data.add_(gradient * (self.craft.adversarial / norm.clamp_min(1e-12)).to(gradient.dtype))
        try:
            return self.loss(self.scores(self.logits(batch), batch), batch)
        finally:
            weight.data.copy_(kept)

    def take_figures(self) -> dict[str, float]:
        """What the examiner says; see `Objective.take_figures`."""
        return {} if self.examiner is None else self.examiner.take()


def divergence(first: Tensor, second: Tensor) -> Tensor:
    """Sum of the mean of both Kullback-Leibler divergences of two softmaxes, (M, C) each."""
    one, other = first.log_softmax(-1), second.log_softmax(-1)
    return ((one.exp() - other.exp()) * (one - other)).sum() / 2


def augmented_piece(
    piece: LabelledPiece, augmentation: Augmentation, rng: np.random.Generator
) -> LabelledPiece:
    """The piece with the tokens changed that may be."""
    if piece.sentence is None:
        return piece
    ids, order = augmented(piece.ids, piece.sentence, augmentation, rng)
    return LabelledPiece(ids, None if piece.types is None else piece.types[order], piece.label)


def _embedding(model: Network) -> nn.Embedding:
    """That of the tokens."""
    size = model.config.vocab_size
    return next(m for m in model.modules() if isinstance(m, nn.Embedding) and m.num_embeddings == size)
