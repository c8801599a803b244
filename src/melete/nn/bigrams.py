"""Weights that know which token follows which, from counts: no step of training has to learn that."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_SMOOTHING = 100.0  # tokens drawn by frequency that are added to the followers of each token
_SPARE = 8  # dimensions that the search for the largest singular values has beside those it keeps
_SHARED = 0.5  # length of the direction that all tokens share, as a share of a row
_SHORTENED = 0.01  # share of the rows that may be shortened so that all have one length


def bigram_factors(ids: np.ndarray, vocab_size: int, width: int, seed: int) -> tuple[Tensor, Tensor]:
    """An embedding and an output matrix whose logits are smoothed log-probabilities of the next token.

    What a softmax has to be told of a pair is `log(1 + count(x, y) / (100 p(y)))`: zero for all that were never seen,
    so the matrix is sparse. Its largest singular directions, weighted by how often both tokens stand in the text, come
    from one pass of subspace iteration (Halko et al. 2011, "Finding Structure with Randomness", section 4.5). One
    direction more holds the frequencies, and one fills each row up to the length of all: a norm changes nothing.

    Rows are as long as if their entries were 1. From shorter ones the first updates of the blocks, which add to them,
    drown what they say: the loss then rises for a hundred steps.

    Args:
        ids: int64 (N,), the training text.
        width: D, more than 2.

    Returns:
        (V, D) and (V, D), float32: logits of what follows `x` are `embedding[x] @ output.T`.
    """
    pairs, counts = np.unique(ids[:-1] * vocab_size + ids[1:], return_counts=True)
    before, after = np.divmod(pairs, vocab_size)
    found = np.bincount(ids, minlength=vocab_size).astype(np.float64)
    share = (found + 0.1) / (found + 0.1).sum()
    weight = np.sqrt(found + 1.0)
    told = np.log1p(counts / (_SMOOTHING * share[after])) * weight[before] * weight[after]
    rank, weights = min(width - 2, vocab_size), torch.from_numpy(weight).float()[:, None]
    left, values, right = _largest(before, after, told, vocab_size, rank, seed)
    left, right = (
        F.pad(side * values.sqrt() / weights, (0, width - 2 - rank)) for side in (left, right)
    )  # (V, D - 2) each

    lengths, own = left.norm(dim=1), (1.0 - _SHARED**2) ** 0.5
    longest = lengths.quantile(1.0 - _SHORTENED).clamp_min(1e-6)
    left = left * (own / torch.maximum(lengths, longest))[:, None]
    filler = (own**2 - left.square().sum(1)).clamp_min(0.0).sqrt()  # (V,)
    embedding = torch.cat([left, torch.full((vocab_size, 1), _SHARED), filler[:, None]], dim=1)
    logs = torch.from_numpy(np.log(share) - np.log(share).mean()).float()
    output = F.pad(torch.cat([right * longest / own, logs[:, None] / _SHARED], dim=1), (0, 1))
    return embedding * width**0.5, output / width**0.5


def _largest(
    rows: np.ndarray, columns: np.ndarray, values: np.ndarray, size: int, rank: int, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Singular vectors (size, rank), values (rank,) and vectors (size, rank) of a sparse square matrix."""
    there, entries = torch.from_numpy(np.stack([rows, columns])), torch.from_numpy(values).float()
    kind = {"size": (size, size), "check_invariants": True}
    matrix = torch.sparse_coo_tensor(there, entries, **kind).coalesce()
    turned = torch.sparse_coo_tensor(there.flip(0), entries, **kind).coalesce()
    guess = torch.randn(size, min(rank + _SPARE, size), generator=torch.Generator().manual_seed(seed))
    basis = torch.linalg.qr(torch.sparse.mm(turned, torch.sparse.mm(matrix, guess)))[0]
    left, found, mixed = torch.linalg.svd(torch.sparse.mm(matrix, basis), full_matrices=False)
    return left[:, :rank], found[:rank], (basis @ mixed.T)[:, :rank]
