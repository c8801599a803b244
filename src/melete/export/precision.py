"""Weights in another number format, without a number lost on the way."""

from __future__ import annotations

import torch
from torch import Tensor

from melete.errors import InputError


def cast(name: str, weight: Tensor, precision: str) -> Tensor:
    """A weight in another number format.

    Args:
        name: of the weight, for the error.
        precision: float32, float16 or bfloat16.

    Raises:
        InputError: it holds a number that is too large for the format.
    """
    narrow = weight.detach().to(getattr(torch, precision))
    if bool((narrow.isinf() & weight.isfinite()).any()):
        raise InputError(
            f"{name} holds {weight.abs().max().item():g}, more than {precision} can",
            do="use --precision bfloat16",
        )
    return narrow
