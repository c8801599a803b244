"""BERT (Devlin et al. 2019): post-norm blocks read in both directions, learned positions, two pretraining heads."""

from __future__ import annotations

from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from melete.data.batch import Batch
from melete.models.base import (
    Count,
    Encoder,
    EncoderConfig,
    Head,
    Share,
    label_output,
    refuse_scaling,
    span_output,
)
from melete.models.keymap import ConfigTable, KeyTable, with_bias
from melete.nn.attention import Mask, attention, mutual_mask
from melete.nn.dropout import Dropout
from melete.nn.embedding import Embedding
from melete.nn.functional import activate
from melete.nn.linear import Linear
from melete.nn.norms import LayerNorm
from melete.nn.pooling import first_tokens
from melete.nn.positions import resized_positions


class Config(EncoderConfig, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """See `EncoderConfig`.

    Attributes:
        intermediate_size: width of the feed-forward layer.
        type_vocab_size: kinds of segment: the first and the second text of a pair.
        layer_norm_eps: added to the variance.
        hidden_dropout: on the embedding and on what a block adds.
    """

    intermediate_size: Count
    type_vocab_size: Count = 2
    layer_norm_eps: float = 1e-12
    hidden_dropout: Share = 0.0


class Embeddings(nn.Module):
    """What a token is, where it stands and which text of a pair it belongs to: added, then normed."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.word = Embedding(config.vocab_size, config.hidden_size)
        self.position = Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type = Embedding(config.type_vocab_size, config.hidden_size)
        self.norm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout)

    def forward(self, batch: Batch) -> Tensor:
        types = batch.token_type_ids
        kind = self.token_type.weight[0] if types is None else self.token_type(types)  # (D,) or (B, T, D)
        x = self.word(batch.input_ids) + kind + self.position(batch.position_ids)  # (B, T, D)
        return self.dropout(self.norm(x))


class Attention(nn.Module):
    """Multi-head attention."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.dropout = config.attention_dropout
        width = config.hidden_size
        self.query = Linear(width, width, bias=True)
        self.key = Linear(width, width, bias=True)
        self.value = Linear(width, width, bias=True)
        self.output = Linear(width, width, bias=True)

    def seen(self, x: Tensor, mask: Mask) -> Tensor:
        """What each token gathers of the others, before the output layer; (B, T, D)."""
        q, k, v = (
            project(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, H, T, K)
            for project in (self.query, self.key, self.value)
        )
        return attention(q, k, v, mask, self.dropout if self.training else 0.0)

    def forward(self, x: Tensor, mask: Mask) -> Tensor:
        return self.output(self.seen(x, mask))


class FeedForward(nn.Module):
    """Two layers with GELU between them."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.up = Linear(config.hidden_size, config.intermediate_size, bias=True)
        self.down = Linear(config.intermediate_size, config.hidden_size, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(activate(self.up(x), "gelu"))  # (B, T, F) inside


class Block(nn.Module):
    """Attention, add, norm; feed-forward, add, norm."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.attention_norm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.feed_forward = FeedForward(config)
        self.feed_forward_norm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout)

    def forward(self, x: Tensor, mask: Mask) -> Tensor:
        x = self.attention_norm(x + self.dropout(self.attention(x, mask)))
        return self.feed_forward_norm(x + self.dropout(self.feed_forward(x)))


class MaskedLMHead(nn.Module):
    """What stands between a hidden state and the output matrix."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.dense = Linear(config.hidden_size, config.hidden_size, bias=True)
        self.norm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))  # of the output

    def forward(self, hidden: Tensor) -> Tensor:
        return self.norm(activate(self.dense(hidden), "gelu"))


class Pooler(nn.Module):
    """One vector for a text: its first token's, through a layer of its own."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.dense = Linear(config.hidden_size, config.hidden_size, bias=True)

    def forward(self, hidden: Tensor, doc_starts: Tensor) -> Tensor:
        """(B, T, D) and (N, 2) -> (N, D)."""
        return self.dense(first_tokens(hidden, doc_starts)).tanh()


