"""Calls `writer.cpp`: one more token of many texts, by a post-norm decoder in float32."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from melete.nn.kernels import address, loaded

_SOURCE = Path(__file__).with_name("writer.cpp")
_COLUMNS = 32  # as in the source
_POINTER, _NUMBER = ctypes.c_void_p, ctypes.c_int64
# What no token is chosen with.
_NEVER = -3e38


class _Matrix(ctypes.Structure):
    _fields_ = (("weight", _POINTER), ("bias", _POINTER), ("inputs", _NUMBER), ("outputs", _NUMBER))


class _Norm(ctypes.Structure):
    _fields_ = (("weight", _POINTER), ("bias", _POINTER), ("eps", ctypes.c_double))


class _Layer(ctypes.Structure):
    _fields_ = (
        *(
            (name, _Matrix)
            for name in ("query_key_value", "output", "cross_query", "cross_output", "up", "down")
        ),
        *((name, _Norm) for name in ("attention_norm", "cross_attention_norm", "feed_forward_norm")),
    )


class _Writer(ctypes.Structure):
    _fields_ = (
        *((name, _NUMBER) for name in ("layers", "width", "heads", "activation")),
        ("layer", _POINTER),
        ("head", _Matrix),
        ("head_rows", _POINTER),
        ("head_parts", _POINTER),
    )


class _Texts(ctypes.Structure):
    _fields_ = (
        *((name, _NUMBER) for name in ("rows", "length", "room", "places")),
        *((name, _POINTER) for name in ("held", "place", "source")),
        ("source_room", _NUMBER),
        *((name, _POINTER) for name in ("source_length", "source_held")),
    )


class Texts(NamedTuple):
    """What texts have said, and what they read.

    Attributes:
        length: tokens that each has already.
        held: keys and values of all tokens, float32 (L, room, places, 2, D).
        place: where those of each token stand, int32 (B, room); of the new one at the number of its row.
        source: which source each text reads, int32 (B,).
        source_length: int32 (R,).
        source_held: keys and values of each layer, float32 (R, S, 2, D).
    """

    length: int
    held: Tensor
    place: Tensor
    source: Tensor
    source_length: Tensor
    source_held: Sequence[Tensor]


@cache
def library(folder: Path) -> Any:
    """The compiled function; None without a compiler, or a processor with AVX-512."""
    found = loaded(_SOURCE, folder, "avx512f")
    if found is not None:
        found.next_tokens.argtypes = [*[_POINTER] * 5, _NUMBER, _NUMBER, _POINTER, _POINTER, _NUMBER]
        found.next_tokens.restype = None
    return found


class Writer:
    """The layers of a decoder as the compiled function reads them; its weights are copied.

    Args:
        compiled: see `library`.
        layers: of each layer the matrices and biases that the source names, in its order, and the norms.
        heads: of attention.
        activation: "relu", "gelu", "swish" or "silu".
        head: the output matrix (V, D), and its bias.
    """

    def __init__(
        self,
        compiled: Any,
        layers: Sequence[tuple[Sequence[tuple[Tensor, Tensor]], Sequence[Any]]],
        heads: int,
        activation: str,
        head: tuple[Tensor, Tensor],
    ) -> None:
        self._compiled = compiled
        self._kept: list[Any] = []  # what the addresses point to
        made = [
            _Layer(*(self._matrix(*pair) for pair in matrices), *(self._norm(norm) for norm in norms))
            for matrices, norms in layers
        ]
        self._layers = (_Layer * len(made))(*made)
        self.vocab_size, width = head[0].shape
        kind = {"relu": 0, "gelu": 1, "swish": 2, "silu": 2}[activation]
        rows = parts = None
        if compiled.has_tiles():
            rows = head[0].detach().clone()
            parts = _in_parts(rows)
            self._kept += [rows, parts]
        self._parts = _Writer(
            *(len(made), width, heads, kind, ctypes.addressof(self._layers)),
            *(self._matrix(*head, _NEVER), address(rows), address(parts)),
        )

    def best(
        self, texts: Texts, embedded: Tensor, count: int, forbidden: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities float32 and ids int64 of the likeliest next tokens of each text, (B, count) each.

        Args:
            embedded: the newest tokens, (B, D).
            forbidden: tokens that are left out.
        """
        scores = torch.empty(len(embedded), count)
        tokens = torch.empty(len(embedded), count, dtype=torch.int64)
        left_out = torch.tensor(list(forbidden), dtype=torch.int64)
        self._write(texts, embedded, None, left_out, scores, tokens)
        return scores, tokens

    def logits(self, texts: Texts, embedded: Tensor) -> Tensor:
        """Scores of all next tokens, float32 (B, V); otherwise as `best`."""
        out = torch.empty(len(embedded), self._parts.head.outputs)
        self._write(
            texts, embedded, out, torch.empty(0, dtype=torch.int64), torch.empty(0, 0), torch.empty(0)
        )
        return out[:, : self.vocab_size]

    def _write(
        self, texts: Texts, embedded: Tensor, logits: Tensor | None, left_out: Tensor, *best: Tensor
    ) -> None:
        layers = (_POINTER * len(texts.source_held))(*(address(layer) for layer in texts.source_held))
        _, room, places, _, _ = texts.held.shape
        whole = _Texts(
            *(len(embedded), texts.length, room, places),
            *(
                address(texts.held),
                address(texts.place),
                address(texts.source),
                texts.source_held[0].shape[1],
            ),
            *(address(texts.source_length), ctypes.addressof(layers)),
        )
        scores, tokens = best
        self._compiled.next_tokens(
            *(ctypes.addressof(self._parts), ctypes.addressof(whole), address(embedded), address(logits)),
            *(address(left_out), len(left_out), scores.shape[1], address(scores), address(tokens)),
            torch.get_num_threads(),
        )

    def _matrix(self, weight: Tensor, bias: Tensor, spare: float = 0.0) -> _Matrix:
        outputs, inputs = weight.shape
        more = -outputs % _COLUMNS
        columns = (
            F.pad(weight.detach(), (0, 0, 0, more)).view(-1, _COLUMNS, inputs).transpose(1, 2).contiguous()
        )
        filled = F.pad(bias.detach(), (0, more), value=spare)
        self._kept += [columns, filled]
        return _Matrix(address(columns), address(filled), inputs, outputs + more)

    def _norm(self, norm: Any) -> _Norm:
        weight, bias = norm.weight.detach().clone(), norm.bias.detach().clone()
        self._kept += [weight, bias]
        return _Norm(address(weight), address(bias), norm.eps)


def _in_parts(weight: Tensor) -> Tensor:
    """A matrix (V, D) as `Tiles` of the source reads it: bfloat16 (V / 32, D / 32, 2, 2, 16, 16, 2)."""
    outputs, inputs = weight.shape
    weight = F.pad(weight, (0, -inputs % 32, 0, -outputs % 32))
    high = weight.bfloat16()
    both = torch.stack([high, (weight - high.float()).bfloat16()])  # (2, V, D)
    tiles = both.view(
        2, -1, 2, 16, weight.shape[1] // 32, 16, 2
    )  # part, V / 32, half, column, D / 32, pair, 2
    return tiles.permute(1, 4, 0, 2, 5, 3, 6).contiguous()
