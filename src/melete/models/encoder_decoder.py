"""An encoder and a decoder that were trained apart (Rothe et al. 2020): BERT reads, BERT or GPT-2 writes.

The decoder looks at the encoder through attention that neither of them had, and that starts anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec
from torch import Tensor, nn

from melete.data.batch import Batch
from melete.errors import InputError
from melete.models import bert, gpt2
from melete.models.base import Count, EncoderDecoder, EncoderDecoderConfig, Head
from melete.models.keymap import ConfigTable, KeyTable, make_config, with_bias
from melete.nn.attention import Mask, attention, document_mask, source_mask
from melete.nn.cache import KVCache, Source
from melete.nn.dropout import Dropout
from melete.nn.embedding import Embedding
from melete.nn.linear import Linear
from melete.nn.norms import LayerNorm

FAMILY = "encoder-decoder"
Writer = Literal["bert", "gpt2"]
_FAMILIES: dict[str, Any] = {"bert": bert, "gpt2": gpt2}
# Fields that both halves take from the whole where they have no config of their own.
_SHARED = (
    *("vocab_size", "hidden_size", "num_attention_heads", "max_position_embeddings", "initializer_range"),
    *("attention_dropout", "hidden_dropout", "intermediate_size"),
)


class Config(EncoderDecoderConfig, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """See `EncoderDecoderConfig`. Sizes are those of the decoder.

    Attributes:
        intermediate_size: width of the feed-forward layers.
        writer: family of the decoder.
        encoder: of the encoder, a BERT; None: as wide as the decoder.
        bert_decoder, gpt2_decoder: of the decoder; None: as the other fields say.
    """

    intermediate_size: Count
    writer: Writer = "bert"
    encoder: bert.Config | None = None
    bert_decoder: bert.Config | None = None
    gpt2_decoder: gpt2.Config | None = None

    def __post_init__(self) -> None:
        for half in (self.reading, self.writing):
            if half.vocab_size != self.vocab_size:
                raise ValueError(
                    f"a vocabulary of {half.vocab_size} beside one of {self.vocab_size}: encoder and decoder share one"
                )

    @property
    def reading(self) -> bert.Config:
        """The encoder's config."""
        return self.encoder or bert.Config(num_hidden_layers=self.num_hidden_layers, **self._shared)

    @property
    def writing(self) -> Any:
        """The decoder's config."""
        own = self.bert_decoder if self.writer == "bert" else self.gpt2_decoder
        kind = _FAMILIES[self.writer].Config
        return own or kind(num_hidden_layers=self.num_decoder_layers, **self._shared)

    @property
    def _shared(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _SHARED}


