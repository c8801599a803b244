"""What a model says of several continuations of each prompt, which share what they have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from melete.data.batch import Batch
from melete.generation.reading import WritingModel, answering, finite, watched
from melete.nn.cache import Branches, KVCache

# Looking for dead positions costs about as much as reading so many of them.
_FEWEST_DEAD = 32


class BranchReading:
    """As `Reading`, of `beams` rows for each prompt, whose rows stay side by side.

    All rows of a prompt are one row of the model: keys and values of a token are kept once, and each row knows which
    of them are its own. So nothing is copied when beams move, and the products of attention are those of matrices.

    Args:
        prompts: token ids of each prompt.
        room: tokens that each row will be given, at most.
        sources: what the encoder reads for each prompt; empty for a decoder.
        beams: rows of each prompt.
        watch: see `Reading.attended`.
    """

    def __init__(
        self,
        model: WritingModel,
        prompts: Sequence[Sequence[int]],
        room: int,
        sources: Sequence[Sequence[int]],
        beams: int,
        watch: bool = False,
    ) -> None:
        self._model, self._room, self._beams, self._watch = model, room, beams, watch
        self.attended = torch.empty(0)
        self.device = next(model.parameters()).device
        self._context: int = model.config.max_position_embeddings
        self._lengths = [len(prompt) for prompt in prompts]
        self._sources = list(sources)
        longest = max(self._lengths, default=0)
        # Texts end side by side, so that a step writes one column; what stands before a shorter one is not read.
        self._texts = torch.zeros((len(prompts), beams, longest + room), dtype=torch.int64)
        self._end = longest
        for text, prompt in zip(self._texts, prompts, strict=True):
            text[:, longest - len(prompt) : longest] = torch.tensor(prompt)
        self._cache: KVCache | None = None
        self._own = torch.empty(0)  # which held positions are a row's own, bool (R, n, S)
        self._crowded = 0  # positions from which on it is asked which of them are dead
        self._positions = torch.empty(0)  # where they stand in their texts, int64 (R, S)

    def __len__(self) -> int:
        return len(self._lengths) * self._beams

    def next_logits(self) -> Tensor:
        """Scores of the next token of each row, float32 (R * n, V), without dropout.

        Raises:
            InputError: they are not numbers.
        """
        with answering(self._model):
            if self._cache is None:
                return self._begin(1)
            if max(self._lengths) > self._context:
                kept = max(self._context // 2, 1)
                self._lengths = [kept if length > self._context else length for length in self._lengths]
                return self._begin(self._beams)
            return self._go_on(self._cache)

    def append(self, tokens: Sequence[int]) -> None:
        """Give each row its next token."""
        self._texts[:, :, self._end] = torch.tensor(tokens).view(len(self._lengths), self._beams)
        self._lengths = [length + 1 for length in self._lengths]
        self._end += 1
        self._room -= 1

    def select(self, rows: Sequence[int]) -> None:
        """Go on with these rows only, in this order: of each prompt that is left all, in which a row may repeat."""
        chosen = torch.tensor(rows).view(-1, self._beams)  # (R', n)
        prompts = chosen[:, 0] // self._beams  # (R',)
        self._texts = self._texts.flatten(0, 1)[chosen]
        if self._cache is not None:
            self._own = self._own.flatten(0, 1)[chosen.to(self.device)]
        if len(prompts) == len(self._lengths):
            return
        self._lengths = [self._lengths[prompt] for prompt in prompts]
        if self._sources:
            self._sources = [self._sources[prompt] for prompt in prompts]
        if self._cache is not None:
            self._positions = self._positions[prompts.to(self.device)]
            self._cache.select(prompts.to(self.device))

    def _go_on(self, cache: KVCache) -> Tensor:
        """Read the newest token of each row."""
        self._forget_dead(cache)
        shape, new = (len(self._lengths), self._beams), slice(cache.length, cache.length + self._beams)
        stand = torch.tensor(self._lengths, device=self.device)[:, None] - 1  # (R, 1)
        self._own[:, :, new] = torch.eye(self._beams, dtype=torch.bool, device=self.device)
        self._positions[:, new] = stand
        cache.branches = Branches(self._own[:, :, : new.stop], self._positions[:, : new.stop])
        batch = Batch(
            input_ids=self._texts[:, :, self._end - 1],
            doc_ids=torch.ones(shape, dtype=torch.int32),
            position_ids=stand.expand(shape),
            doc_starts=torch.empty((0, 2), dtype=torch.int64),
        )
        hidden = self._encode(batch, cache, None)  # (R, n, D)
        return self._model.logits(hidden.flatten(0, 1)).float()

    def _forget_dead(self, cache: KVCache) -> None:
        """Let go of positions that no row sees any more, once they may be half of all."""
        if cache.length < self._crowded:
            return
        live = self._own[:, :, : cache.length].any(1)  # (R, S)
        kept = int(live.sum(1).max())
        # stable: what is live keeps its order, and stands first
        places = live.int().argsort(dim=1, descending=True, stable=True)[:, :kept]  # (R, S')
        cache.keep(places)
        self._own[:, :, :kept] = self._own.gather(2, places[:, None].expand(-1, self._beams, -1))
        self._positions[:, :kept] = self._positions.gather(1, places)
        self._crowded = 2 * kept + _FEWEST_DEAD

    def _begin(self, different: int) -> Tensor:
        """Read the texts into a new cache: one for all rows of a prompt, or `different` = n, one for each."""
        rows = []
        for length, texts in zip(self._lengths, self._texts, strict=True):
            rows.append(texts[:different, self._end - length : self._end].flatten())
        batch = Batch.from_rows(rows)
        prompts, width = batch.input_ids.shape
        lengths = torch.tensor(self._lengths)[:, None]  # (R, 1)
        which = torch.arange(width) // lengths  # of the texts of a row: (R, T)
        batch = replace(
            batch, doc_ids=batch.doc_ids * (which + 1).int(), position_ids=torch.arange(width) % lengths
        )
        if self._sources:
            batch = replace(batch, source=Batch.from_rows(self._sources))
        steps = min(self._room, self._context - max(self._lengths))
        self._cache = cache = self._model.new_cache(prompts, width + steps * self._beams)
        ends = (torch.arange(1, different + 1) * lengths - 1).to(self.device)  # (R, 1 or n)
        last = self._encode(batch, cache, ends)  # (R, 1 or n, D)
        own = (
            torch.arange(self._beams)[:, None] == which[:, None]
            if different > 1
            else batch.doc_ids[:, None] > 0
        )
        self._own = torch.zeros(
            (prompts, self._beams, cache.max_length), dtype=torch.bool, device=self.device
        )
        self._crowded = 2 * width + _FEWEST_DEAD
        self._own[:, :, :width] = own & (batch.doc_ids[:, None] > 0)
        self._positions = torch.zeros((prompts, cache.max_length), dtype=torch.int64, device=self.device)
        self._positions[:, :width] = batch.position_ids
        logits = finite(self._model.logits(last).float())
        return logits.expand(-1, self._beams, -1).flatten(0, 1)

    def _encode(self, batch: Batch, cache: KVCache, places: Tensor | None) -> Tensor:
        """Hidden states of the tokens at these places of each row, (R, 1 or n); None: of all."""

        def at(x: Tensor) -> Tensor:
            return x if places is None else x.gather(1, places[..., None].expand(-1, -1, x.shape[2]))

        batch = batch.to(self.device)
        if not self._watch:
            return at(self._model.encode(batch, cache))
        hidden, attended = watched(self._model, batch, cache)
        self.attended = at(attended).expand(-1, self._beams, -1).flatten(0, 1)  # (R * n, S)
        return at(hidden)
