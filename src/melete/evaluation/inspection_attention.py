"""How much each token of a text looks at each other one, or at those of a source."""

from __future__ import annotations

import torch
from torch import Tensor

from melete.data.batch import Batch
from melete.models.base import EncoderDecoder, Network
from melete.nn.attention_weights import AttentionWeights


@torch.no_grad()
def attention_to_source(model: EncoderDecoder, batch: Batch) -> Tensor:
    """How each token of an answer divides its attention among those of its source: (L, B, H, T, S), float32.

    Args:
        model: in evaluation mode, float32.
        batch: answers and sources of at least two tokens.
    """
    with AttentionWeights() as seen:
        model.encode(batch)
    return seen.to_source(model.config.num_decoder_layers)


@torch.no_grad()
def read_with_attention(model: Network, batch: Batch) -> tuple[Tensor, Tensor]:
    """Hidden states of the last layer (B, T, D), and the attention weights of all layers (L, B, H, T, T), float32.

    Row t of a map is how token t divides its attention among all tokens: it sums to 1.

    Args:
        model: in evaluation mode, float32.
        batch: rows of at least two tokens; a single one attends to itself, and attention is computed in another way.
    """
    with AttentionWeights() as seen:
        hidden = model.encode(batch)
    assert len(seen.layers) == model.config.num_hidden_layers
    return hidden, torch.stack(seen.layers)
