"""What the predictors of all tasks with labels share: how they are loaded, and how texts are put before the model."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from torch import Tensor

from melete.data.batch import Batch
from melete.data.framing import Framing
from melete.data.labelled.files import read_labelled
from melete.data.readers import Row, file_format
from melete.data.streams import STDIN
from melete.tasks.base import Piece, Predictor, read_inputs

PLAIN = re.compile(r"\.txt(\.gz|\.xz)?$", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class RowPredictor(Predictor):
    """A predictor whose model was trained on rows with answers. Training encodes texts by it too.

    Attributes:
        reads: the task whose columns its files have.
    """

    reads: ClassVar[str]

    @property
    def rows_task(self) -> str:
        """What its rows are for, see `data.labelled`."""
        return self.task

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """What answers are chosen from; nothing where they are written."""
        return ()

    def read(self, source: str, named: Mapping[str, str | None]) -> Iterator[Row]:
        """The rows of a file, its columns found as in training; lines of plain text, where one text is a row."""
        if source == STDIN or (len(self.columns) == 1 and PLAIN.search(source)):
            return super().read(source, named)
        columns = {role: name for role, name in named.items() if name is not None}
        return (row.inputs for row in read_labelled(source, self.reads, columns=columns, labelled=False))


@dataclass(frozen=True, eq=False)
class SourcePredictor(RowPredictor):
    """A predictor that gives a text for each text."""

    def read(self, source: str, named: Mapping[str, str | None]) -> Iterator[Row]:
        """The rows of a table, its columns found as in training; else a text a line."""
        if source == STDIN or file_format(source) == "text":
            return read_inputs(source, self.columns, named)
        wanted = {"source" if role == "text" else role: name for role, name in named.items()}
        return super().read(source, wanted)


@dataclass(frozen=True, eq=False)
class LabelledPredictor(RowPredictor):
    """A predictor that scores labels. Training reads scores by it too."""

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
