"""T5 (Raffel et al. 2019): pre-norm blocks with RMSNorm, no biases, relative positions that all layers share.

Version 1.0 has ReLU and a tied output, version 1.1 a gated GELU and an output of its own.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from melete.data.batch import Batch
from melete.models.base import Count, EncoderDecoder, EncoderDecoderConfig, Head, refuse_scaling
from melete.models.keymap import ConfigTable, KeyTable
from melete.nn.attention import Mask, attention, document_mask, mutual_mask, source_mask
from melete.nn.cache import KVCache, Source
from melete.nn.dropout import Dropout
from melete.nn.embedding import Embedding
from melete.nn.functional import gated
from melete.nn.linear import Linear
from melete.nn.norms import RMSNorm
from melete.nn.positions import relative_buckets


class Config(EncoderDecoderConfig, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """See `EncoderDecoderConfig`.

    Attributes:
        intermediate_size: width of the feed-forward layers.
        head_dim: width of one head; need not be `hidden_size / num_attention_heads`.
        feed_forward_proj: "relu" (version 1.0) or "gated-gelu" (1.1).
        tie_word_embeddings: the output matrix is the embedding, and meets hidden states divided by the root of
            `hidden_size`.
        relative_attention_num_buckets, relative_attention_max_distance: see `nn.positions.relative_buckets`.
        rms_norm_eps: added to the mean square.
    """

    intermediate_size: Count
    head_dim: Count
    feed_forward_proj: Literal["relu", "gated-gelu"] = "relu"
    tie_word_embeddings: bool = True
    relative_attention_num_buckets: Count = 32
    relative_attention_max_distance: Count = 128
    rms_norm_eps: float = 1e-6

    @property
    def head_size(self) -> int:
        return self.head_dim


class RelativePositions(nn.Module):
    """What a head adds to a score for how far the key stands from the query.

    Args:
        mutual: keys stand on both sides of a query.
    """

    def __init__(self, config: Config, mutual: bool) -> None:
        super().__init__()
        self.buckets, self.furthest = (
            config.relative_attention_num_buckets,
            config.relative_attention_max_distance,
        )
        self.mutual = mutual
        self.bias = Embedding(self.buckets, config.num_attention_heads)

    def forward(self, length: int, past: int = 0) -> Tensor:
        """Of `length` queries, behind `past` keys: (1, H, T, S)."""
        queries = torch.arange(past, past + length, device=self.bias.weight.device)
        keys = torch.arange(past + length, device=queries.device)
        distances = torch.arange(1 - past - length, length, device=queries.device)  # each once: (S + T - 1,)
        values = self.bias(relative_buckets(distances, self.buckets, self.furthest, self.mutual))
        place = keys - queries[:, None] - distances[0]  # (T, S)
        return values[place].permute(2, 0, 1)[None]  # (T, S, H) -> (1, H, T, S)

    def between(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Of queries (B, T) and keys (B, S) at any positions: (B, H, T, S)."""
        distances = keys[:, None] - queries[:, :, None]  # (B, T, S)
        values = self.bias(relative_buckets(distances, self.buckets, self.furthest, self.mutual))
        return values.permute(0, 3, 1, 2)  # (B, T, S, H) -> (B, H, T, S)


class Attention(nn.Module):
    """Multi-head attention whose scores are not scaled: of a text to itself, or to a source."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.dropout = config.attention_dropout
        width, inner = config.hidden_size, config.num_attention_heads * config.head_dim
        self.query = Linear(width, inner, bias=False)
        self.key = Linear(width, inner, bias=False)
        self.value = Linear(width, inner, bias=False)
        self.output = Linear(inner, width, bias=False)

    def keys_and_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What is seen of (B, S, D): (B, H, S, K) each."""
        return self._split(self.key(x)), self._split(self.value(x))

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, mask: Mask) -> Tensor:
        """(B, T, D) -> (B, T, D); several rows may share one of the keys."""
        q = self._split(self.query(x.reshape(len(keys), -1, x.shape[2])))  # (R, H, B / R * T, K)
        seen = attention(q, keys, values, mask, self.dropout if self.training else 0.0, scale=1.0)
        return self.output(seen).view_as(x)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)  # (B, T, H * K) -> (B, H, T, K)


