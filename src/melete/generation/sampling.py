"""From logits to tokens: pure functions on logits float32 (B, V), and the sampler that goes by them.

A filter sets what it takes away to minus infinity, and always leaves a token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from melete.generation.drafting import Guess
from melete.generation.rules import Rules
from melete.generation.settings import GenerationSettings

# A nucleus is nearly always found among this many tokens; sorting a whole vocabulary costs ten times as much.
_NUCLEUS_WIDTH = 1024
# Weights that are summed before one of them is looked for.
_BLOCK = 128
# Draws of which one stays; none does only where the guesses have the distribution itself, but for rounding.
_MOST_DRAWS = 100_000
# Dividing by less than this overflows float32, and would choose the likeliest token anyway.
GREEDY_BELOW = 1e-5


def top_k(logits: Tensor, k: int) -> Tensor:
    """Keep the k largest (and whatever ties with the k-th). Fan et al. 2018, section 5.4."""
    least = logits.topk(min(k, logits.shape[-1]), dim=-1).values[:, -1:]  # (B, 1)
    return logits.masked_fill(logits < least, -torch.inf)


def top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the fewest likeliest tokens whose probabilities reach p (the nucleus). Holtzman et al. 2020, section 3.1."""
    return _keep_mass(logits, logits.softmax(-1), -logits, p)


def min_p(logits: Tensor, p: float) -> Tensor:
    """Keep tokens whose probability is at least p times the largest one. Nguyen et al. 2024, section 3."""
    probabilities = logits.softmax(-1)
    return logits.masked_fill(probabilities < p * probabilities.amax(-1, keepdim=True), -torch.inf)


def typical_p(logits: Tensor, mass: float) -> Tensor:
    """Keep the tokens whose surprise is nearest to its expectation, up to `mass`. Meister et al. 2023, section 3."""
    log_probabilities = logits.log_softmax(-1)
    probabilities = log_probabilities.exp()
    entropy = -(log_probabilities * probabilities).nansum(-1, keepdim=True)  # (B, 1); 0 * log 0 counts as 0
    return _keep_mass(logits, probabilities, (-log_probabilities - entropy).abs(), mass)


def _keep_mass(logits: Tensor, probabilities: Tensor, cost: Tensor, mass: float) -> Tensor:
    """Keep tokens in order of rising cost until their probabilities reach `mass`."""
    width = min(_NUCLEUS_WIDTH, logits.shape[-1])
    costs, order = cost.topk(width, dim=-1, largest=False)  # (B, width)
    reached = probabilities.gather(-1, order).cumsum(-1)
    if width < logits.shape[-1] and bool((reached[:, -1] < mass).any()):
        costs, order = cost.sort(-1)
        reached = probabilities.gather(-1, order).cumsum(-1)
    last = (reached < mass).sum(-1, keepdim=True).clamp_max(costs.shape[-1] - 1)  # (B, 1)
    return logits.masked_fill(cost > costs.gather(-1, last), -torch.inf)


