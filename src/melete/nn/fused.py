"""Autograd over the kernels of `native`: what torch would do in many passes over memory, in one."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from melete.nn import native

# Kinds of activations, as the kernels number them.
KINDS = {"gelu": 0, "gelu_tanh": 1, "silu": 2}
# Rows whose slopes of a norm's weight are summed together: whatever the threads, in the same order.
_NORM_PARTS = 16
# Up to this many keys the weights of attention are kept for the backward pass; beyond it queries come in blocks.
_KEPT_KEYS, _BLOCK = 512, 256
# One block of logits: at most this many rows, and about this many numbers (128 MiB); rows go through in tiles.
_BLOCK_ROWS, _BLOCK_NUMBERS, _TILE = 2048, 1 << 26, 64
# So much further apart lie rows of what is turned: a power of two apart, they share few places of the caches.
_SPREAD = 32


class Linear(torch.autograd.Function):
    """`x @ weight.T + bias`. The slopes of the weight are formed of two matrices that lie as they are read."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.shape, ctx.biased = x.shape, bias is not None
        x = _rounded(x.reshape(-1, x.shape[-1]))  # (N, inputs)
        ctx.save_for_backward(x, weight)
        if bias is None:
            y = _product(x, weight.t())
        else:  # `F.linear` writes the bias into all of y first, and reads that again
            add = torch.ops.mkldnn._linear_pointwise
            parts = _parts(x, weight.shape[0])
            y = _joined([add(part, weight, bias, "none", [], "") for part in parts])
        return y[: ctx.shape[:-1].numel()].view(*ctx.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight = ctx.saved_tensors
        outputs = weight.shape[0]
        slopes = _rounded(upstream[0].reshape(-1, outputs).contiguous())  # (N, outputs)
        dx = None
        if ctx.needs_input_grad[0]:
            dx = _product(slopes, weight)[: ctx.shape[:-1].numel()].view(ctx.shape)
        if not any(ctx.needs_input_grad[1:]):
            return dx, None, None
        count = slopes.shape[0]
        turned = slopes.new_empty(outputs, count + _SPREAD)
        dbias = slopes.new_empty(outputs) if ctx.biased else None
        native.call("turn_all", slopes, turned, dbias, count, outputs, count + _SPREAD)
        return dx, _product(turned[:, :count], x), dbias


def _product(x: Tensor, matrix: Tensor) -> Tensor:
    """`x @ matrix`, (N, K) by (K, M)."""
    return _joined([part @ matrix for part in _parts(x, matrix.shape[1])])


def _parts(x: Tensor, columns: int) -> tuple[Tensor, ...]:
    """The rows of x in halves, where a whole product with so many columns would leave one of two threads idle.

    oneDNN does so around as many rows as columns; which products halves are better for depends on all three sizes, and
    it is certain for the widths of BERT-base and GPT-2 alone: 1,024 x 3,072 x 768 takes 4.3 ms, its halves 2.6 (torch
    2.13.0, 2026-11-23). Of smaller products halves take twice the time.
    """
    rows, inputs = x.shape
    one_idle = inputs >= 768 and 768 <= columns <= 896 and columns <= rows <= 1.5 * columns
    return x.chunk(2) if one_idle and torch.get_num_threads() == 2 else (x,)


def _joined(parts: tuple[Tensor, ...] | list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _rounded(x: Tensor) -> Tensor:
    """Rows of 0 after the last, up to a multiple of a tile: products prepare themselves for each new number of rows.

    In oneDNN that takes a millisecond or more, and of ragged batches hardly two are alike.
    """
    more = -len(x) % _TILE
    return F.pad(x, (*(0, 0) * (x.dim() - 1), 0, more)) if more else x


class Activation(torch.autograd.Function):
    """An activation of any shape."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kind: int) -> Tensor:
        x = x.contiguous()
        y = torch.empty_like(x)
        native.call("activate", x, y, x.numel(), kind)
        ctx.save_for_backward(x)
        ctx.kind = kind
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (x,) = ctx.saved_tensors
        dx = torch.empty_like(x)
        native.call("activate_back", x, upstream[0].contiguous(), dx, x.numel(), ctx.kind)
        return dx, None


class Gate(torch.autograd.Function):
    """`activation(gate) * up`, of two tensors alike."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, kind: int) -> Tensor:
        gate, up = gate.contiguous(), up.contiguous()
        y = torch.empty_like(gate)
        native.call("gate", gate, up, y, *_rows_of(y), kind)
        ctx.save_for_backward(gate, up)
        ctx.kind = kind
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        gate, up = ctx.saved_tensors
        dgate, dup = torch.empty_like(gate), torch.empty_like(up)
        native.call("gate_back", gate, up, upstream[0].contiguous(), dgate, dup, *_rows_of(gate), ctx.kind)
        return dgate, dup, None


def _rows_of(x: Tensor) -> tuple[int, int, int]:
    """How many rows a tensor has, how long they are, and how far apart they begin."""
    width = x.shape[-1]
    return x.numel() // width, width, width


class PairedGate(torch.autograd.Function):
    """`activation(first half) * second half` of the last axis."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kind: int) -> Tensor:
        x = x.contiguous()
        y = x.new_empty(*x.shape[:-1], x.shape[-1] // 2)
        ctx.sizes = y.numel() // y.shape[-1], y.shape[-1], x.shape[-1], kind
        native.call("gate", *_halves(x), y, *ctx.sizes)
        ctx.save_for_backward(x)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (x,) = ctx.saved_tensors
        dx = torch.empty_like(x)
        native.call("gate_back", *_halves(x), upstream[0].contiguous(), *_halves(dx), *ctx.sizes)
        return dx, None


def _halves(x: Tensor) -> tuple[int, int]:
    """Where the first and the second half of the first row begin."""
    return x.data_ptr(), x.data_ptr() + x.shape[-1] // 2 * x.element_size()


class Norm(torch.autograd.Function):
    """LayerNorm, or RMSNorm where `centred` is False, over the last axis; and its input again.

    Whoever goes on with that, past the norm, has the slopes of both ways added in the pass that forms one of them.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, centred: bool
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        past, x = x.view_as(x), x.contiguous()
        width = x.shape[-1]
        rows = x.numel() // width
        y, stats = torch.empty_like(x), x.new_empty(rows, 2, dtype=torch.float32)
        native.call("norm", x, weight, bias, y, stats, rows, width, eps, int(centred))
        ctx.save_for_backward(x, weight, stats)
        ctx.centred, ctx.biased = centred, bias is not None
        return y, past

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, stats = ctx.saved_tensors
        up, past = (None if d is None else d.contiguous() for d in upstream)
        if up is None:
            return past, None, None, None, None
        rows, width = stats.shape[0], x.shape[-1]
        dx, sums = torch.empty_like(x), stats.new_zeros(_NORM_PARTS, 2, width)
        native.call(
            "norm_back", x, weight, up, past, stats, dx, sums, _NORM_PARTS, rows, width, int(ctx.centred)
        )
        dweight, dbias = sums.sum(0).to(weight.dtype)
        return dx, dweight, dbias if ctx.biased else None, None, None


class Dropout(torch.autograd.Function):
    """A share of a tensor at 0, the rest grown; the mask is drawn again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rate: float) -> Tensor:
        x = x.contiguous()
        ctx.rate, ctx.seed = rate, new_seed()
        return _dropped(x, rate, ctx.seed)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _dropped(upstream[0].contiguous(), ctx.rate, ctx.seed), None


def _dropped(x: Tensor, rate: float, seed: int) -> Tensor:
    y = torch.empty_like(x)
    native.call("drop", x, y, x.numel(), rate, seed)
    return y


def new_seed() -> int:
    """Drawn from torch's own generator, which the trainer seeds for each micro-batch."""
    return int(torch.randint(2**62, ()))


class Attention(torch.autograd.Function):
    """Softmax attention: products by torch, which has matrix units for them, and all between them in one pass.

    q: (B, H, T, K); k, v: (B, Hkv, S, K); ranges: the first key that a query sees and the one behind the last, int32
    (B or 1, T, 2), or None: all. Beyond 512 keys queries come in blocks, each with no more keys than it sees, and the
    weights are computed again in the backward pass.
    """

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, ranges: Tensor | None, rate: float, scale: float
    ) -> Tensor:
        batch, heads, length, size = q.shape
        kv_heads, keys = k.shape[1:3]
        ctx.sizes, ctx.rate, ctx.scale = (batch, heads, length, kv_heads), rate, scale
        ctx.seed = new_seed() if rate else 0
        q = q.reshape(batch * kv_heads, -1, size)  # (B * Hkv, H / Hkv * T, K): a group shares its keys
        k, v = (x.reshape(batch * kv_heads, keys, size) for x in (k, v))  # (B * Hkv, S, K)
        ctx.blocks = _blocks(ctx.sizes, keys, ranges)
        kept: list[Tensor] = []
        if ctx.blocks is None:
            weights, dropped = _weights(ctx, q, k, ranges)
            out = torch.bmm(dropped, v)
            kept = [weights] if dropped is weights else [weights, dropped]
        else:
            out = torch.empty_like(q)
            for rows, seen, part in ctx.blocks:
                # Turned around, a part of a tensor would be copied by the product, and slowly.
                keys, values = k[:, seen].contiguous(), v[:, seen].contiguous()
                _, dropped = _weights(ctx, q[:, rows], keys, part, rows.start)
                out[:, rows] = torch.bmm(dropped, values)
        ctx.save_for_backward(q, k, v, ranges, *kept)
        return out.view(batch, heads, length, size)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        q, k, v, ranges, *kept = ctx.saved_tensors
        batch, heads, length, kv_heads = ctx.sizes
        d = upstream[0].reshape(q.shape)
        if ctx.blocks is None:
            dv = torch.bmm(kept[-1].mT, d)
            slopes = _slopes(ctx, torch.bmm(d, v.mT), kept[0], ranges)
            dq, dk = torch.bmm(slopes, k), torch.bmm(slopes.mT, q)
        else:
            dq = torch.empty_like(q)
            dk, dv = torch.zeros_like(k, dtype=torch.float32), torch.zeros_like(v, dtype=torch.float32)
            for rows, seen, part in ctx.blocks:
                queries, up = q[:, rows].contiguous(), d[:, rows].contiguous()
                keys, values = k[:, seen].contiguous(), v[:, seen].contiguous()
                weights, dropped = _weights(ctx, queries, keys, part, rows.start)
                dv[:, seen] += torch.bmm(dropped.mT, up)
                slopes = _slopes(ctx, torch.bmm(up, values.mT), weights, part, rows.start)
                dq[:, rows] = torch.bmm(slopes, keys)
                dk[:, seen] += torch.bmm(slopes.mT, queries)
        shape = batch, kv_heads, k.shape[1], -1
        return (
            dq.view(batch, heads, length, -1),
            dk.to(k.dtype).view(shape),
            dv.to(v.dtype).view(shape),
            *(None,) * 3,
        )


Blocks = list[tuple[slice, slice, Tensor | None]]


def _blocks(sizes: tuple[int, ...], keys: int, ranges: Tensor | None) -> Blocks | None:
    """Queries, the keys that any of them sees, and their ranges among these; None: all at once."""
    _, heads, length, kv_heads = sizes
    if keys <= _KEPT_KEYS or heads != kv_heads:
        return None
    blocks: Blocks = []
    for start in range(0, length, _BLOCK):
        rows, seen, part = slice(start, min(start + _BLOCK, length)), slice(0, keys), None
        if ranges is not None:
            part = ranges[:, rows]
            seen = slice(int(part[..., 0].min()), int(part[..., 1].max()))
            part = (part - seen.start).contiguous()
        blocks.append((rows, seen, part))
    return blocks


def _weights(ctx: Any, q: Tensor, k: Tensor, ranges: Tensor | None, start: int = 0) -> tuple[Tensor, Tensor]:
    """Softmax of the scores, and the same with some of it dropped; (B * Hkv, T, S) both."""
    weights = torch.bmm(q, k.mT)
    dropped = torch.empty_like(weights) if ctx.rate else None
    sizes = _rows(ctx, weights, ranges)
    native.call("softmax", weights, ranges, dropped, *sizes, ctx.scale, ctx.rate, ctx.seed + start)
    return weights, weights if dropped is None else dropped


def _slopes(ctx: Any, slopes: Tensor, weights: Tensor, ranges: Tensor | None, start: int = 0) -> Tensor:
    sizes = _rows(ctx, weights, ranges)
    native.call("softmax_back", weights, slopes, ranges, *sizes, ctx.scale, ctx.rate, ctx.seed + start)
    return slopes


def _rows(ctx: Any, weights: Tensor, ranges: Tensor | None) -> tuple[int, int, int, int]:
    """How the kernel finds the range of a row: batch, heads, queries, keys."""
    batch, heads, _, kv_heads = ctx.sizes
    queries = weights.shape[1] * kv_heads // heads
    own = batch if ranges is not None and ranges.shape[0] > 1 else 1  # else the range is that of all rows
    return own, batch * heads // own, queries, weights.shape[2]


class CrossEntropy(torch.autograd.Function):
    """Cross-entropy of `hidden @ weight.T + bias`, summed over rows, and a draw for each row where there is noise.

    See `functional.linear_cross_entropy`: all gradients are formed in the forward pass, block by block.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        smoothing: float,
        uniform: Tensor | None,
        grad: bool,
    ) -> tuple[Tensor, Tensor]:
        count, vocabulary = hidden.shape[0], weight.shape[0]
        # Rows of 0 add nothing to the slopes of the weight; of the other results theirs are left out.
        hidden, labels, weight = _rounded(hidden.contiguous()), _rounded(labels), weight.contiguous()
        uniform = None if uniform is None else _rounded(uniform)
        wants = tuple(grad and need for need in ctx.needs_input_grad[:3])
        slopes_wanted = any(wants) or uniform is not None
        loss = hidden.new_zeros((), dtype=torch.float32)
        drawn = torch.empty_like(labels if uniform is not None else labels[:0])
        d_hidden = torch.empty_like(hidden) if wants[0] else None
        d_weight = d_bias = None
        rows = max(_TILE, min(_BLOCK_ROWS, _BLOCK_NUMBERS // vocabulary // _TILE * _TILE))
        for start in range(0, count, rows):
            here, real = slice(start, start + rows), min(rows, count - start)
            block, target = hidden[here], labels[here].contiguous()  # (N', D), (N',)
            logits = weight @ block.t()  # (V, N')
            turned = logits.new_empty(len(block), vocabulary + _SPREAD) if slopes_wanted else None
            losses = loss.new_empty(len(block))
            bound = None if uniform is None else uniform[here]
            native.call(
                "cross_entropy",
                *(logits, bias, target, turned, losses, bound, drawn[here]),
                *(vocabulary, len(block), vocabulary + _SPREAD, smoothing),
            )
            loss += losses[:real].sum()
            if d_hidden is not None and turned is not None:
                d_hidden[here] = _product(turned[:, :vocabulary], weight)
            if wants[1]:
                d_weight = _added(d_weight, logits @ block)
            if wants[2]:
                d_bias = _added(d_bias, logits[:, :real].sum(1, dtype=torch.float32))
        ctx.save_for_backward(None if d_hidden is None else d_hidden[:count], d_weight, d_bias)
        drawn = drawn[:count]
        ctx.mark_non_differentiable(drawn)
        return loss, drawn

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        found = (None if d is None else (d * upstream[0]).bfloat16() for d in ctx.saved_tensors)
        return *found, None, None, None, None


def _added(total: Tensor | None, part: Tensor) -> Tensor:
    """The sum of the parts of all blocks: in float32 as soon as there is more than one."""
    return part if total is None else total.float().add_(part)
