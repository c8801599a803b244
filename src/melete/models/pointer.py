"""Pointer-generator (See et al. 2017, section 2.2) on the original Transformer: it writes a token, or copies one.

Marian with one more look at the source. Each token of an answer comes from the vocabulary or, with a probability that
the model decides, from the source: names and numbers that it has never written can be copied.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from melete.data.batch import Batch
from melete.models import marian, postnorm
from melete.models.base import Head
from melete.models.keymap import ConfigTable, KeyTable, with_bias
from melete.models.marian import Config, Positions
from melete.models.postnorm import OutputBias, PostNorm
from melete.nn.attention import Mask, source_mask
from melete.nn.cache import KVCache, Source
from melete.nn.linear import Linear

_LEAST = 1e-20  # of the probability to copy a token: its logarithm is a number


class Copy(nn.Module):
    """Where in the source the next token stands, and whether it is to be copied from there."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.query = Linear(config.hidden_size, config.hidden_size, bias=True)
        self.gate = Linear(config.hidden_size, 1, bias=True)

    def forward(self, x: Tensor, source: Source, mask: Mask) -> Tensor:
        """How each token divides its attention among those of its source, the mean over heads: (R, B / R * T, S).

        Args:
            x: (B, T, D).
            source: its last keys are those that the last layer looks for too, (R, H, S, K).
        """
        keys, _ = source.layers[-1]
        q = self.query(x.reshape(len(keys), -1, x.shape[2])).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        scores = _exact(q @ keys.transpose(2, 3)) * q.shape[-1] ** -0.5  # (R, H, B / R * T, S)
        if mask.allowed is not None:
            scores = scores.masked_fill(~mask.allowed, torch.finfo(scores.dtype).min)
        # As a function: `AttentionWeights` sees those layers that call it as a method, of which this is none.
        return torch.softmax(scores, -1).mean(1)


HEADS: dict[str, Head] = {
    "text2text-generation": Head("MeletePointerGenerator", {"output": OutputBias, "copy": Copy}),
}


class Model(PostNorm):
    """Encoder and decoder, and what copies."""

    family = "pointer"
    mixes = True

    def __init__(self, config: Config, task: str = "text2text-generation") -> None:
        super().__init__(config, task, HEADS[task], Positions)

    def read(self, source: Batch) -> Source:
        """Sources as the layers of the decoder see them, and their tokens; see `EncoderDecoder.read`."""
        return replace(super().read(source), ids=source.input_ids)

    def encode(self, batch: Batch, cache: KVCache | None = None) -> Tensor:
        """What `logits` mixes, (B, T, D + 1 + V): hidden states, the score of the gate, and what would be copied.

        The last is a probability for each token of the vocabulary.
        """
        source = self._source(batch, cache)
        x = self._written(batch, source, cache)
        assert source.ids is not None
        copy = self._part("copy")
        weights = copy(x, source, source_mask(batch.doc_ids, source))  # (R, B / R * T, S)
        copied = weights.new_zeros(*weights.shape[:2], self.config.vocab_size)
        copied = copied.scatter_add(2, source.ids[:, None].expand_as(weights), weights)
        return torch.cat([x, copy.gate(x), copied.view(*x.shape[:2], -1).to(x.dtype)], -1)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logarithms of probabilities, float32 or wider: (..., D + 1 + V) -> (..., V)."""
        width = self.config.hidden_size
        x, gate, copied = hidden.split([width, 1, self.config.vocab_size], -1)
        written, gate = _exact(super().logits(x)).log_softmax(-1), _exact(gate)
        copied = _exact(copied).clamp_min(_LEAST).log()
        return torch.logaddexp(F.logsigmoid(gate) + written, F.logsigmoid(-gate) + copied)


def _exact(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


# Small ones are named by the size of their blocks, as Marian's.
PRESETS: dict[str, Config] = {name: marian.PRESETS[name] for name in ("nano", "tiny", "mini", "small")}

# No other program has such a class: names are ours on both sides.
_OWN = (
    *(name for name, _ in postnorm.PAIRS),
    *(name for name, _ in with_bias(("copy.query", ""), ("copy.gate", ""))),
)
KEYS = KeyTable(pairs=tuple((name, name) for name in _OWN), heads=("output", "copy"))

_FIXED: dict[str, tuple[Any, ...]] = {"is_encoder_decoder": (True,), "tie_word_embeddings": (True,)}
_LABELS = ("id2label", "problem_type", "classifier_dropout")
_FIELDS = tuple(name for name in Config.__struct_fields__ if name not in _LABELS)
CONFIG_KEYS = ConfigTable("pointer", names=tuple((name, name) for name in _FIELDS), fixed=_FIXED)

INITIALISATION = "xavier"

resize_context = marian.resize_context
