"""GPT-2 (Radford et al. 2019): pre-norm blocks, learned positions, tied head."""

from __future__ import annotations

from typing import Any

import msgspec
from torch import Tensor, nn

from melete.data.batch import Batch
from melete.models.base import (
    Count,
    Decoder,
    DecoderConfig,
    Head,
    Output,
    label_output,
    refuse_scaling,
    span_output,
)
from melete.models.keymap import ConfigTable, KeyTable, with_bias
from melete.nn.attention import Mask, attention, document_mask
from melete.nn.cache import KVCache
from melete.nn.dropout import Dropout
from melete.nn.embedding import Embedding
from melete.nn.functional import activate
from melete.nn.linear import Linear
from melete.nn.norms import LayerNorm
from melete.nn.positions import resized_positions


class Config(DecoderConfig, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """See `DecoderConfig`.

    Attributes:
        intermediate_size: width of the feed-forward layer; None is four times `hidden_size`.
        layer_norm_eps: added to the variance.
    """

    intermediate_size: Count | None = None
    layer_norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}"
            )


class Attention(nn.Module):
    """Multi-head attention; queries, keys and values come from one matrix."""

    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.heads = config.num_attention_heads
        self.dropout = config.attention_dropout
        width, drop = config.hidden_size, config.weight_dropout
        self.query_key_value = Linear(width, 3 * width, bias=True, weight_dropout=drop)
        self.output = Linear(width, width, bias=True, weight_dropout=drop)

    def forward(self, x: Tensor, mask: Mask, cache: KVCache | None) -> Tensor:
        split = self.query_key_value(x).unflatten(-1, (3, self.heads, -1))  # (B, T, 3, H, K)
        q, k, v = split.permute(2, 0, 3, 1, 4)  # (B, H, T, K) each
        if cache is not None:
            k, v = cache.update(self.layer, k, v)  # (B, H, S, K)
        return self.output(attention(q, k, v, mask, self.dropout if self.training else 0.0))


