"""The one decoding loop continues prompts with an n-gram model."""

from __future__ import annotations

import numpy as np
import torch

from melete.baselines.generation import NGramDecoder
from melete.baselines.ngram import NGram
from melete.data.batch import Batch
from melete.generation.generate import generate
from melete.generation.settings import GenerationSettings


def test_goes_on_with_what_it_has_read() -> None:
    alphabet = np.tile(np.arange(6), 50)
    model = NGramDecoder(NGram.train(alphabet, vocab_size=6, order=3), max_position_embeddings=8)
    answers = generate(model, [[0], [2, 3, 4]], GenerationSettings(max_new_tokens=10, temperature=0))
    assert answers == [[1, 2, 3, 4, 5, 0, 1, 2, 3, 4], [5, 0, 1, 2, 3, 4, 5, 0, 1, 2]]


def test_each_position_of_a_padded_batch_gets_its_own_distribution() -> None:
    ngram = NGram.train(np.random.default_rng(0).integers(0, 6, 500), vocab_size=6, order=3)
    model = NGramDecoder(ngram)
    hidden = model.encode(Batch.from_rows([[1, 2, 3], [4]], left=True))
    expected = [ngram.next_log_probs(context) for context in ([1], [1, 2], [1, 2, 3])]
    np.testing.assert_allclose(hidden[0].numpy(), expected, rtol=1e-6)
    np.testing.assert_allclose(hidden[1, 2].numpy(), ngram.next_log_probs([4]), rtol=1e-6)
    assert torch.equal(model.logits(hidden), hidden)
