"""Normalisation layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from melete.nn.functional import layer_norm, rms_norm


class RMSNorm(nn.Module):
    """Root-mean-square norm with a learned scale; see `functional.rms_norm`."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return rms_norm(x, self.weight, self.eps)


class LayerNorm(nn.LayerNorm):
    """`nn.LayerNorm` over the last axis; see `functional.layer_norm`."""

    def forward(self, input: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return layer_norm(input, self.weight, self.bias, self.eps)
