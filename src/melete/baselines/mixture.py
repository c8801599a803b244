"""Two language models as one: a linear mixture whose weight never saw the token it is used on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# A bucket of few tokens keeps close to the weight of all tokens together, as if it had this many more of them.
PRIOR_TOKENS = 50.0


def mix(log_a: Floats, log_b: Floats, buckets: np.ndarray | None = None) -> tuple[Floats, Floats]:
    """Mix `weight * a + (1 - weight) * b`, the weight fitted by cross-fitted EM (Jelinek & Mercer 1980).

    The stream is cut in two contiguous halves; each half uses the weights that fit the other one best.

    Args:
        log_a: natural log-probability that model a gave each token, (N,).
        log_b: the same of model b, (N,).
        buckets: small int of each token, (N,), known BEFORE the token is (how far `NGram.score` is to be
            trusted): each bucket has weights of its own. None: one weight.

    Returns:
        Natural log-probability of each token under the mixture, (N,), and the weight of a, (2, buckets): row h
        is what half h was scored with.
    """
    buckets = np.zeros(len(log_a), dtype=np.int64) if buckets is None else buckets.astype(np.int64)
    size = int(buckets.max(initial=0)) + 1
    middle = len(log_a) // 2
    halves = slice(0, middle), slice(middle, None)
    advantage = log_a - log_b
    weights = np.stack([_fit(advantage[other], buckets[other], size) for other in reversed(halves)])  # (2, B)
    weight = np.concatenate([weights[h, buckets[half]] for h, half in enumerate(halves)])  # (N,)
    return np.logaddexp(np.log(weight) + log_a, np.log1p(-weight) + log_b), weights


def _fit(advantage: Floats, buckets: NDArray[np.int64], size: int) -> Floats:
    """The likeliest weight of model a in each bucket, given how much better it did on each token: (size,)."""
    whole = _maximise(advantage, np.zeros_like(buckets), np.full(1, 0.5), 1.0)
    return _maximise(advantage, buckets, np.repeat(whole, size), PRIOR_TOKENS) if size > 1 else whole


def _maximise(advantage: Floats, buckets: NDArray[np.int64], prior: Floats, strength: float) -> Floats:
    """Expectation-maximisation from `prior`, which counts as `strength` tokens."""
    tokens = np.bincount(buckets, minlength=len(prior)) + strength
    weight = prior
    for _ in range(200):
        odds = np.log(weight) - np.log1p(-weight)
        share = 0.5 * (1 + np.tanh((odds[buckets] + advantage) / 2))  # a sigmoid that cannot overflow
        updated = (np.bincount(buckets, weights=share, minlength=len(prior)) + strength * prior) / tokens
        updated = np.clip(updated, 1e-9, 1 - 1e-9)
        if np.abs(updated - weight).max() < 1e-6:
            return updated
        weight = updated
    return weight
