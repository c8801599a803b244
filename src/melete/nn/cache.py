"""What a decoder has already read: keys and values of its own positions, and of a source."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from melete.errors import InputError


@dataclass
class Source:
    """Sources that an encoder has read, as each layer of a decoder sees them.

    Attributes:
        doc_ids: document of each position, int32 (R, S); 0 is padding.
        layers: keys and values for each layer, (R, H, S, K) each.
        ids: the tokens, int64 (R, S), for a model that copies them.
    """

    doc_ids: Tensor
    layers: list[tuple[Tensor, Tensor]]
    ids: Tensor | None = None

    def select(self, rows: Tensor) -> Source:
        """These rows, in this order."""
        layers = [(keys[rows], values[rows]) for keys, values in self.layers]
        return Source(self.doc_ids[rows], layers, None if self.ids is None else self.ids[rows])


@dataclass
class Branches:
    """Texts that grow side by side in one row, and share the keys of what they have in common.

    Attributes:
        seen: which positions, held or new, each new token sees: bool (B, T, S + T).
        positions: where each of them stands in its text, int64 (B, S + T).
    """

    seen: Tensor
    positions: Tensor


class KVCache:
    """Preallocated keys and values of every layer. Grouped heads are stored once, not per query head.

    A forward pass calls `update` in each layer and `advance` at its end, so an interrupted pass leaves the cache
    as it was.

    Attributes:
        length: positions held.
        max_length: positions there is room for.
        doc_ids: document of each held position, int32 (B, max_length); 0 is padding.
        plain: no padding and one document a row so far, so that attention needs no mask.
        source: what was read beside; as many rows in a row share one of its rows as it takes.
        branches: what the next tokens see, where rows hold more than one text; None: all of their document.
        place: where the next token is written, int64 (1,) on the device, in a pass whose shapes never change: then
            `update` returns all there is room for, and whoever set it counts. None: behind what is held.
    """

    def __init__(
        self,
        num_layers: int,
        batch_size: int,
        max_length: int,
        num_kv_heads: int,
        head_size: int,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        shape = (num_layers, batch_size, num_kv_heads, max_length, head_size)
        # Only what was written is ever read, and zeros for all that is not would cost as much as several steps.
        self.keys = torch.empty(shape, dtype=dtype, device=device)  # (L, B, Hkv, S, K)
        self.values = torch.empty(shape, dtype=dtype, device=device)
        self.doc_ids = torch.zeros((batch_size, max_length), dtype=torch.int32, device=device)
        self.length = 0
        self.plain = True
        self.source: Source | None = None
        self.branches: Branches | None = None
        self.place: Tensor | None = None

    @property
    def max_length(self) -> int:
        return self.keys.shape[3]

    def update(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write (B, Hkv, T, K) of one layer; return all of that layer so far, (B, Hkv, S, K).

        Raises:
            InputError: more positions than the cache has room for.
        """
        if self.place is not None:
            all_keys, all_values = self.keys[layer], self.values[layer]
            return all_keys.index_copy_(2, self.place, keys), all_values.index_copy_(2, self.place, values)
        stop = self.reserve(keys.shape[2]) + keys.shape[2]
        self.keys[layer, :, :, self.length : stop] = keys
        self.values[layer, :, :, self.length : stop] = values
        return self.keys[layer, :, :, :stop], self.values[layer, :, :, :stop]

    def reserve(self, count: int) -> int:
        """Where so many new positions begin.

        Raises:
            InputError: more positions than the cache has room for.
        """
        if self.length + count > self.max_length:
            raise InputError(
                f"{self.length + count} positions do not fit the key-value cache",
                expected=f"at most {self.max_length} positions",
            )
        return self.length

    def advance(self, doc_ids: Tensor, plain: bool) -> None:
        """Count the positions that every layer has just written.

        Args:
            doc_ids: documents of these positions, int32 (B, T).
            plain: see the attribute; what the mask of this pass found.
        """
        if self.place is not None:
            return
        self.plain = plain
        stop = self.length + doc_ids.shape[1]
        self.doc_ids[:, self.length : stop] = doc_ids
        self.length = stop

    def select(self, rows: Tensor, sources: Tensor | None = None) -> None:
        """Keep these rows, in this order (a row may repeat): finished rows leave, beams move.

        Args:
            rows: int64 (B',).
            sources: rows of the source to keep, int64 (R',), each of them for B' / R' rows; None: each row its own.
        """
        if self.source is not None:
            shared = len(self.doc_ids) // len(self.source.doc_ids)
            sources = rows // shared if sources is None else sources
            if not torch.equal(sources, torch.arange(len(self.source.doc_ids), device=sources.device)):
                self.source = self.source.select(sources)
        self.keys, self.values = self._moved(self.keys, rows), self._moved(self.values, rows)
        self.doc_ids = self.doc_ids[rows]

    def keep(self, places: Tensor) -> None:
        """Hold these positions of each row only, in this order: (B, S') int64."""
        for held in (self.keys, self.values):
            layers, _, heads, _, size = held.shape
            index = places[None, :, None, :, None].expand(layers, -1, heads, -1, size)
            held[:, :, :, : places.shape[1]] = held.gather(3, index)
        self.doc_ids[:, : places.shape[1]] = self.doc_ids.gather(1, places)
        self.length = places.shape[1]

    def _moved(self, held: Tensor, rows: Tensor) -> Tensor:
        """Keys or values of these rows: only what changes place and is in use is copied, a head's as one run."""
        layers, batch, heads, room, size = held.shape
        runs, used = held.view(-1, room * size), self.length * size  # (L * B * H, room * K)
        places = torch.arange(len(rows), device=rows.device)
        if len(rows) == batch:
            places = places[rows != places]
        copied = runs[:, :used].index_select(0, _runs(rows[places], layers, batch, heads))
        if len(rows) != batch:
            held = held.new_empty(layers, len(rows), heads, room, size)
            runs = held.view(-1, room * size)
        runs[:, :used].index_copy_(0, _runs(places, layers, len(rows), heads), copied)
        return held


def _runs(rows: Tensor, layers: int, batch: int, heads: int) -> Tensor:
    """Numbers of the runs of memory of these rows, in every layer and head: (L * B' * H,)."""
    places = torch.arange(layers, device=rows.device)[:, None, None] * batch + rows[:, None]  # (L, B', 1)
    return (places * heads + torch.arange(heads, device=rows.device)).flatten()
