"""Linear layers that may drop weights."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from melete.nn.functional import linear


class Linear(nn.Linear):
    """`nn.Linear` with DropConnect: single weights are zeroed while training, the rest scaled up.

    Source: Wan et al. 2013, "Regularization of neural networks using DropConnect".
    """

    def __init__(self, inputs: int, outputs: int, bias: bool, weight_dropout: float = 0.0) -> None:
        super().__init__(inputs, outputs, bias=bias)
        self.weight_dropout = weight_dropout

    def used_weight(self) -> Tensor:
        """The matrix of this pass, (outputs, inputs)."""
        if self.weight_dropout and self.training:
            return F.dropout(self.weight, self.weight_dropout)
        return self.weight

    def forward(self, input: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        return linear(input, self.used_weight(), self.bias)
