"""What a model says of rows that grow token by token, read through a cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol

import msgspec
import torch
from torch import Tensor

from melete.data.batch import Batch
from melete.errors import InputError
from melete.generation.captured import Steps
from melete.generation.settings import GenerationSettings
from melete.models.base import EncoderDecoder
from melete.nn.attention_weights import AttentionWeights
from melete.nn.cache import KVCache


class WritingModel(Protocol):
    """What decoding asks of a model; every decoder and every encoder-decoder has it."""

    training: bool
    config: Any

    def encode(self, batch: Batch, cache: KVCache | None = None) -> Tensor: ...

    def logits(self, hidden: Tensor) -> Tensor: ...

    def new_cache(self, batch_size: int, max_length: int) -> KVCache: ...

    def train(self, mode: bool = True) -> Any: ...

    def parameters(self) -> Iterator[Any]: ...


class Reading:
    """Rows of tokens, and what the model expects behind each.

    Rows of different lengths are padded on the left. Once a row has filled the model's context, it goes on with
    the newest half of it, read again from position 0: rows of the batch that are shorter are read again as they
    are, so they do not notice. An encoder-decoder reads each source once.

    Args:
        rows: token ids of each row.
        room: tokens that each will be given, at most.
        sources: what the encoder reads for each row; empty for a decoder.
        share: so many rows in a row always have the same source, and keep one copy of it.
        watch: see `attended`.

    Attributes:
        rows: the tokens of each row; of a text longer than the context, what is still read.
        attended: where it is watched, how the newest token of each row divides its attention among those of its
            source, see `watched`: (B, S).
    """

    def __init__(
        self,
        model: WritingModel,
        rows: Sequence[Sequence[int]],
        room: int,
        sources: Sequence[Sequence[int]] = (),
        share: int = 1,
        watch: bool = False,
    ) -> None:
        self._model, self._room, self._share, self._watch = model, room, share, watch
        self.rows, self._sources = [list(row) for row in rows], list(sources)
        self._context: int = model.config.max_position_embeddings
        self._cache: KVCache | None = None
        self._guessed = 0  # of the newest positions of the cache
        self.device = next(model.parameters()).device
        self._steps = Steps(None if watch else model, self.device)
        self.attended = torch.empty(0)

    def __len__(self) -> int:
        return len(self.rows)

    def next_logits(self, draft: Sequence[int] = ()) -> Tensor:
        """Scores of the next token of each row, float32 (B, V), without dropout.

        Args:
            draft: guesses at what follows a single row: then (1 + G, V), scores also of what follows each of the G
                guesses there is room for. `accept` says which of them are true.

        Raises:
            InputError: they are not numbers.
        """
        with answering(self._model):
            self._guessed = 0
            return self._read_newest(list(draft)) if self._cache is not None else self._read_all()

    def append(self, tokens: Sequence[int]) -> None:
        """Give each row its next token."""
        self._room -= 1
        for row, token in zip(self.rows, tokens, strict=True):
            row.append(token)

    def accept(self, tokens: Sequence[int]) -> None:
        """Give a single row its next tokens: all but the last are those of the draft, whose rest is forgotten."""
        self._room -= len(tokens)
        self.rows[0].extend(tokens)
        if self._cache is not None:
            self._cache.length -= self._guessed - (len(tokens) - 1)

    def select(self, rows: Sequence[int]) -> None:
        """Go on with these rows only, in this order; a row may repeat, `share` of them still have one source."""
        if list(rows) == list(range(len(self.rows))):
            return
        self.rows = [self.rows[row].copy() for row in rows]
        if self._sources:
            self._sources = [self._sources[row] for row in rows]
        if self._cache is not None:
            self._select(self._cache, rows, [row // self._share for row in rows[:: self._share]])

    def _select(self, cache: KVCache, rows: Sequence[int], sources: Sequence[int]) -> None:
        self._steps.forget()
        cache.select(*(torch.tensor(list(some), device=self.device) for some in (rows, sources)))

    def _read_newest(self, draft: list[int]) -> Tensor:
        cache = self._cache
        assert cache is not None and (not draft or len(self.rows) == 1)
        if cache.length == cache.max_length:
            for row in self.rows:
                if len(row) > self._context:
                    del row[: -max(self._context // 2, 1)]
            return self._read_all()
        if not draft:
            newest, places = [row[-1] for row in self.rows], [len(row) - 1 for row in self.rows]
            if (step := self._steps.ready(cache, newest, places, self._room)) is not None:
                return step(newest, places)
        draft = draft[: cache.max_length - cache.length - 1]
        self._guessed = len(draft)
        count = len(self.rows)
        input_ids = torch.tensor([[row[-1], *draft] for row in self.rows])  # (B, 1 + G)
        batch = Batch(
            input_ids=input_ids,
            doc_ids=torch.ones_like(input_ids, dtype=torch.int32),
            position_ids=torch.tensor([[len(row) - 1] for row in self.rows]) + torch.arange(1 + len(draft)),
            doc_starts=torch.stack([torch.arange(count), torch.zeros(count, dtype=torch.int64)], 1),
        )
        return self._logits(batch, cache, 1 + len(draft))

    def _read_all(self) -> Tensor:
        """Read every row from its start into a new cache; rows that are equal (answers to one prompt) only once."""
        places: dict[tuple[tuple[int, ...], ...], int] = {}
        sources = self._sources or [()] * len(self.rows)
        pairs = zip(self.rows, sources, strict=True)
        of_row = [places.setdefault((tuple(row), tuple(source)), len(places)) for row, source in pairs]
        different = [row for row, _ in places]
        room = min(self._context, max(map(len, different)) + self._room)
        self._steps.forget()
        self._cache = cache = self._model.new_cache(len(places), room)
        batch = Batch.from_rows(different, left=True)
        if self._sources:
            batch = replace(batch, source=Batch.from_rows([source for _, source in places]))
        logits = finite(self._logits(batch, cache))
        if of_row != list(range(len(places))):
            self._select(cache, of_row, of_row[:: self._share])
            logits = logits[of_row]
            if self._watch:
                self.attended = self.attended[of_row]
        return logits

    def _logits(self, batch: Batch, cache: KVCache, last: int = 1) -> Tensor:
        if self._watch:
            hidden, attended = watched(self._model, batch.to(self.device), cache)
            self.attended = attended[:, -1]
        else:
            hidden = self._model.encode(batch.to(self.device), cache)  # (B, T, D)
        return self._model.logits(hidden[:, -last:].flatten(0, 1)).float()  # (B * last, V)


@contextmanager
def answering(model: WritingModel) -> Iterator[None]:
    """Without dropout, and without gradients."""
    was_training = model.training
    if was_training:
        model.train(False)
    try:
        with torch.no_grad():
            yield
    finally:
        if was_training:
            model.train(True)


def watched(model: WritingModel, batch: Batch, cache: KVCache) -> tuple[Tensor, Tensor]:
    """Hidden states (B, T, D), and how each token divides its attention among those of its source, (B, T, S).

    That is the mean over heads and layers; padding of a source counts as seen, 1.
    """
    with AttentionWeights() as seen:
        hidden = model.encode(batch, cache)
    assert cache.source is not None
    shares = seen.to_source(model.config.num_decoder_layers).mean((0, 2))  # (R, B / R * T, S)
    shares = shares.masked_fill((cache.source.doc_ids == 0)[:, None], 1.0)
    return hidden, shares.reshape(*hidden.shape[:2], -1)


def finite(logits: Tensor) -> Tensor:
    """The same logits.

    Raises:
        InputError: they are not numbers.
    """
    if bool(logits.isnan().any()):
        raise InputError(
            "the model answers with NaN: its weights are damaged", do="use an earlier checkpoint"
        )
    return logits


def checked_prompts(
    model: WritingModel, prompts: Sequence[Sequence[int]], settings: GenerationSettings
) -> list[list[int]]:
    """The prompts, cut on the left where they are too long and `settings.truncate` allows it.

    Raises:
        InputError: an empty prompt, one that is longer than the context, ids beyond the model's vocabulary.
    """
    context = model.config.max_position_embeddings
    for prompt in prompts:
        _check_ids(prompt, "prompt", model.config.vocab_size)
        if len(prompt) > context and not settings.truncate:
            raise InputError(
                f"the prompt has {len(prompt)} tokens, the model's context is {context}",
                do="shorten it, drop its beginning (--truncate, truncate=True), or load the model with a larger "
                "context",
            )
    return [list(prompt[-context:]) for prompt in prompts]


def checked_sources(
    model: WritingModel, sources: Sequence[Sequence[int]], prompts: Sequence[Sequence[int]]
) -> list[list[int]]:
    """What an encoder shall read for each prompt.

    Raises:
        InputError: an empty source, one that is longer than the context, ids beyond the model's vocabulary; not one
            source for each prompt of an encoder-decoder, or any for a decoder.
    """
    needed = len(prompts) if isinstance(model, EncoderDecoder) else 0
    if len(sources) != needed:
        raise InputError(f"{len(sources)} sources for {len(prompts)} prompts", expected=str(needed))
    context = model.config.max_position_embeddings
    for source in sources:
        _check_ids(source, "source", model.config.vocab_size)
        if len(source) > context:
            raise InputError(
                f"the source has {len(source)} tokens, the model's context is {context}",
                do="shorten it, or load the model with a larger context",
            )
    return [list(source) for source in sources]


def fitting(
    model: WritingModel, prompts: Sequence[Sequence[int]], settings: GenerationSettings, sources: bool
) -> GenerationSettings:
    """The settings, with no more tokens to add than an encoder-decoder has positions: its answers stay whole.

    Raises:
        InputError: the prompts leave no room; how much of a source is covered counts, and there is none.
    """
    if not sources:
        if settings.coverage_penalty:
            raise InputError("coverage_penalty is for models that read a source", expected="0 (off)")
        return settings
    room = model.config.max_position_embeddings - max(map(len, prompts), default=0)
    if room < 1:
        raise InputError("the prompt fills the model's context", do="shorten what an answer begins with")
    return msgspec.structs.replace(settings, max_new_tokens=min(room, settings.max_new_tokens))


def _check_ids(ids: Sequence[int], what: str, vocab_size: int) -> None:
    if len(ids) == 0:
        raise InputError(f"a {what} has no tokens", do="start it with the token that begins a text")
    if max(ids) >= vocab_size:
        raise InputError(
            f"the {what} has token {max(ids)}, the model knows {vocab_size}",
            do="use the model's own tokenizer",
        )
