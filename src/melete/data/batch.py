"""The shapes in which data reaches an objective (examples) and a model (a batch)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

ExampleKey = tuple[int, int, int]


def padded(
    rows: Sequence[Sequence[int] | np.ndarray | Tensor], filler: int, left: bool = False
) -> tuple[Tensor, Tensor]:
    """Rows of ids as one tensor, int64 (B, T), and where they stand in it, bool (B, T).

    All at once: a step of short rows has hundreds, and a tensor operation for each would be a tenth of its time.
    """
    lengths = np.array([len(row) for row in rows])
    places = np.arange(lengths.max())
    real = places >= (lengths.max() - lengths)[:, None] if left else places < lengths[:, None]
    filled = np.full(real.shape, filler, dtype=np.int64)
    filled[real] = np.concatenate([np.asarray(row) for row in rows])
    return torch.from_numpy(filled), torch.from_numpy(real)


@dataclass(frozen=True)
class Example:
    """One training item. Its key `(seed, epoch, index)` names the random generator it alone may draw from."""

    key: ExampleKey
    data: Any


@dataclass(frozen=True)
class Batch:
    """Tensors of one forward pass. A padded batch has one document a row; packing is several.

    Attributes:
        input_ids: token ids, int64 (B, T).
        doc_ids: int32 (B, T): 0 is padding, 1.. the document within the row. Attention, pooling and losses
            read this; there is no other mask.
        position_ids: position of the token inside its document, int64 (B, T).
        doc_starts: row and column of each document's first token, int64 (N, 2), for pooling.
        labels: target tensors by name; -100 is "no target".
        token_type_ids: int64 (B, T), which segment of a pair a token is in; None is all 0.
        source: what an encoder reads, document by document, where this is what its decoder reads.
    """

    input_ids: Tensor
    doc_ids: Tensor
    position_ids: Tensor
    doc_starts: Tensor
    labels: dict[str, Tensor] = field(default_factory=dict)
    token_type_ids: Tensor | None = None
    source: Batch | None = None

    @classmethod
    def from_rows(
        cls, rows: Sequence[Sequence[int] | np.ndarray | Tensor], pad_id: int = 0, left: bool = False
    ) -> Batch:
        """One document a row, padded to the longest.

        Args:
            rows: token ids of each row; none may be empty.
            pad_id: what stands in `input_ids` at padding.
            left: pad on the left, so that all rows end together (generation).
        """
        input_ids, real = padded(rows, pad_id, left)  # (B, T)
        doc_ids = real.to(torch.int32)
        first = (real.shape[1] - real.sum(1)) if left else torch.zeros(len(rows), dtype=torch.int64)
        starts = torch.stack([torch.arange(len(rows)), first], 1)  # (B, 2)
        position_ids = (doc_ids.cumsum(1) - 1).clamp_min(0)  # (B, T)
        return cls(input_ids, doc_ids, position_ids, starts)

    @property
    def tokens(self) -> int:
        """Real tokens, those of the source too: padding is not counted."""
        return int((self.doc_ids > 0).sum()) + (self.source.tokens if self.source is not None else 0)

    @property
    def places(self) -> int:
        """Places for tokens, padding and the source counted."""
        return self.input_ids.numel() + (self.source.places if self.source is not None else 0)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        return replace(
            self,
            input_ids=self.input_ids.to(device),
            doc_ids=self.doc_ids.to(device),
            position_ids=self.position_ids.to(device),
            doc_starts=self.doc_starts.to(device),
            labels={name: label.to(device) for name, label in self.labels.items()},
            token_type_ids=None if self.token_type_ids is None else self.token_type_ids.to(device),
            source=None if self.source is None else self.source.to(device),
        )
