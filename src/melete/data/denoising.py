"""What an encoder-decoder must mend: spans that are gone, sentences out of order. Pure functions of a generator.

How much is hidden is exact in expectation for texts of any length: what is left of `rate * length` behind the point is
decided by a draw.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from melete.errors import InputError

if TYPE_CHECKING:
    from melete.data.tokenizers import Tokenizer

SENTINELS = tuple(f"<extra_id_{i}>" for i in range(100))
MASK = "<mask>"


@dataclass(frozen=True)
class Noise:
    """How much of a text is hidden.

    Attributes:
        rate: share of its tokens, or of its words.
        span: mean length of what is hidden in one piece.
        shuffle: sentences change places.

    Raises:
        InputError: a rate outside of (0, 1), or spans shorter than 1.
    """

    rate: float
    span: float = 3.0
    shuffle: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.rate < 1:
            raise InputError(f"{self.rate} of a text hidden", expected="more than 0 and less than 1")
        if self.span < 1:
            raise InputError(f"spans of {self.span} tokens", expected="1 or more")


T5 = Noise(0.15)
BART = Noise(0.3, shuffle=True)


@dataclass(frozen=True)
class NoiseVocabulary:
    """What hides a token.

    Attributes:
        holes: what stands for the spans of a text in their order: the sentinels, or the mask alone.
        is_ordinary: bool (V,), False for special tokens.
        ordinary: their ids, int64.
    """

    holes: np.ndarray
    is_ordinary: np.ndarray
    ordinary: np.ndarray

    @classmethod
    def of(cls, tokenizer: Tokenizer, names: tuple[str, ...]) -> NoiseVocabulary:
        """Of a tokenizer.

        Raises:
            InputError: it has no token of one of these names, or none that ends a text or fills a row.
        """
        ids = [tokenizer.id_of(name) for name in names]
        found = [id_ for id_ in ids if id_ is not None]
        if len(found) < len(names):
            raise InputError(
                f"the vocabulary has no {names[ids.index(None)]}",
                expected="the tokens that stand for what is hidden",
                do="leave the tokenizer out: one is trained on the text",
            )
        for role in ("eos", "pad"):
            if getattr(tokenizer, f"{role}_id") is None:
                raise InputError(f"the vocabulary has no {role} token", do="use byte-bpe or unigram")
        is_ordinary = np.ones(tokenizer.vocab_size, dtype=bool)
        is_ordinary[[*tokenizer.special_ids, *found]] = False
        return cls(np.array(found, dtype=np.int64), is_ordinary, np.flatnonzero(is_ordinary))


def corrupt_spans(
    ids: np.ndarray, holes: np.ndarray, noise: Noise, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Source and target of span corruption (Raffel et al. 2020, section 3.1.4), int64 both.

    Each span is one sentinel in the source; the target tells behind each sentinel what stood there. Spans never touch,
    and may stand anywhere: T5's own begin each text with a token that is shown and end it with one that is not.

    Args:
        ids: int64 (N,), at least one.
        holes: sentinels in their order; there are never more spans.
    """
    count = len(ids)
    hidden = int(np.clip(int(noise.rate * count + rng.random()), 1, count))
    most = min(hidden, count - hidden + 1, len(holes))
    spans = int(np.clip(int(hidden / noise.span + rng.random()), 1, most))
    cuts = np.sort(rng.choice(hidden - 1, spans - 1, replace=False)) + 1
    lengths = np.diff(cuts, prepend=0, append=hidden)
    slots, gone = _placed(lengths, count, rng)
    source = np.insert(ids[~gone], slots, holes[:spans])
    return source, np.insert(ids[gone], np.cumsum(lengths) - lengths, holes[:spans])


def fill_in_text(
    ids: np.ndarray, words: np.ndarray, hole: int, noise: Noise, rng: np.random.Generator
) -> np.ndarray:
    """The source of text infilling (Lewis et al. 2020, section 2.2), int64; no longer than the text.

    Runs of whole words, their lengths drawn from a Poisson distribution, are one mask each; a run of no word is a mask
    too much. The target is the text.

    Args:
        ids: int64 (N,).
        words: (N,), the word of each token, rising from 0 without gaps.
    """
    sizes = np.bincount(words)
    hidden = int(noise.rate * len(sizes) + rng.random())
    lengths = _poisson_lengths(hidden, noise.span, rng)[: len(sizes) - hidden + 1]
    slots, gone = _placed(lengths, len(sizes), rng)
    before = np.append(0, np.cumsum(sizes[~gone]))[slots]
    return np.insert(ids[~gone[words]], before, hole)


def sentence_order(starts: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Places of the tokens of a text whose sentences change places at random: int64 (N,).

    Args:
        starts: where sentences begin, ascending, 0 among them.
        count: N.
    """
    sentences = np.split(np.arange(count), starts[1:])
    return np.concatenate([sentences[i] for i in rng.permutation(len(sentences))])


def _poisson_lengths(total: int, mean: float, rng: np.random.Generator) -> np.ndarray:
    """Lengths that add up to `total`, in random order; never more of them than that."""
    lengths = np.zeros(0, dtype=np.int64)
    while lengths.sum() < total:
        lengths = np.append(lengths, rng.poisson(mean, 1 + int(total / mean)))
    ends = np.cumsum(lengths)
    last = int(np.searchsorted(ends, total))
    lengths = lengths[: last + 1]
    lengths[last:] -= ends[last : last + 1] - total
    empty = np.flatnonzero(lengths == 0)
    return rng.permutation(np.delete(lengths, empty[max(0, total - (len(lengths) - len(empty))) :]))


def _placed(lengths: np.ndarray, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Spans anywhere among `count` things, none touching another.

    Returns:
        How many things that are shown stand before each span, ascending, int64; and which are hidden, bool (count,).
    """
    shown = count - int(lengths.sum())
    slots = np.sort(rng.choice(shown + 1, len(lengths), replace=False))
    gone = np.zeros(count, dtype=bool)
    gone[np.repeat(slots, lengths) + np.arange(count - shown)] = True
    return slots, gone
