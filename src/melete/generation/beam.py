"""Beam search: the likeliest answers grow side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from melete.generation.branches import BranchReading
from melete.generation.reading import Reading, WritingModel, checked_prompts, checked_sources, fitting
from melete.generation.rules import Rules
from melete.generation.settings import GenerationSettings
from melete.generation.text import Decodes, Piece, TextStream
from melete.models.base import Network

# Beams of a prompt start out equal, and all but one so unlikely that none of them is chosen while that one has heirs.
_UNLIKELY = -1e9

# Of scores, among which the largest are looked for together.
_BLOCK = 64


class Hypothesis(NamedTuple):
    """One answer.

    Attributes:
        tokens: a token that ended it is one of them.
        score: its log-probability over its number of tokens to the power of `length_penalty`.
    """

    tokens: list[int]
    score: float


class _Candidate(NamedTuple):
    """A beam and a token that may follow it.

    Attributes:
        score: log-probability of the whole.
        row: the beam, as a row of the batch.
    """

    score: float
    row: int
    token: int


@dataclass
class _Prompt:
    """One that has beams: its number, and its best answers that ended, best first."""

    number: int
    ended: list[Hypothesis] = field(default_factory=list)


class BeamSearch:
    """Chooses, in the loop of `generate.py`, what makes the likeliest answers to each prompt.

    At each step the best continuations of all beams of a prompt are sorted: those that end leave for the list of
    answers if they are among the `num_beams` best, the best others go on. When that ends is for `early_stopping` to
    say; lengths, scores and ends are counted as `transformers` counts them. Prompts that are done leave the batch.

    Source: Graves 2012, section 2.5; division by the length: Wu et al. 2016, section 7.

    Attributes:
        answers: of each prompt, the best first; empty until it is done.
    """

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
            InputError: see `checked_prompts` and `checked_sources`.
        """
        prompts = checked_prompts(model, prompts, settings)
        sources = checked_sources(model, sources, prompts)
        self._settings = settings = fitting(model, prompts, settings, bool(sources))
        self._tokenizer, self._beams = tokenizer, settings.num_beams
        rows = [prompt for prompt in prompts for _ in range(self._beams)]
        if isinstance(model, Network) and model.branching:
            self._reading = BranchReading(model, prompts, settings.max_new_tokens, sources, self._beams)
        else:
            read = [source for source in sources for _ in range(self._beams)]
            self._reading = Reading(model, rows, settings.max_new_tokens, read, share=self._beams)
        self._rules = Rules(settings, rows, model.config.vocab_size, self._reading.device)
        self._scores = [0.0, *[_UNLIKELY] * (self._beams - 1)] * len(prompts)  # of each row
        self._tokens: list[list[int]] = [[] for _ in rows]  # of each row
        self._growing = [_Prompt(number) for number in range(len(prompts))]
        self._added = 0
        self.answers: list[list[Hypothesis]] = [[] for _ in prompts]

    @property
    def done(self) -> bool:
        """No prompt is left."""
        return not self._growing

    def step(self) -> list[Piece]:
        """One forward pass; the answers to the prompts that it finished."""
        candidates = self._candidates()
        self._added += 1
        kept: list[_Candidate] = []
        growing, done = [], []
        for prompt, found in zip(self._growing, candidates, strict=True):
            going_on = self._sort(prompt, found)
            if self._is_done(prompt, going_on):
                done.append(prompt)
            else:
                growing.append(prompt)
                kept += going_on
        self._growing = growing
        if growing:
            self._go_on(kept)
        return [piece for prompt in done for piece in self._finish(prompt)]

    def _candidates(self) -> list[list[_Candidate]]:
        """The best continuations of each prompt, best first: enough that `num_beams` of them do not end."""
        log_probabilities = self._rules(self._reading.next_logits().log_softmax(-1))  # (R * n, V)
        width = self._beams * (1 + len(self._settings.eos_ids))
        # Of each row first: less to sort, and no sums for tokens that are far behind.
        scores, tokens = largest(log_probabilities, min(width, log_probabilities.shape[1]))  # (R * n, width)
        scores += torch.tensor(self._scores, device=scores.device)[:, None]
        scores, places = scores.view(len(self._growing), -1).topk(min(width, self._beams * scores.shape[1]))
        first = torch.arange(0, len(self._scores), self._beams, device=places.device)
        rows = places // tokens.shape[1] + first[:, None]  # (R, width)
        tokens = tokens.view(len(self._growing), -1).gather(1, places)
        columns = zip(scores.tolist(), rows.tolist(), tokens.tolist(), strict=True)
        return [[_Candidate(*one) for one in zip(*column, strict=True)] for column in columns]

    def _sort(self, prompt: _Prompt, candidates: list[_Candidate]) -> list[_Candidate]:
        """Note what ended; what goes on, best first."""
        last = self._added == self._settings.max_new_tokens
        going_on = []
        for rank, candidate in enumerate(candidates):
            if not last and candidate.token not in self._settings.eos_ids:
                going_on.append(candidate)
            elif rank < self._beams:
                tokens = [*self._tokens[candidate.row], candidate.token]
                prompt.ended.append(Hypothesis(tokens, self._normalised(candidate.score, self._added)))
        prompt.ended.sort(key=lambda answer: -answer.score)
        del prompt.ended[self._beams :]
        return going_on[: self._beams]

    def _is_done(self, prompt: _Prompt, going_on: list[_Candidate]) -> bool:
        if not going_on:  # every one has the most tokens it may have
            return True
        if len(prompt.ended) < self._beams:
            return False
        if self._settings.early_stopping is True:
            return True
        longest = self._settings.early_stopping == "never" and self._settings.length_penalty > 0
        length = self._settings.max_new_tokens if longest else self._added
        return self._normalised(going_on[0].score, length) <= prompt.ended[-1].score

    def _normalised(self, score: float, length: int) -> float:
        return score / length**self._settings.length_penalty

    def _go_on(self, kept: list[_Candidate]) -> None:
        scores, rows, tokens = (list(column) for column in zip(*kept, strict=True))
        self._reading.select(rows)
        self._rules.select(rows)
        self._reading.append(tokens)
        self._rules.remember(torch.tensor(tokens, device=self._reading.device))
        self._scores = scores
        self._tokens = [[*self._tokens[row], token] for row, token in zip(rows, tokens, strict=True)]

    def _finish(self, prompt: _Prompt) -> list[Piece]:
        each = self._settings.num_return_sequences
        self.answers[prompt.number] = prompt.ended[:each]
        pieces = []
        for i, answer in enumerate(prompt.ended[:each]):
            text = TextStream(self._tokenizer) if self._tokenizer else None
            for place, token in enumerate(answer.tokens, start=1):
                last = place == len(answer.tokens)
                shown = text.push(token) + (text.finish() if last else "") if text else ""
                pieces.append(Piece(prompt.number * each + i, token, shown, last))
        return pieces


