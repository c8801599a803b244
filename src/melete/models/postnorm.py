"""The original Transformer's encoder and decoder (Vaswani et al. 2017, section 3), as Marian and BART share them.

Post-norm blocks, one embedding for source, answer and output. Where a token stands is told by either family's own
`positions`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from melete.data.batch import Batch
from melete.models.base import Count, EncoderDecoder, EncoderDecoderConfig, Head, Share
from melete.models.keymap import with_bias
from melete.nn.attention import Mask, attention, document_mask, mutual_mask, source_mask
from melete.nn.cache import KVCache, Source
from melete.nn.dropout import Dropout
from melete.nn.embedding import Embedding
from melete.nn.functional import activate
from melete.nn.linear import Linear
from melete.nn.norms import LayerNorm

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": partial(activate, kind="gelu"),
    "swish": partial(activate, kind="silu"),
    "silu": partial(activate, kind="silu"),
}


class PostNormConfig(EncoderDecoderConfig, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """See `EncoderDecoderConfig`.

    Attributes:
        intermediate_size: width of the feed-forward layers.
        activation_function: between their two matrices.
        scale_embedding: embeddings are multiplied by the root of `hidden_size`.
        activation_dropout: inside the feed-forward layers.
    """

    intermediate_size: Count
    activation_function: Literal["relu", "gelu", "swish", "silu"] = "gelu"
    scale_embedding: bool = False
    activation_dropout: Share = 0.0

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}"
            )


class Attention(nn.Module):
    """Multi-head attention: of a text to itself, or to a source."""

    def __init__(self, config: PostNormConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.dropout = config.attention_dropout
        width = config.hidden_size
        self.query = Linear(width, width, bias=True)
        self.key = Linear(width, width, bias=True)
        self.value = Linear(width, width, bias=True)
        self.output = Linear(width, width, bias=True)

    def keys_and_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What is seen of (B, S, D): (B, H, S, K) each."""
        return self._split(self.key(x)), self._split(self.value(x))

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, mask: Mask) -> Tensor:
        """(B, T, D) -> (B, T, D); several rows may share one of the keys."""
        q = self._split(self.query(x.reshape(len(keys), -1, x.shape[2])))  # (R, H, B / R * T, K)
        seen = attention(q, keys, values, mask, self.dropout if self.training else 0.0)
        return self.output(seen).view_as(x)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, T, D) -> (B, H, T, K)


class FeedForward(nn.Module):
    """Two layers with an activation between them."""

    def __init__(self, config: PostNormConfig) -> None:
        super().__init__()
        self.activation = _ACTIVATIONS[config.activation_function]
        self.up = Linear(config.hidden_size, config.intermediate_size, bias=True)
        self.dropout = Dropout(config.activation_dropout)
        self.down = Linear(config.intermediate_size, config.hidden_size, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.dropout(self.activation(self.up(x))))  # (B, T, F) inside


