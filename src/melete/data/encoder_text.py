"""Tokenised text that knows its words, sentences and documents, and the samples that encoders are trained on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from melete.console import Progress
from melete.data.sentences import split_sentences
from melete.data.tokenizers import Tokenizer
from melete.data.words import Cut, token_words
from melete.errors import InputError

PAIRS = ("", "nsp", "sop")
_TOGETHER = 1 << 20  # characters tokenised in one call
# Characters: a longer document is tokenised in pieces, as offsets of a whole book take gigabytes.
_PIECE = 1 << 16
_LINE_END = re.compile(r"\n(?=\S)")
_TRIES = 10


@dataclass(frozen=True)
class EncoderText:
    """A text as token ids without special tokens, five bytes a token; in memory or mapped from a file.

    Attributes:
        ids: uint32 (N,).
        begins: bool (N,), True where a word begins.
        sentences: where sentences begin, int64 (S,), ascending.
        documents: where documents begin, and the end of the last: int64 (D + 1,), ascending; none is empty.
    """

    ids: np.ndarray
    begins: np.ndarray
    sentences: np.ndarray
    documents: np.ndarray

    @classmethod
    def tokenise(cls, texts: Iterable[str], tokenizer: Tokenizer, cut: Cut | None = None) -> EncoderText:
        """Tokenise documents; those without a token are left out.

        Args:
            cut: how Han characters are cut into words; None takes each for a word.

        Raises:
            InputError: nothing to read.
        """
        parts = list(tokenised_parts(texts, tokenizer, cut))
        ids, begins, sentences, starts = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return cls(ids, begins, sentences, np.append(starts, len(ids)))


class Part(NamedTuple):
    """A stretch of a text, tokenised: the arrays of `EncoderText`, positions counted from the start of the text.

    Attributes:
        starts: where documents begin, int64.
    """

    ids: np.ndarray
    begins: np.ndarray
    sentences: np.ndarray
    starts: np.ndarray


def tokenised_parts(texts: Iterable[str], tokenizer: Tokenizer, cut: Cut | None = None) -> Iterator[Part]:
    """The parts of `EncoderText.tokenise`, one after another, in flat memory.

    Raises:
        InputError: nothing to read.
    """
    total, opens = 0, True
    with Progress("tokenising", "tokens") as progress:
        for together in _calls(texts):
            ids: list[np.ndarray] = []
            begins: list[np.ndarray] = []
            sentences: list[np.ndarray] = []
            starts: list[int] = []
            encoded = tokenizer.encode_offsets([text for text, _ in together])
            for (text, first), (found, offsets) in zip(together, encoded, strict=True):
                opens |= first  # until a piece of the document has a token
                if not len(found):
                    continue
                ids.append(found.astype(np.uint32))
                begins.append(np.diff(token_words(text, offsets, cut), prepend=-1) > 0)
                sentences.append(total + _sentence_tokens(text, offsets))
                starts += [total] * opens
                opens = False
                total += len(found)
                progress.advance(len(found))
            if ids:
                yield Part(
                    np.concatenate(ids),
                    np.concatenate(begins),
                    np.concatenate(sentences),
                    np.array(starts, dtype=np.int64),
                )
    if not total:
        raise InputError("no text to train on")


def _calls(texts: Iterable[str]) -> Iterator[list[tuple[str, bool]]]:
    """Pieces of texts, and whether each opens a document: as many as one call of the tokenizer takes."""
    together: list[tuple[str, bool]] = []
    size = 0
    for text in texts:
        for number, piece in enumerate(_pieces(text)):
            together.append((piece, number == 0))
            size += len(piece)
            if size >= _TOGETHER:
                yield together
                together, size = [], 0
    if together:
        yield together


def _pieces(text: str) -> Iterator[str]:
    """A document, cut at line ends where it is long: no token, word or sentence goes on behind one."""
    start = 0
    while len(text) - start > _PIECE:
        match = _LINE_END.search(text, start + _PIECE)
        if match is None:
            break
        yield text[start : match.end()]
        start = match.end()
    yield text[start:]


def _sentence_tokens(text: str, offsets: np.ndarray) -> np.ndarray:
    """The first token of each sentence, ascending, 0 among them."""
    # The space before a token may be the token's, but the sentence begins behind it.
    stops = np.array([stop for _, stop in split_sentences(text)][:-1], dtype=np.int64)
    first = np.unique(np.append(np.searchsorted(offsets, stops), 0))
    return first[first < len(offsets)]


@dataclass(frozen=True)
class Sample:
    """One text or pair of texts, without special tokens.

    Attributes:
        ids: int64 (N,).
        begins: bool (N,), True where a word begins.
        second: where the second text begins; 0: there is none.
        label: 0 if the second follows the first, 1 if it does not (NSP) or came before it (SOP); -100 without a second.
        rate: masking rate of this step; None is the objective's.
        replaced: int64 (N,): the ids with some of them replaced, to measure a discriminator with; None: nothing is.
        sentences: where sentences of a single text begin, ascending, 0 among them.
    """

    ids: np.ndarray
    begins: np.ndarray
    second: int = 0
    label: int = -100
    rate: float | None = None
    replaced: np.ndarray | None = None
    sentences: np.ndarray = field(default_factory=lambda: np.zeros(1, dtype=np.int64))


class Samples:
    """The samples of a text, by number.

    Singles are runs of whole sentences of one document, as many as fit. Pairs (Devlin et al. 2019, section 3.1) are
    runs of sentences, the last one cut where the room ends, split before a random sentence. Under "nsp" every other
    second part is replaced by one from another document, which starts at a sentence too and ends where the true one
    would have: neither cut nor length tells which is which. Under "sop" (Lan et al. 2020, section 3.1) every other
    pair is swapped. A document of one sentence makes no pair, but may be the other document; a sentence of more than
    half the room counts as several.

    Args:
        text: what is read.
        length: room for tokens, without special ones.
        pair: "", "nsp" or "sop".

    Raises:
        InputError: no document has two sentences, or there is no second document.
    """

    def __init__(self, text: EncoderText, length: int, pair: str = "") -> None:
        if pair not in PAIRS:
            raise InputError(f"unknown pair {pair!r}", expected="nsp, sop, or none")
        self.text, self.pair = text, pair
        self.sentences = _short_sentences(text, length // 2) if pair else text.sentences
        runs = [
            run
            for start, stop in zip(text.documents[:-1].tolist(), text.documents[1:].tolist(), strict=True)
            for run in (self._pairs if pair else self._singles)(start, stop, length)
        ]
        if not runs:
            raise InputError(
                f"no document has two sentences, and {pair.upper()} needs pairs of them",
                expected="texts of several sentences each",
                do="join what belongs together, or train without sentence pairs",
            )
        if pair == "nsp" and len(text.documents) < 3:
            raise InputError(
                "NSP needs a second document to take sentences from", do="give more documents, or use sop"
            )
        self.runs = np.array(runs, dtype=np.int64)  # (samples, 2)

    @property
    def lengths(self) -> np.ndarray:
        """Most tokens that each sample may have, special ones included: int64 (samples,)."""
        return self.runs[:, 1] - self.runs[:, 0] + (3 if self.pair else 2)

    def _singles(self, start: int, stop: int, length: int) -> list[tuple[int, int]]:
        runs = []
        while start < stop:
            end = min(start + length, stop)
            if end < stop:
                last = int(self.sentences[np.searchsorted(self.sentences, end, side="right") - 1])
                end = last if last > start else end
            runs.append((start, end))
            start = end
        return runs

    def _pairs(self, start: int, stop: int, length: int) -> list[tuple[int, int]]:
        at, end = np.searchsorted(self.sentences, [start, stop])
        starts = self.sentences[at:end].tolist()  # of this document
        runs: list[tuple[int, int]] = []
        first = 0
        while len(starts) > 1:
            first = min(first, len(starts) - 2)  # a last sentence left alone takes the one before it along
            end = starts[first] + length
            runs.append((starts[first], min(end, stop)))
            if end >= stop:
                break
            # The sentence that was cut opens the next pair.
            first = int(np.searchsorted(starts, end, side="right")) - 1
        return runs

    def sample(self, index: int, rng: np.random.Generator, rate: float | None = None) -> Sample:
        """The sample of that number; of a pair, the split and the second part are drawn."""
        start, stop = self.runs[index].tolist()
        if not self.pair:
            low, high = np.searchsorted(self.sentences, [start + 1, stop])
            sentences = np.append(0, self.sentences[low:high] - start)
            return replace(self._sample([(start, stop)], -100, rate), sentences=sentences)
        low, high = np.searchsorted(self.sentences, [start + 1, stop])
        middle = int(self.sentences[rng.integers(low, high)])
        first, second = (start, middle), (middle, stop)
        if rng.random() < 0.5:
            return self._sample([first, second], 0, rate)
        if self.pair == "sop":
            return self._sample([second, first], 1, rate)
        return self._sample([first, self._elsewhere(start, stop - middle, rng)], 1, rate)

    def _elsewhere(self, here: int, length: int, rng: np.random.Generator) -> tuple[int, int]:
        """A run of that length from another document; of several, the first with enough room, else the roomiest."""
        documents = self.text.documents
        own = int(np.searchsorted(documents, here, side="right")) - 1
        best = (0, 0)
        for _ in range(_TRIES):
            other = int(rng.integers(len(documents) - 2))
            other += other >= own
            begin, end = documents[other : other + 2].tolist()
            low, high = np.searchsorted(self.sentences, [begin, end])
            start = int(self.sentences[rng.integers(low, high)])
            run = (start, min(start + length, end))
            if run[1] - run[0] > best[1] - best[0]:
                best = run
            if best[1] - best[0] == length:
                break
        return best

    def _sample(self, runs: list[tuple[int, int]], label: int, rate: float | None) -> Sample:
        ids = np.concatenate([self.text.ids[a:b] for a, b in runs]).astype(np.int64)
        begins = np.concatenate([self.text.begins[a:b] for a, b in runs])
        second = runs[0][1] - runs[0][0] if len(runs) > 1 else 0
        begins[[0, second]] = True
        return Sample(ids, begins, second, label, rate)


def _short_sentences(text: EncoderText, most: int) -> np.ndarray:
    """Where sentences begin, none longer than `most`: what is longer is cut into equal strides."""
    starts = text.sentences
    lengths = np.diff(np.append(starts, text.documents[-1]))
    pieces = -(-lengths // most)
    within = np.arange(int(pieces.sum())) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    return np.repeat(starts, pieces) + within * most