def _next_sentence(config: Config) -> nn.Module:
    return Linear(config.hidden_size, 2, bias=True)


# task -> the Hugging Face class that opens the folder, and the parts it adds
HEADS: dict[str, Head] = {
    "fill-mask": Head("BertForMaskedLM", {"mlm": MaskedLMHead}),
    "pretraining": Head(
        "BertForPreTraining", {"pooler": Pooler, "mlm": MaskedLMHead, "next_sentence": _next_sentence}
    ),
    "text-classification": Head(
        "BertForSequenceClassification",
        {"pooler": Pooler, "classifier": label_output},
        labelled="classifier",
    ),
    "token-classification": Head("BertForTokenClassification", {"tagger": label_output}, labelled="tagger"),
    "question-answering": Head("BertForQuestionAnswering", {"span": span_output}, labelled="span"),
    "feature-extraction": Head("BertModel", bare=True),
}


class Model(Encoder):
    """The encoder, and the head of one task."""

    family = "bert"
    residual = ("output", "down")

    def __init__(self, config: Config, task: str = "fill-mask") -> None:
        super().__init__()
        self.config, self.task = config, task
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self._wear(HEADS[task])

    def encode(self, batch: Batch) -> Tensor:
        """Hidden states of the last layer, (B, T, D); see `Encoder.encode`."""
        self._context(batch)
        mask = mutual_mask(batch.doc_ids)
        x = self.embeddings(batch)
        for block in self.layers:
            x = block(x, mask)
        return x

    def mlm_hidden(self, hidden: Tensor) -> Tensor:
        """What meets the output matrix, (..., D); see `Encoder.mlm_hidden`."""
        return self._part("mlm")(hidden)

    @property
    def mlm_weight(self) -> Tensor:
        """The output matrix (V, D): the embedding."""
        return self.embeddings.word.weight

    @property
    def mlm_bias(self) -> Tensor:
        """Added to the logits, (V,)."""
        return self._part("mlm").bias

    def nsp_logits(self, hidden: Tensor, batch: Batch) -> Tensor:
        """Whether the second text of each document follows the first (0) or not (1), (N, 2).

        Args:
            hidden: of `encode`, (B, T, D).
            batch: its `doc_starts` (N, 2) say where each document begins.

        Raises:
            InputError: the model wears no pretraining head.
        """
        return self._part("next_sentence")(self._part("pooler")(hidden, batch.doc_starts))

    def class_logits(self, hidden: Tensor, batch: Batch) -> Tensor:
        """Scores of the labels of each document, (N, labels); see `Network.class_logits`."""
        classify = self._part("classifier")
        return classify(self._part("pooler")(hidden, batch.doc_starts))


def _preset(width: int, layers: int, heads: int, **other: Any) -> Config:
    sizes: dict[str, Any] = {"vocab_size": 8192, "max_position_embeddings": 512, **other}
    return Config(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        **sizes,
    )


_PUBLISHED: dict[str, Any] = {
    "vocab_size": 30522,
    "attention_dropout": 0.1,
    "hidden_dropout": 0.1,
    "pad_token_id": 0,
}

# Small ones are named by the size of their blocks; the vocabulary comes with the data.
PRESETS: dict[str, Config] = {
    "nano": _preset(128, 4, 4),  # 0.8 M
    "tiny": _preset(256, 6, 4),  # 4.7 M
    "mini": _preset(384, 6, 6),  # 10.6 M
    "small": _preset(512, 10, 8),  # 32 M
    "base": _preset(768, 12, 12, **_PUBLISHED),
    "large": _preset(1024, 24, 16, **_PUBLISHED),
}