class FeedForward(nn.Module):
    """Two layers with the tanh form of GELU between them."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width, drop = config.hidden_size, config.weight_dropout
        inner = config.intermediate_size or 4 * width
        self.up = Linear(width, inner, bias=True, weight_dropout=drop)
        self.down = Linear(inner, width, bias=True, weight_dropout=drop)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(activate(self.up(x), "gelu_tanh"))  # (B, T, F) inside


class Block(nn.Module):
    """Norm, attention, add; norm, feed-forward, add."""

    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        self.attention_norm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = Attention(config, layer)
        self.feed_forward_norm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.feed_forward = FeedForward(config)
        self.dropout = Dropout(config.hidden_dropout)

    def forward(self, x: Tensor, mask: Mask, cache: KVCache | None) -> Tensor:
        normed, x = self.attention_norm.branch(x)
        x = x + self.dropout(self.attention(normed, mask, cache))
        normed, x = self.feed_forward_norm.branch(x)
        return x + self.dropout(self.feed_forward(normed))


def _lm_head(config: Config) -> nn.Module | None:
    return None if config.tie_word_embeddings else Linear(config.hidden_size, config.vocab_size, bias=False)


def _classifier(config: Config) -> nn.Module:
    return Output(config, len(config.labels), bias=False)


# task -> the Hugging Face class that opens the folder, and the parts it adds
HEADS: dict[str, Head] = {
    "text-generation": Head("GPT2LMHeadModel", {"lm_head": _lm_head}),
    "text-classification": Head(
        "GPT2ForSequenceClassification", {"classifier": _classifier}, labelled="classifier"
    ),
    "token-classification": Head("GPT2ForTokenClassification", {"tagger": label_output}, labelled="tagger"),
    "question-answering": Head("GPT2ForQuestionAnswering", {"span": span_output}, labelled="span"),
    "feature-extraction": Head("GPT2Model", bare=True),
}


class Model(Decoder):
    """The decoder, and the head of one task."""

    family = "gpt2"
    residual = ("output", "down")

    def __init__(self, config: Config, task: str = "text-generation") -> None:
        super().__init__()
        self.config, self.task = config, task
        self.token_embeddings = Embedding(config.vocab_size, config.hidden_size)
        self.position_embeddings = Embedding(config.max_position_embeddings, config.hidden_size)
        self.dropout = Dropout(config.embedding_dropout)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self._wear(HEADS[task])

    @property
    def head_weight(self) -> Tensor:
        """The output matrix (V, D), tied or not; see `Decoder.head_weight`."""
        return (
            self.token_embeddings.weight if self.config.tie_word_embeddings else self._part("lm_head").weight
        )

    def encode(self, batch: Batch, cache: KVCache | None = None) -> Tensor:
        """Hidden states after the final norm, (B, T, D); see `Decoder.encode`."""
        self._context(batch, cache)
        mask = document_mask(batch.doc_ids, cache)
        x = self.token_embeddings(batch.input_ids) + self.position_embeddings(batch.position_ids)  # (B, T, D)
        x = self.dropout(x)
        for block in self.layers:
            x = block(x, mask, cache)
        if cache is not None:
            cache.advance(batch.doc_ids, mask.plain)
        return self.norm(x)


def _preset(width: int, layers: int, heads: int, **other: Any) -> Config:
    sizes: dict[str, Any] = {"vocab_size": 8192, "max_position_embeddings": 1024, **other}
    return Config(hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, **sizes)


_PUBLISHED: dict[str, Any] = {
    "vocab_size": 50257,
    "attention_dropout": 0.1,
    "hidden_dropout": 0.1,
    "embedding_dropout": 0.1,
    "bos_token_id": 50256,
    "eos_token_id": 50256,
}

# Small ones are named by the size of their blocks; the vocabulary comes with the data.
PRESETS: dict[str, Config] = {
    "nano": _preset(128, 4, 4),  # 0.8 M
    "tiny": _preset(256, 6, 4),  # 4.7 M
    "mini": _preset(384, 6, 6),  # 10.6 M
    "small": _preset(512, 10, 8),  # 32 M
    "gpt2": _preset(768, 12, 12, **_PUBLISHED),
    "medium": _preset(1024, 24, 16, **_PUBLISHED),
    "large": _preset(1280, 36, 20, **_PUBLISHED),
    "xl": _preset(1600, 48, 25, **_PUBLISHED),
}

# Hugging Face keeps GPT-2's matrices as (inputs, outputs).
KEYS = KeyTable(
    pairs=(
        ("token_embeddings.weight", "transformer.wte.weight"),
        ("position_embeddings.weight", "transformer.wpe.weight"),
        ("layers.{}.attention_norm.weight", "transformer.h.{}.ln_1.weight"),
        ("layers.{}.attention_norm.bias", "transformer.h.{}.ln_1.bias"),
        ("layers.{}.attention.query_key_value.weight", "transformer.h.{}.attn.c_attn.weight"),
        ("layers.{}.attention.query_key_value.bias", "transformer.h.{}.attn.c_attn.bias"),
        ("layers.{}.attention.output.weight", "transformer.h.{}.attn.c_proj.weight"),
        ("layers.{}.attention.output.bias", "transformer.h.{}.attn.c_proj.bias"),
        ("layers.{}.feed_forward_norm.weight", "transformer.h.{}.ln_2.weight"),
        ("layers.{}.feed_forward_norm.bias", "transformer.h.{}.ln_2.bias"),
        ("layers.{}.feed_forward.up.weight", "transformer.h.{}.mlp.c_fc.weight"),
        ("layers.{}.feed_forward.up.bias", "transformer.h.{}.mlp.c_fc.bias"),
        ("layers.{}.feed_forward.down.weight", "transformer.h.{}.mlp.c_proj.weight"),
        ("layers.{}.feed_forward.down.bias", "transformer.h.{}.mlp.c_proj.bias"),
        ("norm.weight", "transformer.ln_f.weight"),
        ("norm.bias", "transformer.ln_f.bias"),
        ("lm_head.weight", "lm_head.weight"),
        ("classifier.weight", "score.weight"),
        *with_bias(("tagger", "classifier"), ("span", "qa_outputs")),
    ),
    heads=("lm_head", "classifier", "tagger", "span"),
    transposed=("query_key_value.weight", "output.weight", "up.weight", "down.weight"),
    tied=(("lm_head.weight", "transformer.wte.weight"),),
    optional_prefix="transformer.",  # the folders on the Hub were saved from the bare model
    ignored=("transformer.h.{}.attn.bias", "transformer.h.{}.attn.masked_bias"),  # old causal masks
)

CONFIG_KEYS = ConfigTable(
    model_type="gpt2",
    names=(
        ("vocab_size", "vocab_size"),
        ("hidden_size", "n_embd"),
        ("intermediate_size", "n_inner"),
        ("num_hidden_layers", "n_layer"),
        ("num_attention_heads", "n_head"),
        ("max_position_embeddings", "n_positions"),
        ("layer_norm_eps", "layer_norm_epsilon"),
        ("initializer_range", "initializer_range"),
        ("tie_word_embeddings", "tie_word_embeddings"),
        ("attention_dropout", "attn_pdrop"),
        ("hidden_dropout", "resid_pdrop"),
        ("embedding_dropout", "embd_pdrop"),
        ("classifier_dropout", "classifier_dropout"),
        ("bos_token_id", "bos_token_id"),
        ("eos_token_id", "eos_token_id"),
        ("pad_token_id", "pad_token_id"),
    ),
    defaults={
        "classifier_dropout": None,
        "n_inner": None,
        "layer_norm_epsilon": 1e-5,
        "initializer_range": 0.02,
        "tie_word_embeddings": True,
        "attn_pdrop": 0.1,
        "resid_pdrop": 0.1,
        "embd_pdrop": 0.1,
        "bos_token_id": 50256,
        "eos_token_id": 50256,
        "pad_token_id": None,
    },
    fixed={
        "activation_function": ("gelu_new", "gelu_pytorch_tanh"),  # the same function
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "add_cross_attention": (False,),
    },
    extras=("weight_dropout",),
    ignored=frozenset(
        {
            "gradient_checkpointing",
            "n_ctx",
            "reorder_and_upcast_attn",
            "summary_activation",
            "summary_first_dropout",
            "summary_proj_to_labels",
            "summary_type",
            "summary_use_proj",
        }
    ),
)

INITIALISATION = "scaled-normal"


def resize_context(
    config: Config, state: dict[str, Tensor], length: int, scaling: str | None
) -> tuple[Config, dict[str, Tensor]]:
    """The same weights for a context of `length`: learned positions are interpolated, or cut."""
    refuse_scaling("GPT-2", scaling)
    name = "position_embeddings.weight"
    state = {**state, name: resized_positions(state[name], length)}
    return msgspec.structs.replace(config, max_position_embeddings=length), state
