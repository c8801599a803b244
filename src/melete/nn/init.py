"""How weights start: named schemes, drawn from one explicit generator."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from melete.errors import InputError

Scheme = Literal["normal", "scaled-normal", "zero-residual", "xavier", "kaiming", "orthogonal"]


@torch.no_grad()
def initialise(
    model: nn.Module, scheme: str, *, std: float, seed: int, num_layers: int, residual: Collection[str]
) -> None:
    """Fill every parameter of a model in place, in the order of its definition.

    parameter            normal   scaled-normal         zero-residual   xavier     kaiming    orthogonal
    embedding (V, D)     N(std)   N(std)                N(1.6/sqrt(D))  N(std)     N(std)     N(std)
    matrix               N(std)   N(std)                N(0.5/sqrt(in)) uniform,   N(2 / in)  orthogonal
                                                                        in + out
    matrix that adds to  N(std)   N(std / sqrt(2 L))    0               as above   as above   as above
    the residual stream
    norm weight 1, norm bias and linear bias 0, in every scheme

    Args:
        scheme: scaled-normal is GPT-2's (Radford et al. 2019, section 2.3); zero-residual starts every block as
            the identity, and its embedding wide, so that short runs need not first grow it; xavier: Glorot and Bengio
            2010; kaiming: He et al. 2015; orthogonal: Saxe et al. 2013.
        residual: names of the modules whose output is added to the residual stream.

    Raises:
        InputError: unknown scheme.
    """
    if scheme not in get_args(Scheme):
        raise InputError(f"unknown initialisation {scheme!r}", expected=", ".join(get_args(Scheme)))
    generator = torch.Generator().manual_seed(seed)
    for name, module in model.named_modules():
        for parameter_name, parameter in module.named_parameters(recurse=False):
            value = torch.empty(parameter.shape)  # drawn on the CPU in float32, whatever the model is
            if parameter.dim() < 2:
                value.fill_(0.0 if parameter_name.startswith("bias") else 1.0)
            elif isinstance(module, nn.Embedding):
                wide = scheme == "zero-residual"
                value.normal_(0.0, 1.6 / math.sqrt(value.shape[1]) if wide else std, generator=generator)
            else:
                _matrix(value, scheme, std, name.rpartition(".")[2] in residual, num_layers, generator)
            parameter.copy_(value)


def _matrix(
    value: Tensor, scheme: str, std: float, residual: bool, layers: int, generator: torch.Generator
) -> None:
    if scheme == "xavier":
        nn.init.xavier_uniform_(value, generator=generator)
    elif scheme == "kaiming":
        nn.init.kaiming_normal_(value, nonlinearity="relu", generator=generator)
    elif scheme == "orthogonal":
        nn.init.orthogonal_(value, generator=generator)
    elif scheme == "zero-residual":
        value.normal_(0.0, 0.0 if residual else 0.5 / math.sqrt(value.shape[1]), generator=generator)
    else:
        shrink = math.sqrt(2 * layers) if residual and scheme == "scaled-normal" else 1.0
        value.normal_(0.0, std / shrink, generator=generator)
