"""Normalisation layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from melete.nn import fused, native
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

    def branch(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The normed x, and x for the sum that a block ends with; (..., D) both.

        The slopes of x from both are then added in the kernel that forms the norm's, where there is one.
        """
        if native.fits(x, self.weight):
            return fused.Norm.apply(x, self.weight, None, self.eps, False)  # pyright: ignore[reportReturnType]
        return self(x), x


class LayerNorm(nn.LayerNorm):
    """`nn.LayerNorm` over the last axis; see `functional.layer_norm`."""

    def forward(self, input: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return layer_norm(input, self.weight, self.bias, self.eps)

    def branch(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See `RMSNorm.branch`."""
        if native.fits(x, self.weight, self.bias):
            return fused.Norm.apply(x, self.weight, self.bias, self.eps, True)  # pyright: ignore[reportReturnType]
        return self(x), x
