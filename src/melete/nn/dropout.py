"""Dropout."""

from __future__ import annotations

from torch import Tensor, nn

from melete.nn.functional import dropout


class Dropout(nn.Dropout):
    """`nn.Dropout`; see `functional.dropout`."""

    def forward(self, input: Tensor) -> Tensor:
        """(...) -> (...)."""
        return dropout(input, self.p, self.training)
