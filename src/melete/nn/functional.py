"""Losses and norms with hand-written gradients, where autograd's own would cost memory or time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from melete.nn import fused, native

# One block of logits: at most this many numbers (128 MiB in float32), and at most this many rows.
_BLOCK_NUMBERS = 1 << 25
_BLOCK_ROWS = 1024
# On a CPU smaller blocks stay in its caches between one pass over the logits and the next: of 10,000 tokens half the
# time. Where so few rows outgrow them too, more rows save passes over the gradient of the matrix.
_CACHED_NUMBERS, _CACHED_ROWS = 5 << 19, 256


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    bias: Tensor | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    ignore_index: int = -100,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of `hidden @ weight.T + bias`, summed over rows, without ever holding all logits.

    Works through blocks of rows; all gradients are formed in the same pass, so the backward pass only
    multiplies them by a number.

    Args:
        hidden: (N, D).
        weight: the output matrix (V, D).
        labels: int64 (N,); rows with `ignore_index` are skipped.
        bias: (V,).
        label_smoothing: share of the target spread evenly over the vocabulary (Szegedy et al. 2016, section 7).
        z_loss: factor of the squared log-normaliser (PaLM, Chowdhery et al. 2022, section 5).

    Returns:
        Two float32 scalars (float64 for float64 input), both differentiable: the SUM of the cross-entropy in
        nats, and `z_loss` times the SUM of squared log-normalisers.
    """
    if bool((labels == ignore_index).any()):
        rows = (labels != ignore_index).nonzero().squeeze(1)  # (N',)
        hidden, labels = hidden[rows], labels[rows]
    loss, z, _ = _cross_entropy(hidden, weight, bias, labels, (label_smoothing, z_loss), None)
    return loss, z


def sampled_cross_entropy(
    hidden: Tensor, weight: Tensor, labels: Tensor, *, bias: Tensor | None = None, rng: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """The cross-entropy of `linear_cross_entropy`, and a token drawn from the softmax of the same logits.

    A draw is where the cumulated probabilities pass a uniform number: in distribution the argmax of the logits plus
    Gumbel noise, for one random number a row instead of V (which on a CPU cost a quarter of a small ELECTRA's step).
    No gradient goes through it.

    Args:
        hidden: (N, D).
        weight: the output matrix (V, D).
        labels: int64 (N,), all of them targets.
        bias: (V,).
        rng: generator of the noise, on the device of `hidden`; None is torch's own.

    Returns:
        The SUM of the cross-entropy in nats, float32 (float64 for float64 input); the draws, int64 (N,).
    """
    loss, _, drawn = _cross_entropy(hidden, weight, bias, labels, (0.0, 0.0), (rng,))
    return loss, drawn


def _cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    terms: tuple[float, float],
    noise: tuple[torch.Generator | None] | None,
) -> tuple[Tensor, Tensor, Tensor]:
    if torch.is_autocast_enabled(hidden.device.type):
        dtype = torch.get_autocast_dtype(hidden.device.type)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    with_gradient = torch.is_grad_enabled()
    if not terms[1] and native.fits(hidden, weight, bias):
        uniform = None if noise is None else torch.rand(labels.shape, generator=noise[0])
        loss, drawn = fused.CrossEntropy.apply(hidden, weight, bias, labels, terms[0], uniform, with_gradient)  # pyright: ignore[reportGeneralTypeIssues]
        return loss, torch.zeros_like(loss), drawn
    return _LinearCrossEntropy.apply(hidden, weight, bias, labels, terms, noise, with_gradient)  # pyright: ignore[reportReturnType]


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        factors: tuple[float, float],
        noise: tuple[torch.Generator | None] | None,
        grad: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        smoothing, z_loss = factors
        wide = torch.promote_types(hidden.dtype, torch.float32)
        rows = _block_rows(weight)
        wants = tuple(grad and need for need in ctx.needs_input_grad[:3])
        gradients = _Gradients(hidden, weight, wants, 2 if z_loss else 1)
        loss, z = hidden.new_zeros(2, dtype=wide)
        drawn = labels.new_zeros(labels.shape if noise is not None else 0)
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, hidden.shape[0], rows):
                here = slice(start, start + rows)
                block, target = hidden[here], labels[here, None]  # (N', D), (N', 1)
                logits = (block @ weight.t()).to(wide)  # (N', V)
                if bias is not None:
                    logits += bias
                log_norm = logits.logsumexp(-1, keepdim=True)  # (N', 1)
                picked = logits.gather(1, target)
                loss += (log_norm - (1.0 - smoothing) * picked).sum()
                if smoothing:
                    loss -= smoothing * logits.mean(-1).sum()
                if z_loss:
                    z += z_loss * log_norm.square().sum()
                if noise is None and not any(wants):
                    continue
                probability = logits.sub_(log_norm).exp_()  # (N', V), in the memory of the logits
                if noise is not None:
                    passed = probability.cumsum(-1)  # (N', V)
                    uniform = torch.rand(target.shape, generator=noise[0], dtype=wide, device=hidden.device)
                    found = torch.searchsorted(passed, uniform * passed[:, -1:], right=True)  # (N', 1)
                    # Rounding may carry the search past the end.
                    drawn[here] = found.squeeze(1).clamp_max(weight.shape[0] - 1)
                slopes = [probability]
                if z_loss:
                    slopes.append((probability * log_norm.mul(2.0 * z_loss)).to(hidden.dtype))
                if smoothing:
                    probability.sub_(smoothing / weight.shape[0])
                probability.scatter_add_(1, target, probability.new_full(target.shape, smoothing - 1.0))
                slopes[0] = probability.to(hidden.dtype)
                gradients.add(here, block, weight, slopes)
        ctx.wants, ctx.terms = wants, gradients.terms
        ctx.dtypes = (hidden.dtype, weight.dtype, None if bias is None else bias.dtype)
        ctx.save_for_backward(*gradients.hidden, *gradients.weight, *gradients.bias)
        ctx.mark_non_differentiable(drawn)
        return loss, z, drawn

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        saved = list(ctx.saved_tensors)
        gradients: list[Tensor | None] = []
        for wanted, dtype in zip(ctx.wants, ctx.dtypes, strict=True):
            if not wanted:
                gradients.append(None)
                continue
            parts = [saved.pop(0) for _ in range(ctx.terms)]
            total = parts[0] * upstream[0]
            if ctx.terms == 2:
                total += parts[1] * upstream[1]
            gradients.append(total.to(dtype))
        return *gradients, None, None, None, None


