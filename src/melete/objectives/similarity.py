"""Vectors of two texts, each read by itself, as near to each other as people say; or nearer than to all others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from melete.config import PAIRINGS
from melete.data.batch import Batch, Example, ExampleKey
from melete.data.batching import lay_out
from melete.errors import InputError
from melete.models.base import Network
from melete.objectives.labelled import Craft, LabelledObjective, LabelledPiece, Lora, augmented_piece
from melete.tasks.feature_extraction import vectors, write_layout

# Of the scores, from which a pair counts as saying the same.
ALIKE = 0.8


@dataclass(frozen=True)
class Pair:
    """Two texts, each with the same label: how much they are alike, 0 to 1."""

    first: LabelledPiece
    second: LabelledPiece


class Similarity(LabelledObjective):
    """Squared error of the cosine (Reimers and Gurevych 2019, section 3), or cross-entropy among the texts of a step.

    Contrastive: each first text of a pair that says the same must find its second one among those of all pairs of the
    step (Henderson et al. 2017, section 4; Gao et al. 2021, equation 1), so that a step is never cut.

    Args:
        kind: one of `config.PAIRINGS`.
        temperature: cosines are divided by it.
        pooling: see `FeatureExtraction`.
    """

    term = "similarity"
    agreeing = False

    def __init__(
        self,
        model: Network,
        craft: Craft,
        pad_id: int,
        lora: Lora | None = None,
        *,
        kind: str = "cosine",
        temperature: float = 0.05,
        pooling: str = "",
    ) -> None:
        super().__init__(model, craft, pad_id, lora)
        assert kind in PAIRINGS
        if craft.label_smoothing:
            raise InputError("a cosine has no labels to smooth", where="finetuning.label_smoothing")
        self.kind, self.temperature, self.pooling = kind, temperature, pooling
        self.micro_batch_fixed = kind == "contrastive"

    def prepare(
        self, examples: Sequence[Example], rng_for: Callable[[ExampleKey], np.random.Generator]
    ) -> Batch:
        """All first texts, then all second ones, a row each."""
        pairs: list[Pair] = [example.data for example in examples]
        pieces = [pair.first for pair in pairs] + [pair.second for pair in pairs]
        if self.craft.augmentation.active:
            # The second text goes on where the first ended.
            rngs = [rng_for(example.key) for example in examples] * 2
            pieces = [
                augmented_piece(piece, self.craft.augmentation, rng)
                for piece, rng in zip(pieces, rngs, strict=True)
            ]
        batch = lay_out({"input_ids": [piece.ids for piece in pieces]}, {"input_ids": self.pad_id})
        batch.labels.update(self.label_batch(batch, [pair.first for pair in pairs]))
        batch.labels["row"] = torch.tensor([example.key[2] for example in examples])
        return batch

    def label_batch(self, batch: Batch, pieces: Sequence[LabelledPiece]) -> dict[str, Tensor]:
        """float32 (N,)."""
        return {self.term: torch.tensor([float(piece.label) for piece in pieces])}

    def items(self, batch: Batch) -> Tensor:
        """Pairs; where all others count against them, those that say the same."""
        labels = batch.labels[self.term]
        return torch.tensor(len(labels)) if self.kind == "cosine" else (labels >= ALIKE).sum()

    def logits(self, batch: Batch) -> Tensor:
        """The vectors of the first texts beside those of the second ones, (N, 2 D)."""
        first, second = vectors(self.model, batch, self.pooling).chunk(2)
        return torch.cat([first, second], dim=1)

    def loss(self, scores: Tensor, batch: Batch) -> Tensor:
        """Squared error of the cosine, or nats."""
        first, second = scores.chunk(2, dim=1)
        labels = batch.labels[self.term].to(scores.dtype)
        if self.kind == "cosine":
            return F.mse_loss((first * second).sum(1), labels, reduction="sum")
        alike = labels >= ALIKE
        among = first @ second.T / self.temperature  # (N, N)
        return F.cross_entropy(among[alike], alike.nonzero().squeeze(1), reduction="sum")

    def save(self, folder: Path, masters: dict[str, Tensor], tokenizer: Path | None) -> None:
        """The model's folder, in the layout of `sentence-transformers`; see `Objective.save`."""
        super().save(folder, masters, tokenizer)
        config = self.model.config
        write_layout(folder, config.hidden_size, config.max_position_embeddings, self.pooling)
