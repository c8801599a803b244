"""What the predictors of all tasks with labels share: how they are loaded, and how texts are put before the model."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from melete.data.batch import Batch
from melete.data.framing import Framing
from melete.tasks.base import Piece, Predictor


@dataclass(frozen=True, eq=False)
class LabelledPredictor(Predictor):
    """A predictor whose model scores labels. Training encodes texts and reads scores by it too."""

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Names of the model's labels, in the order of its outputs."""
        return self.model.config.labels

    @cached_property
    def framing(self) -> Framing:
        """How texts are put before the model: what is longer than it was trained on is cut."""
        config = self.model.config
        length = min(
            config.max_position_embeddings,
            self.tokenizer.config.get("model_max_length") or config.max_position_embeddings,
        )
        return Framing(self.tokenizer, int(length), getattr(config, "type_vocab_size", 1))

    def run(self, batch: Batch, pieces: Sequence[Piece]) -> list[Any]:
        """See `Predictor.run`."""
        return self.outputs(self.scores(batch, pieces), pieces)

    @abstractmethod
    def scores(self, batch: Batch, pieces: Sequence[Piece]) -> Tensor:
        """What the model says of a batch, in float32."""

    @abstractmethod
    def outputs(self, scores: Tensor, pieces: Sequence[Piece]) -> list[Any]:
        """What is kept of the scores, for each piece."""
