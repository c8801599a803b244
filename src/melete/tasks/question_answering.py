"""Where a text answers a question."""

from __future__ import annotations

import heapq
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from melete.data.batch import Batch
from melete.data.labelled.rows import QUESTIONS
from melete.data.readers import Row
from melete.errors import InputError
from melete.tasks.base import Answer, Piece, text_of
from melete.tasks.labelled import LabelledPredictor

SETTINGS_FILE = "question_answering.json"
# Ends and beginnings of spans that are tried with each other.
_TRIED = 20


class Window(NamedTuple):
    """A part of a context.

    Attributes:
        column: of its first token in the piece.
        spans: characters of its tokens in the context, int64 (N, 2).
    """

    column: int
    spans: np.ndarray


class Span(NamedTuple):
    """A possible answer: its score, and its characters in the context."""

    score: float
    start: int
    stop: int


@dataclass(frozen=True, eq=False)
class QuestionAnswering(LabelledPredictor):
    """The part of a `context` that answers a `question`.

    An answer is `{"answer", "start", "score"}`: the text, its first character in the context, and its probability
    among all candidates; no answer is `""`, starting at None. With `top_k` above 1 there is also `"answers"`, the
    likeliest first. A long context is read in windows that overlap.

    Attributes:
        top_k: how many candidates are told.
        max_answer_tokens: longest answer.
        no_answer: whether the context may not answer the question; None: what the model was trained on.
        overlap: share of a window that stands in the next one too.

    Raises:
        InputError: an impossible setting.
    """

    task: ClassVar[str] = QUESTIONS
    reads: ClassVar[str] = QUESTIONS
    columns: ClassVar[tuple[str, ...]] = ("question", "context")
    settings: ClassVar[tuple[str, ...]] = ("top_k", "max_answer_tokens", "no_answer")

    top_k: int = 1
    max_answer_tokens: int = 64
    no_answer: bool | None = None
    overlap: float = 0.25
    trained_without: bool = False

    def __post_init__(self) -> None:
        for name in ("top_k", "max_answer_tokens"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)!r}", expected="1 or more")

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu", **resize: Any) -> Self:
        """Read model, tokenizer and what it was trained on from a folder; see `Predictor.load`."""
        loaded = super().load(folder, device, **resize)
        path = folder / SETTINGS_FILE
        try:
            trained_without = (
                bool(json.loads(path.read_text("utf-8"))["no_answer"]) if path.is_file() else False
            )
        except (ValueError, KeyError, TypeError):
            raise InputError("not what was written there", where=str(path)) from None
        return cls(loaded.model, loaded.tokenizer, folder, trained_without=trained_without)

    def cut(self, row: Row) -> list[Piece]:
        """The question before each window of the context; see `Predictor.cut`."""
        question, _ = self.tokenizer.encode_spans(text_of(row, "question"))
        context, spans = self.tokenizer.encode_spans(text_of(row, "context"))
        pieces: list[Piece] = []
        for framed, start in self.framing.windows(question, context, self.overlap):
            window = Window(framed.starts[1], spans[start : start + framed.kept[1]])
            pieces.append(Piece(framed.ids, framed.types, window))
        return pieces

    def scores(self, batch: Batch, pieces: Sequence[Piece]) -> Tensor:
        """That an answer begins and that it ends at each token, (B, T, 2)."""
        return self.model.span_logits(self.model.encode(batch)).float()

    def outputs(self, scores: Tensor, pieces: Sequence[Piece]) -> list[tuple[float, list[Span]]]:
        """The score of no answer, and the best candidates, of each piece."""
        every = scores.cpu().numpy()
        return [
            (float(one[0].sum()), list(self._candidates(one, piece.data)))
            for one, piece in zip(every, pieces, strict=True)
        ]

    def _candidates(self, scores: np.ndarray, window: Window) -> Iterator[Span]:
        count = len(window.spans)
        begins, ends = scores[window.column : window.column + count].T  # (N,) each
        first = np.argsort(-begins, kind="stable")[:_TRIED]
        last = np.argsort(-ends, kind="stable")[:_TRIED]
        for i in first.tolist():
            for j in last.tolist():
                if i <= j < i + self.max_answer_tokens:
                    start, stop = int(window.spans[i, 0]), int(window.spans[j, 1])
                    yield Span(float(begins[i] + ends[j]), start, stop)

    def answer(self, row: Row, pieces: Sequence[Piece], outputs: Sequence[Any]) -> Answer:
        """See the class."""
        context = text_of(row, "context")
        best: dict[tuple[int, int], float] = {}
        for _, spans in outputs:
            for span in spans:
                start, stop = _stripped(context, span.start, span.stop)
                if start < stop:
                    best[start, stop] = max(best.get((start, stop), -math.inf), span.score)
        candidates = [Span(score, *place) for place, score in best.items()]
        if self.no_answer if self.no_answer is not None else self.trained_without:
            candidates.append(Span(min(nothing for nothing, _ in outputs), -1, -1))
        top = heapq.nlargest(max(self.top_k, _TRIED), candidates)
        if not top:
            return {"answer": "", "start": None, "score": 1.0}
        shares = np.exp([span.score - top[0].score for span in top])
        answers = [
            {
                "answer": "" if span.start < 0 else context[span.start : span.stop],
                "start": None if span.start < 0 else span.start,
                "score": float(share),
            }
            for span, share in zip(top, shares / shares.sum(), strict=True)
        ]
        return answers[0] if self.top_k == 1 else answers[0] | {"answers": answers[: self.top_k]}

    def in_words(self, answer: Answer) -> str:
        """The answers and their probabilities; see `Predictor.in_words`."""
        every = answer.get("answers", [answer])
        return "\n".join(f"{one['answer'] or 'no answer'}   ({one['score']:.1%})" for one in every)


def _stripped(text: str, start: int, stop: int) -> tuple[int, int]:
    """A part of a text without white space around it."""
    part = text[start:stop]
    return start + len(part) - len(part.lstrip()), stop - (len(part) - len(part.rstrip()))
