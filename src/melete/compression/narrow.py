"""A decoder with weights of 8 or 4 bits whose every pass is one call of compiled code."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from melete.data.batch import Batch
from melete.models.base import Decoder
from melete.nn.attention import document_mask, is_plain
from melete.nn.cache import KVCache
from melete.nn.kernels import CacheOf, DecoderOf, LayerOf, PackedLinear, address, array_of


@dataclass(frozen=True)
class _Parts:
    """The layers of a block, under one name whatever the family: matrices with their biases, and norms."""

    query_key_value: tuple[Tensor, Tensor | None]
    output: tuple[Tensor, Tensor | None]
    up: tuple[Tensor, Tensor | None]
    down: tuple[Tensor, Tensor | None]
    norms: tuple[Any, Any]
    query_norm: Tensor | None = None
    key_norm: Tensor | None = None


def _of_gpt2(block: Any) -> _Parts:
    layers = (
        block.attention.query_key_value,
        block.attention.output,
        block.feed_forward.up,
        block.feed_forward.down,
    )
    matrices = [(layer.weight, layer.bias) for layer in layers]
    return _Parts(*matrices, norms=(block.attention_norm, block.feed_forward_norm))


def _of_qwen3(block: Any) -> _Parts:
    read, mlp = block.self_attn, block.mlp
    joined = torch.cat([layer.weight for layer in (read.q_proj, read.k_proj, read.v_proj)])
    wide = torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight])
    return _Parts(
        (joined, None),
        (read.o_proj.weight, None),
        (wide, None),
        (mlp.down_proj.weight, None),
        (block.input_layernorm, block.post_attention_layernorm),
        read.q_norm.weight,
        read.k_norm.weight,
    )


FAMILIES: dict[str, Callable[[Any], _Parts]] = {"gpt2": _of_gpt2, "qwen3": _of_qwen3}

# Of `attend` in decoder.cpp.
LARGEST_HEAD = 128


def suits(model: Decoder) -> bool:
    """Whether the compiled code can run this model."""
    config = model.config
    widths = (config.hidden_size, config.num_attention_heads * config.head_size)
    inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    even = not any(width % 4 for width in (*widths, inner))
    return model.family in FAMILIES and even and config.head_size <= LARGEST_HEAD


class NarrowDecoder(Decoder):
    """What a decoder of narrow weights says; it reads texts, and learns nothing.

    Each row of a batch is computed by itself, in exact sums where the weights are: a text gets the same logits, bit
    for bit, whether it is read token by token, several at once, or beside others of its length.

    Attributes:
        size: parameters of the model.

    Args:
        model: in float32 on the CPU; its blocks are read once, see `let_go`.
        compiled: `nn.kernels.library`.
        bits: 8 or 4; in 4, matrices whose rows do not divide into groups have 8.
    """

    def __init__(self, model: Decoder, compiled: Any, bits: int) -> None:
        super().__init__()
        self._bits = bits
        self.family = model.family  # pyright: ignore[reportAttributeAccessIssue]
        self.config, self.task, self._compiled = model.config, model.task, compiled
        self._kept: list[Any] = []  # what the addresses below point to
        self.outer = model.requires_grad_(False)
        layers = array_of([self._layer(FAMILIES[model.family](block)) for block in model.layers])  # pyright: ignore
        norm: Any = model.norm
        config = model.config
        self._parts = DecoderOf(
            config.num_hidden_layers,
            config.hidden_size,
            config.num_attention_heads,
            config.kv_heads,
            config.head_size,
            model.family == "qwen3",
            norm.eps,
            ctypes.addressof(layers),
            *(self._keep(tensor) for tensor in (norm.weight, getattr(norm, "bias", None))),
        )
        self._head = PackedLinear(model.head_weight, None, bits)
        self._kept.append(layers)
        self.size = sum(weight.numel() for weight in model.parameters())
        self.eval()

    def let_go(self) -> None:
        """Free the blocks in float32."""
        self.outer.layers = nn.ModuleList()

    @property
    def head_weight(self) -> Tensor:
        """The output matrix in float32, (V, D); see `Decoder.head_weight`."""
        return self.outer.head_weight

    def encode(self, batch: Batch, cache: KVCache | None = None) -> Tensor:
        """Hidden states after the final norm, (B, T, D); see `Decoder.encode`."""
        reach = self._context(batch, cache)
        rows, length = batch.input_ids.shape
        if cache is None:
            cache = self.new_cache(rows, length)
        plain = cache.branches is None and cache.plain and is_plain(batch.doc_ids)
        allowed = None if plain else document_mask(batch.doc_ids, cache).allowed  # (B, 1, T, S)
        seen = None if allowed is None else allowed[:, 0].contiguous()
        x, angles = self._embedded(batch, reach)
        held = CacheOf(
            address(cache.keys), address(cache.values), rows, cache.max_length, cache.reserve(length)
        )
        self._compiled.encode(
            ctypes.addressof(self._parts),
            ctypes.addressof(held),
            rows,
            length,
            address(seen),
            *(address(angle) for angle in angles),
            x.data_ptr(),
        )
        cache.advance(batch.doc_ids, plain)
        return x

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of the next token: (..., D) -> (..., V), float32."""
        hidden = hidden.float().contiguous()
        out = torch.empty(*hidden.shape[:-1], self._head.parts.outputs)
        count = hidden.numel() // hidden.shape[-1]
        self._compiled.linear(self._head.address, hidden.data_ptr(), count, out.data_ptr())
        return out

    def _embedded(self, batch: Batch, reach: int) -> tuple[Tensor, tuple[Tensor | None, Tensor | None]]:
        """Embeddings (B, T, D) in memory of their own, and the angles of rotary positions, (B, T, 1, K / 2) each."""
        outer: Any = self.outer
        if self.family == "gpt2":
            x = outer.token_embeddings(batch.input_ids) + outer.position_embeddings(batch.position_ids)
            return x, (None, None)
        cosine, sine = outer.rotary(batch.position_ids, reach, torch.float32)
        return outer.embed_tokens(batch.input_ids), (cosine.contiguous(), sine.contiguous())

    def _layer(self, parts: _Parts) -> LayerOf:
        matrices = [
            PackedLinear(*pair, self._bits)
            for pair in (parts.query_key_value, parts.output, parts.up, parts.down)
        ]
        self._kept += matrices
        norms = [
            self._keep(tensor)
            for norm in parts.norms
            for tensor in (norm.weight, getattr(norm, "bias", None))
        ]
        heads = (self._keep(tensor) for tensor in (parts.query_norm, parts.key_norm))
        return LayerOf(*(matrix.parts for matrix in matrices), *norms, *heads)

    def _keep(self, tensor: Tensor | None) -> int | None:
        if tensor is None:
            return None
        self._kept.append(tensor.detach().float().contiguous())
        return address(self._kept[-1])
