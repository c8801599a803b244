"""BART (Lewis et al. 2019): the original Transformer with learned positions and a norm on its embeddings."""

from __future__ import annotations

from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from melete.models import postnorm
from melete.models.base import Head, refuse_scaling
from melete.models.keymap import ConfigTable, KeyTable, with_bias
from melete.models.postnorm import OutputBias, PostNorm, PostNormConfig
from melete.nn.embedding import Embedding
from melete.nn.norms import LayerNorm
from melete.nn.positions import resized_positions

_FIRST = 2  # row of the position table that stands for position 0


class Config(PostNormConfig, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """See `PostNormConfig`."""


class Positions(nn.Module):
    """Adds a learned vector for each position, and norms the sum."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.table = Embedding(config.max_position_embeddings + _FIRST, config.hidden_size)
        self.norm = LayerNorm(config.hidden_size)

    def forward(self, x: Tensor, position_ids: Tensor) -> Tensor:
        return self.norm(x + self.table(position_ids + _FIRST))


# task -> the Hugging Face class that opens the folder, and the parts it adds
HEADS: dict[str, Head] = {
    "text2text-generation": Head("BartForConditionalGeneration", {"output": OutputBias}),
    "feature-extraction": Head("BartModel", bare=True),
}


class Model(PostNorm):
    """Encoder and decoder, and the head of one task."""

    family = "bart"

    def __init__(self, config: Config, task: str = "text2text-generation") -> None:
        super().__init__(config, task, HEADS[task], Positions)


_PUBLISHED: dict[str, Any] = {
    "vocab_size": 50265,
    "max_position_embeddings": 1024,
    "hidden_dropout": 0.1,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": 2,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 1,
}

# Small ones are named by the size of their blocks; the vocabulary comes with the data.
PRESETS: dict[str, Config] = {
    "nano": postnorm.preset(Config, 128, 2, 4),  # 0.9 M
    "tiny": postnorm.preset(Config, 256, 3, 4),  # 5.5 M
    "mini": postnorm.preset(Config, 384, 3, 6),  # 12.4 M
    "small": postnorm.preset(Config, 512, 4, 8),  # 29 M
    "base": postnorm.preset(Config, 768, 6, 12, **_PUBLISHED),
    "large": postnorm.preset(Config, 1024, 12, 16, **_PUBLISHED),
}

KEYS = KeyTable(
    pairs=(
        *postnorm.PAIRS,
        ("encoder.positions.table.weight", "model.encoder.embed_positions.weight"),
        ("decoder.positions.table.weight", "model.decoder.embed_positions.weight"),
        *with_bias(
            ("encoder.positions.norm", "model.encoder.layernorm_embedding"),
            ("decoder.positions.norm", "model.decoder.layernorm_embedding"),
        ),
    ),
    heads=("output",),
    rows=("output.bias",),
    tied=postnorm.TIED,
    optional_prefix="model.",
    ignored=("model.encoder.version", "model.decoder.version"),
)

CONFIG_KEYS = ConfigTable(
    model_type="bart",
    names=postnorm.NAMES,
    defaults=postnorm.DEFAULTS
    | {
        "decoder_start_token_id": 2,
        "forced_eos_token_id": 2,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 1,
    },
    fixed=postnorm.FIXED | {"static_position_embeddings": (False,), "normalize_embedding": (True,)},
    ignored=postnorm.IGNORED,
)

INITIALISATION = "normal"


def resize_context(
    config: Config, state: dict[str, Tensor], length: int, scaling: str | None
) -> tuple[Config, dict[str, Tensor]]:
    """The same weights for a context of `length`: learned positions are interpolated, or cut."""
    refuse_scaling("BART", scaling)
    state = dict(state)
    for name in ("encoder.positions.table.weight", "decoder.positions.table.weight"):
        unused, table = state[name].tensor_split([_FIRST])
        state[name] = torch.cat([unused, resized_positions(table, length)])
    return msgspec.structs.replace(config, max_position_embeddings=length), state
