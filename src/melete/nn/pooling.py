"""One vector for a document, wherever in a batch it lies: padded or packed, read in one direction or both."""

from __future__ import annotations

import torch
from torch import Tensor


def first_tokens(hidden: Tensor, doc_starts: Tensor) -> Tensor:
    """What stands at the first token of each document.

    Args:
        hidden: (B, T, D).
        doc_starts: row and column of each document's first token, int64 (N, 2).

    Returns:
        (N, D).
    """
    rows, columns = doc_starts.unbind(1)
    return hidden[rows, columns]


def last_tokens(hidden: Tensor, doc_ids: Tensor, doc_starts: Tensor, skipped: Tensor | None = None) -> Tensor:
    """What stands at the last token of each document.

    Args:
        hidden: (B, T, D).
        doc_ids: int32 (B, T), see `Batch`.
        doc_starts: int64 (N, 2).
        skipped: bool (B, T), tokens that count as padding; a document of nothing else gives its first token.

    Returns:
        (N, D).
    """
    rows, first = doc_starts.unbind(1)
    inside = _inside(doc_ids, doc_starts)  # (N, T)
    if skipped is not None:
        inside = inside & ~skipped[rows]
    columns = torch.arange(doc_ids.shape[1], device=doc_ids.device)
    return hidden[rows, torch.where(inside, columns, first[:, None]).amax(1)]


def mean_tokens(hidden: Tensor, doc_ids: Tensor, doc_starts: Tensor) -> Tensor:
    """The mean over the tokens of each document; as `last_tokens`."""
    inside = _inside(doc_ids, doc_starts).to(hidden.dtype)  # (N, T)
    sums = torch.einsum("nt,ntd->nd", inside, hidden[doc_starts[:, 0]])
    return sums / inside.sum(1, keepdim=True)


def mean_of_parts(values: Tensor, parts: Tensor) -> Tensor:
    """The mean over the places of each part of each row.

    Args:
        values: (B, T).
        parts: which part of its row a place belongs to, from 0 on without gaps; -1: to none; int64 (B, T).

    Returns:
        (M,): all parts of the first row, then those of the second, ...
    """
    counts = parts.amax(1) + 1  # (B,)
    inside = parts >= 0
    places = (parts + (counts.cumsum(0) - counts)[:, None])[inside]
    total = int(counts.sum())
    sums = values.new_zeros(total).index_add(0, places, values[inside])
    return sums / places.bincount(minlength=total)


def _inside(doc_ids: Tensor, doc_starts: Tensor) -> Tensor:
    """Which places of its row are those of each document, bool (N, T)."""
    rows, first = doc_starts.unbind(1)
    return doc_ids[rows] == doc_ids[rows, first][:, None]
