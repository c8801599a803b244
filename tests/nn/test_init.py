from __future__ import annotations

import math

import pytest
import torch

import kit
from melete.nn.linear import Linear


@pytest.mark.parametrize("family", sorted(kit.SIZES))
@pytest.mark.parametrize(
    "scheme", ["normal", "scaled-normal", "zero-residual", "xavier", "kaiming", "orthogonal"]
)
def test_schemes_do_what_their_table_says(family: str, scheme: str) -> None:
    width = 256
    model = kit.tiny(family, init=scheme, hidden_size=width, initializer_range=0.02, num_hidden_layers=2)
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Embedding):
            embedding = 1.6 / math.sqrt(width) if scheme == "zero-residual" else 0.02
            assert module.weight.std().item() == pytest.approx(embedding, rel=0.05)
        elif isinstance(module, torch.nn.Linear):
            rows, columns = module.weight.shape
            residual = name.rpartition(".")[2] in model.residual
            expected = {
                "normal": 0.02,
                "scaled-normal": 0.02 / math.sqrt(4) if residual else 0.02,
                "zero-residual": 0.0 if residual else 0.5 / math.sqrt(columns),
                "xavier": math.sqrt(2 / (rows + columns)),
                "kaiming": math.sqrt(2 / columns),
                "orthogonal": 1 / math.sqrt(max(rows, columns)),
            }[scheme]
            assert module.weight.std().item() == pytest.approx(expected, rel=0.1)
            assert module.bias is None or not module.bias.any()
        elif hasattr(module, "weight"):
            assert (module.weight == 1).all()


def test_weights_are_dropped_in_training_only() -> None:
    layer = Linear(50, 40, bias=False, weight_dropout=0.25)
    assert layer.eval().used_weight() is layer.weight
    dropped = (layer.train().used_weight() == 0).float().mean().item()
    assert dropped == pytest.approx(0.25, abs=0.05)