class SelfAttention(nn.Module):
    """BERT's attention, of a text to what stands before in it, or to a source."""

    def __init__(self, config: bert.Config, source_width: int | None = None) -> None:
        super().__init__()
        self.heads, self.dropout = config.num_attention_heads, config.attention_dropout
        width = config.hidden_size
        self.query = Linear(width, width, bias=True)
        self.key = Linear(source_width or width, width, bias=True)
        self.value = Linear(source_width or width, width, bias=True)
        self.output = Linear(width, width, bias=True)

    def keys_and_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What is seen of (B, S, D): (B, H, S, K) each."""
        return _split(self.key(x), self.heads), _split(self.value(x), self.heads)

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, mask: Mask) -> Tensor:
        """(B, T, D) -> (B, T, D); several rows may share one of the keys."""
        q = _split(self.query(x.reshape(len(keys), -1, x.shape[2])), self.heads)
        return self.output(attention(q, keys, values, mask, self.dropout * self.training)).view_as(x)


class SourceAttention(nn.Module):
    """GPT-2's attention to a source: keys and values come from one matrix."""

    def __init__(self, config: gpt2.Config) -> None:
        super().__init__()
        self.heads, self.dropout = config.num_attention_heads, config.attention_dropout
        width = config.hidden_size
        self.query = Linear(width, width, bias=True)
        self.key_value = Linear(width, 2 * width, bias=True)
        self.output = Linear(width, width, bias=True)

    def keys_and_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What is seen of (B, S, D): (B, H, S, K) each."""
        keys, values = self.key_value(x).chunk(2, -1)
        return _split(keys, self.heads), _split(values, self.heads)

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, mask: Mask) -> Tensor:
        """(B, T, D) -> (B, T, D); several rows may share one of the keys."""
        q = _split(self.query(x.reshape(len(keys), -1, x.shape[2])), self.heads)
        return self.output(attention(q, keys, values, mask, self.dropout * self.training)).view_as(x)


def _split(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)  # (B, T, D) -> (B, H, T, K)


class BertBlock(nn.Module):
    """Attention, add, norm; attention to the source, add, norm; feed-forward, add, norm."""

    def __init__(self, config: bert.Config, layer: int) -> None:
        super().__init__()
        self.layer = layer
        width, eps = config.hidden_size, config.layer_norm_eps
        self.attention = SelfAttention(config)
        self.attention_norm = LayerNorm(width, eps=eps)
        self.cross_attention = SelfAttention(config)
        self.cross_attention_norm = LayerNorm(width, eps=eps)
        self.feed_forward = bert.FeedForward(config)
        self.feed_forward_norm = LayerNorm(width, eps=eps)
        self.dropout = Dropout(config.hidden_dropout)

    def forward(
        self, x: Tensor, mask: Mask, source: tuple[Tensor, Tensor], across: Mask, cache: KVCache | None
    ) -> Tensor:
        seen = self.attention.keys_and_values(x)
        if cache is not None:
            seen = cache.update(self.layer, *seen)  # (B, H, S, K)
        x = self.attention_norm(x + self.dropout(self.attention(x, *seen, mask)))
        x = self.cross_attention_norm(x + self.dropout(self.cross_attention(x, *source, across)))
        return self.feed_forward_norm(x + self.dropout(self.feed_forward(x)))


class Gpt2Block(nn.Module):
    """Norm, attention, add; norm, attention to the source, add; norm, feed-forward, add."""

    def __init__(self, config: gpt2.Config, layer: int) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.layer_norm_eps
        self.attention_norm = LayerNorm(width, eps=eps)
        self.attention = gpt2.Attention(config, layer)
        self.cross_attention_norm = LayerNorm(width, eps=eps)
        self.cross_attention = SourceAttention(config)
        self.feed_forward_norm = LayerNorm(width, eps=eps)
        self.feed_forward = gpt2.FeedForward(config)
        self.dropout = Dropout(config.hidden_dropout)

    def forward(
        self, x: Tensor, mask: Mask, source: tuple[Tensor, Tensor], across: Mask, cache: KVCache | None
    ) -> Tensor:
        normed, x = self.attention_norm.branch(x)
        x = x + self.dropout(self.attention(normed, mask, cache))
        normed, x = self.cross_attention_norm.branch(x)
        x = x + self.dropout(self.cross_attention(normed, *source, across))
        normed, x = self.feed_forward_norm.branch(x)
        return x + self.dropout(self.feed_forward(normed))


class BertWriter(nn.Module):
    """BERT as a decoder; what stands before its output matrix is its masked language model's."""

    def __init__(self, config: bert.Config) -> None:
        super().__init__()
        self.embeddings = bert.Embeddings(config)
        self.layers = nn.ModuleList(BertBlock(config, layer) for layer in range(config.num_hidden_layers))
        self.mlm = bert.MaskedLMHead(config)

    def begin(self, batch: Batch) -> Tensor:
        """Embeddings (B, T, D)."""
        return self.embeddings(batch)

    def end(self, x: Tensor) -> Tensor:
        """What meets the output matrix, (B, T, D)."""
        return self.mlm(x)

    @property
    def head_weight(self) -> Tensor:
        """The output matrix (V, D): the embedding."""
        return self.embeddings.word.weight

    @property
    def head_bias(self) -> Tensor | None:
        """Added to the logits, (V,)."""
        return self.mlm.bias


