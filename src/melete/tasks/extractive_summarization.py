"""A summary of whole sentences: those that say most of a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from melete.data.batch import Batch
from melete.data.labelled.rows import SUMMARIZATION, TAGGING
from melete.data.readers import Row
from melete.data.sentences import split_sentences
from melete.data.tokenizers import Tokenizer
from melete.errors import InputError
from melete.models.checkpoint import load_network
from melete.models.purpose import read_purpose
from melete.nn.pooling import mean_of_parts
from melete.tasks import EXTRACTION
from melete.tasks.base import Answer, Piece, text_of
from melete.tasks.labelled import LabelledPredictor, SourcePredictor
from melete.tasks.token_classification import deciding_edges


class Sentences(NamedTuple):
    """The sentences that a piece decides.

    Attributes:
        numbers: of these sentences in the text, int64 (S,).
        parts: which of them each token of the piece is in, int64 (N,); -1: in none.
    """

    numbers: np.ndarray
    parts: np.ndarray


@dataclass(frozen=True, eq=False)
class ExtractiveSummarization(SourcePredictor, LabelledPredictor):
    """The sentences of a text that are best read instead of it, in their order.

    An answer is `{"text", "sentences"}`: the sentences, a line each, and each of them as `{"text", "start", "score"}`,
    its first character in the text and the probability that it belongs to a summary. The score of a sentence is the
    mean of the scores of its tokens, so that any model of token-classification with one label can be asked. A text
    longer than the model reads is read in windows that overlap, each sentence where most is known around it.

    Attributes:
        sentences: how many are given.
        overlap: share of a window that stands in the next one too.

    Raises:
        InputError: fewer than one sentence.
    """

    task: ClassVar[str] = EXTRACTION
    reads: ClassVar[str] = SUMMARIZATION
    settings: ClassVar[tuple[str, ...]] = ("sentences",)

    sentences: int = 3
    overlap: float = 0.25

    def __post_init__(self) -> None:
        if not isinstance(self.sentences, int) or self.sentences < 1:
            raise InputError(f"sentences is {self.sentences!r}", expected="1 or more")

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu", **resize: Any) -> Self:
        """See `Predictor.load`; the folder says how many sentences its summaries have."""
        model = load_network(folder, task=TAGGING, complete=True, **resize).to(device)
        purpose = read_purpose(folder)
        said = purpose.settings if purpose else {}
        own = {name: said[name] for name in cls.settings if name in said}
        return cls(model, Tokenizer.load(folder), folder, **own)

    @property
    def rows_task(self) -> str:
        """Texts and their summaries, whoever writes them."""
        return SUMMARIZATION

    def cut(self, row: Row) -> list[Piece]:
        """The text, in windows where it is long; see `Predictor.cut`."""
        text = text_of(row, "text")
        ids, spans = self.tokenizer.encode_spans(text)
        stops = np.array([stop for _, stop in split_sentences(text)][:-1], dtype=np.int64)
        sentence = np.searchsorted(stops, spans[:, 0], side="right")  # of each token
        present, first = np.unique(sentence, return_index=True)
        windows = self.framing.windows(None, ids, self.overlap)
        edges = deciding_edges(windows, len(ids))
        pieces: list[Piece] = []
        for (framed, start), low, high in zip(windows, edges[:-1], edges[1:], strict=True):
            numbers = present[(first >= low) & (first < high)]
            if not len(numbers):
                continue
            here = sentence[start : start + framed.kept[0]]
            parts = np.full(len(framed.ids), -1, dtype=np.int64)
            parts[framed.starts[0] :][: len(here)] = np.where(
                np.isin(here, numbers), np.searchsorted(numbers, here), -1
            )
            pieces.append(Piece(framed.ids, framed.types, Sentences(numbers, parts)))
        return pieces

    def scores(self, batch: Batch, pieces: Sequence[Piece]) -> Tensor:
        """Of each token, (B, T)."""
        return self.model.tag_logits(self.model.encode(batch))[..., 0].float()

    def outputs(self, scores: Tensor, pieces: Sequence[Piece]) -> list[np.ndarray]:
        """The probability of each sentence of each piece, float32 (S,)."""
        parts = laid_out([piece.data.parts for piece in pieces], scores.shape[1]).to(scores.device)
        found = mean_of_parts(scores, parts).sigmoid().cpu().numpy()
        return np.split(found, np.cumsum([len(piece.data.numbers) for piece in pieces])[:-1])

    def answer(self, row: Row, pieces: Sequence[Piece], outputs: Sequence[Any]) -> Answer:
        """See the class."""
        text = text_of(row, "text")
        spans = split_sentences(text)
        numbers = np.concatenate([np.zeros(0, dtype=np.int64), *(piece.data.numbers for piece in pieces)])
        scores = np.concatenate([np.zeros(0), *outputs])
        best = np.sort(np.argsort(-scores, kind="stable")[: self.sentences])
        found = [
            {
                "text": text[slice(*spans[numbers[i]])],
                "start": spans[numbers[i]][0],
                "score": float(scores[i]),
            }
            for i in best.tolist()
        ]
        return {"text": "\n".join(str(one["text"]) for one in found), "sentences": found}

    def in_words(self, answer: Answer) -> str:
        """A sentence a line, its probability before it; see `Predictor.in_words`."""
        return "\n".join(f"{one['score']:6.1%}  {one['text']}" for one in answer["sentences"])


def laid_out(parts: Sequence[np.ndarray], length: int) -> Tensor:
    """Parts of several pieces as rows of a batch, -1 at padding: int64 (B, T)."""
    found = torch.full((len(parts), length), -1)
    for i, own in enumerate(parts):
        found[i, : len(own)] = torch.from_numpy(own)
    return found
