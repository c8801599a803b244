"""An encoder in bfloat16 whose matrices stand in memory as the processor multiplies them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from melete.models.base import Network
from melete.models.bert import FeedForward
from melete.nn.linear import Linear

# Of a batch; products are as fast for any other number.
_ROWS = 1024


class PackedLinear(nn.Module):
    """`F.linear` in bfloat16, with GELU behind it if asked."""

    def __init__(self, layer: Linear, gelu: bool = False) -> None:
        super().__init__()
        weight = layer.weight.detach().to(torch.bfloat16)
        # Not parameters or buffers: they are in an order of their own.
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS)
        self._bias = None if layer.bias is None else layer.bias.detach().to(torch.bfloat16)
        self._after = ("gelu", [], "none") if gelu else ("none", [], "")

    def forward(self, input: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        return torch.ops.mkldnn._linear_pointwise(input, self._weight, self._bias, *self._after)


class _PackedFeedForward(nn.Module):
    """BERT's two layers in two calls."""

    def __init__(self, block: FeedForward) -> None:
        super().__init__()
        self.up, self.down = PackedLinear(block.up, gelu=True), PackedLinear(block.down)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.up(x))


def pack(model: Network) -> None:
    """Turn a model that only reads into bfloat16, in place; on a CPU its matrices are laid out anew."""
    model.to(torch.bfloat16)
    if next(model.parameters()).device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) is FeedForward:
                setattr(parent, name, _PackedFeedForward(layer))
            elif type(layer) is Linear:
                setattr(parent, name, PackedLinear(layer))
