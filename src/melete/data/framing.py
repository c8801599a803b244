"""One text or two as a model is given them: special tokens around, cut to its length, in windows where that is short.

The special tokens are those that the tokenizer itself puts around texts, so that `transformers` gives a model the
same ids. Where it puts none, an encoder gets `[CLS] A [SEP] B [SEP]`, and a decoder `A`, or `A <eos> B`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from melete.data.tokenizers import Tokenizer


@dataclass(frozen=True)
class Framed:
    """What the model reads.

    Attributes:
        ids: int64 (N,), special tokens included.
        types: int64 (N,), the segment of each token; None: all are of the first.
        starts: where each text begins in `ids`.
        kept: tokens of each text that are left.
    """

    ids: np.ndarray
    types: np.ndarray | None
    starts: tuple[int, ...]
    kept: tuple[int, ...]


@dataclass(frozen=True)
class _Template:
    """Special tokens before, between and behind the texts, and the segment of each of these parts and texts."""

    special: tuple[tuple[int, ...], ...]  # one more than there are texts
    types: tuple[int, ...]  # special, text, special, ...

    @property
    def count(self) -> int:
        return sum(map(len, self.special))


class Framing:
    """How texts are put before a model.

    Args:
        tokenizer: of the model.
        length: most tokens that the model reads, special ones included.
        segments: kinds of segment that the model tells apart; fewer than two: no types.
    """

    def __init__(self, tokenizer: Tokenizer, length: int, segments: int = 2) -> None:
        self.length, self.segments = length, segments
        self._one, self._two = _template(tokenizer, 1), _template(tokenizer, 2)
        self._nothing = next((id_ for id_ in (tokenizer.eos_id, tokenizer.unk_id) if id_ is not None), 0)

    def room(self, texts: int) -> int:
        """Tokens of one text, or of two together, that fit."""
        return self.length - (self._one if texts == 1 else self._two).count

    def one(self, ids: np.ndarray) -> Framed:
        """A text; its end is cut off where it is too long."""
        return self._framed(self._one, [ids[: self.room(1)]])

    def two(self, first: np.ndarray, second: np.ndarray) -> Framed:
        """A pair of texts; the longer one is cut until both fit, then both, as `transformers` does it."""
        one, other = shortened(len(first), len(second), self.room(2))
        return self._framed(self._two, [first[:one], second[:other]])

    def windows(
        self, first: np.ndarray | None, second: np.ndarray, overlap: float
    ) -> list[tuple[Framed, int]]:
        """A text that may be long, in windows that overlap; the first text, if there is one, stands before each.

        Args:
            first: at most half of the room of a window is left to it.
            overlap: share of a window that stands in the next one too.

        Returns:
            Each window, and the token of the second text that it begins with.
        """
        if first is not None:
            first = first[: self.room(2) // 2]
        room = self.room(1) if first is None else self.room(2) - len(first)
        step = max(1, room - int(room * overlap))
        found: list[tuple[Framed, int]] = []
        start = 0
        while True:
            part = second[start : start + room]
            framed = (
                self._framed(self._one, [part]) if first is None else self._framed(self._two, [first, part])
            )
            found.append((framed, start))
            if start + room >= len(second):
                return found
            start += step

    def _framed(self, template: _Template, texts: list[np.ndarray]) -> Framed:
        parts: list[np.ndarray] = [np.array(template.special[0], dtype=np.int64)]
        for text, special in zip(texts, template.special[1:], strict=True):
            parts += [text.astype(np.int64), np.array(special, dtype=np.int64)]
        lengths = [len(part) for part in parts]
        if not any(lengths):  # a model reads at least one token
            parts[-1], lengths[-1] = np.array([self._nothing]), 1
        ends = np.cumsum(lengths)
        types = None
        if self.segments > 1 and any(template.types):
            types = np.repeat(np.array(template.types, dtype=np.int64), lengths)
        starts = tuple(int(end - length) for end, length in zip(ends[1::2], lengths[1::2], strict=True))
        return Framed(np.concatenate(parts), types, starts, tuple(lengths[1::2]))


def shortened(first: int, second: int, room: int) -> tuple[int, int]:
    """Lengths of two texts that fit into `room` together: the longer one is cut first, then both alike."""
    if first + second <= room:
        return first, second
    short, long = min(first, second), max(first, second)
    if short > room // 2:
        short, long = room // 2, room - room // 2
    else:
        long = room - short
    return (long, short) if first > second else (short, long)


def _template(tokenizer: Tokenizer, texts: int) -> _Template:
    ids, types, owners = tokenizer.frame(texts)
    special: list[list[int]] = [[] for _ in range(texts + 1)]
    kinds: list[int] = [0] * (2 * texts + 1)
    seen = 0
    for id_, kind, owner in zip(ids, types, owners, strict=True):
        if owner is None:
            special[seen].append(id_)
            kinds[2 * seen] = kind
        else:
            seen = owner + 1
            kinds[2 * owner + 1] = kind
    if not any(special):
        return _plain(tokenizer, texts)
    return _Template(tuple(map(tuple, special)), tuple(kinds))


def _plain(tokenizer: Tokenizer, texts: int) -> _Template:
    """For a tokenizer that puts nothing around texts."""
    if tokenizer.cls_id is not None and tokenizer.sep_id is not None:
        ends = [(tokenizer.sep_id,)] * texts
        return _Template(((tokenizer.cls_id,), *ends), (0, 0, 0, 1, 1)[: 2 * texts + 1])
    end = next((id_ for id_ in (tokenizer.eos_id, tokenizer.sep_id) if id_ is not None), None)
    between = ((),) if texts == 1 else ((), () if end is None else (end,))
    return _Template((*between, ()), (0,) * (2 * texts + 1))
