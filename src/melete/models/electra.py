"""ELECTRA (Clark et al. 2020): BERT's encoder over narrow embeddings, as discriminator or as generator.

The discriminator says of each token whether it was replaced; the generator, a quarter as wide, fills in the masks.
Trained together they share all embeddings: see `electra_pair`.
"""

from __future__ import annotations

from typing import Any

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from melete.data.batch import Batch
from melete.models.base import (
    Count,
    Encoder,
    EncoderConfig,
    Head,
    Output,
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
        embedding_size: width of the embeddings; a layer widens them to `hidden_size` where the two differ.
        intermediate_size: width of the feed-forward layer.
        type_vocab_size: kinds of segment: the first and the second text of a pair.
        layer_norm_eps: added to the variance.
        hidden_dropout: on the embedding and on what a block adds.
    """

    embedding_size: Count
    intermediate_size: Count
    type_vocab_size: Count = 2
    layer_norm_eps: float = 1e-12
    hidden_dropout: Share = 0.0


class Embeddings(nn.Module):
    """What a token is, where it stands and which text of a pair it belongs to: added, then normed."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.word = Embedding(config.vocab_size, config.embedding_size)
        self.position = Embedding(config.max_position_embeddings, config.embedding_size)
        self.token_type = Embedding(config.type_vocab_size, config.embedding_size)
        self.norm = LayerNorm(config.embedding_size, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout)

    def forward(self, batch: Batch) -> Tensor:
        types = batch.token_type_ids
        kind = self.token_type.weight[0] if types is None else self.token_type(types)  # (E,) or (B, T, E)
        x = self.word(batch.input_ids) + kind + self.position(batch.position_ids)  # (B, T, E)
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

    def forward(self, x: Tensor, mask: Mask) -> Tensor:
        q, k, v = (
            project(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, H, T, K)
            for project in (self.query, self.key, self.value)
        )
        return self.output(attention(q, k, v, mask, self.dropout if self.training else 0.0))


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


class Discriminator(nn.Module):
    """Whether a token was replaced."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.dense = Linear(config.hidden_size, config.hidden_size, bias=True)
        self.prediction = Linear(config.hidden_size, 1, bias=True)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.prediction(activate(self.dense(hidden), "gelu")).squeeze(-1)  # (B, T)


class MaskedLMHead(nn.Module):
    """What stands between a hidden state and the output matrix, which is as narrow as the embedding."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.dense = Linear(config.hidden_size, config.embedding_size, bias=True)
        self.norm = LayerNorm(config.embedding_size, eps=config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))  # of the output

    def forward(self, hidden: Tensor) -> Tensor:
        return self.norm(activate(self.dense(hidden), "gelu"))  # (..., D) -> (..., E)


