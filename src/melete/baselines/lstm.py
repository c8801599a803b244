"""LSTM encoder-decoder with attention (Luong et al. 2015, section 3.1): what the Transformer is measured against.

A bidirectional encoder (Bahdanau et al. 2015, section 3.2), a decoder that begins where the encoder ended, and
attention of its states to those of the encoder. What is attended to is not fed back, so that all steps of a training
text run in one call. It is a family like any other: the same trainer, the same decoding loop.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import msgspec
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from melete.data.batch import Batch
from melete.errors import InputError
from melete.models.base import EncoderDecoder, EncoderDecoderConfig, Head
from melete.models.keymap import ConfigTable, KeyTable, with_bias
from melete.models.postnorm import OutputBias
from melete.nn.attention import attention, source_mask
from melete.nn.cache import KVCache, Source
from melete.nn.dropout import Dropout
from melete.nn.embedding import Embedding
from melete.nn.linear import Linear


class Config(EncoderDecoderConfig, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """See `EncoderDecoderConfig`. Either direction of the encoder is half as wide as `hidden_size`."""

    def __post_init__(self) -> None:
        if self.hidden_size % 2 or self.num_attention_heads != 1:
            raise ValueError(
                f"hidden_size is {self.hidden_size} and num_attention_heads {self.num_attention_heads}: "
                "an LSTM wants the first even, and one head"
            )


class States(KVCache):
    """What a decoder goes on from: its states, (L, B, D) each, in the place of keys and values."""

    states: tuple[Tensor, Tensor] | None = None

    def select(self, rows: Tensor, sources: Tensor | None = None) -> None:
        """Keep these rows, in this order; see `KVCache.select`."""
        super().select(rows, sources)
        if self.states is not None:
            hidden, cell = self.states
            self.states = hidden[:, rows], cell[:, rows]


@dataclass(frozen=True)
class Documents:
    """Where the documents of a batch stand, in the order in which one meets them.

    Attributes:
        real: bool (B, T), no padding.
        rows: the row of each document, int64 (N,).
        lengths: its tokens, int64 (N,), on the CPU.
        number, place: of each real token, its document and its place in it: int64 (tokens,).
    """

    real: Tensor
    rows: Tensor
    lengths: Tensor
    number: Tensor
    place: Tensor

    @classmethod
    def of(cls, doc_ids: Tensor) -> Documents:
        """Of `Batch.doc_ids`, (B, T)."""
        real = doc_ids > 0
        begins = real.clone()
        begins[:, 1:] &= doc_ids[:, 1:] != doc_ids[:, :-1]
        rows, columns = begins.nonzero(as_tuple=True)
        number = begins.flatten().cumsum(0)[real.flatten()] - 1
        place = real.nonzero()[:, 1] - columns[number]
        return cls(real, rows, number.bincount(minlength=len(rows)).cpu(), number, place)

    def run(
        self, lstm: nn.LSTM, x: Tensor, states: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Each document for itself: outputs (B, T, D), 0 at padding, and the states behind each, (L, N, D).

        Args:
            states: that each begins with, (L, N, D); None: zeros.
        """
        apart = x.new_zeros(len(self.rows), int(self.lengths.max()), x.shape[2])
        apart = apart.index_put((self.number, self.place), x[self.real])
        packed = pack_padded_sequence(apart, self.lengths, batch_first=True, enforce_sorted=False)
        found, last = lstm(packed, states)
        apart, _ = pad_packed_sequence(found, batch_first=True)
        out = x.new_zeros(*x.shape[:2], apart.shape[2])
        return out.index_put((self.real,), apart[self.number, self.place]), last


# task -> the class that would open the folder elsewhere: there is none but ours
HEADS: dict[str, Head] = {"text2text-generation": Head("LSTMEncoderDecoder", {"output": OutputBias})}