class FeedForward(nn.Module):
    """Two layers with ReLU between them."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.up = Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.dropout = Dropout(config.hidden_dropout)
        self.down = Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.dropout(F.relu(self.up(x))))  # (B, T, F) inside


class GatedFeedForward(nn.Module):
    """One layer times the GELU of another, and a third (Shazeer 2020)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.gate = Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.gated = Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.dropout = Dropout(config.hidden_dropout)
        self.down = Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        inner = gated(self.gate(x), self.gated(x), "gelu_tanh")  # (B, T, F)
        return self.down(self.dropout(inner))


_FEED_FORWARD: dict[str, type[nn.Module]] = {"relu": FeedForward, "gated-gelu": GatedFeedForward}


class EncoderBlock(nn.Module):
    """Norm, attention, add; norm, feed-forward, add."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.attention = Attention(config)
        self.feed_forward_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.feed_forward = _FEED_FORWARD[config.feed_forward_proj](config)
        self.dropout = Dropout(config.hidden_dropout)

    def forward(self, x: Tensor, mask: Mask) -> Tensor:
        normed, x = self.attention_norm.branch(x)
        x = x + self.dropout(self.attention(normed, *self.attention.keys_and_values(normed), mask))
        normed, x = self.feed_forward_norm.branch(x)
        return x + self.dropout(self.feed_forward(normed))


class DecoderBlock(nn.Module):
    """Norm, attention, add; norm, attention to the source, add; norm, feed-forward, add."""

    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.attention_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.attention = Attention(config)
        self.cross_attention_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.cross_attention = Attention(config)
        self.feed_forward_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.feed_forward = _FEED_FORWARD[config.feed_forward_proj](config)
        self.dropout = Dropout(config.hidden_dropout)

    def forward(
        self, x: Tensor, mask: Mask, source: tuple[Tensor, Tensor], across: Mask, cache: KVCache | None
    ) -> Tensor:
        normed, x = self.attention_norm.branch(x)
        seen = self.attention.keys_and_values(normed)
        if cache is not None:
            seen = cache.update(self.layer, *seen)  # (B, H, S, K)
        x = x + self.dropout(self.attention(normed, *seen, mask))
        normed, x = self.cross_attention_norm.branch(x)
        x = x + self.dropout(self.cross_attention(normed, *source, across))
        normed, x = self.feed_forward_norm.branch(x)
        return x + self.dropout(self.feed_forward(normed))


class Stack(nn.Module):
    """Relative positions, blocks, and a norm."""

    def __init__(self, config: Config, mutual: bool, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.positions = RelativePositions(config, mutual)
        self.layers = nn.ModuleList(blocks)
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


def _lm_head(config: Config) -> nn.Module | None:
    return None if config.tie_word_embeddings else Linear(config.hidden_size, config.vocab_size, bias=False)


# task -> the Hugging Face class that opens the folder, and the parts it adds
HEADS: dict[str, Head] = {
    "text2text-generation": Head("T5ForConditionalGeneration", {"lm_head": _lm_head}),
    "feature-extraction": Head("T5Model", bare=True),
}


class Model(EncoderDecoder):
    """Encoder and decoder, and the head of one task."""

    config: Config
    family = "t5"
    residual = ("output", "down")

    def __init__(self, config: Config, task: str = "text2text-generation") -> None:
        super().__init__()
        self.config, self.task = config, task
        self.token_embeddings = Embedding(config.vocab_size, config.hidden_size)
        self.dropout = Dropout(config.hidden_dropout)
        blocks = [EncoderBlock(config) for _ in range(config.num_hidden_layers)]
        self.encoder = Stack(config, True, [*blocks])
        blocks = [DecoderBlock(config, layer) for layer in range(config.num_decoder_layers)]
        self.decoder = Stack(config, False, [*blocks])
        self._wear(HEADS[task])

    @property
    def head_weight(self) -> Tensor:
        """The output matrix (V, D), tied or not."""
        return (
            self.token_embeddings.weight if self.config.tie_word_embeddings else self._part("lm_head").weight
        )

    def read(self, source: Batch) -> Source:
        """Sources as the layers of the decoder see them; see `EncoderDecoder.read`."""
        self._checked_length(int(source.position_ids.max()) + 1)
        mask = mutual_mask(source.doc_ids)
        mask.positions = self.encoder.positions(source.input_ids.shape[1])
        x = self.dropout(self.token_embeddings(source.input_ids))  # (B, S, D)
        for block in self.encoder.layers:
            x = block(x, mask)
        x = self.dropout(self.encoder.norm(x))
        layers = [block.cross_attention.keys_and_values(x) for block in self.decoder.layers]  # pyright: ignore
        return Source(source.doc_ids, layers)

    def encode(self, batch: Batch, cache: KVCache | None = None) -> Tensor:
        """Hidden states of the decoder, (B, T, D); see `EncoderDecoder.encode`."""
        source = self._source(batch, cache)
        mask, across = document_mask(batch.doc_ids, cache), source_mask(batch.doc_ids, source)
        if cache is not None and cache.branches is not None:
            mask.positions = self.decoder.positions.between(batch.position_ids, cache.branches.positions)
        else:
            past = cache.length if cache is not None else 0
            mask.positions = self.decoder.positions(batch.input_ids.shape[1], past)
        x = self.dropout(self.token_embeddings(batch.input_ids))  # (B, T, D)
        for block, seen in zip(self.decoder.layers, source.layers, strict=True):
            x = block(x, mask, seen, across, cache)
        if cache is not None:
            cache.advance(batch.doc_ids, mask.plain)
        x = self.dropout(self.decoder.norm(x))
        return x * self.config.hidden_size**-0.5 if self.config.tie_word_embeddings else x


def _preset(width: int, layers: int, heads: int, inner: int, **other: Any) -> Config:
    sizes: dict[str, Any] = {
        "vocab_size": 8192,
        "max_position_embeddings": 512,
        "head_dim": 64,
        "num_hidden_layers": layers,
        "num_decoder_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": inner,
        "feed_forward_proj": "gated-gelu",
    }
    return Config(hidden_size=width, **sizes | other)


_PUBLISHED: dict[str, Any] = {
    "vocab_size": 32128,
    "hidden_dropout": 0.1,
    "attention_dropout": 0.1,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
_RELU = _PUBLISHED | {"feed_forward_proj": "relu"}
_GATED = _PUBLISHED | {"tie_word_embeddings": False}

# Small ones are named by the size of their blocks; the vocabulary comes with the data.
PRESETS: dict[str, Config] = {
    "nano": _preset(128, 2, 4, 320, head_dim=32),  # 0.9 M
    "tiny": _preset(256, 3, 4, 640),  # 5.3 M
    "mini": _preset(384, 3, 6, 1024),  # 12.4 M
    "small": _preset(512, 4, 8, 1344),  # 29 M
    "t5-small": _preset(512, 6, 8, 2048, **_RELU),
    "v1.1-small": _preset(512, 8, 6, 1024, **_GATED),
    "t5-base": _preset(768, 12, 12, 3072, **_RELU),
    "v1.1-base": _preset(768, 12, 12, 2048, **_GATED),
    "t5-large": _preset(1024, 24, 16, 4096, **_RELU),
    "v1.1-large": _preset(1024, 24, 16, 2816, **_GATED),
}


def _of_stack(stack: str, *parts: tuple[str, str]) -> list[tuple[str, str]]:
    return [
        (f"{stack}.layers.{{}}.{ours}.weight", f"{stack}.block.{{}}.layer.{theirs}.weight")
        for ours, theirs in parts
    ]


def _attention(ours: str, theirs: str) -> list[tuple[str, str]]:
    parts = (("query", "q"), ("key", "k"), ("value", "v"), ("output", "o"))
    return [(f"{ours}.{a}", f"{theirs}.{b}") for a, b in parts]


def _feed_forward(place: int) -> list[tuple[str, str]]:
    parts = (("up", "wi"), ("gate", "wi_0"), ("gated", "wi_1"), ("down", "wo"))
    inner = [(f"feed_forward.{a}", f"{place}.DenseReluDense.{b}") for a, b in parts]
    return [*inner, ("feed_forward_norm", f"{place}.layer_norm")]


_SELF = (*_attention("attention", "0.SelfAttention"), ("attention_norm", "0.layer_norm"))
_ACROSS = (*_attention("cross_attention", "1.EncDecAttention"), ("cross_attention_norm", "1.layer_norm"))
_POSITIONS = "block.0.layer.0.SelfAttention.relative_attention_bias.weight"  # in the first block, for all

KEYS = KeyTable(
    pairs=(
        ("token_embeddings.weight", "shared.weight"),
        ("encoder.positions.bias.weight", f"encoder.{_POSITIONS}"),
        ("decoder.positions.bias.weight", f"decoder.{_POSITIONS}"),
        *_of_stack("encoder", *_SELF, *_feed_forward(1)),
        *_of_stack("decoder", *_SELF, *_ACROSS, *_feed_forward(2)),
        ("encoder.norm.weight", "encoder.final_layer_norm.weight"),
        ("decoder.norm.weight", "decoder.final_layer_norm.weight"),
        ("lm_head.weight", "lm_head.weight"),
    ),
    heads=("lm_head",),
    tied=tuple(
        (name, "shared.weight")
        for name in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight")
    ),
    ignored=("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",),  # in old folders
)


def _older(values: dict[str, Any]) -> None:
    """What a missing key follows, and how newer versions say that the output is not the embedding."""
    if values.get("num_decoder_layers") is None:
        values["num_decoder_layers"] = values.get("num_layers")
    values.setdefault("attention_dropout", values.get("dropout_rate", 0.1))
    if values.pop("scale_decoder_outputs", True) is False:
        values["tie_word_embeddings"] = False


CONFIG_KEYS = ConfigTable(
    model_type="t5",
    names=(
        ("vocab_size", "vocab_size"),
        ("hidden_size", "d_model"),
        ("head_dim", "d_kv"),
        ("intermediate_size", "d_ff"),
        ("num_hidden_layers", "num_layers"),
        ("num_decoder_layers", "num_decoder_layers"),
        ("num_attention_heads", "num_heads"),
        ("max_position_embeddings", "n_positions"),
        ("feed_forward_proj", "feed_forward_proj"),
        ("relative_attention_num_buckets", "relative_attention_num_buckets"),
        ("relative_attention_max_distance", "relative_attention_max_distance"),
        ("rms_norm_eps", "layer_norm_epsilon"),
        ("tie_word_embeddings", "tie_word_embeddings"),
        ("hidden_dropout", "dropout_rate"),
        ("attention_dropout", "attention_dropout"),
        ("decoder_start_token_id", "decoder_start_token_id"),
        ("bos_token_id", "bos_token_id"),
        ("eos_token_id", "eos_token_id"),
        ("pad_token_id", "pad_token_id"),
    ),
    defaults={
        "n_positions": 512,  # of training: theirs has no limit
        "feed_forward_proj": "relu",
        "relative_attention_max_distance": 128,
        "layer_norm_epsilon": 1e-6,
        "tie_word_embeddings": True,
        "dropout_rate": 0.1,
        "decoder_start_token_id": 0,
        "bos_token_id": None,
        "eos_token_id": 1,
        "pad_token_id": 0,
    },
    fixed={"is_encoder_decoder": (True,)},
    extras=("initializer_range", "forced_bos_token_id", "forced_eos_token_id"),
    ignored=frozenset(
        {"classifier_dropout", "dense_act_fn", "initializer_factor", "is_gated_act", "output_past"}
    ),
    older=_older,
)

INITIALISATION = "scaled-normal"


def resize_context(
    config: Config, state: dict[str, Tensor], length: int, scaling: str | None
) -> tuple[Config, dict[str, Tensor]]:
    """The same weights for a context of `length`: beyond the furthest bucket distances are all alike."""
    refuse_scaling("T5", scaling)
    return msgspec.structs.replace(config, max_position_embeddings=length), state