class Classifier(nn.Module):
    """A score for each label of a text, from its first token."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.dropout = Dropout(config.output_dropout)
        self.dense = Linear(config.hidden_size, config.hidden_size, bias=True)
        self.output = Output(config, len(config.labels))

    def forward(self, first: Tensor) -> Tensor:
        return self.output(activate(self.dense(self.dropout(first)), "gelu"))  # (N, D) -> (N, labels)


# task -> the Hugging Face class that opens the folder, and the parts it adds
HEADS: dict[str, Head] = {
    "pretraining": Head("ElectraForPreTraining", {"discriminator": Discriminator}),
    "fill-mask": Head("ElectraForMaskedLM", {"mlm": MaskedLMHead}),
    "text-classification": Head(
        "ElectraForSequenceClassification", {"classifier": Classifier}, labelled="classifier"
    ),
    "token-classification": Head(
        "ElectraForTokenClassification", {"tagger": label_output}, labelled="tagger"
    ),
    "question-answering": Head("ElectraForQuestionAnswering", {"span": span_output}, labelled="span"),
    "feature-extraction": Head("ElectraModel", bare=True),
}


class Model(Encoder):
    """The encoder, and the head of one task."""

    family = "electra"
    residual = ("output", "down")

    def __init__(self, config: Config, task: str = "pretraining") -> None:
        super().__init__()
        self.config, self.task = config, task
        self.embeddings = Embeddings(config)
        self.embeddings_project: nn.Module = (
            Linear(config.embedding_size, config.hidden_size, bias=True)
            if config.embedding_size != config.hidden_size
            else nn.Identity()
        )
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self._wear(HEADS[task])

    def encode(self, batch: Batch) -> Tensor:
        """Hidden states of the last layer, (B, T, D); see `Encoder.encode`."""
        self._context(batch)
        mask = mutual_mask(batch.doc_ids)
        x = self.embeddings_project(self.embeddings(batch))  # (B, T, E) -> (B, T, D)
        for block in self.layers:
            x = block(x, mask)
        return x

    def mlm_hidden(self, hidden: Tensor) -> Tensor:
        """What meets the output matrix, (..., E); see `Encoder.mlm_hidden`."""
        return self._part("mlm")(hidden)

    @property
    def mlm_weight(self) -> Tensor:
        """The output matrix (V, E): the embedding."""
        return self.embeddings.word.weight

    @property
    def mlm_bias(self) -> Tensor:
        """Added to the logits, (V,)."""
        return self._part("mlm").bias

    def unproject(self, hidden: Tensor) -> Tensor:
        """Hidden states (..., D) back in the space of the embeddings (..., E)."""
        project = self.embeddings_project
        return F.linear(hidden, project.weight.T) if isinstance(project, Linear) else hidden

    def rtd_logits(self, hidden: Tensor) -> Tensor:
        """How much each token looks replaced, (B, T): the logit of its probability.

        Args:
            hidden: of `encode`, (B, T, D).

        Raises:
            InputError: the model wears no discriminator head.
        """
        return self._part("discriminator")(hidden)

    def class_logits(self, hidden: Tensor, batch: Batch) -> Tensor:
        """Scores of the labels of each document, (N, labels); see `Network.class_logits`."""
        return self._part("classifier")(first_tokens(hidden, batch.doc_starts))


def generator_config(config: Config, share: float = 0.25) -> Config:
    """The generator that belongs to a discriminator: as deep, `share` as wide, heads of 64 (paper, section 3.2)."""
    width = max(1, round(config.hidden_size * share))
    heads = max(1, width // 64)
    width += -width % heads
    return msgspec.structs.replace(
        config, hidden_size=width, intermediate_size=4 * width, num_attention_heads=heads
    )


def _preset(width: int, embedding: int, layers: int, heads: int, **other: Any) -> Config:
    sizes: dict[str, Any] = {"vocab_size": 8192, "max_position_embeddings": 512, **other}
    return Config(
        embedding_size=embedding,
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

# The first three are named by the size of their blocks, and their vocabulary comes with the data.
PRESETS: dict[str, Config] = {
    "nano": _preset(128, 64, 4, 4),  # 0.8 M
    "tiny": _preset(256, 128, 6, 4),  # 4.7 M
    "mini": _preset(320, 128, 6, 5),  # 7.4 M
    "small": _preset(256, 128, 12, 4, **_PUBLISHED),
    "base": _preset(768, 768, 12, 12, **_PUBLISHED),
    "large": _preset(1024, 1024, 24, 16, **_PUBLISHED),
}

KEYS = KeyTable(
    pairs=(
        ("embeddings.word.weight", "electra.embeddings.word_embeddings.weight"),
        ("embeddings.position.weight", "electra.embeddings.position_embeddings.weight"),
        ("embeddings.token_type.weight", "electra.embeddings.token_type_embeddings.weight"),
        ("mlm.bias", "generator_lm_head.bias"),
        *with_bias(
            ("embeddings.norm", "electra.embeddings.LayerNorm"),
            ("layers.{}.attention.query", "electra.encoder.layer.{}.attention.self.query"),
            ("layers.{}.attention.key", "electra.encoder.layer.{}.attention.self.key"),
            ("layers.{}.attention.value", "electra.encoder.layer.{}.attention.self.value"),
            ("layers.{}.attention.output", "electra.encoder.layer.{}.attention.output.dense"),
            ("layers.{}.attention_norm", "electra.encoder.layer.{}.attention.output.LayerNorm"),
            ("layers.{}.feed_forward.up", "electra.encoder.layer.{}.intermediate.dense"),
            ("layers.{}.feed_forward.down", "electra.encoder.layer.{}.output.dense"),
            ("layers.{}.feed_forward_norm", "electra.encoder.layer.{}.output.LayerNorm"),
            ("embeddings_project", "electra.embeddings_project"),
            ("discriminator.dense", "discriminator_predictions.dense"),
            ("discriminator.prediction", "discriminator_predictions.dense_prediction"),
            ("mlm.dense", "generator_predictions.dense"),
            ("mlm.norm", "generator_predictions.LayerNorm"),
            ("classifier.dense", "classifier.dense"),
            ("classifier.output", "classifier.out_proj"),
            ("tagger", "classifier"),
            ("span", "qa_outputs"),
        ),
    ),
    heads=("discriminator", "mlm", "classifier", "tagger", "span"),
    tied=(("generator_lm_head.weight", "electra.embeddings.word_embeddings.weight"),),
    optional_prefix="electra.",  # a folder saved from the bare model
    ignored=("electra.embeddings.position_ids",),
)

CONFIG_KEYS = ConfigTable(
    model_type="electra",
    names=(
        ("vocab_size", "vocab_size"),
        ("embedding_size", "embedding_size"),
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
            "gradient_checkpointing",
            "summary_activation",
            "summary_last_dropout",
            "summary_type",
            "summary_use_proj",
        }
    ),
)

INITIALISATION = "normal"


def resize_context(
    config: Config, state: dict[str, Tensor], length: int, scaling: str | None
) -> tuple[Config, dict[str, Tensor]]:
    """The same weights for a context of `length`: learned positions are interpolated, or cut."""
    refuse_scaling("ELECTRA", scaling)
    name = "embeddings.position.weight"
    state = {**state, name: resized_positions(state[name], length)}
    return msgspec.structs.replace(config, max_position_embeddings=length), state
