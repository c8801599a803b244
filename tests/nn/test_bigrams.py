"""Weights from counts of neighbouring tokens."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from melete.nn.bigrams import bigram_factors

VOCAB = 60


def chain(length: int) -> np.ndarray:
    """Tokens of which each is followed by one of a few of its own, and one that never comes."""
    rng = np.random.default_rng(0)
    followers = rng.integers(VOCAB - 1, size=(VOCAB, 4))
    ids = [0]
    for choice in rng.choice(4, size=length, p=(0.5, 0.25, 0.15, 0.1)):
        ids.append(int(followers[ids[-1], choice]))
    return np.array(ids)


def loss(embedding: torch.Tensor, output: torch.Tensor, ids: np.ndarray) -> float:
    tokens = torch.from_numpy(ids)
    hidden = F.rms_norm(embedding, (embedding.shape[1],))
    return float(F.cross_entropy(hidden[tokens[:-1]] @ output.T, tokens[1:]))


def test_they_predict_as_counts_do() -> None:
    ids = chain(200_000)
    train, held_out = ids[:150_000], ids[150_000:]
    counts = np.full((VOCAB, VOCAB), 0.1)
    np.add.at(counts, (train[:-1], train[1:]), 1)
    exact = -np.log(counts / counts.sum(1, keepdims=True))[held_out[:-1], held_out[1:]].mean()
    few, many = (loss(*bigram_factors(train, VOCAB, width, 0), held_out) for width in (16, 56))
    frequencies = np.bincount(train, minlength=VOCAB) + 0.1
    alone = -np.log(frequencies / frequencies.sum())[held_out[1:]].mean()
    assert exact < many < exact + 0.1
    assert many < few < alone - 0.5


def test_rows_of_the_embedding_have_one_length_and_the_seed_decides() -> None:
    ids = chain(2000)
    embedding, output = bigram_factors(ids, VOCAB, 16, 0)
    assert embedding.square().mean(1).tolist() == pytest.approx([1.0] * VOCAB, abs=1e-3)
    wide, _ = bigram_factors(ids, VOCAB, 96, 0)
    assert wide.square().mean(1).tolist() == pytest.approx([1.0] * VOCAB, abs=1e-3)
    again, _ = bigram_factors(ids, VOCAB, 16, 0)
    assert torch.equal(embedding, again) and output.shape == (VOCAB, 16)
