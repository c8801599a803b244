"""The one decoding loop.

A step reads what is new into the key-value cache, lets the sampler choose a token for each row, and drops the rows
that are done. Both the cache and the sampler are reordered by `select(rows)`, in which a row may leave or repeat:
that is all a beam needs, and a chooser that accepts several tokens at once only makes the part that is new wider.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import Tensor

from melete.data.batch import Batch
from melete.errors import InputError
from melete.generation.sampling import Sampler
from melete.generation.settings import GenerationSettings
from melete.generation.text import Decodes, TextStream
from melete.nn.cache import KVCache

if TYPE_CHECKING:
    from melete.data.tokenizers import Tokenizer


class CausalModel(Protocol):
    """What the loop asks of a model; every decoder family has it."""

    training: bool
    config: Any

    def encode(self, batch: Batch, cache: KVCache | None = None) -> Tensor: ...

    def logits(self, hidden: Tensor) -> Tensor: ...

    def new_cache(self, batch_size: int, max_length: int) -> KVCache: ...

    def train(self, mode: bool = True) -> Any: ...

    def parameters(self) -> Iterator[Any]: ...


class Piece(NamedTuple):
    """One token of one answer.

    Attributes:
        answer: `prompt * num_return_sequences + i` for the i-th answer to a prompt.
        token: its id.
        text: the text it completes; empty without a tokenizer, and while a character or a stop text is unfinished.
        last: the answer ends here.
    """

    answer: int
    token: int
    text: str
    last: bool


@dataclass
class _Row:
    answer: int
    ids: list[int]  # what the model sees: the newest part of prompt and answer
    left: int  # tokens it may still add
    text: TextStream | None
    added: int = 0
    finished: bool = False


class Decoding:
    """Continues prompts token by token, each as if it were alone.

    Prompts of different lengths are padded on the left. Once a row has filled the model's context, it goes on with
    the newest half of it, read again from position 0: rows of the batch that are shorter are read again as they
    are, so they do not notice.
    """

    def __init__(
        self,
        model: CausalModel,
        prompts: Sequence[Sequence[int]],
        settings: GenerationSettings,
        tokenizer: Decodes | None = None,
    ) -> None:
        """Check everything that can be wrong before any work.

        Raises:
            InputError: an empty prompt, one that is longer than the context (unless `settings.truncate`), ids beyond
                the model's vocabulary, stop texts without a tokenizer.
        """
        self._model, self._settings = model, settings
        self._context: int = model.config.max_position_embeddings
        self._device = next(model.parameters()).device
        if settings.stop and tokenizer is None:
            raise InputError("stop texts need a tokenizer to be recognised")
        each = settings.num_return_sequences
        prompts = [
            _checked_prompt(prompt, model.config.vocab_size, self._context, settings) for prompt in prompts
        ]
        answers = range(len(prompts) * each)
        self._rows = [
            _Row(
                answer,
                prompts[answer // each].copy(),
                settings.max_new_tokens,
                TextStream(tokenizer, settings.stop) if tokenizer else None,
            )
            for answer in answers
        ]
        streams = [answer % each for answer in answers]
        self._sampler = Sampler(
            settings, [row.ids for row in self._rows], streams, model.config.vocab_size, self._device
        )
        self._cache: KVCache | None = None

    @property
    def done(self) -> bool:
        """No answer is left to continue."""
        return all(row.finished for row in self._rows)

    @torch.no_grad()
    def step(self) -> list[Piece]:
        """One forward pass: the next token of each unfinished answer."""
        self._drop_finished()
        was_training = self._model.training
        if was_training:
            self._model.train(False)
        try:
            logits = self._read()  # (B, V)
        finally:
            if was_training:
                self._model.train(True)
        early = [i for i, row in enumerate(self._rows) if row.added < self._settings.min_new_tokens]
        if early and self._settings.eos_ids:
            logits[torch.tensor(early)[:, None], torch.tensor(self._settings.eos_ids)] = -math.inf
        tokens = self._sampler(logits).tolist()
        return [self._extend(row, token) for row, token in zip(self._rows, tokens, strict=True)]

    def _extend(self, row: _Row, token: int) -> Piece:
        row.ids.append(token)
        row.left -= 1
        row.added += 1
        row.finished = row.left == 0 or token in self._settings.eos_ids
        text = ""
        if row.text is not None:
            text = row.text.push(token)
            row.finished = row.finished or row.text.stopped
            text += row.text.finish() if row.finished else ""
        return Piece(row.answer, token, text, row.finished)

    def _drop_finished(self) -> None:
        kept = [i for i, row in enumerate(self._rows) if not row.finished]
        if len(kept) == len(self._rows):
            return
        self._rows = [self._rows[i] for i in kept]
        self._sampler.select(kept)
        if self._cache is not None:
            self._cache.select(torch.tensor(kept, device=self._device))

    def _read(self) -> Tensor:
        """Logits float32 (B, V) of the next token of each row."""
        if self._cache is None:
            return self._read_all()
        if self._cache.length == self._cache.max_length:
            for row in self._rows:
                if len(row.ids) > self._context:
                    row.ids = row.ids[-max(self._context // 2, 1) :]
            return self._read_all()
        input_ids = torch.tensor([row.ids[-1:] for row in self._rows])  # (B, 1)
        batch = Batch(
            input_ids=input_ids,
            doc_ids=torch.ones_like(input_ids, dtype=torch.int32),
            position_ids=torch.tensor([[len(row.ids) - 1] for row in self._rows]),
            doc_starts=torch.stack(
                [torch.arange(len(self._rows)), torch.zeros(len(self._rows), dtype=torch.int64)], 1
            ),
        )
        return self._logits(batch, self._cache)

    def _read_all(self) -> Tensor:
        """Read every row from its start into a new cache; rows that are equal (answers to one prompt) only once."""
        places: dict[tuple[int, ...], int] = {}
        of_row = [places.setdefault(tuple(row.ids), len(places)) for row in self._rows]
        longest = max(map(len, places))
        room = min(self._context, longest + max(row.left for row in self._rows))
        self._cache = self._model.new_cache(len(places), room)
        logits = self._logits(Batch.from_rows(list(places), left=True), self._cache)
        if bool(logits.isnan().any()):
            raise InputError(
                "the model answers with NaN: its weights are damaged", do="use an earlier checkpoint"
            )
        if len(places) < len(of_row):
            rows = torch.tensor(of_row, device=self._device)
            self._cache.select(rows)
            logits = logits[rows]
        return logits

    def _logits(self, batch: Batch, cache: KVCache) -> Tensor:
        hidden = self._model.encode(batch.to(self._device), cache)  # (B, T, D)
        return self._model.logits(hidden[:, -1]).float()  # (B, V)


def stream(
    model: CausalModel,
    prompts: Sequence[Sequence[int]],
    settings: GenerationSettings,
    tokenizer: Decodes | None = None,
) -> Iterator[Piece]:
    """Each token of each answer as it comes; the texts of one answer joined are that answer.

    Args:
        prompts: token ids of each prompt, none empty.
        tokenizer: needed for texts and for stop texts.

    Raises:
        InputError: see `Decoding`.
    """
    # Checks now, not when the first piece is asked for.
    decoding = Decoding(model, prompts, settings, tokenizer)

    def pieces() -> Iterator[Piece]:
        while not decoding.done:
            yield from decoding.step()

    return pieces()


def generate(
    model: CausalModel,
    prompts: Sequence[Sequence[int]],
    settings: GenerationSettings,
    *,
    tokenizer: Decodes | None = None,
    on_token: Callable[[Piece], None] | None = None,
) -> list[list[int]]:
    """The new tokens of each answer, in the order of the prompts; a token that ended an answer is part of it.

    Args:
        on_token: called with each token as it comes; the others are those of `stream`.

    Raises:
        InputError: see `Decoding`.
    """
    answers: list[list[int]] = [[] for _ in range(len(prompts) * settings.num_return_sequences)]
    for piece in stream(model, prompts, settings, tokenizer):
        answers[piece.answer].append(piece.token)
        if on_token is not None:
            on_token(piece)
    return answers


def complete(model: CausalModel, tokenizer: Tokenizer, prompts: Sequence[str]) -> list[list[int]]:
    """A short answer to each prompt, as a run shows them: temperature 0.8, top-p 0.95, 8 to 96 tokens."""
    eos_ids = () if tokenizer.eos_id is None else (tokenizer.eos_id,)
    settings = GenerationSettings(
        max_new_tokens=96, min_new_tokens=8, top_p=0.95, eos_ids=eos_ids, truncate=True
    )
    return generate(model, [encode_prompt(tokenizer, prompt) for prompt in prompts], settings)


def encode_prompt(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """Token ids of a prompt; of an empty one, the token that begins a text.

    Raises:
        InputError: an empty prompt, and a tokenizer without such a token.
    """
    if ids := tokenizer.encode(prompt):
        return ids
    first = tokenizer.bos_id if tokenizer.bos_id is not None else tokenizer.eos_id
    if first is None:
        raise InputError(
            "the prompt is empty, and the tokenizer has no token that begins a text", do="give a prompt"
        )
    return [first]


def _checked_prompt(
    prompt: Sequence[int], vocab_size: int, context: int, settings: GenerationSettings
) -> list[int]:
    if len(prompt) == 0:
        raise InputError("a prompt has no tokens", do="start it with the token that begins a text")
    if max(prompt) >= vocab_size:
        raise InputError(
            f"the prompt has token {max(prompt)}, the model knows {vocab_size}",
            do="use the model's own tokenizer",
        )
    if len(prompt) > context and not settings.truncate:
        raise InputError(
            f"the prompt has {len(prompt)} tokens, the model's context is {context}",
            do="shorten it, drop its beginning (--truncate, truncate=True), or load the model with a larger context",
        )
    return list(prompt[-context:])
