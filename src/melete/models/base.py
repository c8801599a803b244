"""What every model is, whatever its blocks: the contract the trainer, generation and evaluation rely on."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from melete.data.batch import Batch
from melete.errors import InputError
from melete.nn.cache import KVCache, Source
from melete.nn.linear import Linear
from melete.nn.pooling import last_tokens

Count = Annotated[int, msgspec.Meta(ge=1)]
Share = Annotated[float, msgspec.Meta(ge=0, lt=1)]
ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]


class ModelConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What every model has, in Hugging Face's words.

    Attributes:
        vocab_size: rows of the embedding.
        hidden_size: width of the residual stream.
        num_hidden_layers: blocks.
        num_attention_heads: query heads.
        max_position_embeddings: longest context.
        initializer_range: standard deviation of initial weights.
        attention_dropout: on attention weights.
        bos_token_id, eos_token_id, pad_token_id: what `config.json` and `generation_config.json` say of them.
        id2label: names of the labels, in the order of the task's output.
        problem_type: what the labels of a text are: one of them, any of them, or a number.
        classifier_dropout: before the last layer of a task; None is `hidden_dropout`.
    """

    vocab_size: Count
    hidden_size: Count
    num_hidden_layers: Count
    num_attention_heads: Count
    max_position_embeddings: Count
    initializer_range: float = 0.02
    attention_dropout: Share = 0.0
    bos_token_id: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None
    pad_token_id: int | None = None
    id2label: tuple[str, ...] = ()
    problem_type: ProblemType | None = None
    classifier_dropout: Share | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the labels; where nobody gave them any, what Hugging Face calls them."""
        return self.id2label or ("LABEL_0", "LABEL_1")

    @property
    def output_dropout(self) -> float:
        """Share that is dropped before the last layer of a task."""
        if self.classifier_dropout is not None:
            return self.classifier_dropout
        return getattr(self, "hidden_dropout", 0.0)


class DecoderConfig(ModelConfig, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Sizes and switches of a decoder; see `ModelConfig`.

    Attributes:
        tie_word_embeddings: the output matrix is the embedding.
        hidden_dropout, embedding_dropout: on what a block adds, on the embedding.
        weight_dropout: DropConnect on the matrices of the blocks.
    """

    tie_word_embeddings: bool = True
    hidden_dropout: Share = 0.0
    embedding_dropout: Share = 0.0
    weight_dropout: Share = 0.0

    @property
    def kv_heads(self) -> int:
        """Key-value heads of a layer."""
        return self.num_attention_heads

    @property
    def head_size(self) -> int:
        """Width of one head."""
        return self.hidden_size // self.num_attention_heads


