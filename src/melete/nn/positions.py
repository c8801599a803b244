"""Where a token stands: rotary, sinusoidal and learned positions, and how each stretches to a longer context."""

from __future__ import annotations

import math
from typing import Any, Literal

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from melete.errors import InputError
from melete.nn import native


class RopeParameters(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True
):
    """Rotary positions, in the words of Hugging Face's `rope_parameters`.

    Attributes:
        rope_theta: base of the frequencies.
        rope_type: "default"; "linear" divides positions by `factor` (position interpolation, Chen et al. 2023);
            "yarn" divides the slow frequencies only (Peng et al. 2023, section 3).
        factor: how many times longer the context is than in training.
        original_max_position_embeddings: context in training ("yarn" only).
        attention_factor, beta_fast, beta_slow: see the YaRN paper; None is the paper's choice.
    """

    rope_theta: float = 10000.0
    rope_type: Literal["default", "linear", "yarn"] = "default"
    factor: float | None = None
    original_max_position_embeddings: int | None = None
    attention_factor: float | None = None
    beta_fast: float | None = None
    beta_slow: float | None = None

    def __post_init__(self) -> None:
        if self.rope_type != "default" and (self.factor is None or self.factor < 1):
            raise ValueError(f"factor is {self.factor}, not a number >= 1")
        if self.rope_type == "yarn" and self.original_max_position_embeddings is None:
            raise ValueError("original_max_position_embeddings is missing")


