"""The one decoding loop.

A step reads what is new into the key-value cache, lets somebody choose a token for each row, and drops the rows that
are done. Whoever chooses, a sampler here or beams (`beam.py`), reorders the rows by `select(rows)`, in which a row may
leave or repeat; a chooser that accepts several tokens at once only makes the part that is new wider.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from melete.errors import InputError
from melete.generation.beam import BeamSearch
from melete.generation.drafting import Drafter, Guess
from melete.generation.reading import Reading, WritingModel, checked_prompts, checked_sources, fitting
from melete.generation.sampling import Sampler, settle
from melete.generation.settings import GenerationSettings
from melete.generation.text import Decodes, Piece, TextStream

if TYPE_CHECKING:
    from melete.data.tokenizers import Tokenizer


@dataclass
class _Row:
    answer: int
    text: TextStream | None
    finished: bool = False


class Decoding:
    """Continues prompts token by token, each as if it were alone; see `Reading`."""

    def __init__(
        self,
        model: WritingModel,
        prompts: Sequence[Sequence[int]],
        settings: GenerationSettings,
        tokenizer: Decodes | None = None,
        sources: Sequence[Sequence[int]] = (),
    ) -> None:
        """Check everything that can be wrong before any work.

        Raises:
            InputError: see `checked_prompts` and `checked_sources`; stop texts without a tokenizer.
        """
        if settings.stop and tokenizer is None:
            raise InputError("stop texts need a tokenizer to be recognised")
        each = settings.num_return_sequences
        prompts = checked_prompts(model, prompts, settings)
        sources = checked_sources(model, sources, prompts)
        self._settings = settings = fitting(model, prompts, settings, bool(sources))
        answers = range(len(prompts) * each)
        self._rows = [
            _Row(answer, TextStream(tokenizer, settings.stop) if tokenizer else None) for answer in answers
        ]
        rows, streams = [prompts[answer // each] for answer in answers], [answer % each for answer in answers]
        read = [sources[answer // each] for answer in answers] if sources else []
        self._reading = Reading(model, rows, settings.max_new_tokens, read)
        self._sampler = Sampler(settings, rows, streams, model.config.vocab_size, self._reading.device)
        self._added = 0

    @property
    def done(self) -> bool:
        """No answer is left to continue."""
        return all(row.finished for row in self._rows)

    def step(self) -> list[Piece]:
        """One forward pass: the next token of each unfinished answer."""
        self._drop_finished()
        tokens = self._sampler(self._reading.next_logits()).tolist()
        self._reading.append(tokens)
        self._added += 1
        return [self._extend(row, token) for row, token in zip(self._rows, tokens, strict=True)]

    def _extend(self, row: _Row, token: int) -> Piece:
        row.finished = self._added == self._settings.max_new_tokens or token in self._settings.eos_ids
        text = ""
        if row.text is not None:
            text = row.text.push(token)
            row.finished = row.finished or row.text.stopped
            text += row.text.finish() if row.finished else ""
        return Piece(row.answer, token, text, row.finished)

    def _drop_finished(self) -> None:
        kept = [i for i, row in enumerate(self._rows) if not row.finished]
        if len(kept) < len(self._rows):
            self._rows = [self._rows[i] for i in kept]
            self._sampler.select(kept)
            self._reading.select(kept)


# Reading so many guesses costs little more than reading one token; few drafts are right for longer.
MOST_GUESSES = 7
# A guess is read for the chance that it and all before it are right, and costs about this share of a token.
_LEAST_CHANCE = 0.15
# What a guess weighs beside the next, in the share of guesses that are right.
_MEMORY = 0.98
# The random stream of guesses, beside those of the answers.
_GUESSES = 2**32 - 1


class Speculation(Decoding):
    """Continues one prompt as `Decoding` does, several tokens a pass.

    A pass reads the newest token and the guesses behind it. At each place a token is chosen by the same rules; as long
    as it is the one that was guessed, what the model said behind the guess holds, and the next is chosen from that.
    Where guesses are certain, the draws are the same too, and so are the tokens, whatever the drafter does: a guess of
    probability p is accepted with probability p. Where they are drawn, tokens have the same distribution as without
    them, and guesses that are drawn with probabilities q are accepted with the sum of min(p, q). Leviathan et al. 2023.

    Attributes:
        passes: forward passes so far.
        guessed, accepted: tokens that the drafter guessed, and those of them that were chosen.
    """

    def __init__(
        self,
        model: WritingModel,
        prompts: Sequence[Sequence[int]],
        settings: GenerationSettings,
        tokenizer: Decodes | None,
        drafter: Drafter,
    ) -> None:
        """Check everything that can be wrong before any work.

        Raises:
            InputError: see `Decoding`; more than one answer.
        """
        if len(prompts) * settings.num_return_sequences != 1 or settings.num_beams > 1:
            raise InputError(
                "a draft is for one answer at a time, without beams", do="ask for one, or leave the draft out"
            )
        super().__init__(model, prompts, settings, tokenizer)
        self._drafter, self._guesses = drafter, MOST_GUESSES
        self._rng = np.random.default_rng([settings.seed, _GUESSES])
        drafter.begin()
        for token in self._reading.rows[0]:
            drafter.push(token)
        self.passes = self.guessed = self.accepted = 0
        self._right, self._tried = 3.0, 4.0

    def step(self) -> list[Piece]:
        """One forward pass: the next tokens, one at least."""
        draft = self._draft()
        logits = self._reading.next_logits([guess.token for guess in draft])  # (1 + guesses, V)
        draft = draft[: len(logits) - 1]
        chosen: list[int] = []
        pieces: list[Piece] = []
        accepted = 0
        drawn = bool(draft) and draft[0].chance is not None
        all_p = self._sampler.probabilities(logits) if drawn and self._sampler.constant else None
        for place in range(len(logits)):
            guess, here = draft[place] if place < len(draft) else None, logits[place : place + 1]
            if drawn:
                p = self._sampler.probabilities(here)[0] if all_p is None else all_p[place]
                token = settle(p, guess, self._rng)
                self._sampler.remember(token)
            else:
                token = int(self._sampler(here))
            self._added += 1
            chosen.append(token)
            pieces.append(self._extend(self._rows[0], token))
            right = guess is not None and token == guess.token
            accepted += right
            if pieces[-1].last or not right:
                break
        self._reading.accept(chosen)
        for token in chosen:
            self._drafter.push(token)
        self.passes += 1
        self.guessed += len(draft)
        self.accepted += accepted
        if draft:
            self._go_further(accepted, len(draft))
        return pieces

    def _draft(self) -> list[Guess]:
        most = min(self._guesses, self._settings.max_new_tokens - self._added - 1)
        return self._drafter.guess(most, self._settings.temperature, self._rng) if most > 0 else []

    def _go_further(self, accepted: int, guessed: int) -> None:
        """How many guesses to ask for next, by how many of the last ones were right."""
        self._right = _MEMORY * self._right + accepted
        self._tried = _MEMORY * self._tried + min(accepted + 1, guessed)
        rate = min(max(self._right / self._tried, 0.01), 0.99)
        self._guesses = min(MOST_GUESSES, max(1, round(math.log(_LEAST_CHANCE) / math.log(rate))))

    def figures(self) -> dict[str, Any]:
        """What came of the guesses: tokens a pass, and the share of guesses that were right."""
        rate = self.accepted / self.guessed if self.guessed else 0.0
        return {"tokens_per_pass": round(self._added / max(self.passes, 1), 3), "acceptance": round(rate, 4)}


def follow(decoding: Decoding | BeamSearch) -> Iterator[Piece]:
    """All that a decoding still has to say."""
    while not decoding.done:
        yield from decoding.step()


def stream(
    model: WritingModel,
    prompts: Sequence[Sequence[int]],
    settings: GenerationSettings,
    tokenizer: Decodes | None = None,
    sources: Sequence[Sequence[int]] = (),
    drafter: Drafter | None = None,
) -> Iterator[Piece]:
    """Each token of each answer as it comes; the texts of one answer joined are that answer.

    Beams give the answers to a prompt, the best first, once all of them have ended.

    Args:
        prompts: token ids of each prompt, none empty; of an encoder-decoder, what its decoder begins with.
        tokenizer: needed for texts and for stop texts.
        sources: what the encoder of an encoder-decoder reads for each prompt.
        drafter: guesses tokens ahead, for one answer; see `Speculation`.

    Raises:
        InputError: see `Decoding` and `Speculation`.
    """
    # Checks now, not when the first piece is asked for.
    if drafter is not None:
        return follow(Speculation(model, prompts, settings, tokenizer, drafter))
    choosing = Decoding if settings.num_beams == 1 else BeamSearch
    return follow(choosing(model, prompts, settings, tokenizer, sources))


def generate(
    model: WritingModel,
    prompts: Sequence[Sequence[int]],
    settings: GenerationSettings,
    *,
    tokenizer: Decodes | None = None,
    sources: Sequence[Sequence[int]] = (),
    on_token: Callable[[Piece], None] | None = None,
) -> list[list[int]]:
    """The new tokens of each answer, in the order of the prompts; a token that ended an answer is part of it.

    Args:
        on_token: called with each token as it comes; the others are those of `stream`.

    Raises:
        InputError: see `Decoding`.
    """
    answers: list[list[int]] = [[] for _ in range(len(prompts) * settings.num_return_sequences)]
    for piece in stream(model, prompts, settings, tokenizer, sources):
        answers[piece.answer].append(piece.token)
        if on_token is not None:
            on_token(piece)
    return answers


def complete(model: WritingModel, tokenizer: Tokenizer, prompts: Sequence[str]) -> list[list[int]]:
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