class Gpt2Writer(nn.Module):
    """GPT-2 as a decoder."""

    def __init__(self, config: gpt2.Config) -> None:
        super().__init__()
        self.token_embeddings = Embedding(config.vocab_size, config.hidden_size)
        self.position_embeddings = Embedding(config.max_position_embeddings, config.hidden_size)
        self.dropout = Dropout(config.embedding_dropout)
        self.layers = nn.ModuleList(Gpt2Block(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        if not config.tie_word_embeddings:
            self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)

    def begin(self, batch: Batch) -> Tensor:
        """Embeddings (B, T, D)."""
        x = self.token_embeddings(batch.input_ids) + self.position_embeddings(batch.position_ids)
        return self.dropout(x)

    def end(self, x: Tensor) -> Tensor:
        """What meets the output matrix, (B, T, D)."""
        return self.norm(x)

    @property
    def head_weight(self) -> Tensor:
        """The output matrix (V, D), tied or not."""
        return self.lm_head.weight if hasattr(self, "lm_head") else self.token_embeddings.weight

    @property
    def head_bias(self) -> Tensor | None:
        """Nothing is added to the logits."""
        return None


_WRITERS: dict[str, type[nn.Module]] = {"bert": BertWriter, "gpt2": Gpt2Writer}

# task -> the Hugging Face class that opens the folder, and the parts it adds
HEADS: dict[str, Head] = {"text2text-generation": Head("EncoderDecoderModel")}


class Model(EncoderDecoder):
    """Encoder, decoder, and what makes the one's states as wide as the other wants them."""

    config: Config
    family = FAMILY
    residual = ("output", "down")

    def __init__(self, config: Config, task: str = "text2text-generation") -> None:
        super().__init__()
        self.config, self.task = config, task
        reading, writing = config.reading, config.writing
        self.encoder = bert.Model(reading, "feature-extraction")
        # Named after its family: the halves of either kind have names of their own in files.
        self.add_module(f"{config.writer}_decoder", _WRITERS[config.writer](writing))
        self.adapt: nn.Module = nn.Identity()
        if reading.hidden_size != writing.hidden_size:
            self.adapt = Linear(reading.hidden_size, writing.hidden_size, bias=True)
        self._wear(HEADS[task])

    @property
    def decoder(self) -> Any:
        """The half that writes."""
        return getattr(self, f"{self.config.writer}_decoder")

    @property
    def head_weight(self) -> Tensor:
        """The output matrix (V, D), tied or not."""
        return self.decoder.head_weight

    @property
    def head_bias(self) -> Tensor | None:
        """Added to the logits, (V,); None: nothing is."""
        return self.decoder.head_bias

    def depth(self, name: str) -> int:
        """See `Network.depth`."""
        half, _, part = name.partition(".")
        if half not in ("encoder", "adapt") and part.startswith(("mlm.", "lm_head.")):
            return 1 + self.num_blocks
        if half == "adapt":
            return self.config.num_hidden_layers
        return super().depth(name.removeprefix(f"{self.config.writer}_"))

    def read(self, source: Batch) -> Source:
        """Sources as the layers of the decoder see them; see `EncoderDecoder.read`."""
        x = self.adapt(self.encoder.encode(source))
        layers = [block.cross_attention.keys_and_values(x) for block in self.decoder.layers]
        return Source(source.doc_ids, layers)

    def encode(self, batch: Batch, cache: KVCache | None = None) -> Tensor:
        """Hidden states of the decoder, (B, T, D); see `EncoderDecoder.encode`."""
        source = self._source(batch, cache)
        mask, across = document_mask(batch.doc_ids, cache), source_mask(batch.doc_ids, source)
        x = self.decoder.begin(batch)
        for block, seen in zip(self.decoder.layers, source.layers, strict=True):
            x = block(x, mask, seen, across, cache)
        if cache is not None:
            cache.advance(batch.doc_ids, mask.plain)
        return self.decoder.end(x)


def preset(width: int, layers: int, heads: int) -> Config:
    """BERT twice."""
    return Config(
        vocab_size=8192,
        max_position_embeddings=512,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_decoder_layers=layers,
        num_attention_heads=heads,
    )


# Named by the size of their blocks, as Marian's; the vocabulary comes with the data.
PRESETS: dict[str, Config] = {
    "nano": preset(128, 2, 4),
    "tiny": preset(256, 3, 4),
    "mini": preset(384, 3, 6),
    "small": preset(512, 4, 8),
}


def joined(reading: bert.Config, writer: str, writing: Any, **other: Any) -> Config:
    """The config of an encoder-decoder of these two halves.

    Raises:
        InputError: they do not share a vocabulary.
    """
    fields = {name: getattr(writing, name) for name in _SHARED}
    fields["intermediate_size"] = fields["intermediate_size"] or 4 * writing.hidden_size
    fields["max_position_embeddings"] = min(reading.max_position_embeddings, writing.max_position_embeddings)
    layers = {"num_hidden_layers": reading.num_hidden_layers, "num_decoder_layers": writing.num_hidden_layers}
    plain = make_config(Config, {**fields, **layers, "writer": writer, **other}, where=FAMILY)
    own: dict[str, Any] = {} if plain.reading == reading else {"encoder": reading}
    if plain.writing != writing:
        own[f"{writer}_decoder"] = writing
    try:
        return msgspec.structs.replace(plain, **own)
    except ValueError as error:
        raise InputError(str(error), do="train both with one tokenizer") from None


# ------------------------------------------------------------------ names on the other side

_HEADS = ("pooler", "next_sentence", "classifier", "tagger", "span")
_ACROSS = "decoder.bert.encoder.layer.{}.crossattention"
_GPT2_ACROSS = "decoder.transformer.h.{}.crossattention"
_GPT2_TURNED = ("cross_attention.query.weight", "cross_attention.key_value.weight")


class Keys(KeyTable):
    """Matrices of GPT-2 lie the other way round there, those of BERT do not."""

    def turned(self, ours: str, tensor: Tensor) -> Tensor:
        """A tensor as it lies on the other side."""
        if not ours.startswith("gpt2_decoder."):
            return tensor
        return tensor.t() if ours.endswith(_GPT2_TURNED) else gpt2.KEYS.turned(ours, tensor)


def _under(ours: str, theirs: str, table: KeyTable, *left_out: str) -> list[tuple[str, str]]:
    """The pairs of a family's trunk, as those of a half of the whole."""
    return [(ours + a, theirs + b) for a, b in table.pairs if not a.startswith(left_out)]


KEYS = Keys(
    pairs=(
        *(
            (ours, theirs.replace("encoder.bert.", "encoder.", 1))
            for ours, theirs in _under("encoder.", "encoder.", bert.KEYS, *_HEADS, "mlm")
        ),
        *_under("bert_decoder.", "decoder.", bert.KEYS, *_HEADS),
        *_under("gpt2_decoder.", "decoder.", gpt2.KEYS, *_HEADS),
        *with_bias(
            *(
                (f"bert_decoder.layers.{{}}.cross_attention.{name}", f"{_ACROSS}.self.{name}")
                for name in ("query", "key", "value")
            ),
            ("bert_decoder.layers.{}.cross_attention.output", f"{_ACROSS}.output.dense"),
            ("bert_decoder.layers.{}.cross_attention_norm", f"{_ACROSS}.output.LayerNorm"),
            ("gpt2_decoder.layers.{}.cross_attention.query", f"{_GPT2_ACROSS}.q_attn"),
            ("gpt2_decoder.layers.{}.cross_attention.key_value", f"{_GPT2_ACROSS}.c_attn"),
            ("gpt2_decoder.layers.{}.cross_attention.output", f"{_GPT2_ACROSS}.c_proj"),
            ("gpt2_decoder.layers.{}.cross_attention_norm", "decoder.transformer.h.{}.ln_cross_attn"),
            ("adapt", "enc_to_dec_proj"),
        ),
    ),
    tied=(
        ("decoder.cls.predictions.decoder.weight", "decoder.bert.embeddings.word_embeddings.weight"),
        ("decoder.cls.predictions.decoder.bias", "decoder.cls.predictions.bias"),
        ("decoder.lm_head.weight", "decoder.transformer.wte.weight"),
    ),
    # The pooler is theirs by habit: nothing reads it.
    ignored=("encoder.pooler.dense.weight", "encoder.pooler.dense.bias"),
)

_IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
_FORCED = ("forced_bos_token_id", "forced_eos_token_id")
_WRITES = {"is_decoder": True, "add_cross_attention": True}


class ConfigKeys(ConfigTable):
    """The config of either half stands in that of the whole."""

    def export_config(self, config: Any) -> dict[str, Any]:
        """See `ConfigTable.export_config`."""
        return {
            "model_type": self.model_type,
            "is_encoder_decoder": True,
            "encoder": bert.CONFIG_KEYS.export_config(config.reading),
            "decoder": _FAMILIES[config.writer].CONFIG_KEYS.export_config(config.writing) | _WRITES,
            **{name: getattr(config, name) for name in (*_IDS, *_FORCED)},
        }

    def import_config(self, kind: Any, values: Mapping[str, Any], where: str) -> Any:
        """See `ConfigTable.import_config`."""
        halves: dict[str, Any] = {}
        for half, families in (("encoder", ("bert",)), ("decoder", tuple(_FAMILIES))):
            own = values.get(half)
            family = own.get("model_type") if isinstance(own, dict) else None
            if not isinstance(own, dict) or family not in families:
                raise InputError(f"{half} is {family}", where=where, expected=" or ".join(families))
            plain = {name: value for name, value in own.items() if name not in _WRITES}
            module = _FAMILIES[str(family)]
            halves[half] = module.CONFIG_KEYS.import_config(module.Config, plain, f"{where}: {half}")
        writing = halves["decoder"]
        found = {name: values.get(name, getattr(writing, name, None)) for name in (*_IDS, *_FORCED)}
        found["decoder_start_token_id"] = found["decoder_start_token_id"] or 0
        return joined(halves["encoder"], str(values["decoder"]["model_type"]), writing, **found)


CONFIG_KEYS = ConfigKeys(model_type=FAMILY, names=())

INITIALISATION = "normal"


def resize_context(
    config: Config, state: dict[str, Tensor], length: int, scaling: str | None
) -> tuple[Config, dict[str, Tensor]]:
    """The same weights for a context of `length`; see those of the families."""
    state = dict(state)
    halves = {}
    for half, module, own in (
        ("encoder.", bert, config.reading),
        (f"{config.writer}_decoder.", _FAMILIES[config.writer], config.writing),
    ):
        part = {name.removeprefix(half): value for name, value in state.items() if name.startswith(half)}
        halves[half], part = module.resize_context(own, part, length, scaling)
        state |= {half + name: value for name, value in part.items()}
    ids = {name: getattr(config, name) for name in (*_IDS, *_FORCED)}
    reading, writing = halves.values()
    return joined(reading, config.writer, writing, **ids), state
