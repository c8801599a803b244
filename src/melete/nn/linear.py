"""Linear layers that may drop weights, and several of them read in one product."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# With fewer rows, copying the weights side by side costs more than the saved products (decoding).
_JOINT_ROWS = 128


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
        return F.linear(input, self.used_weight(), self.bias)


def joint_linear(x: Tensor, *layers: Linear) -> tuple[Tensor, ...]:
    """Each layer's output for the same input, as one matrix product where that is faster.

    Args:
        x: (..., inputs).
        layers: without bias.
    """
    if x.numel() // x.shape[-1] < _JOINT_ROWS:
        return tuple(layer(x) for layer in layers)
    weight = torch.cat([layer.used_weight() for layer in layers])
    return F.linear(x, weight).split([layer.out_features for layer in layers], dim=-1)
