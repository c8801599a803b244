"""How much each token looks at each other one: attention weights, which the fused attention of torch never shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from melete.data.batch import Batch
from melete.models.base import EncoderDecoder, Network


class _Weights(TorchFunctionMode):
    """Sees what goes into each attention of a forward pass, and works out the weights that stay inside."""

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


@torch.no_grad()
def attention_to_source(model: EncoderDecoder, batch: Batch) -> Tensor:
    """How each token of an answer divides its attention among those of its source: (L, B, H, T, S), float32.

    Args:
        model: in evaluation mode, float32.
        batch: answers and sources of at least two tokens.
    """
    with _Weights() as seen:
        model.encode(batch)
    below, layers = model.config.num_hidden_layers, model.config.num_decoder_layers
    if len(seen.layers) == 1:  # a recurrent model looks at its source alone
        return torch.stack(seen.layers)
    assert len(seen.layers) == below + 2 * layers  # a decoder's layers look at the answer, then at the source
    return torch.stack(seen.layers[below + 1 :: 2])


@torch.no_grad()
def read_with_attention(model: Network, batch: Batch) -> tuple[Tensor, Tensor]:
    """Hidden states of the last layer (B, T, D), and the attention weights of all layers (L, B, H, T, T), float32.

    Row t of a map is how token t divides its attention among all tokens: it sums to 1.

    Args:
        model: in evaluation mode, float32.
        batch: rows of at least two tokens; a single one attends to itself, and attention is computed in another way.
    """
    with _Weights() as seen:
        hidden = model.encode(batch)
    assert len(seen.layers) == model.config.num_hidden_layers
    return hidden, torch.stack(seen.layers)
