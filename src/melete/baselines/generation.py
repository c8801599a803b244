"""An n-gram model behind a decoder's contract, so that the one decoding loop continues its prompts too."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from melete.baselines.ngram import NGram
from melete.data.batch import Batch
from melete.nn.cache import KVCache


@dataclass(frozen=True)
class NGramConfig:
    """What the decoding loop asks of a model's config."""

    vocab_size: int
    max_position_embeddings: int


class NGramDecoder(nn.Module):
    """Reads batches as decoders do. Its hidden states are log-probabilities already, and its cache holds token ids.

    Args:
        ngram: the model.
        max_position_embeddings: longest text that one cache holds; the model looks at its last few tokens anyway.
    """

    family = "ngram"

    def __init__(self, ngram: NGram, max_position_embeddings: int = 1024) -> None:
        super().__init__()
        self.ngram = ngram
        self.config = NGramConfig(ngram.vocab_size, max_position_embeddings)
        self.place = nn.Parameter(torch.zeros(0), requires_grad=False)  # says which device: the CPU

    def encode(self, batch: Batch, cache: KVCache | None = None) -> Tensor:
        """Natural log-probabilities of what follows each position, (B, T, V); contexts run through documents."""
        rows, length = batch.input_ids.shape
        ids, real = batch.input_ids, batch.doc_ids > 0  # (B, T)
        if cache is not None:
            written = ids[:, None, :, None]  # (B, 1, T, 1)
            ids = cache.update(0, written, written)[0][:, 0, :, 0]  # (B, S)
            cache.advance(batch.doc_ids, plain=bool(real.all()))
            real = cache.doc_ids[:, : cache.length] > 0
        first = ids.shape[1] - length
        found = np.empty((rows, length, self.ngram.vocab_size), dtype=np.float32)
        for row in range(rows):
            for column in range(length):
                known = ids[row, : first + column + 1][real[row, : first + column + 1]]
                found[row, column] = self.ngram.next_log_probs(known.numpy())
        return torch.from_numpy(found)

    def logits(self, hidden: Tensor) -> Tensor:
        """The log-probabilities themselves: (..., V) -> (..., V)."""
        return hidden

    def new_cache(self, batch_size: int, max_length: int) -> KVCache:
        """An empty cache of token ids."""
        return KVCache(1, batch_size, max_length, 1, 1, torch.int64, "cpu")
