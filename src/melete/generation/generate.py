"""The one decoding loop.

A step reads what is new into the key-value cache, lets somebody choose a token for each row, and drops the rows that
are done. Whoever chooses, a sampler here or beams (`beam.py`), reorders the rows by `select(rows)`, in which a row may
leave or repeat; a chooser that accepts several tokens at once only makes the part that is new wider.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from melete.errors import InputError
from melete.generation.beam import BeamSearch
from melete.generation.drafting import Drafter
from melete.generation.reading import Reading, WritingModel, checked_prompts, checked_sources, fitting
from melete.generation.sampling import Sampler
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


class Speculation(Decoding):
    """Continues one prompt as `Decoding` does, to the same tokens, several of them a pass.

    A pass reads the newest token and the guesses behind it. At each place a token is chosen as ever, by the same rules
    and the same draws; as long as it is the one that was guessed, what the model said behind the guess holds, and the
    next is chosen from that. So the tokens are those that plain decoding chooses, whatever the drafter does: a guess of
    probability p is accepted with probability p. Leviathan et al. 2023, section 2.3, with a drafter that is certain.

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
        for token in self._reading.rows[0]:
            drafter.push(token)
        self.passes = self.guessed = self.accepted = 0

    def step(self) -> list[Piece]:
        """One forward pass: the next tokens, one at least."""
        left = self._settings.max_new_tokens - self._added
        draft = self._drafter.guess(min(self._guesses, left - 1)) if left > 1 else []
        logits = self._reading.next_logits(draft)  # (1 + guesses, V)
        draft = draft[: len(logits) - 1]
        chosen: list[int] = []
        pieces: list[Piece] = []
        accepted = 0
        for place in range(len(logits)):
            token = int(self._sampler(logits[place : place + 1]))
            self._added += 1
            chosen.append(token)
            pieces.append(self._extend(self._rows[0], token))
            right = place < len(draft) and token == draft[place]
            accepted += right
            if pieces[-1].last or not right:
                break
        self._reading.accept(chosen)
        for token in chosen:
            self._drafter.push(token)
        self.passes += 1
        self.guessed += len(draft)
        self.accepted += accepted
        if draft:  # guess as far as guesses hold, and a little further
            self._guesses = min(MOST_GUESSES, accepted + 1 if accepted < len(draft) else self._guesses + 2)
        return pieces

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
