"""Beam search: the likeliest answers grow side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import NamedTuple

import torch
from torch import Tensor

from melete.generation.branches import BranchReading
from melete.generation.compiled import CompiledReading, writer_of
from melete.generation.reading import Reading, WritingModel, checked_prompts, checked_sources, fitting
from melete.generation.requirements import Progress, Requirements
from melete.generation.rules import Rules
from melete.generation.settings import GenerationSettings
from melete.generation.text import Decodes, Piece, TextStream
from melete.models.base import Network
from melete.models.postnorm import PostNorm

# Beams of a prompt start out equal, and all but one so unlikely that none of them is chosen while that one has heirs.
_UNLIKELY = -1e9

# Of scores, among which the largest are looked for together.
_BLOCK = 64


class Hypothesis(NamedTuple):
    """One answer.

    Attributes:
        tokens: a token that ended it is one of them.
        score: its log-probability over its number of tokens to the power of `length_penalty`, and what
            `coverage_penalty` adds.
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
class _Group:
    """Beams of a prompt that compete with one another: their best answers that ended, best first."""

    ended: list[Hypothesis] = field(default_factory=list)
    done: bool = False


@dataclass
class _Prompt:
    """One that has beams."""

    number: int
    groups: list[_Group]


class BeamSearch:
    """Chooses, in the loop of `generate.py`, what makes the likeliest answers to each prompt.

    At each step the best continuations of all beams of a prompt are sorted: those that end leave for the list of
    answers if they are among the `num_beams` best, the best others go on. When that ends is for `early_stopping` to
    say; lengths, scores and ends are counted as `transformers` counts them. Prompts that are done leave the batch.

    Groups of beams do so each for itself. What must come is looked after by `_required`: beams that have as many of its
    tokens compete with one another, so that those that have more are not crowded out.

    Source: Graves 2012, section 2.5; division by the length, and coverage: Wu et al. 2016, section 7; groups:
    Vijayakumar et al. 2018; required tokens: Post and Vilar 2018.

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
        self._size = self._beams // settings.num_beam_groups  # of a group
        self._width = self._size * (1 + len(settings.eos_ids))  # of its candidates: all its beams may go on
        # Whether it takes more than the best tokens of each row to choose.
        self._competing = settings.num_beam_groups > 1 or bool(settings.required_ids)
        rows = [prompt for prompt in prompts for _ in range(self._beams)]
        watch = settings.coverage_penalty > 0
        writer = None if watch or len({len(prompt) for prompt in prompts}) != 1 else writer_of(model)
        if writer is not None:
            assert isinstance(model, PostNorm)
            self._reading = CompiledReading(
                writer, model, prompts, settings.max_new_tokens, sources, self._beams
            )
        elif isinstance(model, Network) and model.branching:
            self._reading = BranchReading(
                model, prompts, settings.max_new_tokens, sources, self._beams, watch
            )
        else:
            read = [source for source in sources for _ in range(self._beams)]
            self._reading = Reading(model, rows, settings.max_new_tokens, read, self._beams, watch)
        self._rules = Rules(settings, rows, model.config.vocab_size, self._reading.device)
        groups = settings.num_beam_groups
        self._scores = [0.0, *[_UNLIKELY] * (self._size - 1)] * groups * len(prompts)  # of each row
        self._tokens: list[list[int]] = [[] for _ in rows]  # of each row
        self._attended = torch.zeros(1)  # what each row gave to each token of its source, (R * n, S)
        self._coverage = [0.0] * len(rows)  # what that adds to the score of each row
        self._requirements = Requirements(settings.required_ids)
        self._progress = [Progress()] * len(rows)  # of each row
        self._growing = [_Prompt(n, [_Group() for _ in range(groups)]) for n in range(len(prompts))]
        self._added = 0
        self.answers: list[list[Hypothesis]] = [[] for _ in prompts]

    @property
    def done(self) -> bool:
        """No prompt is left."""
        return not self._growing

    def step(self) -> list[Piece]:
        """One forward pass; the answers to the prompts that it finished."""
        self._added += 1
        forbidden = None if self._competing else self._rules.forbidden
        if isinstance(self._reading, CompiledReading) and forbidden is not None:
            scores, tokens = self._reading.best(min(self._width, self._reading.vocab_size), forbidden)
            found = zip(self._growing, self._merged(scores, scores, tokens, 0), strict=True)
            going_on = [self._sort(prompt.groups[0], candidates) for prompt, candidates in found]
        else:
            log_probabilities = self._rules(self._reading.next_logits().log_softmax(-1))  # (R * n, V)
            if self._settings.coverage_penalty:
                self._cover()
            going_on = self._in_groups(log_probabilities.unflatten(0, (-1, self._beams)))
        kept: list[_Candidate] = []
        growing, done = [], []
        for prompt, candidates in zip(self._growing, going_on, strict=True):
            if all(group.done for group in prompt.groups):
                done.append(prompt)
            else:
                growing.append(prompt)
                kept += candidates
        self._growing = growing
        if growing:
            self._go_on(kept)
        return [piece for prompt in done for piece in self._finish(prompt)]

    def _in_groups(self, log_probabilities: Tensor) -> list[list[_Candidate]]:
        """The beams of each prompt that go on, (R, n, V) -> R lists of n."""
        going_on: list[list[_Candidate]] = [[] for _ in self._growing]
        said: list[list[int]] = [[] for _ in self._growing]  # by the groups before
        for number in range(self._settings.num_beam_groups):
            here = slice(number * self._size, (number + 1) * self._size)
            if self._settings.required_ids:
                found = self._required(log_probabilities)
            else:
                found = self._candidates(log_probabilities[:, here], here.start, said)
            for prompt, candidates, own, tokens in zip(self._growing, found, going_on, said, strict=True):
                was_done = prompt.groups[number].done
                chosen = self._sort(prompt.groups[number], candidates)
                own += chosen
                if not was_done:
                    # In the last step nothing goes on, and what ends is said.
                    tokens += [candidate.token for candidate in chosen or candidates[: self._size]]
        return going_on

    def _candidates(
        self, log_probabilities: Tensor, first: int, said: list[list[int]]
    ) -> list[list[_Candidate]]:
        """The best continuations of a group of each prompt, best first.

        Args:
            log_probabilities: of the group, (R, size, V).
            first: its first beam.
            said: tokens that earlier groups of each prompt chose at this place.
        """
        prompts, size, vocab_size = log_probabilities.shape
        rows = log_probabilities.flatten(0, 1)
        if self._settings.diversity_penalty and any(said):
            counts = torch.zeros(prompts, vocab_size, device=rows.device)
            for count, tokens in zip(counts, said, strict=True):
                count += torch.tensor(tokens, device=rows.device).bincount(minlength=vocab_size)
            rows = rows - self._settings.diversity_penalty * counts.repeat_interleave(size, 0)
        # Of each row first: less to sort, and no sums for tokens that are far behind.
        scores, tokens = largest(rows, min(self._width, vocab_size))  # (R * size, width)
        return self._merged(scores, log_probabilities.flatten(0, 1).gather(1, tokens), tokens, first)

    def _merged(
        self, scores: Tensor, log_probabilities: Tensor, tokens: Tensor, first: int
    ) -> list[list[_Candidate]]:
        """The best continuations of a group of each prompt out of the best of each row, (R * size, width) all.

        Args:
            scores: what decides, where that is not the log-probabilities.
            first: the first beam of the group.
        """
        prompts, width = len(self._growing), tokens.shape[1]
        size = len(tokens) // prompts
        so_far = torch.tensor(self._scores, device=tokens.device).view(prompts, -1)[:, first : first + size]
        order = (scores + so_far.reshape(-1, 1)).view(prompts, -1)  # (R, size * width)
        places = order.topk(min(self._width, size * width)).indices  # (R, width)
        rows = places // width + torch.arange(prompts, device=places.device)[:, None] * self._beams + first
        true, tokens = (part.view(prompts, -1).gather(1, places) for part in (log_probabilities, tokens))
        true = so_far.gather(1, places // width) + true
        lists = zip(true.tolist(), rows.tolist(), tokens.tolist(), strict=True)
        return [[_Candidate(*one) for one in zip(*column, strict=True)] for column in lists]

    def _required(self, log_probabilities: Tensor) -> list[list[_Candidate]]:
        """Continuations of which as many as can be have each number of required tokens, those with most first."""
        open_ = [self._requirements.met(progress) < self._requirements.tokens for progress in self._progress]
        if self._settings.eos_ids:
            rows = torch.tensor(open_, device=log_probabilities.device).view(len(self._growing), -1, 1)
            ends = torch.tensor(self._settings.eos_ids, device=rows.device)
            ended = log_probabilities[..., ends].masked_fill(rows, -torch.inf)
            log_probabilities = log_probabilities.index_copy(2, ends, ended)
        usual = self._candidates(log_probabilities, 0, [])
        best = log_probabilities.argmax(-1).flatten().tolist()
        found = []
        for prompt, candidates in enumerate(usual):
            pool = {(candidate.row, candidate.token): candidate for candidate in candidates}
            for beam in range(self._beams):
                row = prompt * self._beams + beam
                for token in {best[row], *self._requirements.wanted(self._progress[row])}:
                    score = self._scores[row] + float(log_probabilities[prompt, beam, token])
                    pool.setdefault((row, token), _Candidate(score, row, token))
            found.append(self._in_turn(sorted(pool.values(), key=lambda candidate: -candidate.score)))
        return found

    def _in_turn(self, candidates: list[_Candidate]) -> list[_Candidate]:
        """One of those that have most of what is required, one of those that have less, and so on, and again."""
        ends, last = self._settings.eos_ids, self._added == self._settings.max_new_tokens
        banks: dict[int, list[_Candidate]] = {}
        for candidate in candidates:
            likely, ending = candidate.score > _UNLIKELY / 2, candidate.token in ends
            if candidate.score == -math.inf or (ending and not likely):
                continue
            progress = self._requirements.after(self._progress[candidate.row], candidate.token)
            # What ends has all of it; a beam that stands for none yet comes after all others.
            bank = self._requirements.tokens + 1 if ending else self._requirements.met(progress)
            banks.setdefault(bank if likely else -1, []).append(candidate)
        whole = self._requirements.tokens
        if last:
            least = next((bank for bank in sorted(banks, reverse=True) if bank < whole), whole)
            best = [*banks.get(whole + 1, []), *banks.get(whole, [])] or banks[least]
            return sorted(best, key=lambda candidate: -candidate.score)
        queue = [banks[bank] for bank in sorted(banks, reverse=True) if 0 <= bank <= whole]
        turns = [one for turn in zip_longest(*queue) for one in turn if one is not None]
        going_on = [*turns, *banks.get(-1, [])][: self._beams]
        going_on.sort(key=lambda candidate: -candidate.score)
        return [*banks.get(whole + 1, [])[: self._beams], *going_on]

    def _sort(self, group: _Group, candidates: list[_Candidate]) -> list[_Candidate]:
        """Note what ended, and whether that was all; what goes on, best first."""
        last = self._added == self._settings.max_new_tokens
        going_on = []
        for rank, candidate in enumerate(candidates):
            if not last and candidate.token not in self._settings.eos_ids:
                going_on.append(candidate)
            elif rank < self._size and not group.done:
                tokens = [*self._tokens[candidate.row], candidate.token]
                score = self._normalised(candidate.score, self._added) + self._coverage[candidate.row]
                group.ended.append(Hypothesis(tokens, score))
        group.ended.sort(key=lambda answer: -answer.score)
        del group.ended[self._size :]
        going_on = going_on[: self._size]
        group.done = group.done or self._is_done(group, going_on)
        return going_on

    def _is_done(self, group: _Group, going_on: list[_Candidate]) -> bool:
        if not going_on:  # every one has the most tokens it may have
            return True
        if len(group.ended) < self._size:
            return False
        if self._settings.early_stopping is True:
            return True
        longest = self._settings.early_stopping == "never" and self._settings.length_penalty > 0
        length = self._settings.max_new_tokens if longest else self._added
        return self._normalised(going_on[0].score, length) <= group.ended[-1].score

    def _normalised(self, score: float, length: int) -> float:
        return score / length**self._settings.length_penalty

    def _cover(self) -> None:
        """Count what the newest token of each row looked at."""
        newest = self._reading.attended
        self._attended = self._attended.to(newest) + newest
        # What nothing looked at is far from infinitely bad.
        covered = self._attended.clamp(torch.finfo(newest.dtype).tiny, 1.0).log().sum(-1)  # (R * n,)
        self._coverage = (self._settings.coverage_penalty * covered).tolist()

    def _go_on(self, kept: list[_Candidate]) -> None:
        scores, rows, tokens = (list(column) for column in zip(*kept, strict=True))
        self._reading.select(rows)
        self._rules.select(rows)
        if self._settings.coverage_penalty:
            self._attended = self._attended[rows]
        self._reading.append(tokens)
        self._rules.remember(torch.tensor(tokens, device=self._reading.device))
        self._scores = scores
        self._tokens = [[*self._tokens[row], token] for row, token in zip(rows, tokens, strict=True)]
        if self._settings.required_ids:
            after = self._requirements.after
            pairs = zip(rows, tokens, strict=True)
            self._progress = [after(self._progress[row], token) for row, token in pairs]

    def _finish(self, prompt: _Prompt) -> list[Piece]:
        each = self._settings.num_return_sequences
        answers = [answer for group in prompt.groups for answer in group.ended]
        answers.sort(key=lambda answer: -answer.score)
        self.answers[prompt.number] = answers[:each]
        pieces = []
        for i, answer in enumerate(answers[:each]):
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
