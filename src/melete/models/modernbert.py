"""ModernBERT (Warner et al. 2024): pre-norm blocks, rotary positions, GeGLU, no biases, mostly local attention."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import torch
from torch import Tensor, nn

from melete.data.batch import Batch
from melete.models.base import Count, Encoder, EncoderConfig, Head, Output, Share, label_output
from melete.models.keymap import ConfigTable, KeyTable, with_bias
from melete.nn.attention import Mask, attention, mutual_mask
from melete.nn.dropout import Dropout
from melete.nn.embedding import Embedding
from melete.nn.functional import activate, gated_halves
from melete.nn.linear import Linear
from melete.nn.norms import LayerNorm
from melete.nn.pooling import first_tokens, mean_tokens
from melete.nn.positions import RopeParameters, Rotary, rotate, stretched

LayerType = Literal["full_attention", "sliding_attention"]
GLOBAL_EVERY = 3
GLOBAL_THETA, LOCAL_THETA = 160_000.0, 10_000.0


class RotaryPair(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Rotary positions of the layers that see everything, and of those that see a window."""

    full_attention: RopeParameters = RopeParameters(rope_theta=GLOBAL_THETA)
    sliding_attention: RopeParameters = RopeParameters(rope_theta=LOCAL_THETA)


class Config(EncoderConfig, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """See `EncoderConfig`.

    Attributes:
        intermediate_size: width of the feed-forward layer.
        norm_eps: added to the variance.
        layer_types: what each layer sees; None: every third, from the first on, everything, the others a window.
        local_attention: tokens in the window, half of them to either side.
        rope_parameters: rotary positions of both kinds of layer.
        attention_dropout: on attention weights, and on what attention adds.
        embedding_dropout, mlp_dropout: on the embedding, inside the feed-forward layer.
        classifier_pooling: what a text is told by: its first token, or the mean of all.
    """

    intermediate_size: Count
    norm_eps: float = 1e-5
    layer_types: tuple[LayerType, ...] | None = None
    local_attention: Count = 128
    rope_parameters: RotaryPair = RotaryPair()
    embedding_dropout: Share = 0.0
    mlp_dropout: Share = 0.0
    classifier_dropout: Share = 0.0
    classifier_pooling: Literal["cls", "mean"] = "cls"
    cls_token_id: int | None = None
    sep_token_id: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden_size // self.num_attention_heads % 2:
            size = self.hidden_size // self.num_attention_heads
            raise ValueError(f"a head is {size} wide, which is odd, and rotary positions turn pairs")
        if len(self.kinds) != self.num_hidden_layers:
            raise ValueError(
                f"layer_types names {len(self.kinds)} layers, num_hidden_layers is {self.num_hidden_layers}"
            )

    @property
    def kinds(self) -> tuple[LayerType, ...]:
        """What each layer sees."""
        return self.layer_types or _alternating(self.num_hidden_layers, GLOBAL_EVERY)


def _alternating(layers: int, every: int) -> tuple[LayerType, ...]:
    return tuple("sliding_attention" if layer % every else "full_attention" for layer in range(layers))


class Attention(nn.Module):
    """Multi-head attention; queries, keys and values come from one matrix."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.dropout = config.attention_dropout
        self.query_key_value = Linear(config.hidden_size, 3 * config.hidden_size, bias=False)
        self.output = Linear(config.hidden_size, config.hidden_size, bias=False)
        self.output_dropout = Dropout(config.attention_dropout)

    def forward(self, x: Tensor, angles: tuple[Tensor, Tensor], mask: Mask) -> Tensor:
        split = self.query_key_value(x).unflatten(-1, (3, self.heads, -1))  # (B, T, 3, H, K)
        q, k, v = split.unbind(2)  # (B, T, H, K) each
        q, k = rotate(q, *angles), rotate(k, *angles)  # (B, T, H, K) -> (B, H, T, K)
        seen = attention(q, k, v.transpose(1, 2), mask, self.dropout if self.training else 0.0)
        return self.output_dropout(self.output(seen))


class FeedForward(nn.Module):
    """GeGLU (Shazeer 2020); both halves come from one matrix."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.up = Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.down = Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.dropout = Dropout(config.mlp_dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.dropout(gated_halves(self.up(x), "gelu")))  # (B, T, F) inside


class Block(nn.Module):
    """Norm, attention, add; norm, feed-forward, add. The embedding is normed, so the first block starts without."""

    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        self.attention_norm = None if layer == 0 else _norm(config)
        self.attention = Attention(config)
        self.feed_forward_norm = _norm(config)
        self.feed_forward = FeedForward(config)

    def forward(self, x: Tensor, angles: tuple[Tensor, Tensor], mask: Mask) -> Tensor:
        normed, x = (x, x) if self.attention_norm is None else self.attention_norm.branch(x)
        x = x + self.attention(normed, angles, mask)
        normed, x = self.feed_forward_norm.branch(x)
        return x + self.feed_forward(normed)


class Transform(nn.Module):
    """What every head of the family puts before its last layer."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.dense = Linear(config.hidden_size, config.hidden_size, bias=False)
        self.norm = _norm(config)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.norm(activate(self.dense(hidden), "gelu"))


class OutputBias(nn.Module):
    """What is left of an output layer whose matrix is the embedding."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))


def _norm(config: Config) -> LayerNorm:
    return LayerNorm(config.hidden_size, eps=config.norm_eps, bias=False)


def _span(config: Config) -> nn.Module:
    return Output(config, 2)


# task -> the Hugging Face class that opens the folder, and the parts it adds
HEADS: dict[str, Head] = {
    "fill-mask": Head("ModernBertForMaskedLM", {"transform": Transform, "mlm": OutputBias}),
    "text-classification": Head(
        "ModernBertForSequenceClassification",
        {"transform": Transform, "classifier": label_output},
        labelled="classifier",
    ),
    "token-classification": Head(
        "ModernBertForTokenClassification",
        {"transform": Transform, "tagger": label_output},
        labelled="tagger",
    ),
    "question-answering": Head(
        "ModernBertForQuestionAnswering", {"transform": Transform, "span": _span}, labelled="span"
    ),
    "feature-extraction": Head("ModernBertModel", bare=True),
}


class Model(Encoder):
    """The encoder, and the head of one task."""

    family = "modernbert"
    residual = ("output", "down")

    def __init__(self, config: Config, task: str = "fill-mask") -> None:
        super().__init__()
        self.config, self.task = config, task
        self.kinds, self.window = config.kinds, config.local_attention // 2
        self.pooling = config.classifier_pooling
        size, ropes = config.hidden_size // config.num_attention_heads, config.rope_parameters
        self.rotary = {kind: Rotary(size, getattr(ropes, kind)) for kind in dict.fromkeys(self.kinds)}
        self.token_embeddings = Embedding(config.vocab_size, config.hidden_size)
        self.embedding_norm = _norm(config)
        self.dropout = Dropout(config.embedding_dropout)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = _norm(config)
        self._wear(HEADS[task])

    def encode(self, batch: Batch) -> Tensor:
        """Hidden states after the final norm, (B, T, D); see `Encoder.encode`."""
        length = self._context(batch)
        x = self.dropout(self.embedding_norm(self.token_embeddings(batch.input_ids)))  # (B, T, D)
        masks = {
            "full_attention": mutual_mask(batch.doc_ids),
            "sliding_attention": mutual_mask(batch.doc_ids, self.window),
        }
        angles = {
            kind: rotary(batch.position_ids, length, x.dtype)  # (B, T, 1, K / 2) each
            for kind, rotary in self.rotary.items()
        }
        for block, kind in zip(self.layers, self.kinds, strict=True):
            x = block(x, angles[kind], masks[kind])
        return self.norm(x)

    def mlm_hidden(self, hidden: Tensor) -> Tensor:
        """What meets the output matrix, (..., D); see `Encoder.mlm_hidden`."""
        self._part("mlm")
        return self._part("transform")(hidden)

    @property
    def mlm_weight(self) -> Tensor:
        """The output matrix (V, D): the embedding."""
        return self.token_embeddings.weight

    @property
    def mlm_bias(self) -> Tensor:
        """Added to the logits, (V,)."""
        return self._part("mlm").bias

    def class_logits(self, hidden: Tensor, batch: Batch) -> Tensor:
        """Scores of the labels of each document, (N, labels); see `Network.class_logits`."""
        classify = self._part("classifier")
        if self.pooling == "mean":
            pooled = mean_tokens(hidden, batch.doc_ids, batch.doc_starts)  # (N, D)
        else:
            pooled = first_tokens(hidden, batch.doc_starts)
        return classify(self._part("transform")(pooled))

    def tag_logits(self, hidden: Tensor) -> Tensor:
        """Scores of the labels of each token, (B, T, labels)."""
        return self._part("tagger")(self._part("transform")(hidden))

    def span_logits(self, hidden: Tensor) -> Tensor:
        """Whether an answer begins, and whether one ends at each token, (B, T, 2)."""
        return self._part("span")(self._part("transform")(hidden))


def _preset(width: int, inner: int, layers: int, heads: int, **other: Any) -> Config:
    sizes: dict[str, Any] = {"vocab_size": 8192, "max_position_embeddings": 1024, **other}
    return Config(
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        **sizes,
    )


_PUBLISHED: dict[str, Any] = {
    "vocab_size": 50368,
    "max_position_embeddings": 8192,
    "bos_token_id": 50281,
    "eos_token_id": 50282,
    "cls_token_id": 50281,
    "sep_token_id": 50282,
    "pad_token_id": 50283,
}

# Small ones are named by the size of their blocks; the vocabulary comes with the data.
PRESETS: dict[str, Config] = {
    "nano": _preset(128, 320, 4, 4),  # 0.8 M
    "tiny": _preset(256, 640, 6, 4),  # 4.5 M
    "mini": _preset(384, 960, 6, 6),  # 10 M
    "small": _preset(512, 1344, 10, 8),  # 31 M
    "base": _preset(768, 1152, 22, 12, **_PUBLISHED),
    "large": _preset(1024, 2624, 28, 16, **_PUBLISHED),
}

KEYS = KeyTable(
    pairs=(
        ("token_embeddings.weight", "model.embeddings.tok_embeddings.weight"),
        ("embedding_norm.weight", "model.embeddings.norm.weight"),
        ("layers.{}.attention_norm.weight", "model.layers.{}.attn_norm.weight"),
        ("layers.{}.attention.query_key_value.weight", "model.layers.{}.attn.Wqkv.weight"),
        ("layers.{}.attention.output.weight", "model.layers.{}.attn.Wo.weight"),
        ("layers.{}.feed_forward_norm.weight", "model.layers.{}.mlp_norm.weight"),
        ("layers.{}.feed_forward.up.weight", "model.layers.{}.mlp.Wi.weight"),
        ("layers.{}.feed_forward.down.weight", "model.layers.{}.mlp.Wo.weight"),
        ("norm.weight", "model.final_norm.weight"),
        ("transform.dense.weight", "head.dense.weight"),
        ("transform.norm.weight", "head.norm.weight"),
        ("mlm.bias", "decoder.bias"),
        *with_bias(("classifier", "classifier"), ("tagger", "classifier"), ("span", "classifier")),
    ),
    heads=("transform", "mlm", "classifier", "tagger", "span"),
    tied=(("decoder.weight", "model.embeddings.tok_embeddings.weight"),),
    optional_prefix="model.",  # a folder saved from the bare model
)


def _older(values: dict[str, Any]) -> None:
    """What `layer_types` and `rope_parameters` were before transformers 5, and what is left out of them."""
    ropes = dict(values.get("rope_parameters") or {})
    for kind, old, theta in (
        ("full_attention", "global_rope_theta", GLOBAL_THETA),
        ("sliding_attention", "local_rope_theta", LOCAL_THETA),
    ):
        ropes[kind] = {"rope_theta": values.pop(old, theta), **(ropes.get(kind) or {})}
    values["rope_parameters"] = ropes
    every, layers = values.pop("global_attn_every_n_layers", GLOBAL_EVERY), values.get("num_hidden_layers")
    if isinstance(every, int) and isinstance(layers, int):
        kinds = list(values.get("layer_types") or _alternating(layers, every))
        values["layer_types"] = None if kinds == list(_alternating(layers, GLOBAL_EVERY)) else kinds


CONFIG_KEYS = ConfigTable(
    model_type="modernbert",
    names=(
        ("vocab_size", "vocab_size"),
        ("hidden_size", "hidden_size"),
        ("intermediate_size", "intermediate_size"),
        ("num_hidden_layers", "num_hidden_layers"),
        ("num_attention_heads", "num_attention_heads"),
        ("max_position_embeddings", "max_position_embeddings"),
        ("norm_eps", "norm_eps"),
        ("layer_types", "layer_types"),
        ("local_attention", "local_attention"),
        ("rope_parameters", "rope_parameters"),
        ("initializer_range", "initializer_range"),
        ("attention_dropout", "attention_dropout"),
        ("embedding_dropout", "embedding_dropout"),
        ("mlp_dropout", "mlp_dropout"),
        ("classifier_dropout", "classifier_dropout"),
        ("classifier_pooling", "classifier_pooling"),
        ("bos_token_id", "bos_token_id"),
        ("eos_token_id", "eos_token_id"),
        ("cls_token_id", "cls_token_id"),
        ("sep_token_id", "sep_token_id"),
        ("pad_token_id", "pad_token_id"),
    ),
    defaults={
        "norm_eps": 1e-5,
        "layer_types": None,
        "local_attention": 128,
        "initializer_range": 0.02,
        "attention_dropout": 0.0,
        "embedding_dropout": 0.0,
        "mlp_dropout": 0.0,
        "classifier_dropout": 0.0,
        "classifier_pooling": "cls",
        "bos_token_id": 50281,
        "eos_token_id": 50282,
        "cls_token_id": 50281,
        "sep_token_id": 50282,
        "pad_token_id": 50283,
    },
    fixed={
        "hidden_activation": ("gelu",),
        "attention_bias": (False,),
        "mlp_bias": (False,),
        "norm_bias": (False,),
        "decoder_bias": (True,),
        "classifier_bias": (False,),
        "classifier_activation": ("gelu",),
        "tie_word_embeddings": (True,),
    },
    ignored=frozenset(
        {
            "deterministic_flash_attn",
            "gradient_checkpointing",
            "initializer_cutoff_factor",
            "layer_norm_eps",
            "position_embedding_type",
            "reference_compile",
            "repad_logits_with_grad",
            "sparse_pred_ignore_index",
            "sparse_prediction",
        }
    ),
    older=_older,
)

INITIALISATION = "scaled-normal"


def resize_context(
    config: Config, state: dict[str, Tensor], length: int, scaling: str | None
) -> tuple[Config, dict[str, Tensor]]:
    """The same weights for a context of `length`: the layers that see everything get YaRN, or what `scaling` says."""
    ropes = config.rope_parameters
    if scaling is not None or length > config.max_position_embeddings:
        whole = stretched(ropes.full_attention, config.max_position_embeddings, length, scaling or "yarn")
        ropes = msgspec.structs.replace(ropes, full_attention=whole)  # a window is no longer than it was
    return msgspec.structs.replace(config, max_position_embeddings=length, rope_parameters=ropes), state