def rotary_frequencies(size: int, rope: RopeParameters) -> tuple[Tensor, float]:
    """Angle per position of each pair of components, float32 (K / 2,), and the factor on sine and cosine."""
    power = rope.rope_theta ** (torch.arange(0, size, 2, dtype=torch.int64).float() / size)
    if rope.rope_type == "default":
        return 1.0 / power, 1.0
    assert rope.factor is not None
    if rope.rope_type == "linear":
        return 1.0 / power / rope.factor, 1.0
    trained = rope.original_max_position_embeddings
    assert trained is not None

    def component(rotations: float) -> float:
        """Which component turns this often within the context of training."""
        turns = trained / (rotations * 2 * math.pi)
        return size * math.log(turns) / (2 * math.log(rope.rope_theta))

    low = max(math.floor(component(rope.beta_fast or 32)), 0)
    high = min(math.ceil(component(rope.beta_slow or 1)), size - 1)
    ramp = (torch.arange(size // 2).float() - low) / max(high - low, 0.001)
    keep = 1.0 - ramp.clamp(0, 1)  # 1: fast, left alone; 0: slow, interpolated
    frequencies = (1.0 / (rope.factor * power)) * (1 - keep) + (1.0 / power) * keep
    default = 0.1 * math.log(rope.factor) + 1.0 if rope.factor > 1 else 1.0
    return frequencies, rope.attention_factor or default


class Rotary:
    """Sines and cosines of every position, made once and kept in float32.

    Not a module on purpose: a module's buffers follow `.to(bfloat16)`, which would ruin the angles.
    """

    def __init__(self, size: int, rope: RopeParameters) -> None:
        self.size = size
        self.rope = rope
        self._table = torch.empty(0, 2, size // 2)  # (S, 2, K / 2)

    def __call__(self, position_ids: Tensor, length: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosine and sine of each token, (B, T, 1, K / 2).

        Args:
            position_ids: (B, T), each below `length`.
            length: positions the table must reach; it grows to the next power of two.
        """
        if torch.compiler.is_exporting():  # a graph has no table that grows
            both = self._turns(position_ids.float()).to(dtype)  # (B, T, 2, K / 2)
        else:
            table = self._table  # another thread may put a shorter one in its place
            if table.shape[0] < length or table.device != position_ids.device:
                positions = torch.arange(1 << (length - 1).bit_length(), dtype=torch.float32)
                table = self._table = self._turns(positions).to(position_ids.device)
            both = table[position_ids].to(dtype)  # (B, T, 2, K / 2)
        return both[:, :, 0, None], both[:, :, 1, None]

    def _turns(self, positions: Tensor) -> Tensor:
        """Cosine and sine of positions (...), float32 (..., 2, K / 2)."""
        frequencies, factor = rotary_frequencies(self.size, self.rope)
        angles = positions[..., None] * frequencies  # (..., K / 2)
        return torch.stack([angles.cos(), angles.sin()], -2) * factor


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate component i and i + K/2 of each head by the angle of its position (Su et al. 2021, section 3.4).

    Args:
        x: (B, T, H, K).
        cos, sin: (B, T, 1, K / 2).

    Returns:
        (B, H, T, K), the layout attention reads.
    """
    if torch.compiler.is_exporting():  # writing into halves of a tensor makes a slow graph
        first, second = x.chunk(2, dim=-1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).transpose(1, 2)
    return _Rotate.apply(x, cos, sin)  # pyright: ignore[reportReturnType]


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        batch, length, heads, size = x.shape
        out = x.new_empty(batch, heads, length, size)
        _rotate_into(out.transpose(1, 2), x, cos, sin, 1.0)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        cos, sin = ctx.saved_tensors
        batch, heads, length, size = upstream[0].shape
        out = upstream[0].new_empty(batch, length, heads, size)
        _rotate_into(out, upstream[0].transpose(1, 2), cos, sin, -1.0)  # the inverse turns the other way
        return out, None, None


def _rotate_into(out: Tensor, x: Tensor, cos: Tensor, sin: Tensor, sign: float) -> None:
    if native.fits(x, cos, sin, out) and x.stride(-1) == cos.stride(-1) == sin.stride(-1) == 1:
        batch, length, heads, size = x.shape
        stride = cos.stride(1)
        if cos.stride(0) == length * stride and cos.stride() == sin.stride():
            sizes = batch, length, heads, size // 2, stride
            native.call("rotate", x, out, cos, sin, *sizes, *x.stride()[:3], *out.stride()[:3], sign)
            return
    first, second = x.chunk(2, dim=-1)
    out_first, out_second = out.chunk(2, dim=-1)
    torch.mul(first, cos, out=out_first).addcmul_(second, sin, value=-sign)
    torch.mul(second, cos, out=out_second).addcmul_(first, sin, value=sign)


def stretched(rope: RopeParameters, trained: int, length: int, kind: str) -> RopeParameters:
    """The same rotary positions, for a context of `length` instead of the `trained` one.

    Args:
        kind: "linear" or "yarn".
    """
    if kind not in ("linear", "yarn"):
        raise InputError(f"unknown rotary scaling {kind!r}", expected="linear or yarn")
    if rope.rope_type == "yarn":
        trained = rope.original_max_position_embeddings or trained
    elif rope.factor is not None:
        trained = round(trained / rope.factor)
    return RopeParameters(
        rope_theta=rope.rope_theta,
        rope_type=kind,
        factor=max(1.0, length / trained),
        original_max_position_embeddings=trained if kind == "yarn" else None,
    )


def sinusoids(length: int, size: int) -> Tensor:
    """Fixed positions: sine in the first half of the components, cosine in the second, float32 (S, D).

    Source: Vaswani et al. 2017, section 3.5, in the layout of Hugging Face's Marian.
    """
    frequencies = 10000.0 ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
    angles = torch.arange(length, dtype=torch.float64)[:, None] * frequencies  # (S, D / 2)
    return torch.cat([angles.sin(), angles.cos()], dim=1).float()


class Sinusoids:
    """The fixed positions of `sinusoids`, made once and kept in float32; no module, as `Rotary` is none."""

    def __init__(self, size: int) -> None:
        self._table = torch.empty(0, size)  # (S, D)

    def __call__(self, position_ids: Tensor, length: int) -> Tensor:
        """What stands for each position, float32 (B, T, D).

        Args:
            position_ids: (B, T), each below `length`.
            length: positions the table must reach; it grows to the next power of two.
        """
        table = self._table  # another thread may put a shorter one in its place
        if table.shape[0] < length or table.device != position_ids.device:
            table = sinusoids(1 << (length - 1).bit_length(), table.shape[1]).to(position_ids.device)
            self._table = table
        return table[position_ids]


def relative_buckets(distance: Tensor, buckets: int, furthest: int, mutual: bool) -> Tensor:
    """A number for how far a key stands from its query: near ones have one each, further ones share.

    Source: Raffel et al. 2020, section 2.1.

    Args:
        distance: position of the key minus that of the query, int64.
        buckets: how many numbers there are.
        furthest: whatever is so far has the last one.
        mutual: keys behind the query have the upper half of the numbers; otherwise there are none.
    """
    first = torch.zeros_like(distance)
    if mutual:
        buckets //= 2
        first = (distance > 0) * buckets
    away = distance.abs() if mutual else (-distance).clamp_min(0)
    near = buckets // 2
    steps = (away.clamp_min(near).float() / near).log() / math.log(furthest / near) * (buckets - near)
    far = (near + steps.long()).clamp_max(buckets - 1)
    return first + torch.where(away < near, away, far)


def resized_positions(table: Tensor, length: int) -> Tensor:
    """Learned positions (S, D) for another context: a longer one is interpolated, a shorter one cut."""
    if length <= table.shape[0]:
        return table[:length].clone()
    return (
        F.interpolate(table.t()[None].float(), size=length, mode="linear", align_corners=True)[0]
        .t()
        .to(table)
    )
