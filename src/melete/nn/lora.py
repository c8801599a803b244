"""Low-rank adaptation (Hu et al. 2021): matrices stay as they are, the product of two thin ones is added to each."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from melete.errors import InputError
from melete.nn.linear import Linear

A, B = "lora_a", "lora_b"


class LoraLinear(Linear):
    """A linear layer whose matrix is frozen, with a product of rank `rank` beside it that starts at zero.

    Args:
        base: its weight and bias are this layer's.
        alpha: the product counts alpha / rank.
        dropout: on the input of the product.
        generator: of the first of the two matrices.
    """

    def __init__(
        self, base: Linear, rank: int, alpha: float, dropout: float, generator: torch.Generator
    ) -> None:
        with torch.device("meta"):
            super().__init__(base.in_features, base.out_features, base.bias is not None, base.weight_dropout)
        self.weight, self.bias = base.weight, base.bias
        self.scale, self.dropout = alpha / rank, dropout
        bound = 1 / math.sqrt(base.in_features)
        first = torch.empty(rank, base.in_features).uniform_(-bound, bound, generator=generator)
        self.lora_a = nn.Parameter(first)
        self.lora_b = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, input: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        beside = F.linear(F.dropout(input, self.dropout, self.training), self.lora_a)  # (..., rank)
        return super().forward(input) + self.scale * F.linear(beside, self.lora_b)


def add_lora(
    model: nn.Module, targets: Collection[str], *, rank: int, alpha: float, dropout: float, seed: int
) -> list[str]:
    """Put thin matrices beside those of the blocks (`model.layers`).

    Args:
        targets: ends of the names of modules; none: all linear layers.

    Returns:
        Names of the modules, in order.

    Raises:
        InputError: a target that no block has.
    """
    names = [
        name
        for name, module in model.named_modules()
        if name.startswith("layers.") and isinstance(module, Linear)
    ]
    known = {name.rpartition(".")[2] for name in names}
    if unknown := sorted(set(targets) - known):
        where = "finetuning.lora.targets"
        raise InputError(
            f"no block has {', '.join(unknown)}", where=where, expected=f"some of {sorted(known)}"
        )
    generator = torch.Generator().manual_seed(seed)
    chosen = [name for name in names if not targets or name.rpartition(".")[2] in targets]
    for name in chosen:
        parent, _, own = name.rpartition(".")
        base = model.get_submodule(name)
        assert isinstance(base, Linear)
        setattr(model.get_submodule(parent), own, LoraLinear(base, rank, alpha, dropout, generator))
    return chosen


def merged(state: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """Weights with the products added to their matrices: what the model computes, without thin matrices."""
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        module, _, own = name.rpartition(".")
        if own in (A, B):
            continue
        if own == "weight" and f"{module}.{A}" in state:
            tensor = tensor + scale * (state[f"{module}.{B}"] @ state[f"{module}.{A}"])
        found[name] = tensor
    return found
