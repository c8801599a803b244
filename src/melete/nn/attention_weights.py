"""How much each token looks at each other one: attention weights, which the fused attention of torch never shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class AttentionWeights(TorchFunctionMode):
    """Sees what goes into each attention of a forward pass in float32, and works out the weights that stay inside.

    Attributes:
        layers: of each attention in its turn, (B, H, T, S), float32.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers: list[Tensor] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            self.layers.append(_weights(*args, **(kwargs or {})))
        found = func(*args, **(kwargs or {}))
        if func is Tensor.softmax:  # of plain products, which are quicker for a few queries
            self.layers.append(found.float().flatten(1, -3))
        return found

    def to_source(self, decoder_layers: int) -> Tensor:
        """How each token that a decoder read divides its attention among those of its source: (L, B, H, T, S).

        Args:
            decoder_layers: each of them looks at the answer, then at the source; all of them come last.
        """
        if len(self.layers) == 1:  # a recurrent model looks at its source alone
            return torch.stack(self.layers)
        assert len(self.layers) >= 2 * decoder_layers
        return torch.stack(self.layers[1 - 2 * decoder_layers :: 2])


def _weights(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """(B, H, T, S) of what `scaled_dot_product_attention` is called with."""
    scores = query.float() @ key.float().transpose(-2, -1)
    scores = scores * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril_()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -torch.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return scores.softmax(-1)
