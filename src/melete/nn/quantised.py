"""Linear layers in 8 bits, where no compiler can make better ones: see `nn/kernels.py`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from melete.nn.kernels import int8_weight
from melete.nn.linear import Linear


class Int8Linear(nn.Module):
    """`F.linear` of integers: weights have a scale for each output, inputs one for each token.

    Sums of integers are exact, so what a row gets does not depend on the rows beside it.

    Source: Xiao et al. 2022 (SmoothQuant), section 2: per-token, per-channel.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        whole, scale = int8_weight(weight)
        self.outputs, self.inputs = weight.shape
        # Not parameters or buffers: nothing may cast or move them.
        self._packed = torch.ops.onednn.qlinear_prepack(whole, None)
        # An input x is stored as 128 + 127 x / largest: what is missing of the scale is that largest number.
        self._scale, self._zeros = scale / 127, torch.zeros(self.outputs, dtype=torch.int32)
        self._bias = torch.zeros(1) if bias is None else bias.detach().float()
        self._half = torch.tensor(128.5)

    def forward(self, input: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs), float32."""
        rows = input.reshape(-1, self.inputs)
        largest = torch.linalg.vector_norm(rows, torch.inf, -1, keepdim=True).clamp_min_(1e-30)  # (N, 1)
        whole = torch.addcdiv(self._half, rows, largest, value=127).to(torch.uint8)  # cut off: rounded
        out = torch.ops.onednn.qlinear_pointwise(
            whole,
            1.0,
            128,
            self._packed,
            self._scale,
            self._zeros,
            None,
            1.0,
            0,
            torch.float32,
            "none",
            [],
            "",
        )
        return torch.addcmul(self._bias, out, largest).view(*input.shape[:-1], self.outputs)


def quantise(model: nn.Module) -> None:
    """Put a layer of 8 bits in the place of each linear one, in place."""
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, Linear):
                setattr(parent, name, Int8Linear(layer.weight, layer.bias))