class EncoderConfig(ModelConfig, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Sizes and switches of an encoder; see `ModelConfig`. The output matrix of a masked LM is its embedding."""

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}"
            )


class EncoderDecoderConfig(ModelConfig, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Sizes and switches of an encoder-decoder; see `ModelConfig`. `num_hidden_layers` are the encoder's.

    Attributes:
        num_decoder_layers: blocks of the decoder.
        decoder_start_token_id: what the decoder reads first.
        forced_bos_token_id, forced_eos_token_id: what an answer must begin with, and end with if it grows too long.
        hidden_dropout: on embeddings, and on what a block adds.
    """

    num_decoder_layers: Count
    decoder_start_token_id: int = 0
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | None = None
    hidden_dropout: Share = 0.0

    @property
    def head_size(self) -> int:
        """Width of one head."""
        return self.hidden_size // self.num_attention_heads


@dataclass(frozen=True)
class Head:
    """What a model wears for a task.

    Attributes:
        architecture: the Hugging Face class that opens the folder.
        parts: attribute of the model -> the module built from its config; None where the config wants none. The
            family's key table knows their tensors, so that a part the task does not use is told from a stranger.
        labelled: the part whose outputs are the labels: for other labels, or another task, it starts anew.
        trunk: what this class calls the rest of the model, where that is not the key table's prefix.
        bare: no head at all. Whoever saves such a folder has seldom made it for this, so that it must be asked for.
    """

    architecture: str
    parts: Mapping[str, Callable[[Any], nn.Module | None]] = field(default_factory=dict)
    labelled: str = ""
    trunk: str = ""
    bare: bool = False


class Output(Linear):
    """The last layer of a task: dropout, and a score for each label."""

    def __init__(self, config: ModelConfig, labels: int, bias: bool = True, dropout: bool = True) -> None:
        super().__init__(config.hidden_size, labels, bias=bias)
        self.dropout = config.output_dropout if dropout else 0.0

    def forward(self, input: Tensor) -> Tensor:
        """(..., D) -> (..., labels)."""
        return super().forward(F.dropout(input, self.dropout, self.training))


def refuse_scaling(who: str, scaling: str | None) -> None:
    """For families whose context is resized without rotary positions.

    Raises:
        InputError: somebody asks to stretch them.
    """
    if scaling is not None:
        raise InputError(
            f"{who} has no rotary positions to scale by {scaling!r}", do="leave rope_scaling out"
        )


def label_output(config: ModelConfig) -> nn.Module:
    """A score for each label."""
    return Output(config, len(config.labels))


def span_output(config: ModelConfig) -> nn.Module:
    """Two scores a token: that an answer begins here, that one ends here."""
    return Output(config, 2, dropout=False)


class Network(nn.Module):
    """What decoders and encoders share.

    Attributes:
        family: name in `models.FAMILIES`.
        config: what it was built from.
        task: which of the family's heads it wears.
        residual: names of the modules whose output is added to the residual stream, for initialisation.
        branching: texts that share a beginning may grow side by side in one row: nothing but attention, and the
            position of each token, tells them apart.
        narrow_head: what makes the logits of a quantised model, in the place of `head_weight`.
    """

    family: ClassVar[str]
    residual: ClassVar[tuple[str, ...]]
    branching: ClassVar[bool] = True
    narrow_head: nn.Module | None
    config: Any  # a ModelConfig: each kind of model, or its families, say which
    task: str

    @abstractmethod
    def encode(self, batch: Batch) -> Tensor:
        """Hidden states of the last layer, (B, T, D).

        Raises:
            InputError: a text longer than the model's context.
        """

    @abstractmethod
    def class_logits(self, hidden: Tensor, batch: Batch) -> Tensor:
        """Scores of the labels of each document, in the order of `doc_starts`: (B, T, D) -> (N, labels).

        Raises:
            InputError: the model wears another head; so do the next two.
        """

    def tag_logits(self, hidden: Tensor) -> Tensor:
        """Scores of the labels of each token, (B, T, D) -> (B, T, labels)."""
        return self._part("tagger")(hidden)

    def span_logits(self, hidden: Tensor) -> Tensor:
        """Whether an answer begins, and whether one ends at each token, (B, T, D) -> (B, T, 2)."""
        return self._part("span")(hidden)

    @property
    def num_blocks(self) -> int:
        """How many blocks lie on one another."""
        return self.config.num_hidden_layers

    def depth(self, name: str) -> int:
        """How deep a parameter lies: 0 for embeddings, 1 .. `num_blocks` for blocks, one more for the head."""
        part, _, rest = name.partition(".")
        if part == "layers":
            return 1 + int(rest.partition(".")[0])
        if part in self._worn:
            return 1 + self.num_blocks
        return self.num_blocks if part == "norm" else 0

    def _wear(self, head: Head) -> None:
        """Add the parts of a head."""
        self.register_module("narrow_head", None)
        self._worn = frozenset(head.parts)
        for name, part in head.parts.items():
            if (module := part(self.config)) is not None:
                self.add_module(name, module)

    def _part(self, name: str) -> Any:
        """A module of the head.

        Raises:
            InputError: the head of this task does not have it.
        """
        if name not in self._modules:
            raise InputError(
                f"a {self.family} model for {self.task} has no `{name}` head",
                do="build or load it with a task that has one",
            )
        return self._modules[name]

    def _checked_length(self, length: int) -> int:
        longest = self.config.max_position_embeddings
        if length > longest:
            raise InputError(
                f"a context of {length} tokens is longer than the model's",
                expected=f"at most {longest} tokens",
                do="shorten it, or load the model with a longer max_position_embeddings",
            )
        return length


class Decoder(Network):
    """A causal language model: token ids to hidden states, and an output matrix."""

    config: DecoderConfig

    @abstractmethod
    def encode(self, batch: Batch, cache: KVCache | None = None) -> Tensor:
        """Hidden states after the final norm, (B, T, D).

        Args:
            batch: `position_ids` go on from the cache where there is one.
            cache: what was read before; it takes in this batch.

        Raises:
            InputError: the context is longer than the model's.
        """

    @property
    @abstractmethod
    def head_weight(self) -> Tensor:
        """The output matrix (V, D), tied or not.

        Raises:
            InputError: the model wears another head.
        """

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of the next token: (..., D) -> (..., V)."""
        if self.narrow_head is not None:
            return self.narrow_head(hidden)
        return F.linear(hidden, self.head_weight)

    def class_logits(self, hidden: Tensor, batch: Batch) -> Tensor:
        """Scores of the labels of each document, from its last token that is not padding: (N, labels)."""
        classify, pad = self._part("classifier"), self.config.pad_token_id
        # The end of a text may be the padding token: transformers passes over it, and so do we.
        skipped = None if pad is None else batch.input_ids == pad
        return classify(last_tokens(hidden, batch.doc_ids, batch.doc_starts, skipped))

    def new_cache(self, batch_size: int, max_length: int, dtype: torch.dtype | None = None) -> KVCache:
        """An empty cache on the model's device; `dtype` defaults to that of its weights."""
        weight = self.head_weight
        config = self.config
        return KVCache(
            config.num_hidden_layers,
            batch_size,
            max_length,
            config.kv_heads,
            config.head_size,
            dtype or weight.dtype,
            weight.device,
        )

    def _context(self, batch: Batch, cache: KVCache | None) -> int:
        """Positions in play once this batch is read."""
        # To look at positions would be to wait for the device; and a table for so many never grows, so that a pass
        # that was recorded may go on reading it.
        if cache is not None and cache.place is not None:
            return self.config.max_position_embeddings
        longest = batch.input_ids.shape[1] if cache is None else int(batch.position_ids.max()) + 1
        return self._checked_length(longest)


class Encoder(Network):
    """Reads a text in both directions: token ids to hidden states, and the head of one task.

    A head may read a few positions only, so `encode` stops before it. `mlm_hidden`, `mlm_weight` and `mlm_bias` are
    a masked language model's: its logits are `mlm_hidden(hidden) @ mlm_weight.T + mlm_bias`.
    """

    config: EncoderConfig

    @abstractmethod
    def mlm_hidden(self, hidden: Tensor) -> Tensor:
        """What meets the output matrix, at the positions given: (..., D) -> (..., E).

        Raises:
            InputError: the model wears no masked-language-model head; so do the next two.
        """

    @property
    @abstractmethod
    def mlm_weight(self) -> Tensor:
        """The output matrix (V, E): the embedding."""

    @property
    @abstractmethod
    def mlm_bias(self) -> Tensor:
        """Added to the logits, (V,)."""

    def mlm_logits(self, hidden: Tensor) -> Tensor:
        """Scores of what may stand at each position: (..., D) -> (..., V)."""
        return F.linear(self.mlm_hidden(hidden), self.mlm_weight, self.mlm_bias)

    def _context(self, batch: Batch) -> int:
        """Positions in play: those of the longest document, as a packed row may hold more than a context."""
        if torch.compiler.is_exporting():  # rows of one document: a graph cannot ask for the positions
            return self._checked_length(batch.input_ids.shape[1])
        return self._checked_length(int(batch.position_ids.max()) + 1)


class EncoderDecoder(Network):
    """Reads a source in both directions, and writes an answer from left to right: translation, summarisation.

    A batch is what the decoder reads, and its `source` what the encoder does. Each source is read once: `read` gives
    what every layer of the decoder sees of it, and a cache keeps that, so that the batches that go on have none.

    Attributes:
        mixes: `logits` is more than the product with `head_weight`, and what `encode` gives is more than it meets.
    """

    mixes: ClassVar[bool] = False

    @property
    def num_blocks(self) -> int:
        """Those of the encoder and, above them, of the decoder."""
        return self.config.num_hidden_layers + self.config.num_decoder_layers

    def depth(self, name: str) -> int:
        """See `Network.depth`."""
        stack, _, rest = name.partition(".")
        if stack not in ("encoder", "decoder"):
            return super().depth(name)
        below = 0 if stack == "encoder" else self.config.num_hidden_layers
        part, _, rest = rest.partition(".")
        if part == "layers":
            return below + 1 + int(rest.partition(".")[0])
        above = self.config.num_hidden_layers if stack == "encoder" else self.num_blocks
        return above if part == "norm" else 0

    @abstractmethod
    def read(self, source: Batch) -> Source:
        """Sources as the layers of the decoder see them.

        Raises:
            InputError: a source longer than the model's context.
        """

    @abstractmethod
    def encode(self, batch: Batch, cache: KVCache | None = None) -> Tensor:
        """Hidden states of the decoder, as they meet the output matrix: (B, T, D).

        Args:
            batch: `position_ids` go on from the cache where there is one.
            cache: what was read before; it takes in this batch.

        Raises:
            InputError: source or answer is longer than the model's context.
        """

    @property
    @abstractmethod
    def head_weight(self) -> Tensor:
        """The output matrix (V, D), tied or not."""

    @property
    def head_bias(self) -> Tensor | None:
        """Added to the logits, (V,); None: nothing is."""
        return None

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of the next token: (..., D) -> (..., V)."""
        return F.linear(hidden, self.head_weight, self.head_bias)

    def class_logits(self, hidden: Tensor, batch: Batch) -> Tensor:
        """No family wears such a head: raises InputError; see `Network.class_logits`."""
        return self._part("classifier")(hidden)

    def new_cache(self, batch_size: int, max_length: int, dtype: torch.dtype | None = None) -> KVCache:
        """An empty cache for the decoder; see `Decoder.new_cache`."""
        weight, config = self.head_weight, self.config
        return KVCache(
            config.num_decoder_layers,
            batch_size,
            max_length,
            config.num_attention_heads,
            config.head_size,
            dtype or weight.dtype,
            weight.device,
        )

    def _source(self, batch: Batch, cache: KVCache | None) -> Source:
        """What the decoder sees of the source of this batch, or of the one that was read before."""
        self._checked_length(int(batch.position_ids.max()) + 1)
        source = self.read(batch.source) if batch.source is not None else cache and cache.source
        assert source is not None, "neither batch nor cache has a source"
        if cache is not None:
            cache.source = source
        return source
