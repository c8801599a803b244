"""Words cut into other tokens each time they are read: BPE-dropout (Provilkov et al. 2020).

Merges of the tokenizer are left out at random, so that a model meets a word in many forms. A word has `VARIANTS` such
forms, which follow from its place in the table alone: a run that goes on reads what it would have read.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import tokenizers as hf

from melete.data.tokenizers import Tokenizer
from melete.errors import InputError

VARIANTS = 32


class Segmentations:
    """Random segmentations of words by a BPE tokenizer.

    Args:
        dropout: share of the possible merges that is left out at each step.

    Raises:
        InputError: the tokenizer is of another kind.
    """

    def __init__(self, tokenizer: Tokenizer, dropout: float) -> None:
        model = json.loads(tokenizer.definition)["model"]
        marked = model.get("continuing_subword_prefix") or model.get("end_of_word_suffix")
        if model.get("type") != "BPE" or marked:
            raise InputError(
                f"BPE-dropout leaves out merges, and this tokenizer has none ({model.get('type')})",
                where="finetuning.bpe_dropout",
                do="set tokenizer.kind=byte-bpe",
            )
        self.dropout = dropout
        pairs = (tuple(m) if isinstance(m, list) else tuple(m.split(" ", 1)) for m in model["merges"])
        self._ranks = {pair: rank for rank, pair in enumerate(pairs)}
        self._ids: dict[str, int] = model["vocab"]
        self._unknown = tokenizer.unk_id
        self._tokenizer = hf.Tokenizer.from_str(tokenizer.definition)
        self._numbers: dict[str, int] = {}
        self._words: list[str] = []
        self._drawn: dict[tuple[int, int], list[int]] = {}

    def words(self, text: str) -> np.ndarray:
        """The numbers of a text's words as the tokenizer splits it, int64 (W,); new words are taken into the table."""
        normalizer, splitter = self._tokenizer.normalizer, self._tokenizer.pre_tokenizer
        text = text if normalizer is None else normalizer.normalize_str(text)
        pieces = [text] if splitter is None else [piece for piece, _ in splitter.pre_tokenize_str(text)]
        for piece in pieces:
            if piece not in self._numbers:
                self._numbers[piece] = len(self._words)
                self._words.append(piece)
        return np.array([self._numbers[piece] for piece in pieces], dtype=np.int64)

    def draw(self, words: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The ids of words by numbers, each in one of its forms: int64 (N,)."""
        ids: list[int] = []
        for key in zip(words.tolist(), rng.integers(VARIANTS, size=len(words)).tolist(), strict=True):
            form = self._drawn.get(key)
            if form is None:
                form = self._drawn[key] = self._form(*key)
            ids += form
        return np.array(ids, dtype=np.int64)

    def _form(self, word: int, variant: int) -> list[int]:
        rng = np.random.default_rng((word, variant))
        pieces = self._merged(list(self._words[word]), rng)
        ids = (self._ids.get(piece, self._unknown) for piece in pieces)
        return [id_ for id_ in ids if id_ is not None]

    def _merged(self, pieces: Sequence[str], rng: np.random.Generator) -> list[str]:
        """Neighbours joined, the pair that was learnt first before others, but for those that are left out."""
        pieces = list(pieces)
        while len(pieces) > 1:
            kept = rng.random(len(pieces) - 1) >= self.dropout
            ranks = [
                (self._ranks[pair], at)
                for at, pair in enumerate(pairwise(pieces))
                if kept[at] and pair in self._ranks
            ]
            if not ranks:
                break
            _, at = min(ranks)
            pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
        return pieces
