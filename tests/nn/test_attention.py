from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

import melete.nn.attention as module
from melete.nn.attention import attention, document_mask, mutual_mask
from melete.nn.cache import KVCache

ROWS = {
    "plain": torch.ones(2, 6, dtype=torch.int32),
    "packed": torch.tensor([[1, 1, 2, 2, 2, 3], [1, 2, 2, 2, 2, 2]], dtype=torch.int32),
    "padded": torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]], dtype=torch.int32),
}


def tensors(dtype=torch.float32, heads=4, kv_heads=2, length=6):
    generator = torch.Generator().manual_seed(0)
    return tuple(
        torch.randn(2, h, length, 8, generator=generator).to(dtype).requires_grad_()
        for h in (heads, kv_heads, kv_heads)
    )


def reference(q, k, v, doc_ids):
    """Attention written out: one loop per row, head and query."""
    groups, out = q.shape[1] // k.shape[1], torch.zeros(2, q.shape[2], q.shape[1] * 8)
    for b in range(2):
        for h in range(q.shape[1]):
            for t in range(q.shape[2]):
                seen = [s for s in range(t + 1) if doc_ids[b, s] == doc_ids[b, t]]
                weights = F.softmax(k[b, h // groups, seen] @ q[b, h, t] / 8**0.5, dim=0)
                out[b, t, 8 * h : 8 * h + 8] = weights @ v[b, h // groups, seen]
    return out


@pytest.fixture(params=[True, False], ids=["matmul", "fused"])
def path(request, monkeypatch) -> None:
    monkeypatch.setattr(module, "_matmul_is_faster", lambda q, k: request.param)


@pytest.mark.parametrize("rows", sorted(ROWS))
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_both_paths_are_attention_written_out(path, rows: str, kv_heads: int) -> None:
    q, k, v = tensors(kv_heads=kv_heads)
    out = attention(q, k, v, document_mask(ROWS[rows]))
    expected = reference(q, k, v, ROWS[rows])
    real = ROWS[rows] > 0
    assert torch.allclose(out[real], expected[real], atol=1e-5)
    ours = torch.autograd.grad(out[real].square().sum(), (q, k, v))
    theirs = torch.autograd.grad(expected[real].square().sum(), (q, k, v))
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("rows", sorted(ROWS))
@pytest.mark.parametrize("window", [None, 0, 2, 5])
def test_a_mutual_mask_shows_the_document_in_both_directions(path, rows: str, window: int | None) -> None:
    q, k, v = tensors(kv_heads=4)
    out = attention(q, k, v, mutual_mask(ROWS[rows], window))
    for b, t in (ROWS[rows] > 0).nonzero().tolist():
        near = range(6) if window is None else range(max(0, t - window), min(6, t + window + 1))
        seen = [s for s in near if ROWS[rows][b, s] == ROWS[rows][b, t]]
        for h in range(4):
            weights = F.softmax(k[b, h, seen] @ q[b, h, t] / 8**0.5, dim=0)
            assert torch.allclose(out[b, t, 8 * h : 8 * h + 8], weights @ v[b, h, seen], atol=1e-5)


def test_a_mutual_mask_is_left_out_where_everything_is_seen() -> None:
    assert mutual_mask(ROWS["plain"]).allowed is None
    assert mutual_mask(ROWS["plain"], window=5).allowed is None
    assert mutual_mask(ROWS["plain"], window=4).allowed is not None
    assert mutual_mask(ROWS["packed"]).allowed is not None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rows_of_padding_are_finite(path, dtype) -> None:
    doc_ids = torch.zeros(2, 6, dtype=torch.int32)
    q, k, v = tensors(dtype)
    out = attention(q * 30, k, v, document_mask(doc_ids))
    out.float().sum().backward()
    assert out.isfinite().all()
    assert q.grad is not None and q.grad.isfinite().all()


def test_a_plain_batch_needs_no_mask() -> None:
    mask = document_mask(ROWS["plain"])
    assert (mask.plain, mask.causal, mask.allowed) == (True, True, None)
    for rows in ("packed", "padded"):
        mask = document_mask(ROWS[rows])
        assert (mask.plain, mask.causal) == (False, False)
        assert mask.allowed is not None and mask.allowed.shape == (2, 1, 6, 6)


def test_dropout_drops_weights(path) -> None:
    q, k, v = tensors()
    mask = document_mask(ROWS["plain"])
    torch.manual_seed(0)
    assert not torch.allclose(attention(q, k, v, mask, 0.5), attention(q, k, v, mask))


def varlen_written_out(q, k, v, ends, key_ends, longest, longest_key, *, scale, window_size):
    """FlashAttention's kernel for documents side by side: (B * T, H, K) each, and where the documents end."""
    assert torch.equal(ends, key_ends) and ends.dtype == torch.int32
    assert int(ends.diff().max()) == longest == longest_key
    out = torch.empty_like(q)
    for a, b in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
        ahead = torch.arange(b - a) - torch.arange(b - a)[:, None]
        left, right = (b - a if size < 0 else size for size in window_size)
        here = [x[a:b].transpose(0, 1) for x in (q, k, v)]  # (H, N, K) each
        seen = (ahead >= -left) & (ahead <= right)
        out[a:b] = F.scaled_dot_product_attention(*here, seen, scale=scale).transpose(0, 1)
    return out


MASKS = {
    "causal": document_mask,
    "mutual": mutual_mask,
    "window": lambda doc_ids: mutual_mask(doc_ids, window=2),
}


@pytest.mark.parametrize("rows", ["packed", "padded"])
@pytest.mark.parametrize("kind", sorted(MASKS))
def test_documents_one_by_one_are_documents_under_a_mask(rows: str, kind: str, monkeypatch) -> None:
    kernel = SimpleNamespace(varlen_attn=varlen_written_out)
    monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", kernel)
    q, k, v = tensors()
    expected = attention(q, k, v, MASKS[kind](ROWS[rows]), scale=0.5)
    monkeypatch.setattr(module, "_runs_are_faster", lambda q, mask, dropout: mask.runs is not None)
    assert torch.allclose(attention(q, k, v, MASKS[kind](ROWS[rows]), scale=0.5), expected, atol=1e-5)


def test_a_cache_or_nothing_to_mask_makes_no_runs() -> None:
    cache = KVCache(1, 2, 12, 2, 8, torch.float32, "cpu")
    cache.advance(ROWS["padded"], plain=False)
    assert document_mask(ROWS["plain"], cache).runs is None
    assert document_mask(ROWS["plain"]).runs is mutual_mask(ROWS["plain"]).runs is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", sorted(MASKS))
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_documents_one_by_one_on_a_gpu(kind: str, dtype: torch.dtype, monkeypatch) -> None:
    """Outputs and gradients of the kernel are those of the mask, in the same format."""
    lengths = torch.tensor([100, 3, 61, 92])
    doc_ids = torch.arange(1, 5).repeat_interleave(lengths).expand(2, -1).int().cuda()
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(2, heads, 256, 64, generator=generator).to("cuda", dtype).requires_grad_()
        for heads in (4, 2, 2)
    )
    found = []
    for runs in (True, False):
        if not runs:
            monkeypatch.setattr(module, "_runs_are_faster", lambda q, mask, dropout: False)
        else:
            assert module._runs_are_faster(q, MASKS[kind](doc_ids), 0.0)
            assert not module._runs_are_faster(q, MASKS[kind](doc_ids), 0.1)
        out = attention(q, k, v, MASKS[kind](doc_ids))
        found.append((out, *torch.autograd.grad(out.float().square().sum(), (q, k, v))))
    for ours, theirs in zip(*found, strict=True):
        assert (ours - theirs).abs().max() <= 0.02 * theirs.abs().max()
