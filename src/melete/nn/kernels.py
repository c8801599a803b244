"""Builds `decoder.cpp` with the C++ compiler of this machine, once, and calls it. Nothing here is needed to run."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from melete.nn.native import built

_SOURCE = Path(__file__).with_name("decoder.cpp")
_FLAGS = (
    "-O3",
    "-march=native",
    "-mprefer-vector-width=512",
    "-ffast-math",
    "-std=c++17",
    "-fPIC",
    "-fopenmp",
)
# Inputs that share a scale in 4 bits.
GROUP = 32
_POINTER, _NUMBER = ctypes.c_void_p, ctypes.c_int64


class LinearOf(ctypes.Structure):
    """`Linear` of the source."""

    _fields_ = (
        ("weight", _POINTER),
        ("scale", _POINTER),
        ("bias", _POINTER),
        ("inputs", _NUMBER),
        ("outputs", _NUMBER),
    )


class LayerOf(ctypes.Structure):
    """`Layer` of the source."""

    _fields_ = (
        ("query_key_value", LinearOf),
        ("output", LinearOf),
        ("up", LinearOf),
        ("down", LinearOf),
        ("attention_norm", _POINTER),
        ("attention_norm_bias", _POINTER),
        ("feed_forward_norm", _POINTER),
        ("feed_forward_norm_bias", _POINTER),
        ("query_norm", _POINTER),
        ("key_norm", _POINTER),
    )


class DecoderOf(ctypes.Structure):
    """`Decoder` of the source."""

    _fields_ = (
        *((name, _NUMBER) for name in ("layers", "width", "heads", "kv_heads", "head_size", "gated")),
        ("eps", ctypes.c_float),
        ("layer", _POINTER),
        ("norm", _POINTER),
        ("norm_bias", _POINTER),
    )


class CacheOf(ctypes.Structure):
    """`Cache` of the source."""

    _fields_ = (
        ("keys", _POINTER),
        ("values", _POINTER),
        ("rows", _NUMBER),
        ("max_length", _NUMBER),
        ("length", _NUMBER),
    )


@cache
def library(folder: Path) -> Any:
    """The compiled functions `linear` and `encode`; None without a compiler, or a processor that has what they use.

    Args:
        folder: where the library is kept, by what it was made of and for.
    """
    found = loaded(_SOURCE, folder, "avx512_vnni")
    if found is not None:
        found.linear.argtypes = [_POINTER, _POINTER, _NUMBER, _POINTER]
        found.encode.argtypes = [_POINTER, _POINTER, _NUMBER, _NUMBER, *[_POINTER] * 4]
        found.linear.restype = found.encode.restype = None
    return found


def loaded(source: Path, folder: Path, needs: str) -> Any:
    """What a source in C++ becomes, kept in the folder; None without a compiler, or a processor that `needs` this."""
    compiler = shutil.which(os.environ.get("CXX") or "c++")
    cpuinfo = Path("/proc/cpuinfo")
    if compiler is None or not cpuinfo.is_file() or needs not in cpuinfo.read_text("utf-8"):
        return None
    try:
        return ctypes.CDLL(str(built(source, _FLAGS, folder, compiler)))
    except (OSError, subprocess.CalledProcessError):
        return None


class PackedLinear:
    """A matrix of 8 or 4 bits as the compiled functions read it.

    Attributes:
        address: of what describes it; holds as long as this object.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, bits: int) -> None:
        outputs, inputs = weight.shape
        four = bits == 4 and inputs % GROUP == 0
        self._scale = None
        if four:
            whole, scale = int4_weight(weight)
            self._weight = _tiles(_filled(whole, torch.uint8), _filled(scale, torch.float16))
        else:
            whole, self._scale = int8_weight(weight)
            bytes_ = (_filled(whole, torch.int16) + 128).to(torch.uint8)
            self._weight = bytes_.view(-1, 16, inputs // 4, 4).transpose(1, 2).contiguous()
        self._bias = None if bias is None else bias.detach().float().contiguous()
        of = (address(self._weight), address(self._scale), address(self._bias))
        self.parts = LinearOf(*of, inputs, outputs)

    @property
    def address(self) -> int:
        return ctypes.addressof(self.parts)


def _filled(rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Rows of zeros added, to a multiple of 16."""
    filled = rows.new_zeros(-(-len(rows) // 16) * 16, *rows.shape[1:], dtype=dtype)
    filled[: len(rows)] = rows
    return filled


def _tiles(whole: Tensor, scale: Tensor) -> Tensor:
    """Numbers 0 to 15 (N, inputs) and their scales (N, groups) as the source says: uint8 (N / 16, groups, 288)."""
    groups = scale.shape[1]
    parts = whole.view(-1, 16, groups, 4, 2, 4).permute(0, 2, 3, 4, 1, 5)  # (N / 16, groups, 4, 2, 16, 4)
    halves = (parts[:, :, :, 0] | parts[:, :, :, 1] << 4).flatten(2)  # (N / 16, groups, 256)
    scales = scale.view(-1, 16, groups).transpose(1, 2).contiguous().view(torch.uint8)  # (N / 16, groups, 32)
    return torch.cat([scales, halves], 2)


def int8_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A matrix (outputs, inputs) in 8 bits, and the scale of each output, float32 (outputs,)."""
    weight = weight.detach().float()
    scale = weight.abs().amax(1).clamp_min_(torch.finfo(torch.float32).tiny) / 127
    return (weight / scale[:, None]).round_().to(torch.int8), scale


def int4_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A matrix in 4 bits: uint8 (outputs, inputs) from 0 to 15, 8 is zero; the scale of each group, half precision.

    The scale of a group is the one of a few that leaves the smallest squared error: a little less range, finer steps.
    """
    grouped = weight.detach().float().unflatten(1, (-1, GROUP))  # (outputs, groups, GROUP)
    signed = grouped.gather(2, grouped.abs().argmax(2, keepdim=True))  # the largest, with its sign
    best, found, scales = None, grouped, signed
    for share in (1.0, 0.95, 0.9, 0.85, 0.8, 0.75):
        scale = (signed * (share / -8)).half().float()
        scale[scale == 0] = 1.0
        whole = (grouped / scale).round_().clamp_(-8, 7)
        error = (whole * scale - grouped).square_().sum(2, keepdim=True)  # (outputs, groups, 1)
        if best is None:
            best, found, scales = error, whole, scale
        better = error < best
        best, found, scales = error.minimum(best), whole.where(better, found), scale.where(better, scales)
    return (found + 8).to(torch.uint8).flatten(1), scales[..., 0].half()


def address(tensor: Tensor | None) -> int | None:
    """Where a tensor that lies in one piece begins."""
    assert tensor is None or tensor.is_contiguous()
    return None if tensor is None else tensor.data_ptr()


def array_of(layers: Sequence[LayerOf]) -> ctypes.Array[LayerOf]:
    """Layers side by side."""
    return (LayerOf * len(layers))(*layers)
