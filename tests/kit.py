"""Tiny models and batches that many tests share."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from melete.data.batch import Batch
from melete.models import build, build_encoder, build_encoder_decoder, preset, random_model
from melete.models.base import Decoder, EncoderDecoder, Network

VOCAB = 97
CONTEXT = 32
SIZES: dict[str, dict[str, Any]] = {
    "gpt2": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4},
    "qwen3": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "intermediate_size": 48,
    },
}
ENCODER_SIZES: dict[str, dict[str, Any]] = {
    "bert": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
    },
    "modernbert": {
        "hidden_size": 32,
        "num_hidden_layers": 4,  # everything, a window, a window, everything
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "local_attention": 8,
    },
    "electra": {
        "embedding_size": 24,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
    },
}
_LAYERS = {"num_hidden_layers": 2, "num_decoder_layers": 3}
ENCODER_DECODER_SIZES: dict[str, dict[str, Any]] = {
    "marian": {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48, **_LAYERS},
    "bart": {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48, **_LAYERS},
    "pointer": {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48, **_LAYERS},
    "t5": {
        "hidden_size": 32,
        "num_attention_heads": 4,
        "head_dim": 6,
        "intermediate_size": 48,
        "relative_attention_num_buckets": 8,
        "relative_attention_max_distance": 12,
        "num_hidden_layers": 2,
        "num_decoder_layers": 2,  # transformers generates with no more than the encoder has
    },
    "encoder-decoder": {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48, **_LAYERS},
    "lstm": {"hidden_size": 32, **_LAYERS},
}
LABELLED = [*SIZES, *ENCODER_SIZES]  # the families that wear heads for rows with answers


def tiny(family: str, *, seed: int = 0, init: str = "normal", **overrides: Any) -> Decoder:
    """A model of a few thousand weights, large enough that a wrong mask or position shows; in evaluation mode."""
    fields = {
        "vocab_size": VOCAB,
        "max_position_embeddings": CONTEXT,
        "initializer_range": 0.15,
        **SIZES[family],
        **overrides,
    }
    return build(f"{family}:nano", seed=seed, init=init, **fields).eval()


def tiny_encoder(family: str, *, task: str | None = None, seed: int = 0, **overrides: Any) -> Any:
    """An encoder as `tiny`; the task is the family's first unless given."""
    fields = {
        "vocab_size": VOCAB,
        "max_position_embeddings": CONTEXT,
        "initializer_range": 0.15,
        **ENCODER_SIZES[family],
        **overrides,
    }
    return build_encoder(f"{family}:nano", task=task, seed=seed, init="normal", **fields).eval()


def tiny_encoder_decoder(family: str, *, seed: int = 0, **overrides: Any) -> EncoderDecoder:
    """An encoder-decoder as `tiny`."""
    fields = {"max_position_embeddings": CONTEXT, "initializer_range": 0.15, **ENCODER_DECODER_SIZES[family]}
    fields |= overrides
    return build_encoder_decoder(
        f"{family}:nano", vocab_size=VOCAB, seed=seed, init="normal", **fields
    ).eval()


def tiny_network(family: str, task: str, *, seed: int = 0, **overrides: Any) -> Network:
    """A model of any family with the head of a task, as `tiny`."""
    sizes = (SIZES | ENCODER_SIZES | ENCODER_DECODER_SIZES)[family]
    fields = {"max_position_embeddings": CONTEXT, "initializer_range": 0.15, **sizes, **overrides}
    config = preset(f"{family}:nano", **{"vocab_size": VOCAB, **fields})
    return random_model(family, config, task, seed=seed, init="normal").eval()


def token_rows(*lengths: int, seed: int = 0, vocab: int = VOCAB) -> list[Tensor]:
    """Random token ids of these lengths."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, vocab, (length,), generator=generator) for length in lengths]


def answering(sources: list[Tensor], rows: list[Tensor], left: bool = False) -> Batch:
    """What a decoder reads of each row, beside what its encoder does."""
    return replace(Batch.from_rows(rows, left=left), source=Batch.from_rows(sources))


def packed(*documents: Tensor) -> Batch:
    """One row that holds several documents."""
    lengths = [len(document) for document in documents]
    starts = torch.tensor([0, *lengths[:-1]]).cumsum(0)
    return Batch(
        input_ids=torch.cat(documents)[None],
        doc_ids=torch.cat([torch.full((n,), i + 1, dtype=torch.int32) for i, n in enumerate(lengths)])[None],
        position_ids=torch.cat([torch.arange(n) for n in lengths])[None],
        doc_starts=torch.stack([torch.zeros_like(starts), starts], dim=1),
    )


@torch.no_grad()
def logits(model: Decoder, batch: Batch) -> Tensor:
    """Scores of every position, (B, T, V)."""
    return model.logits(model.encode(batch))
