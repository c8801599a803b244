"""How well a language model predicts text, from the natural log-probabilities it gave."""

from __future__ import annotations

import math

import numpy as np


def perplexity(nats: float, tokens: int) -> float:
    """exp(nats / tokens): over tokens, or over words for the per-word perplexity of the literature.

    Args:
        nats: sum of the negative natural log-probabilities of ALL tokens.
        tokens: how many tokens, or how many words they make up. With words the figure does not depend on the
            tokenizer.

    Returns:
        At least 1; infinity where there is nothing to divide by or the value exceeds a float.
    """
    exponent = nats / tokens if tokens else math.inf
    return math.exp(exponent) if exponent < 709 else math.inf


def bits_per_byte(nats: float, num_bytes: int) -> float:
    """Bits the model needs for a byte of UTF-8 text: comparable between tokenizers, languages and models."""
    return nats / math.log(2) / num_bytes if num_bytes else math.inf


def interval(
    values: np.ndarray, *, block: int = 256, resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """95 % interval of the mean of a stream, by the block bootstrap (Kuensch 1989).

    Whole blocks of neighbours are drawn, since the losses of neighbouring tokens are not independent.

    Args:
        values: one figure a token, in stream order, (N,).
        block: tokens a block, at most; at least 20 blocks are made where the stream allows it.
        resamples: how often the stream is drawn anew.
        seed: of the draws.
    """
    block = max(1, min(block, len(values) // 20))
    starts = np.arange(0, len(values), block)
    sums = np.add.reduceat(values, starts)  # (K,)
    sizes = np.diff(np.append(starts, len(values)))
    rng = np.random.default_rng(seed)
    means = np.empty(resamples)
    for i in range(resamples):
        drawn = rng.integers(0, len(sums), len(sums))
        means[i] = sums[drawn].sum() / sizes[drawn].sum()
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)
