"""Qwen3: the modern decoder (Qwen3 technical report, 2025, section 2).

Pre-norm blocks with RMSNorm, rotary positions, a norm on queries and keys, grouped queries, SwiGLU, no biases.
"""

from __future__ import annotations

from typing import Any

import msgspec
from torch import Tensor, nn

from melete.data.batch import Batch
from melete.models.base import Count, Decoder, DecoderConfig, Head, Output, label_output, span_output
from melete.models.keymap import ConfigTable, KeyTable, with_bias
from melete.nn.attention import Mask, attention, document_mask
from melete.nn.cache import KVCache
from melete.nn.dropout import Dropout
from melete.nn.embedding import Embedding
from melete.nn.functional import gated
from melete.nn.linear import Linear
from melete.nn.norms import RMSNorm
from melete.nn.positions import RopeParameters, Rotary, rotate, stretched


class Config(DecoderConfig, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """See `DecoderConfig`.

    Attributes:
        intermediate_size: width of the feed-forward layer.
        num_key_value_heads: each is read by `num_attention_heads / num_key_value_heads` query heads.
        head_dim: width of one head; need not be `hidden_size / num_attention_heads`.
        rms_norm_eps: added to the mean square.
        rope_parameters: rotary positions and their scaling.
    """

    intermediate_size: Count
    num_key_value_heads: Count
    head_dim: Count
    rms_norm_eps: float = 1e-6
    rope_parameters: RopeParameters = RopeParameters()

    def __post_init__(self) -> None:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} is not a multiple of num_key_value_heads "
                f"{self.num_key_value_heads}"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim {self.head_dim} is odd, and rotary positions turn pairs")

    @property
    def kv_heads(self) -> int:
        return self.num_key_value_heads

    @property
    def head_size(self) -> int:
        return self.head_dim


