"""What every decoder is, whatever its blocks: the contract the trainer, generation and evaluation rely on."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, ClassVar

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from melete.data.batch import Batch
from melete.errors import InputError
from melete.nn.cache import KVCache

Count = Annotated[int, msgspec.Meta(ge=1)]
Share = Annotated[float, msgspec.Meta(ge=0, lt=1)]


class DecoderConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Sizes and switches of a decoder, in Hugging Face's words.

    Attributes:
        vocab_size: rows of the embedding.
        hidden_size: width of the residual stream.
        num_hidden_layers: blocks.
        num_attention_heads: query heads.
        max_position_embeddings: longest context.
        initializer_range: standard deviation of initial weights.
        tie_word_embeddings: the output matrix is the embedding.
        attention_dropout, hidden_dropout, embedding_dropout: on attention weights, on what a block adds, on the
            embedding.
        weight_dropout: DropConnect on the matrices of the blocks.
        bos_token_id, eos_token_id, pad_token_id: what `config.json` and `generation_config.json` say of them.
    """

    vocab_size: Count
    hidden_size: Count
    num_hidden_layers: Count
    num_attention_heads: Count
    max_position_embeddings: Count
    initializer_range: float = 0.02
    tie_word_embeddings: bool = True
    attention_dropout: Share = 0.0
    hidden_dropout: Share = 0.0
    embedding_dropout: Share = 0.0
    weight_dropout: Share = 0.0
    bos_token_id: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None
    pad_token_id: int | None = None

    @property
    def kv_heads(self) -> int:
        """Key-value heads of a layer."""
        return self.num_attention_heads

    @property
    def head_size(self) -> int:
        """Width of one head."""
        return self.hidden_size // self.num_attention_heads


class Decoder(nn.Module):
    """A causal language model: token ids to hidden states, and an output matrix.

    Attributes:
        family: name in `models.FAMILIES`.
        config: what it was built from.
        residual: names of the modules whose output is added to the residual stream, for initialisation.
    """

    family: ClassVar[str]
    residual: ClassVar[tuple[str, ...]]
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
        """The output matrix (V, D), tied or not."""

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of the next token: (..., D) -> (..., V)."""
        return F.linear(hidden, self.head_weight)

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
        length = batch.input_ids.shape[1] + (cache.length if cache is not None else 0)
        longest = self.config.max_position_embeddings
        if length > longest:
            raise InputError(
                f"a context of {length} tokens is longer than the model's",
                expected=f"at most {longest} tokens",
                do="shorten it, or load the model with a longer max_position_embeddings",
            )
        return length