class Model(EncoderDecoder):
    """Encoder, decoder, and the attention between them."""

    config: Config
    family = "lstm"
    residual = ()
    branching = False  # states are those of one text

    def __init__(self, config: Config, task: str = "text2text-generation") -> None:
        super().__init__()
        self.config, self.task = config, task
        width = config.hidden_size
        self.token_embeddings = Embedding(config.vocab_size, width)
        self.dropout = Dropout(config.hidden_dropout)
        self.encoder = _lstm(config, width // 2, config.num_hidden_layers, bidirectional=True)
        self.bridge = Linear(width, 2 * config.num_decoder_layers * width, bias=True)
        self.key = Linear(width, width, bias=False)
        self.decoder = _lstm(config, width, config.num_decoder_layers)
        self.combine = Linear(2 * width, width, bias=False)
        self._wear(HEADS[task])

    @property
    def head_weight(self) -> Tensor:
        """The output matrix (V, D): the embedding."""
        return self.token_embeddings.weight

    @property
    def head_bias(self) -> Tensor:
        """Added to the logits, (V,)."""
        return self._part("output").bias

    def read(self, source: Batch) -> Source:
        """Keys and values of the one attention, and the states (N, L, D) that the decoder begins with."""
        self._checked_length(int(source.position_ids.max()) + 1)
        x, (last, _) = Documents.of(source.doc_ids).run(self.encoder, self._embedded(source), None)
        x = self.dropout(x)  # (B, S, D)
        begins = self.bridge(
            last[-2:].transpose(0, 1).flatten(1)
        ).tanh()  # both directions of the top: (N, D)
        hidden, cell = begins.unflatten(1, (2, -1, self.config.hidden_size)).unbind(1)
        return Source(source.doc_ids, [(self.key(x)[:, None], x[:, None]), (hidden, cell)])

    def encode(self, batch: Batch, cache: KVCache | None = None) -> Tensor:
        """Hidden states of the decoder, (B, T, D); see `EncoderDecoder.encode`."""
        source = self._source(batch, cache)
        plain = bool((batch.doc_ids == 1).all())
        across = source_mask(batch.doc_ids, source)
        hidden, cell = (part.transpose(0, 1).contiguous() for part in source.layers[1])  # (L, N, D) each
        if cache is not None:
            assert isinstance(cache, States)
            shared = len(batch.doc_ids) // hidden.shape[1]
            states = cache.states or (
                hidden.repeat_interleave(shared, 1),
                cell.repeat_interleave(shared, 1),
            )
            x, cache.states = self._go_on(batch, states, plain)
            cache.advance(batch.doc_ids, plain and cache.plain)
        else:
            x, _ = Documents.of(batch.doc_ids).run(self.decoder, self._embedded(batch), (hidden, cell))
        x = self.dropout(x)
        keys, values = source.layers[0]  # (R, 1, S, D) each
        queries = x.reshape(len(keys), 1, -1, x.shape[2])  # rows that share a source, one behind another
        dropout = self.config.attention_dropout if self.training else 0.0
        seen = attention(queries, keys, values, across, dropout, scale=1.0).view_as(x)
        return self.dropout(self.combine(torch.cat([seen, x], -1)).tanh())

    def _go_on(
        self, batch: Batch, states: tuple[Tensor, Tensor], plain: bool
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Outputs (B, T, D) and the states (L, B, D) of rows that hold a part of one document each."""
        x = self._embedded(batch)
        if plain:
            return self.decoder(x, states)
        documents = Documents.of(batch.doc_ids)  # rows that are all padding have none
        hidden, cell = states
        rows = documents.rows
        x, (new_hidden, new_cell) = documents.run(self.decoder, x, (hidden[:, rows], cell[:, rows]))
        return x, (hidden.index_copy(1, rows, new_hidden), cell.index_copy(1, rows, new_cell))

    def new_cache(self, batch_size: int, max_length: int, dtype: torch.dtype | None = None) -> KVCache:
        """An empty cache for the decoder; see `Decoder.new_cache`."""
        weight = self.head_weight
        return States(1, batch_size, max_length, 1, 1, dtype or weight.dtype, weight.device)

    def _embedded(self, batch: Batch) -> Tensor:
        x = self.token_embeddings(batch.input_ids) * math.sqrt(self.config.hidden_size)
        return self.dropout(x)  # (B, T, D)


def _lstm(config: Config, width: int, layers: int, bidirectional: bool = False) -> nn.LSTM:
    dropout = config.hidden_dropout if layers > 1 else 0.0
    return nn.LSTM(
        config.hidden_size, width, layers, batch_first=True, dropout=dropout, bidirectional=bidirectional
    )


def _preset(width: int, layers: int) -> Config:
    return Config(
        vocab_size=8192,
        max_position_embeddings=512,
        hidden_size=width,
        num_hidden_layers=layers,
        num_decoder_layers=layers,
        num_attention_heads=1,
        initializer_range=width**-0.5,
    )


# As many weights as Marian's of the same name.
PRESETS: dict[str, Config] = {
    "nano": _preset(160, 2),  # 0.9 M
    "tiny": _preset(400, 2),  # 5.6 M
    "mini": _preset(592, 2),  # 12.3 M
    "small": _preset(768, 3),  # 28.9 M
}

_OWN = (
    "token_embeddings.weight",
    "key.weight",
    "combine.weight",
    "output.bias",
    *(name for name, _ in with_bias(("bridge", ""))),
    *(
        f"{stack}.{kind}_{way}_l{{}}{direction}"
        for stack, directions in (("encoder", ("", "_reverse")), ("decoder", ("",)))
        for direction in directions
        for kind in ("weight", "bias")
        for way in ("ih", "hh")
    ),
)
# No other program has such a class: names are ours on both sides.
KEYS = KeyTable(pairs=tuple((name, name) for name in _OWN), heads=("output",))

_FIELDS = tuple(
    name
    for name in Config.__struct_fields__
    if name not in ("id2label", "problem_type", "classifier_dropout")
)
CONFIG_KEYS = ConfigTable(
    model_type="lstm",
    names=tuple((name, name) for name in _FIELDS),
    fixed={"is_encoder_decoder": (True,), "tie_word_embeddings": (True,)},
)

INITIALISATION = "xavier"


def resize_context(
    config: Config, state: dict[str, Tensor], length: int, scaling: str | None
) -> tuple[Config, dict[str, Tensor]]:
    """The same weights for a context of `length`: states know no positions."""
    if scaling is not None:
        raise InputError(f"an LSTM has no positions to scale by {scaling!r}", do="leave rope_scaling out")
    return msgspec.structs.replace(config, max_position_embeddings=length), state