class Attention(nn.Module):
    """Grouped-query attention with a norm on each query and key head."""

    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.head_dim = config.head_dim
        self.dropout = config.attention_dropout
        width, drop = config.hidden_size, config.weight_dropout
        queries, keys = (
            config.num_attention_heads * config.head_dim,
            config.num_key_value_heads * config.head_dim,
        )
        self.q_proj = Linear(width, queries, bias=False, weight_dropout=drop)
        self.k_proj = Linear(width, keys, bias=False, weight_dropout=drop)
        self.v_proj = Linear(width, keys, bias=False, weight_dropout=drop)
        self.o_proj = Linear(queries, width, bias=False, weight_dropout=drop)
        self.q_norm = RMSNorm(config.head_dim, config.rms_norm_eps)
        self.k_norm = RMSNorm(config.head_dim, config.rms_norm_eps)

    def forward(self, x: Tensor, angles: tuple[Tensor, Tensor], mask: Mask, cache: KVCache | None) -> Tensor:
        # One product of all three matrices side by side is no faster, measured.
        q, k, v = (
            project(x).unflatten(-1, (-1, self.head_dim))
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        q = rotate(self.q_norm(q), *angles)  # (B, T, H, K) -> (B, H, T, K)
        k = rotate(self.k_norm(k), *angles)  # (B, T, Hkv, K) -> (B, Hkv, T, K)
        v = v.transpose(1, 2)
        if cache is not None:
            k, v = cache.update(self.layer, k, v)  # (B, Hkv, S, K)
        return self.o_proj(attention(q, k, v, mask, self.dropout if self.training else 0.0))


class FeedForward(nn.Module):
    """SwiGLU (Shazeer 2020)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width, inner, drop = config.hidden_size, config.intermediate_size, config.weight_dropout
        self.gate_proj = Linear(width, inner, bias=False, weight_dropout=drop)
        self.up_proj = Linear(width, inner, bias=False, weight_dropout=drop)
        self.down_proj = Linear(inner, width, bias=False, weight_dropout=drop)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(gated(self.gate_proj(x), self.up_proj(x), "silu"))  # (B, T, F) inside


class Block(nn.Module):
    """Norm, attention, add; norm, feed-forward, add."""

    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = FeedForward(config)
        self.dropout = Dropout(config.hidden_dropout)

    def forward(self, x: Tensor, angles: tuple[Tensor, Tensor], mask: Mask, cache: KVCache | None) -> Tensor:
        normed, x = self.input_layernorm.branch(x)
        x = x + self.dropout(self.self_attn(normed, angles, mask, cache))
        normed, x = self.post_attention_layernorm.branch(x)
        return x + self.dropout(self.mlp(normed))


def _lm_head(config: Config) -> nn.Module | None:
    return None if config.tie_word_embeddings else Linear(config.hidden_size, config.vocab_size, bias=False)


def _classifier(config: Config) -> nn.Module:
    return Output(config, len(config.labels), bias=False)


# task -> the Hugging Face class that opens the folder, and the parts it adds
HEADS: dict[str, Head] = {
    "text-generation": Head("Qwen3ForCausalLM", {"lm_head": _lm_head}),
    "text-classification": Head(
        "Qwen3ForSequenceClassification", {"classifier": _classifier}, labelled="classifier"
    ),
    "token-classification": Head("Qwen3ForTokenClassification", {"tagger": label_output}, labelled="tagger"),
    "question-answering": Head(
        "Qwen3ForQuestionAnswering", {"span": span_output}, labelled="span", trunk="transformer."
    ),
    "feature-extraction": Head("Qwen3Model", bare=True),
}


class Model(Decoder):
    """The decoder, and the head of one task."""

    family = "qwen3"
    residual = ("o_proj", "down_proj")

    def __init__(self, config: Config, task: str = "text-generation") -> None:
        super().__init__()
        self.config, self.task = config, task
        self.rotary = Rotary(config.head_dim, config.rope_parameters)
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size)
        self.dropout = Dropout(config.embedding_dropout)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self._wear(HEADS[task])

    @property
    def head_weight(self) -> Tensor:
        """The output matrix (V, D), tied or not; see `Decoder.head_weight`."""
        return self.embed_tokens.weight if self.config.tie_word_embeddings else self._part("lm_head").weight

    def encode(self, batch: Batch, cache: KVCache | None = None) -> Tensor:
        """Hidden states after the final norm, (B, T, D); see `Decoder.encode`."""
        length = self._context(batch, cache)
        mask = document_mask(batch.doc_ids, cache)
        x = self.dropout(self.embed_tokens(batch.input_ids))  # (B, T, D)
        angles = self.rotary(batch.position_ids, length, x.dtype)  # (B, T, 1, K / 2) each
        for block in self.layers:
            x = block(x, angles, mask, cache)
        if cache is not None:
            cache.advance(batch.doc_ids, mask.plain)
        return self.norm(x)


def _preset(
    width: int, inner: int, layers: int, heads: int, kv_heads: int, head: int, **other: Any
) -> Config:
    sizes: dict[str, Any] = {"vocab_size": 8192, "max_position_embeddings": 1024, **other}
    return Config(
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head,
        **sizes,
    )


_PUBLISHED: dict[str, Any] = {
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
    "rope_parameters": RopeParameters(rope_theta=1e6),
    "bos_token_id": 151643,
    "eos_token_id": 151645,
}

# Small ones are named by the size of their blocks; the vocabulary comes with the data.
PRESETS: dict[str, Config] = {
    "nano": _preset(128, 384, 4, 4, 2, 32),  # 0.8 M
    "tiny": _preset(256, 768, 6, 4, 2, 64),  # 4.7 M
    "mini": _preset(384, 1024, 6, 6, 3, 64),  # 9.7 M
    "small": _preset(512, 1536, 10, 8, 4, 64),  # 31 M
    "0.6b": _preset(1024, 3072, 28, 16, 8, 128, **_PUBLISHED),
    "1.7b": _preset(2048, 6144, 28, 16, 8, 128, **_PUBLISHED),
}

KEYS = KeyTable(
    pairs=(
        ("embed_tokens.weight", "model.embed_tokens.weight"),
        ("layers.{}.input_layernorm.weight", "model.layers.{}.input_layernorm.weight"),
        ("layers.{}.self_attn.q_proj.weight", "model.layers.{}.self_attn.q_proj.weight"),
        ("layers.{}.self_attn.k_proj.weight", "model.layers.{}.self_attn.k_proj.weight"),
        ("layers.{}.self_attn.v_proj.weight", "model.layers.{}.self_attn.v_proj.weight"),
        ("layers.{}.self_attn.o_proj.weight", "model.layers.{}.self_attn.o_proj.weight"),
        ("layers.{}.self_attn.q_norm.weight", "model.layers.{}.self_attn.q_norm.weight"),
        ("layers.{}.self_attn.k_norm.weight", "model.layers.{}.self_attn.k_norm.weight"),
        ("layers.{}.post_attention_layernorm.weight", "model.layers.{}.post_attention_layernorm.weight"),
        ("layers.{}.mlp.gate_proj.weight", "model.layers.{}.mlp.gate_proj.weight"),
        ("layers.{}.mlp.up_proj.weight", "model.layers.{}.mlp.up_proj.weight"),
        ("layers.{}.mlp.down_proj.weight", "model.layers.{}.mlp.down_proj.weight"),
        ("norm.weight", "model.norm.weight"),
        ("lm_head.weight", "lm_head.weight"),
        ("classifier.weight", "score.weight"),
        *with_bias(("tagger", "score"), ("span", "qa_outputs")),
    ),
    heads=("lm_head", "classifier", "tagger", "span"),
    tied=(("lm_head.weight", "model.embed_tokens.weight"),),
    optional_prefix="model.",  # a folder saved from the bare model
    other_prefixes=("transformer.",),  # the class for question answering
)

CONFIG_KEYS = ConfigTable(
    model_type="qwen3",
    names=(
        ("vocab_size", "vocab_size"),
        ("hidden_size", "hidden_size"),
        ("intermediate_size", "intermediate_size"),
        ("num_hidden_layers", "num_hidden_layers"),
        ("num_attention_heads", "num_attention_heads"),
        ("num_key_value_heads", "num_key_value_heads"),
        ("head_dim", "head_dim"),
        ("max_position_embeddings", "max_position_embeddings"),
        ("rms_norm_eps", "rms_norm_eps"),
        ("rope_parameters", "rope_parameters"),
        ("initializer_range", "initializer_range"),
        ("tie_word_embeddings", "tie_word_embeddings"),
        ("attention_dropout", "attention_dropout"),
        ("classifier_dropout", "classifier_dropout"),
        ("bos_token_id", "bos_token_id"),
        ("eos_token_id", "eos_token_id"),
        ("pad_token_id", "pad_token_id"),
    ),
    defaults={
        "classifier_dropout": None,
        "head_dim": 128,
        "rms_norm_eps": 1e-6,
        "initializer_range": 0.02,
        "tie_word_embeddings": False,
        "attention_dropout": 0.0,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    },
    fixed={
        "hidden_act": ("silu",),
        "attention_bias": (False,),
        "use_sliding_window": (False,),
        "layer_types": (None, "full_attention"),
    },
    extras=("hidden_dropout", "embedding_dropout", "weight_dropout"),
    ignored=frozenset({"sliding_window", "max_window_layers"}),  # read only with use_sliding_window
)

INITIALISATION = "zero-residual"


def resize_context(
    config: Config, state: dict[str, Tensor], length: int, scaling: str | None
) -> tuple[Config, dict[str, Tensor]]:
    """The same weights for a context of `length`; a longer one gets YaRN unless `scaling` says "linear"."""
    rope = config.rope_parameters
    if scaling is not None or length > config.max_position_embeddings:
        rope = stretched(rope, config.max_position_embeddings, length, scaling or "yarn")
    return msgspec.structs.replace(config, max_position_embeddings=length, rope_parameters=rope), state
