"""Scaled dot-product attention with grouped queries, and the one mask of a forward pass.

Source: Vaswani et al. 2017, section 3.2; grouped queries: Ainslie et al. 2023.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from melete.nn import fused, native
from melete.nn.cache import KVCache, Source

# Queries of so few positions make matrices that no fused kernel gains anything on.
_FEW_QUERIES = 16


@dataclass
class Mask:
    """Which keys a query may see; built once a forward pass and read by every layer.

    Attributes:
        plain: one document a row and no padding, in the cache too.
        causal: `plain`, the queries are the keys, and see backwards only: attention needs no tensor for its mask.
        allowed: bool (B, 1, T, S), True where the key may be seen; None: as `causal` says, else every key.
        positions: what is added to the scores of each head, (1, H, T, S): relative positions.
        doc_ids: of queries that are the keys too, int32 (B, T), where `allowed` says no more than they and `window`.
        window: how many tokens of its document a query sees to its left and to its right; -1: all.
    """

    plain: bool
    causal: bool = False
    allowed: Tensor | None = None
    positions: Tensor | None = None
    doc_ids: Tensor | None = None
    window: tuple[int, int] = (-1, -1)
    _bias: Tensor | None = field(default=None, repr=False)
    _ranges: Tensor | None = field(default=None, repr=False)

    @property
    def has_ranges(self) -> bool:
        """Whether what a query sees of the keys is known to be a run of them."""
        return self._ranges is not None or self.causal or self.doc_ids is not None

    @cached_property
    def runs(self) -> tuple[Tensor, int] | None:
        """Where documents end in all rows side by side, int32 (documents + 1,) from 0, and the longest of them.

        Padding makes documents as well. None where there is no mask, or more than one is added to the scores.
        """
        if self.doc_ids is None or self.positions is not None:
            return None
        begins = torch.ones_like(self.doc_ids, dtype=torch.bool)  # (B, T)
        begins[:, 1:] = self.doc_ids[:, 1:] != self.doc_ids[:, :-1]
        ends = F.pad(begins.flatten().nonzero().squeeze(1), (0, 1), value=begins.numel()).int()
        return ends, int(ends.diff().max())

    def ranges(self, length: int, device: torch.device) -> Tensor | None:
        """The first key that each query sees and the one behind its last, int32 (B or 1, T, 2); None: all keys.

        Documents are runs of tokens, so that what is seen of one is a run as well. Made at the first call only.
        """
        if self._ranges is None and (self.causal or self.doc_ids is not None):
            columns = torch.arange(length, device=device)  # (T,)
            first, behind = torch.zeros_like(columns)[None], (columns + 1)[None]  # (1, T) each
            if self.doc_ids is not None:
                differs = self.doc_ids[:, 1:] != self.doc_ids[:, :-1]  # (B, T - 1)
                first = (columns * F.pad(differs, (1, 0))).cummax(1).values
                ends = torch.where(F.pad(differs, (0, 1), value=True), columns + 1, length)
                behind = ends.flip(1).cummin(1).values.flip(1)
                left, right = self.window
                if left >= 0:
                    first = torch.maximum(first, columns - left)
                if right >= 0:
                    behind = torch.minimum(behind, columns + right + 1)
            self._ranges = torch.stack([first, behind], dim=-1).int()
        return self._ranges

    def bias(self, length: int, groups: int, dtype: torch.dtype, device: torch.device) -> Tensor | None:
        """The mask as numbers to add to the scores of query heads that share keys; None: every key is seen.

        Returns:
            (groups * T, S), (B, 1, groups * T, S) or, with positions, (B or 1, H, T, S); made at the first call only.
        """
        if self._bias is None and (self.causal or self.allowed is not None or self.positions is not None):
            assert groups == 1 or self.positions is None
            allowed = self.allowed
            if self.causal:
                allowed = torch.ones(length, length, dtype=torch.bool, device=device).tril_()
            bias = torch.zeros((), device=device) if self.positions is None else self.positions
            bias = bias.to(dtype)
            if allowed is not None:
                bias = bias.where(allowed, torch.finfo(dtype).min)
            self._bias = bias.repeat(*[1] * (bias.dim() - 2), groups, 1)
        return self._bias


def document_mask(doc_ids: Tensor, cache: KVCache | None = None) -> Mask:
    """A token sees the earlier tokens of its own document, itself included.

    Padding is document 0, which sees only padding: no row of scores is ever empty, so none turns into NaN.

    Args:
        doc_ids: int32 (B, T), see `Batch`.
        cache: what was read before these tokens; its documents go on.
    """
    if cache is not None and cache.branches is not None:
        return Mask(plain=False, allowed=cache.branches.seen[:, None])  # (B, 1, T, S)
    past = cache.length if cache is not None else 0
    length = doc_ids.shape[1]
    plain = (cache is None or cache.plain) and is_plain(doc_ids)
    if plain and (past == 0 or length == 1):
        return Mask(plain, causal=length > 1)
    allowed = torch.ones(length, past + length, dtype=torch.bool, device=doc_ids.device).tril_(past)  # (T, S)
    if plain:
        return Mask(plain, allowed=allowed[None, None])  # (1, 1, T, S)
    keys = doc_ids if cache is None else torch.cat([cache.doc_ids[:, :past], doc_ids], dim=1)  # (B, S)
    allowed = allowed & (doc_ids[:, :, None] == keys[:, None, :])  # (B, T, S)
    own = doc_ids if cache is None else None
    return Mask(plain, allowed=allowed[:, None], doc_ids=own, window=(-1, 0))  # (B, 1, T, S)


def mutual_mask(doc_ids: Tensor, window: int | None = None) -> Mask:
    """A token sees its own document in both directions; padding sees padding, as in `document_mask`.

    Args:
        doc_ids: int32 (B, T), see `Batch`.
        window: sees no further than this many tokens to either side; None: the whole document.
    """
    length = doc_ids.shape[1]
    if window is not None and not torch.compiler.is_exporting() and window >= length - 1:
        window = None
    plain = is_plain(doc_ids)
    if plain and window is None:
        return Mask(plain)
    allowed = doc_ids[:, :, None] == doc_ids[:, None, :]  # (B, T, T)
    if window is not None:
        columns = torch.arange(length, device=doc_ids.device)
        allowed &= (columns[:, None] - columns).abs() <= window
    sees = -1 if window is None else window
    return Mask(plain, allowed=allowed[:, None], doc_ids=doc_ids, window=(sees, sees))  # (B, 1, T, T)


def source_mask(doc_ids: Tensor, source: Source) -> Mask:
    """A token sees the document of its own number in a source; padding sees all of it, as it may have no like.

    Args:
        doc_ids: int32 (B, T), of what reads the source; B is a multiple of the source's rows.
    """
    if is_plain(source.doc_ids) and int(doc_ids.max()) <= 1:
        return Mask(plain=True)
    reading = doc_ids.view(len(source.doc_ids), -1, 1)  # (R, B / R * T, 1)
    allowed = (reading == source.doc_ids[:, None, :]) | (reading == 0)
    ranges = None
    first = (source.doc_ids == 1).int().cummin(1).values  # (R, S), 1 up to the end of document 1
    if native.in_use() and int(reading.max()) <= 1 and torch.equal(first, source.doc_ids):
        behind = torch.where(reading == 1, first.sum(1)[:, None, None], first.shape[1])  # (R, B / R * T, 1)
        ranges = torch.cat([torch.zeros_like(behind), behind], -1).int()
    return Mask(plain=False, allowed=allowed[:, None], _ranges=ranges)  # (R, 1, B / R * T, S)


def is_plain(doc_ids: Tensor) -> bool:
    """One document a row and no padding. A graph that is being exported must hold for padding too."""
    return not torch.compiler.is_exporting() and bool((doc_ids == 1).all())


def attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Mask, dropout: float = 0.0, scale: float | None = None
) -> Tensor:
    """Softmax of the scaled scores, times the values. Query head h reads key-value head h // (H / Hkv).

    Args:
        q: (B, H, T, K).
        k, v: (B, Hkv, S, K).
        dropout: probability of dropping a weight; the caller passes 0 outside training.
        scale: of the scores; None is 1 / sqrt(K).

    Returns:
        (B, T, H * K).
    """
    if _kernels_fit(q, k, v, mask):
        ranges = mask.ranges(q.shape[2], q.device)
        out = fused.Attention.apply(q, k, v, ranges, dropout, q.shape[-1] ** -0.5 if scale is None else scale)
        assert isinstance(out, Tensor)
    elif _matmul_is_faster(q, k):
        out = _matmul_attention(q, k, v, mask, dropout, scale)
    else:
        groups = q.shape[1] // k.shape[1]
        if groups > 1:
            k, v = (x.repeat_interleave(groups, dim=1) for x in (k, v))  # (B, H, S, K)
        if _runs_are_faster(q, mask, dropout):
            return _run_attention(q, k, v, mask, scale)
        seen, causal = mask.allowed, mask.causal
        if mask.positions is not None:
            seen, causal = mask.bias(q.shape[2], 1, q.dtype, q.device), False
        out = F.scaled_dot_product_attention(q, k, v, seen, dropout, is_causal=causal, scale=scale)
    return out.transpose(1, 2).flatten(2)  # (B, H, T, K) -> (B, T, H * K)


def _kernels_fit(q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> bool:
    """Whether what a query sees is a run of keys, and there are kernels for that."""
    if q.shape[2] == 1 or mask.positions is not None or not native.fits(q, k, v):
        return False
    return mask.plain or mask.has_ranges


def _matmul_is_faster(q: Tensor, k: Tensor) -> bool:
    """Whether plain products beat fused attention.

    On a CPU in bfloat16 plain products run in matrix units that the backward pass of torch's fused attention does
    not use (a tenth of a whole training step at 256 tokens), until the scores outgrow the caches; without that pass
    the fused one takes two thirds to half of the time. With a few queries nothing is saved by not storing the scores,
    and grouped keys need no copy. A graph that is being exported holds for every length.
    """
    if q.device.type != "cpu" or torch.compiler.is_exporting():
        return False
    few = q.shape[2] == 1 or (q.shape[2] <= _FEW_QUERIES and q.shape[2] < k.shape[2])
    backward = torch.is_grad_enabled() and q.dtype == torch.bfloat16
    return few or (backward and q.shape[2] <= 512 and k.shape[2] <= 512)


def _runs_are_faster(q: Tensor, mask: Mask, dropout: float) -> bool:
    """Whether a kernel reads the documents one by one, and spends nothing on what lies between them.

    FlashAttention's does, on CUDA devices from compute capability 8.0 on, in narrow formats and without dropout on its
    weights. Elsewhere a mask is laid over all pairs of tokens.
    """
    narrow = q.dtype in (torch.bfloat16, torch.float16) and q.shape[-1] % 8 == 0 and q.shape[-1] <= 256
    if q.device.type != "cuda" or not narrow or dropout > 0 or torch.compiler.is_exporting():
        return False
    flash = torch.backends.cuda.is_flash_attention_available()
    return flash and torch.cuda.get_device_capability(q.device) >= (8, 0) and mask.runs is not None


def _run_attention(q: Tensor, k: Tensor, v: Tensor, mask: Mask, scale: float | None) -> Tensor:
    """(B, H, T, K) each -> (B, T, H * K)."""
    from torch.nn.attention.varlen import varlen_attn  # takes a while, which a CPU need not wait

    assert mask.runs is not None
    ends, longest = mask.runs
    shape = q.shape[0], q.shape[2], -1
    q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (q, k, v))  # (B * T, H, K) each
    out = varlen_attn(q, k, v, ends, ends, longest, longest, scale=scale, window_size=mask.window)
    assert isinstance(out, Tensor)
    return out.view(shape)


def _matmul_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Mask, dropout: float, scale: float | None
) -> Tensor:
    batch, heads, length, size = q.shape
    kv_heads = k.shape[1]
    q = q * (size**-0.5 if scale is None else scale)
    q = q.reshape(batch, kv_heads, -1, size)  # (B, Hkv, H / Hkv * T, K): a group shares its keys
    scores = q @ k.transpose(2, 3)  # (B, Hkv, H / Hkv * T, S)
    bias = mask.bias(length, heads // kv_heads, scores.dtype, scores.device)
    if bias is not None:
        scores.add_(bias)
    weights = F.dropout(scores.softmax(-1), dropout, training=dropout > 0)
    return (weights @ v).view(batch, heads, length, size)
