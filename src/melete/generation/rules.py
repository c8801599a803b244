"""What may come next, whoever chooses it: penalties, and tokens that must or must not come.

Pure functions on scores float32 (B, V), logits or log-probabilities, and the state that they need.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from melete.generation.settings import GenerationSettings


def repetition_penalty(scores: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Divide positive scores of seen tokens by the penalty, multiply negative ones. Keskar et al. 2019, section 4.1.

    Args:
        seen: bool (B, V), the tokens of the prompt and the answer.
    """
    return torch.where(seen, torch.where(scores > 0, scores / penalty, scores * penalty), scores)


def occurrence_penalty(scores: Tensor, counts: Tensor, frequency: float, presence: float) -> Tensor:
    """Subtract `frequency` per occurrence, and `presence` once, as OpenAI's completion API defines them.

    Args:
        counts: int (B, V), how often each token occurs in the answer so far.
    """
    return scores - frequency * counts - presence * (counts > 0)


def no_repeat_ngram(scores: Tensor, history: Tensor, size: int) -> Tensor:
    """Forbid tokens that would complete a run of `size` tokens that is already there. Paulus et al. 2018, section 2.5.

    A row whose every token would be forbidden is left as it is.

    Args:
        history: int64 (B, L), prompt and answer; -1 is padding, on the left.
    """
    if history.shape[1] < size:
        return scores
    windows = history.unfold(1, size, 1)  # (B, L - size + 1, size)
    ending = history[:, history.shape[1] - size + 1 :]  # (B, size - 1)
    last = windows[..., -1]  # (B, L - size + 1)
    repeats = (windows[..., :-1] == ending[:, None]).all(-1) & (last >= 0)
    rows, places = repeats.nonzero(as_tuple=True)
    forbidden = torch.zeros_like(scores, dtype=torch.bool)
    forbidden[rows, last[rows, places]] = True
    forbidden &= ~forbidden.all(-1, keepdim=True)
    return scores.masked_fill(forbidden, -torch.inf)


def only(scores: Tensor, token: int) -> Tensor:
    """Leave one token, and make it certain."""
    return torch.full_like(scores, -torch.inf).index_fill_(
        1, torch.tensor([token], device=scores.device), 0.0
    )


class Rules:
    """The rules of some settings for a batch of rows, and what they need to remember of each.

    Memory is preallocated and only for the rules in use. The work of one token does not grow with its row, but for
    the n-gram rule, which compares one tensor of the row's length.

    Args:
        prompts: token ids of each row.
        vocab_size: V.
    """

    def __init__(
        self,
        settings: GenerationSettings,
        prompts: Sequence[Sequence[int]],
        vocab_size: int,
        device: torch.device,
    ) -> None:
        self._settings = settings
        self._step = 0  # tokens added so far: to each row as many
        self._seen = self._counts = self._history = None
        self._ends, self._forbidden = (
            torch.tensor(ids, dtype=torch.int64, device=device)
            for ids in (settings.eos_ids, settings.forbidden_ids)
        )
        shape = (len(prompts), vocab_size)
        if settings.repetition_penalty != 1:
            self._seen = torch.zeros(shape, dtype=torch.bool)  # (B, V)
            for row, prompt in enumerate(prompts):
                self._seen[row, list(prompt)] = True
            self._seen = self._seen.to(device)
        if settings.frequency_penalty or settings.presence_penalty:
            self._counts = torch.zeros(shape, dtype=torch.int32, device=device)  # (B, V)
        if settings.no_repeat_ngram_size:
            self._length = max(map(len, prompts))
            history = torch.full((len(prompts), self._length + settings.max_new_tokens), -1)  # (B, L)
            for row, prompt in enumerate(prompts):
                history[row, self._length - len(prompt) : self._length] = torch.as_tensor(prompt)
            self._history = history.to(device)

    @property
    def forbidden(self) -> list[int] | None:
        """Tokens that must not come next, where that is all these rules say of it; else None."""
        s = self._settings
        remember = (self._seen, self._counts, self._history)
        if self._forced is not None or any(state is not None for state in remember):
            return None
        return [*s.forbidden_ids, *(s.eos_ids if self._step < s.min_new_tokens else ())]

    @property
    def _forced(self) -> int | None:
        """The one token that must come next."""
        s = self._settings
        if self._step < len(s.forced_ids):
            return s.forced_ids[self._step]
        return s.eos_ids[0] if s.forced_eos and self._step == s.max_new_tokens - 1 else None

    def __call__(self, scores: Tensor) -> Tensor:
        """Scores of the next token of each row by these rules, (B, V)."""
        s = self._settings
        if self._forced is not None:
            return only(scores, self._forced)
        if self._seen is not None:
            scores = repetition_penalty(scores, self._seen, s.repetition_penalty)
        if self._counts is not None:
            scores = occurrence_penalty(scores, self._counts, s.frequency_penalty, s.presence_penalty)
        if self._history is not None:
            scores = no_repeat_ngram(scores, self._history[:, : self._length], s.no_repeat_ngram_size)
        if s.forbidden_ids:
            scores = scores.index_fill(1, self._forbidden, -torch.inf)
        if s.eos_ids and self._step < s.min_new_tokens:
            scores = scores.index_fill(1, self._ends, -torch.inf)
        return scores

    def remember(self, tokens: Tensor | Sequence[int]) -> None:
        """Take note of what was chosen for each row: (B,) int64."""
        self._step += 1
        if self._seen is None and self._counts is None and self._history is None:
            return
        tokens = torch.as_tensor(tokens, device=self._ends.device)
        if self._seen is not None:
            self._seen.scatter_(1, tokens[:, None], True)
        if self._counts is not None:
            self._counts.scatter_add_(1, tokens[:, None], torch.ones_like(tokens[:, None], dtype=torch.int32))
        if self._history is not None:
            self._history[:, self._length] = tokens
            self._length += 1

    def select(self, rows: Sequence[int]) -> None:
        """Go on with these rows only, in this order; a row may repeat."""
        if self._seen is not None:
            self._seen = self._seen[list(rows)]
        if self._counts is not None:
            self._counts = self._counts[list(rows)]
        if self._history is not None:
            self._history = self._history[list(rows)]