def largest(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """`scores.topk(k)` of many scores a row, (R, V): values and places, (R, k) each.

    The k largest are in the k blocks that have the largest maxima, and those are found a few times as fast.
    """
    rows, width = scores.shape
    blocks = width // _BLOCK
    if blocks <= k:
        return scores.topk(k)
    whole = scores[:, : blocks * _BLOCK].unflatten(1, (blocks, _BLOCK))  # (R, blocks, size)
    best = whole.amax(-1).topk(k).indices  # (R, k)
    found = whole.gather(1, best[..., None].expand(-1, -1, _BLOCK)).flatten(1)  # (R, k * size)
    places = (best[..., None] * _BLOCK + torch.arange(_BLOCK, device=best.device)).flatten(1)
    if rest := width - blocks * _BLOCK:
        found = torch.cat([found, scores[:, -rest:]], 1)
        last = torch.arange(width - rest, width, device=best.device)
        places = torch.cat([places, last.expand(rows, -1)], 1)
    values, among = found.topk(k)
    return values, places.gather(1, among)


def beam_search(
    model: WritingModel,
    prompts: Sequence[Sequence[int]],
    settings: GenerationSettings,
    *,
    sources: Sequence[Sequence[int]] = (),
) -> list[list[Hypothesis]]:
    """The `num_return_sequences` best answers to each prompt with their scores, best first; otherwise as `generate`.

    Raises:
        InputError: see `BeamSearch`.
    """
    search = BeamSearch(model, prompts, settings, sources=sources)
    while not search.done:
        search.step()
    return search.answers
