"""How varied generated text is. Pure functions on token sequences (ids, words or characters)."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

Tokens = Sequence[Hashable]


def distinct_n(sequences: Sequence[Tokens], n: int) -> float:
    """Different n-grams over all n-grams, counted over all sequences together: 0 (one n-gram) to 1 (no n-gram twice).

    Zero if no sequence has n tokens. Li et al. 2016, "A Diversity-Promoting Objective Function", section 5.
    """
    grams = [gram for sequence in sequences for gram in _ngrams(sequence, n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def repetition_rate(sequences: Sequence[Tokens], n: int = 4) -> float:
    """Share of a sequence's n-grams that stand earlier in the same sequence, as a mean over sequences: 0 to 1.

    Sequences of fewer than n tokens are left out; zero if none is left. Welleck et al. 2020, "Neural Text
    Generation with Unlikelihood Training", section 6 (seq-rep-n).
    """
    rates = []
    for sequence in sequences:
        if grams := _ngrams(sequence, n):
            rates.append(1 - len(set(grams)) / len(grams))
    return sum(rates) / len(rates) if rates else 0.0


def diversity(sequences: Sequence[Tokens]) -> dict[str, float]:
    """`distinct_1`, `distinct_2`, `distinct_3` and `repetition` (of 4-grams) of samples."""
    report = {f"distinct_{n}": distinct_n(sequences, n) for n in (1, 2, 3)}
    return {**report, "repetition": repetition_rate(sequences)}


def _ngrams(sequence: Tokens, n: int) -> list[tuple[Hashable, ...]]:
    return list(zip(*(sequence[i:] for i in range(n)), strict=False))