class EncoderBlock(nn.Module):
    """Attention, add, norm; feed-forward, add, norm."""

    def __init__(self, config: PostNormConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.attention_norm = LayerNorm(config.hidden_size)
        self.feed_forward = FeedForward(config)
        self.feed_forward_norm = LayerNorm(config.hidden_size)
        self.dropout = Dropout(config.hidden_dropout)

    def forward(self, x: Tensor, mask: Mask) -> Tensor:
        attended = self.attention(x, *self.attention.keys_and_values(x), mask)
        x = self.attention_norm(x + self.dropout(attended))
        return self.feed_forward_norm(x + self.dropout(self.feed_forward(x)))


class DecoderBlock(nn.Module):
    """Attention, add, norm; attention to the source, add, norm; feed-forward, add, norm."""

    def __init__(self, config: PostNormConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.attention = Attention(config)
        self.attention_norm = LayerNorm(config.hidden_size)
        self.cross_attention = Attention(config)
        self.cross_attention_norm = LayerNorm(config.hidden_size)
        self.feed_forward = FeedForward(config)
        self.feed_forward_norm = LayerNorm(config.hidden_size)
        self.dropout = Dropout(config.hidden_dropout)

    def forward(
        self, x: Tensor, mask: Mask, source: tuple[Tensor, Tensor], across: Mask, cache: KVCache | None
    ) -> Tensor:
        seen = self.attention.keys_and_values(x)
        if cache is not None:
            seen = cache.update(self.layer, *seen)  # (B, H, S, K)
        x = self.attention_norm(x + self.dropout(self.attention(x, *seen, mask)))
        x = self.cross_attention_norm(x + self.dropout(self.cross_attention(x, *source, across)))
        return self.feed_forward_norm(x + self.dropout(self.feed_forward(x)))


class Stack(nn.Module):
    """Positions, and blocks."""

    def __init__(self, config: PostNormConfig, positions: nn.Module, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.positions = positions
        self.dropout = Dropout(config.hidden_dropout)
        self.layers = nn.ModuleList(blocks)

    def begin(self, x: Tensor, position_ids: Tensor) -> Tensor:
        """Embeddings (B, T, D) that know where they stand."""
        return self.dropout(self.positions(x, position_ids))


class OutputBias(nn.Module):
    """What is added to the logits."""

    def __init__(self, config: PostNormConfig) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))


class PostNorm(EncoderDecoder):
    """Encoder, decoder, and the one embedding.

    Args:
        positions: makes the module that tells each stack where tokens stand: (x, position_ids) -> x.
    """

    config: PostNormConfig
    residual = ("output", "down")

    def __init__(
        self, config: PostNormConfig, task: str, head: Head, positions: Callable[[Any], nn.Module]
    ) -> None:
        super().__init__()
        self.config, self.task = config, task
        self.token_embeddings = Embedding(config.vocab_size, config.hidden_size)
        blocks = [EncoderBlock(config) for _ in range(config.num_hidden_layers)]
        self.encoder = Stack(config, positions(config), [*blocks])
        blocks = [DecoderBlock(config, layer) for layer in range(config.num_decoder_layers)]
        self.decoder = Stack(config, positions(config), [*blocks])
        self._wear(head)

    @property
    def head_weight(self) -> Tensor:
        """The output matrix (V, D): the embedding."""
        return self.token_embeddings.weight

    @property
    def head_bias(self) -> Tensor:
        """Added to the logits, (V,)."""
        return self._part("output").bias

    def read(self, source: Batch) -> Source:
        """Sources as the layers of the decoder see them; see `EncoderDecoder.read`."""
        self._checked_length(int(source.position_ids.max()) + 1)
        mask = mutual_mask(source.doc_ids)
        x = self.encoder.begin(self._embedded(source.input_ids), source.position_ids)
        for block in self.encoder.layers:
            x = block(x, mask)
        layers = [block.cross_attention.keys_and_values(x) for block in self.decoder.layers]  # pyright: ignore
        return Source(source.doc_ids, layers)

    def encode(self, batch: Batch, cache: KVCache | None = None) -> Tensor:
        """Hidden states of the decoder, (B, T, D); see `EncoderDecoder.encode`."""
        return self._written(batch, self._source(batch, cache), cache)

    def begin(self, input_ids: Tensor, position_ids: Tensor) -> Tensor:
        """Tokens as the first layer of the decoder reads them, (B, T, D)."""
        return self.decoder.begin(self._embedded(input_ids), position_ids)

    def _written(self, batch: Batch, source: Source, cache: KVCache | None) -> Tensor:
        """What the decoder makes of its batch beside a source, (B, T, D)."""
        mask, across = document_mask(batch.doc_ids, cache), source_mask(batch.doc_ids, source)
        x = self.begin(batch.input_ids, batch.position_ids)
        for block, seen in zip(self.decoder.layers, source.layers, strict=True):
            x = block(x, mask, seen, across, cache)
        if cache is not None:
            cache.advance(batch.doc_ids, mask.plain)
        return x

    def _embedded(self, input_ids: Tensor) -> Tensor:
        scale = math.sqrt(self.config.hidden_size) if self.config.scale_embedding else 1.0
        return self.token_embeddings(input_ids) * scale  # (B, T, D)


def preset(kind: type[PostNormConfig], width: int, layers: int, heads: int, **other: Any) -> Any:
    """A config whose feed-forward layers are four times as wide as the rest."""
    sizes = {"vocab_size": 8192, "max_position_embeddings": 512, "intermediate_size": 4 * width, **other}
    sizes |= {"num_hidden_layers": layers, "num_decoder_layers": layers, "num_attention_heads": heads}
    return kind(hidden_size=width, **sizes)


def _blocks(stack: str, *parts: tuple[str, str]) -> list[tuple[str, str]]:
    return [(f"{stack}.layers.{{}}.{ours}", f"model.{stack}.layers.{{}}.{theirs}") for ours, theirs in parts]


_PROJECTIONS = (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj"), ("output", "out_proj"))
_BOTH = (
    *((f"attention.{ours}", f"self_attn.{theirs}") for ours, theirs in _PROJECTIONS),
    ("attention_norm", "self_attn_layer_norm"),
    ("feed_forward.up", "fc1"),
    ("feed_forward.down", "fc2"),
    ("feed_forward_norm", "final_layer_norm"),
)
_ACROSS = (
    *((f"cross_attention.{ours}", f"encoder_attn.{theirs}") for ours, theirs in _PROJECTIONS),
    ("cross_attention_norm", "encoder_attn_layer_norm"),
)
# Of the key table: every tensor but those of the positions.
PAIRS = (
    ("token_embeddings.weight", "model.shared.weight"),
    ("output.bias", "final_logits_bias"),
    *with_bias(*_blocks("encoder", *_BOTH), *_blocks("decoder", *_BOTH, *_ACROSS)),
)
TIED = tuple(
    (name, "model.shared.weight")
    for name in ("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight")
)

# Of the config table.
NAMES = (
    ("vocab_size", "vocab_size"),
    ("hidden_size", "d_model"),
    ("num_hidden_layers", "encoder_layers"),
    ("num_decoder_layers", "decoder_layers"),
    ("num_attention_heads", "encoder_attention_heads"),
    ("num_attention_heads", "decoder_attention_heads"),
    ("intermediate_size", "encoder_ffn_dim"),
    ("intermediate_size", "decoder_ffn_dim"),
    ("max_position_embeddings", "max_position_embeddings"),
    ("activation_function", "activation_function"),
    ("scale_embedding", "scale_embedding"),
    ("initializer_range", "init_std"),
    ("hidden_dropout", "dropout"),
    ("attention_dropout", "attention_dropout"),
    ("activation_dropout", "activation_dropout"),
    ("decoder_start_token_id", "decoder_start_token_id"),
    ("forced_bos_token_id", "forced_bos_token_id"),
    ("forced_eos_token_id", "forced_eos_token_id"),
    ("bos_token_id", "bos_token_id"),
    ("eos_token_id", "eos_token_id"),
    ("pad_token_id", "pad_token_id"),
)
DEFAULTS: dict[str, Any] = {
    "activation_function": "gelu",
    "scale_embedding": False,
    "init_std": 0.02,
    "dropout": 0.1,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "forced_bos_token_id": None,
}
FIXED: dict[str, tuple[Any, ...]] = {
    "is_encoder_decoder": (True,),
    "tie_word_embeddings": (True,),
    "encoder_layerdrop": (0.0,),
    "decoder_layerdrop": (0.0,),
    "normalize_before": (False,),
    "add_final_layer_norm": (False,),
}
# of old folders, and of heads we don't have
IGNORED = frozenset(
    """
    _num_labels add_bias_logits classif_dropout classifier_dropout extra_pos_embeddings
    force_bos_token_to_be_generated gradient_checkpointing num_hidden_layers output_past save_step
    """.split()  # noqa: SIM905
)
