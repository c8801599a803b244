"""What a text is, or a pair of texts: one of several labels, any of them, or a number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from melete.data.batch import Batch
from melete.data.labelled.rows import CLASSIFICATION, SIMILARITY
from melete.data.readers import Row
from melete.errors import InputError
from melete.models.base import ProblemType
from melete.tasks.base import Answer, Piece, text_of
from melete.tasks.labelled import LabelledPredictor


@dataclass(frozen=True, eq=False)
class TextClassification(LabelledPredictor):
    """The label of a text (`text`), or of a pair (`text_pair` beside it).

    An answer is `{"label", "probabilities"}`; `{"labels", "probabilities"}` where a text may have several;
    `{"score"}` where the label is a number.

    Attributes:
        threshold: the probability from which a label is given, where a text may have several.

    Raises:
        InputError: an impossible threshold.
    """

    task: ClassVar[str] = "text-classification"
    settings: ClassVar[tuple[str, ...]] = ("threshold",)
    reads: ClassVar[str] = CLASSIFICATION

    threshold: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise InputError(f"threshold is {self.threshold!r}", expected="between 0 and 1")

    @property
    def problem(self) -> ProblemType:
        """What labels are; where config.json does not say, as `transformers` takes it."""
        several = "single_label_classification" if len(self.labels) > 1 else "multi_label_classification"
        return self.model.config.problem_type or several

    @property
    def rows_task(self) -> str:
        """A number belongs to a pair of texts."""
        return SIMILARITY if self.problem == "regression" else CLASSIFICATION

    def cut(self, row: Row) -> list[Piece]:
        """The text or the pair in one piece, its end cut off where it is too long; see `Predictor.cut`."""
        ids = np.array(self.tokenizer.encode(text_of(row, "text")), dtype=np.int64)
        if row.values.get("text_pair") is None:
            framed = self.framing.one(ids)
        else:
            other = np.array(self.tokenizer.encode(text_of(row, "text_pair")), dtype=np.int64)
            framed = self.framing.two(ids, other)
        return [Piece(framed.ids, framed.types, framed)]

    def scores(self, batch: Batch, pieces: Sequence[Piece]) -> Tensor:
        """Of each label, (N, labels)."""
        return self.model.class_logits(self.model.encode(batch), batch).float()

    def outputs(self, scores: Tensor, pieces: Sequence[Piece]) -> list[np.ndarray]:
        """Probabilities of the labels, or the number: float32 (labels,) for each text."""
        if self.problem == "single_label_classification":
            scores = scores.softmax(-1)
        elif self.problem == "multi_label_classification":
            scores = scores.sigmoid()
        return list(scores.cpu().numpy())

    def answer(self, row: Row, pieces: Sequence[Piece], outputs: Sequence[Any]) -> Answer:
        """See the class."""
        (output,) = outputs
        if self.problem == "regression":
            return {"score": float(output[0])}
        probabilities = dict(zip(self.labels, output.tolist(), strict=True))
        if self.problem == "single_label_classification":
            return {"label": self.labels[int(output.argmax())], "probabilities": probabilities}
        chosen = [label for label, share in probabilities.items() if share >= self.threshold]
        return {"labels": chosen, "probabilities": probabilities}

    def in_words(self, answer: Answer) -> str:
        """The label and its probability, the others behind it; see `Predictor.in_words`."""
        if "score" in answer:
            return f"{answer['score']:.4f}"
        shares = sorted(answer["probabilities"].items(), key=lambda item: -item[1])
        named = ", ".join(f"{label} {share:.1%}" for label, share in shares[:5])
        given = answer["label"] if "label" in answer else ", ".join(answer["labels"]) or "no label"
        return f"{given}   ({named}{', ...' if len(shares) > 5 else ''})"
