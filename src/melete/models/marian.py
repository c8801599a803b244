"""Marian (Junczys-Dowmunt et al. 2018): the original Transformer (Vaswani et al. 2017), for translation.

Post-norm blocks, fixed positions, one embedding for everything, a bias on the output.
"""

from __future__ import annotations

from typing import Any

import msgspec
from torch import Tensor, nn

from melete.models import postnorm
from melete.models.base import Head, refuse_scaling
from melete.models.keymap import ConfigTable, KeyTable
from melete.models.postnorm import OutputBias, PostNorm, PostNormConfig
from melete.nn.positions import Sinusoids


class Config(PostNormConfig, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """See `PostNormConfig`."""


class Positions(nn.Module):
    """Adds the sines and cosines of each position."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.length = config.max_position_embeddings
        self.sinusoids = Sinusoids(config.hidden_size)

    def forward(self, x: Tensor, position_ids: Tensor) -> Tensor:
        return x + self.sinusoids(position_ids, self.length).to(x.dtype)


# task -> the Hugging Face class that opens the folder, and the parts it adds
HEADS: dict[str, Head] = {
    "text2text-generation": Head("MarianMTModel", {"output": OutputBias}),
    "feature-extraction": Head("MarianModel", bare=True),
}


class Model(PostNorm):
    """Encoder and decoder, and the head of one task."""

    family = "marian"

    def __init__(self, config: Config, task: str = "text2text-generation") -> None:
        super().__init__(config, task, HEADS[task], Positions)


def _preset(width: int, layers: int, heads: int, **other: Any) -> Config:
    spread: dict[str, Any] = {"scale_embedding": True, "initializer_range": width**-0.5}
    return postnorm.preset(Config, width, layers, heads, **{"activation_function": "relu"} | spread | other)


_OPUS: dict[str, Any] = {
    "vocab_size": 58101,
    "activation_function": "swish",
    "hidden_dropout": 0.1,
    "initializer_range": 0.02,
    "decoder_start_token_id": 58100,
    "forced_eos_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 58100,
}

# Small ones are named by the size of their blocks; the vocabulary comes with the data.
PRESETS: dict[str, Config] = {
    "nano": _preset(128, 2, 4),  # 0.9 M
    "tiny": _preset(256, 3, 4),  # 5.5 M
    "mini": _preset(384, 3, 6),  # 12.4 M
    "small": _preset(512, 4, 8),  # 29 M
    "base": _preset(512, 6, 8, vocab_size=37000, hidden_dropout=0.1),  # Vaswani et al. 2017, table 3
    "opus": _preset(512, 6, 8, **_OPUS),  # what OPUS-MT publishes for most pairs of languages
    "big": _preset(1024, 6, 16, vocab_size=37000, hidden_dropout=0.3),
}

KEYS = KeyTable(
    pairs=postnorm.PAIRS,
    heads=("output",),
    rows=("output.bias",),
    tied=postnorm.TIED,
    optional_prefix="model.",
    ignored=("model.encoder.embed_positions.weight", "model.decoder.embed_positions.weight"),
)

CONFIG_KEYS = ConfigTable(
    model_type="marian",
    names=(*postnorm.NAMES, ("vocab_size", "decoder_vocab_size")),
    defaults=postnorm.DEFAULTS
    | {
        "decoder_start_token_id": 58100,
        "forced_eos_token_id": 0,
        "bos_token_id": None,
        "eos_token_id": 0,
        "pad_token_id": 58100,
        "decoder_vocab_size": None,
    },
    fixed=postnorm.FIXED
    | {
        "share_encoder_decoder_embeddings": (True,),
        "static_position_embeddings": (True,),
        "normalize_embedding": (False,),
    },
    ignored=postnorm.IGNORED,
)

INITIALISATION = "xavier"


def resize_context(
    config: Config, state: dict[str, Tensor], length: int, scaling: str | None
) -> tuple[Config, dict[str, Tensor]]:
    """The same weights for a context of `length`: fixed positions reach as far as one likes."""
    refuse_scaling("Marian", scaling)
    return msgspec.structs.replace(config, max_position_embeddings=length), state