def _block_rows(weight: Tensor) -> int:
    """Rows of a block of logits."""
    if weight.device.type == "cpu" and _CACHED_ROWS * weight.shape[0] <= _CACHED_NUMBERS:
        return min(_BLOCK_ROWS, max(_CACHED_ROWS, _CACHED_NUMBERS // 2 // weight.shape[0]))
    return max(1, min(_BLOCK_ROWS, _BLOCK_NUMBERS // weight.shape[0]))


class _Gradients:
    """Slopes of each term, gathered block by block, for the inputs that want one."""

    def __init__(self, hidden: Tensor, weight: Tensor, wants: tuple[bool, ...], terms: int) -> None:
        wide = torch.promote_types(hidden.dtype, torch.float32)
        self.terms = terms
        want_hidden, want_weight, want_bias = (range(terms if want else 0) for want in wants)
        self.hidden = [torch.empty_like(hidden) for _ in want_hidden]
        self.weight = [torch.zeros_like(weight, dtype=wide) for _ in want_weight]
        self.bias = [weight.new_zeros(weight.shape[0], dtype=wide) for _ in want_bias]

    def add(self, here: slice, block: Tensor, weight: Tensor, slopes: list[Tensor]) -> None:
        """Take in the slopes (N', V) of the logits of one block, one tensor a term."""
        for total, slope in zip(self.hidden, slopes, strict=False):
            torch.mm(slope, weight, out=total[here])
        for total, slope in zip(self.weight, slopes, strict=False):
            total += slope.t() @ block
        for total, slope in zip(self.bias, slopes, strict=False):
            total += slope.sum(0, dtype=total.dtype)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(..., inputs) times a matrix (outputs, inputs), and a bias: (..., outputs)."""
    if torch.is_grad_enabled() and native.fits(x, weight, bias):
        return fused.Linear.apply(x, weight, bias)  # pyright: ignore[reportReturnType]
    return F.linear(x, weight, bias)


def activate(x: Tensor, kind: str) -> Tensor:
    """`gelu`, `gelu_tanh` (its tanh form; Hendrycks and Gimpel 2016, section 2) or `silu` of a tensor of any shape."""
    if native.fits(x):
        return fused.Activation.apply(x, fused.KINDS[kind])  # pyright: ignore[reportReturnType]
    return _ACTIVATIONS[kind](x)


def gated(gate: Tensor, up: Tensor, kind: str) -> Tensor:
    """`activate(gate, kind) * up`, of two tensors alike (Shazeer 2020, section 2)."""
    if native.fits(gate, up):
        return fused.Gate.apply(gate, up, fused.KINDS[kind])  # pyright: ignore[reportReturnType]
    return _ACTIVATIONS[kind](gate) * up


def gated_halves(x: Tensor, kind: str) -> Tensor:
    """`gated` of the first and the second half of the last axis: (..., 2 F) -> (..., F)."""
    if native.fits(x):
        return fused.PairedGate.apply(x, fused.KINDS[kind])  # pyright: ignore[reportReturnType]
    gate, up = x.chunk(2, dim=-1)
    return _ACTIVATIONS[kind](gate) * up


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "silu": F.silu,
}


def dropout(x: Tensor, rate: float, training: bool = True) -> Tensor:
    """Zero a share of the entries while training, and scale up the rest (Srivastava et al. 2014)."""
    if training and 0.0 < rate < 1.0 and native.fits(x):
        return fused.Dropout.apply(x, rate)  # pyright: ignore[reportReturnType]
    return F.dropout(x, rate, training)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """Centre and scale to deviation 1 over the last axis, then scale and shift (Ba et al. 2016, section 3).

    Args:
        x: (..., D).
        weight, bias: (D,).
    """
    if native.fits(x, weight, bias):
        return fused.Norm.apply(x, weight, bias, eps, True)[0]  # pyright: ignore[reportGeneralTypeIssues]
    return F.layer_norm(x, weight.shape, weight, bias, eps)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Divide by the root mean square over the last axis, then scale (Zhang and Sennrich 2019, section 4).

    The statistics are float32; the normalised value returns to the type of `x` before it meets the weight.

    Args:
        x: (..., D).
        weight: (D,).
    """
    if x.device.type != "cpu" or torch.compiler.is_exporting():
        return F.rms_norm(x, weight.shape, weight, eps)
    if native.fits(x, weight):
        return fused.Norm.apply(x, weight, None, eps, False)[0]  # pyright: ignore[reportGeneralTypeIssues]
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