KEYS = KeyTable(
    pairs=(
        ("embeddings.word.weight", "bert.embeddings.word_embeddings.weight"),
        ("embeddings.position.weight", "bert.embeddings.position_embeddings.weight"),
        ("embeddings.token_type.weight", "bert.embeddings.token_type_embeddings.weight"),
        ("mlm.bias", "cls.predictions.bias"),
        *with_bias(
            ("embeddings.norm", "bert.embeddings.LayerNorm"),
            ("layers.{}.attention.query", "bert.encoder.layer.{}.attention.self.query"),
            ("layers.{}.attention.key", "bert.encoder.layer.{}.attention.self.key"),
            ("layers.{}.attention.value", "bert.encoder.layer.{}.attention.self.value"),
            ("layers.{}.attention.output", "bert.encoder.layer.{}.attention.output.dense"),
            ("layers.{}.attention_norm", "bert.encoder.layer.{}.attention.output.LayerNorm"),
            ("layers.{}.feed_forward.up", "bert.encoder.layer.{}.intermediate.dense"),
            ("layers.{}.feed_forward.down", "bert.encoder.layer.{}.output.dense"),
            ("layers.{}.feed_forward_norm", "bert.encoder.layer.{}.output.LayerNorm"),
            ("pooler.dense", "bert.pooler.dense"),
            ("mlm.dense", "cls.predictions.transform.dense"),
            ("mlm.norm", "cls.predictions.transform.LayerNorm"),
            ("next_sentence", "cls.seq_relationship"),
            ("classifier", "classifier"),
            ("tagger", "classifier"),
            ("span", "qa_outputs"),
        ),
    ),
    heads=("pooler", "mlm", "next_sentence", "classifier", "tagger", "span"),
    tied=(
        ("cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"),
        ("cls.predictions.decoder.bias", "cls.predictions.bias"),
    ),
    optional_prefix="bert.",  # a folder saved from the bare model
    ignored=("bert.embeddings.position_ids",),
    renamed=((".gamma", ".weight"), (".beta", ".bias")),  # converted from TensorFlow
)

CONFIG_KEYS = ConfigTable(
    model_type="bert",
    names=(
        ("vocab_size", "vocab_size"),
        ("hidden_size", "hidden_size"),
        ("intermediate_size", "intermediate_size"),
        ("num_hidden_layers", "num_hidden_layers"),
        ("num_attention_heads", "num_attention_heads"),
        ("max_position_embeddings", "max_position_embeddings"),
        ("type_vocab_size", "type_vocab_size"),
        ("layer_norm_eps", "layer_norm_eps"),
        ("initializer_range", "initializer_range"),
        ("attention_dropout", "attention_probs_dropout_prob"),
        ("hidden_dropout", "hidden_dropout_prob"),
        ("classifier_dropout", "classifier_dropout"),
        ("bos_token_id", "bos_token_id"),
        ("eos_token_id", "eos_token_id"),
        ("pad_token_id", "pad_token_id"),
    ),
    defaults={
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "initializer_range": 0.02,
        "attention_probs_dropout_prob": 0.1,
        "hidden_dropout_prob": 0.1,
        "classifier_dropout": None,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": 0,
    },
    fixed={
        "hidden_act": ("gelu",),
        "is_decoder": (False,),
        "add_cross_attention": (False,),
        "position_embedding_type": ("absolute",),
        "tie_word_embeddings": (True,),
    },
    ignored=frozenset(
        {
            "directionality",
            "gradient_checkpointing",
            "pooler_fc_size",
            "pooler_num_attention_heads",
            "pooler_num_fc_layers",
            "pooler_size_per_head",
            "pooler_type",
        }
    ),
)

INITIALISATION = "normal"


def resize_context(
    config: Config, state: dict[str, Tensor], length: int, scaling: str | None
) -> tuple[Config, dict[str, Tensor]]:
    """The same weights for a context of `length`: learned positions are interpolated, or cut."""
    refuse_scaling("BERT", scaling)
    name = "embeddings.position.weight"
    state = {**state, name: resized_positions(state[name], length)}
    return msgspec.structs.replace(config, max_position_embeddings=length), state
