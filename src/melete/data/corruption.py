"""What a model must restore: which tokens are chosen, and what stands in their place. Pure functions of a generator.

A rate is exact in expectation for texts of any length: what is left of `rate * tokens` behind the point is decided by
a draw, not by rounding, which would mask one token of five in each title of five. Shares (80/10/10) are spread within
each text in the same way, so that texts differ as little as they can.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from melete.errors import InputError

if TYPE_CHECKING:
    from melete.data.tokenizers import Tokenizer

UNITS = ("token", "word", "span")

# SpanBERT, section 3.1
SPAN_STOP = 0.2
LONGEST_SPAN = 10


@dataclass(frozen=True)
class Corruption:
    """How much of a text is hidden, and how.

    Attributes:
        rate: share of the ordinary tokens (special ones don't count) that are to be predicted.
        unit: what is chosen as a whole: "token" (BERT), "word" (whole-word masking) or "span" (SpanBERT: one to ten
            words, geometric with p = 0.2, shown alike).
        masked: share of what is chosen that becomes [MASK].
        random: share that becomes a random ordinary token; the rest stays as it is.

    Raises:
        InputError: a share outside of [0, 1], a rate outside of (0, 1), or an unknown unit.
    """

    rate: float = 0.15
    unit: str = "token"
    masked: float = 0.8
    random: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.rate < 1:
            raise InputError(f"a masking rate of {self.rate}", expected="more than 0 and less than 1")
        if min(self.masked, self.random) < 0 or self.masked + self.random > 1 + 1e-9:
            raise InputError(
                f"{self.masked} masked and {self.random} random", expected="shares that add up to at most 1"
            )
        if self.unit not in UNITS:
            raise InputError(f"unknown masking unit {self.unit!r}", expected=", ".join(UNITS))


BERT = Corruption()
ELECTRA = Corruption(masked=0.85, random=0.0)


@dataclass(frozen=True)
class Vocabulary:
    """What masking must know of a vocabulary.

    Attributes:
        mask_id, cls_id, sep_id, pad_id: what hides a token, opens a text, closes a segment, fills a row.
        is_ordinary: bool (V,), False for special tokens.
        ordinary: their ids, int64.
    """

    mask_id: int
    cls_id: int
    sep_id: int
    pad_id: int
    is_ordinary: np.ndarray
    ordinary: np.ndarray

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Vocabulary:
        """Of a tokenizer.

        Raises:
            InputError: it lacks one of the four tokens.
        """
        ids: dict[str, int] = {}
        for role in ("mask", "cls", "sep", "pad"):
            found = getattr(tokenizer, f"{role}_id")
            if found is None:
                raise InputError(
                    f"the vocabulary has no {role} token",
                    expected="[MASK], [CLS], [SEP] and [PAD]",
                    do="take an encoder's tokenizer, or train one: melete tokenizer train --kind wordpiece",
                )
            ids[f"{role}_id"] = found
        is_ordinary = np.ones(tokenizer.vocab_size, dtype=bool)
        is_ordinary[list(tokenizer.special_ids)] = False
        return cls(**ids, is_ordinary=is_ordinary, ordinary=np.flatnonzero(is_ordinary))


@dataclass(frozen=True)
class Corrupted:
    """A text as the model sees it, and what it is to restore.

    Attributes:
        ids: int64 (N,).
        labels: int64 (N,): the token that stood there, -100 where nothing is predicted.
    """

    ids: np.ndarray
    labels: np.ndarray


def linear_rate(first: float, last: float, steps: int) -> Callable[[int], float]:
    """A masking rate that goes from `first` to `last` over the steps (Ankner et al. 2023: 30 % to 15 %).

    Masks are drawn on the data side, which knows no progress of training: the source asks this for the rate of its
    step and writes it into the samples. So a mask is a function of the sample's key and the step, as is all else.
    """
    return lambda step: first + (last - first) * min(1.0, step / max(1, steps - 1))


def mask_tokens(
    ids: np.ndarray,
    words: np.ndarray,
    corruption: Corruption,
    vocabulary: Vocabulary,
    rng: np.random.Generator,
    rate: float | None = None,
) -> Corrupted:
    """Choose tokens and hide them (Devlin et al. 2019, section 3.1). Special tokens are neither chosen nor drawn.

    Args:
        ids: int64 (N,).
        words: int64 (N,), never falling: the word of each token (`token_words`).
        rate: stands in for the rate of `corruption`.
    """
    rate = corruption.rate if rate is None else rate
    may = np.flatnonzero(vocabulary.is_ordinary[ids])  # (M,)
    if corruption.unit == "span":
        spans = choose_spans(words[may], rate, rng)  # (M,)
    elif corruption.unit == "word":
        spans = choose_words(words[may], rate, rng)
    else:
        spans = choose_tokens(len(may), rate, rng)
    at, spans = may[spans > 0], spans[spans > 0]
    labels = np.full(len(ids), -100, dtype=np.int64)
    labels[at] = ids[at]
    # A span is hidden as one; tokens of words each for itself, as in whole-word BERT.
    together = corruption.unit == "span"
    draw = _spread(np.bincount(spans)[1:] if together else np.ones(len(at)), rng)
    draw = draw[spans - 1] if together else draw
    out = ids.copy()
    out[at[draw < corruption.masked]] = vocabulary.mask_id
    replaced = at[(draw >= corruption.masked) & (draw < corruption.masked + corruption.random)]
    out[replaced] = vocabulary.ordinary[rng.integers(len(vocabulary.ordinary), size=len(replaced))]
    return Corrupted(out, labels)


def replace_tokens(
    ids: np.ndarray, vocabulary: Vocabulary, frequencies: np.ndarray, rate: float, rng: np.random.Generator
) -> np.ndarray:
    """A share of the ordinary tokens replaced by draws from a distribution: int64 (N,). A draw may be what stood there.

    Args:
        ids: int64 (N,).
        frequencies: probability of each id, (V,).
    """
    may = np.flatnonzero(vocabulary.is_ordinary[ids])
    at = may[choose_tokens(len(may), rate, rng) > 0]
    out = ids.copy()
    cumulative = np.cumsum(frequencies)
    out[at] = np.searchsorted(cumulative, rng.random(len(at)) * cumulative[-1], side="right")
    return out


def choose_tokens(count: int, rate: float, rng: np.random.Generator) -> np.ndarray:
    """`rate * count` of `count` tokens, at random: int64 (count,), 0 or 1."""
    return (_spread(np.ones(count, dtype=np.int64), rng) < rate).astype(np.int64)


def choose_words(words: np.ndarray, rate: float, rng: np.random.Generator) -> np.ndarray:
    """Whole words, at random, until they have `rate` of the tokens: int64 (N,), 0 or 1.

    The word that reaches over the limit is taken with the probability of its share below the limit: to leave out what
    does not fit would favour short words.

    Args:
        words: (N,), the word of each token, never falling.
    """
    word = _numbered(words)
    return (_spread(np.bincount(word), rng) < rate)[word].astype(np.int64)


def choose_spans(words: np.ndarray, rate: float, rng: np.random.Generator) -> np.ndarray:
    """Runs of whole words that have `rate` of the words (Joshi et al. 2020, section 3.1): int64 (N,), 0 or the span.

    How many spans there are is drawn before their lengths: to stop at a limit would favour short spans. In texts of
    fewer than ten words no span is longer than the text.

    Args:
        words: (N,), the word of each token, never falling.

    Returns:
        Numbers of spans from 1, in the order of the text.
    """
    if not len(words):
        return np.zeros(0, dtype=np.int64)
    word = _numbered(words)
    count = int(word[-1]) + 1
    sizes = np.arange(1, min(LONGEST_SPAN, count) + 1)
    share = (1 - SPAN_STOP) ** (sizes - 1)
    share /= share.sum()
    spans = min(int(rate * count / float(sizes @ share) + rng.random()), count)
    lengths = rng.choice(sizes, size=spans, p=share)
    while lengths.sum() > count:
        lengths = rng.choice(sizes, size=spans, p=share)
    # Spans and the words left free stand in any order: the free words before each span are a sorted draw.
    free = count - int(lengths.sum())
    starts = np.sort(rng.choice(free + spans, size=spans, replace=False)) - np.arange(spans)
    starts += np.cumsum(lengths) - lengths
    span_of = np.zeros(count, dtype=np.int64)
    inside = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    span_of[np.repeat(starts, lengths) + inside] = np.repeat(np.arange(1, spans + 1), lengths)
    return span_of[word]


def _numbered(words: np.ndarray) -> np.ndarray:
    """Words counted from 0 without gaps: those of special tokens are not there."""
    return np.cumsum(np.diff(words, prepend=words[:1]) != 0)


def _spread(sizes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A uniform draw in [0, 1) for each thing, such that a share of the draws falls to that share of all sizes.

    The things stand in a random order, each as wide as its size, and all draw the same point of their width.
    """
    order = rng.permutation(len(sizes))
    sizes = sizes[order]
    draws = np.empty(len(sizes))
    draws[order] = (np.cumsum(sizes) - sizes + rng.random() * sizes) / max(1, sizes.sum())
    return draws
