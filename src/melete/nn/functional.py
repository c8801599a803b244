"""Losses and norms with hand-written gradients, where autograd's own would cost memory or time."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# One block of logits: at most this many numbers (128 MiB in float32), and at most this many rows.
_BLOCK_NUMBERS = 1 << 25
_BLOCK_ROWS = 1024


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    ignore_index: int = -100,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of `hidden @ weight.T`, summed over rows, without ever holding all logits.

    Works through blocks of rows; both gradients are formed in the same pass, so the backward pass only
    multiplies them by a number.

    Args:
        hidden: (N, D).
        weight: the output matrix (V, D).
        labels: int64 (N,); rows with `ignore_index` are skipped.
        label_smoothing: share of the target spread evenly over the vocabulary (Szegedy et al. 2016, section 7).
        z_loss: factor of the squared log-normaliser (PaLM, Chowdhery et al. 2022, section 5).

    Returns:
        Two float32 scalars (float64 for float64 input), both differentiable: the SUM of the cross-entropy in
        nats, and `z_loss` times the SUM of squared log-normalisers.
    """
    if torch.is_autocast_enabled(hidden.device.type):
        dtype = torch.get_autocast_dtype(hidden.device.type)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
    if bool((labels == ignore_index).any()):
        rows = (labels != ignore_index).nonzero().squeeze(1)  # (N',)
        hidden, labels = hidden[rows], labels[rows]
    with_gradient = torch.is_grad_enabled()
    return _LinearCrossEntropy.apply(hidden, weight, labels, label_smoothing, z_loss, with_gradient)  # pyright: ignore[reportReturnType]


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, smoothing: float, z_loss: float, grad: bool
    ) -> tuple[Tensor, Tensor]:
        wide = torch.promote_types(hidden.dtype, torch.float32)
        rows = max(1, min(_BLOCK_ROWS, _BLOCK_NUMBERS // weight.shape[0]))
        want_hidden, want_weight = (grad and need for need in ctx.needs_input_grad[:2])
        terms = 2 if z_loss else 1
        d_hidden = [torch.empty_like(hidden) for _ in range(terms)] if want_hidden else []
        d_weight = [torch.zeros_like(weight, dtype=wide) for _ in range(terms)] if want_weight else []
        loss, z = hidden.new_zeros(2, dtype=wide)
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, hidden.shape[0], rows):
                block, target = (
                    hidden[start : start + rows],
                    labels[start : start + rows, None],
                )  # (N', D), (N', 1)
                logits = (block @ weight.t()).to(wide)  # (N', V)
                log_norm = logits.logsumexp(-1, keepdim=True)  # (N', 1)
                picked = logits.gather(1, target)
                loss += (log_norm - (1.0 - smoothing) * picked).sum()
                if smoothing:
                    loss -= smoothing * logits.mean(-1).sum()
                if z_loss:
                    z += z_loss * log_norm.square().sum()
                if not (want_hidden or want_weight):
                    continue
                probability = logits.sub_(log_norm).exp_()  # (N', V), in the memory of the logits
                slopes = [probability]
                if z_loss:
                    slopes.append((probability * log_norm.mul(2.0 * z_loss)).to(hidden.dtype))
                if smoothing:
                    probability.sub_(smoothing / weight.shape[0])
                probability.scatter_add_(1, target, probability.new_full(target.shape, smoothing - 1.0))
                slopes[0] = probability.to(hidden.dtype)
                for term, slope in enumerate(slopes):
                    if want_hidden:
                        torch.mm(slope, weight, out=d_hidden[term][start : start + rows])
                    if want_weight:
                        d_weight[term] += slope.t() @ block
        ctx.wants, ctx.terms = (want_hidden, want_weight), terms
        ctx.weight_dtype = weight.dtype
        ctx.save_for_backward(*d_hidden, *d_weight)
        return loss, z

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        saved = list(ctx.saved_tensors)
        gradients: list[Tensor | None] = []
        for wanted in ctx.wants:
            if not wanted:
                gradients.append(None)
                continue
            parts = [saved.pop(0) for _ in range(ctx.terms)]
            total = parts[0] * upstream[0]
            if ctx.terms == 2:
                total += parts[1] * upstream[1]
            gradients.append(total)
        d_hidden, d_weight = gradients
        return d_hidden, None if d_weight is None else d_weight.to(ctx.weight_dtype), None, None, None, None


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Divide by the root mean square over the last axis, then scale (Zhang and Sennrich 2019, section 4).

    The statistics are float32; the normalised value returns to the type of `x` before it meets the weight.

    Args:
        x: (..., D).
        weight: (D,).
    """
    if x.device.type != "cpu":
        return F.rms_norm(x, weight.shape, weight, eps)
    # torch's CPU rms_norm is a chain of elementwise ops: in bfloat16 this one is 3 to 4 times as fast.
    return _RMSNorm.apply(x, weight, eps)  # pyright: ignore[reportReturnType]


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=wide)  # (..., 1)
        scale = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        unit = (x.to(wide) * scale).to(x.dtype)
        ctx.save_for_backward(unit, scale, weight)
        return unit * weight

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        unit, scale, weight = ctx.saved_tensors
        width = unit.shape[-1]
        d_scaled = upstream[0] * unit
        d_weight = d_scaled.reshape(-1, width).sum(0)
        # d_x = scale * (w g - unit * mean(w g unit)): the mean is a product of a matrix and a vector
        mean = (d_scaled.reshape(-1, width) @ weight.to(d_scaled.dtype)).view(scale.shape)  # (..., 1)
        d_unit = torch.addcmul(upstream[0] * weight, unit, mean.to(unit.dtype), value=-1.0 / width)
        return (d_unit * scale.to(d_unit.dtype)).to(unit.dtype), d_weight.to(weight.dtype), None