def sample(logits: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Draw one token a row by inverting the cumulative distribution: (B,) int64.

    Each row draws one number from its own CPU generator, so that its token does not depend on the other rows.
    """
    return _drawn(logits.softmax(-1, dtype=torch.float64), generators)


def _drawn(weights: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """One token a row, in proportion to weights float64 (B, V): (B,) int64."""
    cumulative = weights.cumsum(-1)  # float32 would lose the tail of a large vocabulary
    draws = torch.cat([torch.rand(1, generator=generator, dtype=torch.float64) for generator in generators])
    # The first entry above the draw has a positive probability, because a draw is below 1.
    threshold = draws.to(weights.device)[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, threshold, right=True)[:, 0]


def settle(p: NDArray[np.float32], guess: Guess | None, rng: np.random.Generator) -> int:
    """A guess that was drawn, or another token in its place, so that tokens are distributed as p, (V,).

    The guess stays with probability min(1, p / q); instead of it comes what the guesses are too seldom, in proportion
    to max(0, p - q): draws from p that stay with probability max(0, 1 - q / p). Leviathan et al. 2023, algorithm 1.
    In numpy, and of few tokens only: where the work is small, calls and memory that was not in use cost most.
    """
    if guess is None or guess.chance is None:
        return next(_draws(p, rng))
    if rng.random() * guess.probability < p[guess.token]:
        return guess.token
    draws = _draws(p, rng)
    for _ in range(_MOST_DRAWS):
        token = next(draws)
        if rng.random() * p[token] < p[token] - guess.chance(token):
            return token
    return next(draws)


def _draws(weights: NDArray[np.float32], rng: np.random.Generator) -> Iterator[int]:
    """Indices in proportion to their weights, (V,): first a block of them, then one of the block."""
    starts = np.arange(0, len(weights), _BLOCK)
    sums = np.add.reduceat(weights, starts).cumsum(dtype=np.float64)
    while True:
        block = int(sums.searchsorted(rng.random() * sums[-1], side="right"))
        within = weights[starts[block] : starts[block] + _BLOCK].cumsum(dtype=np.float64)
        yield int(starts[block] + within.searchsorted(rng.random() * within[-1], side="right"))


class Sampler:
    """Chooses tokens for a batch of rows, each by its own random stream.

    Args:
        prompts: token ids of each row.
        streams: number of each row's random stream; equal seed and stream give equal draws.
        vocab_size: V.
    """

    def __init__(
        self,
        settings: GenerationSettings,
        prompts: Sequence[Sequence[int]],
        streams: Sequence[int],
        vocab_size: int,
        device: torch.device,
    ) -> None:
        self._settings = settings
        self._rules = Rules(settings, prompts, vocab_size, device)
        self._generators = [generator_of(settings.seed, stream) for stream in streams]

    def __call__(self, logits: Tensor) -> Tensor:
        """The next token of each row: (B,) int64 from logits float32 (B, V)."""
        logits = self._rules(logits)
        greedy = self._settings.temperature < GREEDY_BELOW
        tokens = logits.argmax(-1) if greedy else sample(self._filter(logits), self._generators)
        self._rules.remember(tokens)
        return tokens

    @property
    def constant(self) -> bool:
        """Whether rows have the same distribution whatever is chosen before them."""
        s = self._settings
        return self._rules.forbidden == [] and not s.top_k and s.top_p == s.typical_p == 1 and not s.min_p

    def probabilities(self, logits: Tensor) -> NDArray[np.float32]:
        """What each row's next token is drawn from: (B, V) from logits (B, V); any number of rows if `constant`."""
        if not self.constant:
            logits = self._filter(self._rules(logits))
        elif self._settings.temperature != 1:
            logits = logits / self._settings.temperature
        return logits.softmax(-1).numpy(force=True)

    def remember(self, token: int) -> None:
        """The next token of a single row, where somebody else has chosen it."""
        self._rules.remember([token])

    def select(self, rows: Sequence[int]) -> None:
        """Go on with these rows only, in this order."""
        self._generators = [self._generators[row] for row in rows]
        self._rules.select(rows)

    def _filter(self, logits: Tensor) -> Tensor:
        s = self._settings
        if s.temperature != 1:
            logits = logits / s.temperature
        if s.top_k:
            logits = top_k(logits, s.top_k)
        if s.top_p < 1:
            logits = top_p(logits, s.top_p)
        if s.min_p:
            logits = min_p(logits, s.min_p)
        if s.typical_p < 1:
            logits = typical_p(logits, s.typical_p)
        return logits


def generator_of(seed: int, stream: int) -> torch.Generator:
    """The draws of one answer. Streams of one seed are unrelated to each other and to those of the next seed."""
    state = np.random.SeedSequence([seed, stream]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0] >> np.uint64(1)))
