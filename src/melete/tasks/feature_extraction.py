"""A text as one vector: near those of texts that say the same."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from melete.data.batch import Batch
from melete.data.labelled.rows import CLASSIFICATION, SIMILARITY
from melete.data.readers import Row
from melete.errors import InputError
from melete.models.base import Network
from melete.nn.pooling import first_tokens, last_tokens, mean_tokens
from melete.tasks import FEATURES_FILE
from melete.tasks.base import Answer, Piece, text_of
from melete.tasks.labelled import LabelledPredictor

# ours -> what `sentence-transformers` calls it
POOLINGS = {
    "mean": "pooling_mode_mean_tokens",
    "first": "pooling_mode_cls_token",
    "last": "pooling_mode_lasttoken",
}
_POOLING_FOLDER = "1_Pooling"


@dataclass(frozen=True, eq=False)
class FeatureExtraction(LabelledPredictor):
    """The vector of a text, of length 1; of a pair of texts the cosine of both vectors.

    An answer is `{"embedding"}`, a list of numbers; `{"score"}` where a row has a `text_pair`.

    Attributes:
        pooling: what a vector is made of: the mean of all tokens, the first or the last one. "": what the folder says,
            else the mean.

    Raises:
        InputError: an unknown pooling.
    """

    task: ClassVar[str] = "feature-extraction"
    settings: ClassVar[tuple[str, ...]] = ("pooling",)
    reads: ClassVar[str] = CLASSIFICATION

    pooling: str = ""

    def __post_init__(self) -> None:
        if self.pooling and self.pooling not in POOLINGS:
            raise InputError(f"pooling is {self.pooling!r}", expected=f"one of {', '.join(POOLINGS)}")

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu", **resize: Any) -> Self:
        """Read model and tokenizer from a folder, and what its vectors are made of; see `Predictor.load`."""
        loaded = super().load(folder, device, **resize)
        return cls(loaded.model, loaded.tokenizer, folder, pooling=_pooling(folder))

    @property
    def rows_task(self) -> str:
        """Pairs of texts, and how much they are alike."""
        return SIMILARITY

    def cut(self, row: Row) -> list[Piece]:
        """Each text by itself, its end cut off where it is too long; see `Predictor.cut`."""
        columns = ["text"] if row.values.get("text_pair") is None else ["text", "text_pair"]
        texts = [np.array(self.tokenizer.encode(text_of(row, column)), dtype=np.int64) for column in columns]
        return [Piece(framed.ids, None, framed) for framed in map(self.framing.one, texts)]

    def scores(self, batch: Batch, pieces: Sequence[Piece]) -> Tensor:
        """Vectors, float32 (N, D)."""
        return vectors(self.model, batch, self.pooling)

    def outputs(self, scores: Tensor, pieces: Sequence[Piece]) -> list[np.ndarray]:
        """A vector for each text."""
        return list(scores.cpu().numpy())

    def answer(self, row: Row, pieces: Sequence[Piece], outputs: Sequence[Any]) -> Answer:
        """See the class."""
        if len(outputs) == 1:
            return {"embedding": outputs[0].tolist()}
        first, second = outputs
        return {"score": float(first @ second)}

    def in_words(self, answer: Answer) -> str:
        """The cosine, or the beginning of the vector; see `Predictor.in_words`."""
        if "score" in answer:
            return f"{answer['score']:.4f}"
        numbers = answer["embedding"]
        return f"[{', '.join(f'{x:.4f}' for x in numbers[:6])}, ...] ({len(numbers)} numbers)"

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """The vectors of texts, float32 (N, D)."""
        answers = self.predict(list(texts))
        return np.array([answer["embedding"] for answer in answers], dtype=np.float32)


def vectors(model: Network, batch: Batch, pooling: str = "") -> Tensor:
    """One vector of length 1 for each document of a batch, float32 or wider (N, D)."""
    hidden = model.encode(batch)
    hidden = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
    if pooling == "first":
        pooled = first_tokens(hidden, batch.doc_starts)
    elif pooling == "last":
        pooled = last_tokens(hidden, batch.doc_ids, batch.doc_starts)
    else:
        pooled = mean_tokens(hidden, batch.doc_ids, batch.doc_starts)
    return torch.nn.functional.normalize(pooled, dim=-1)


def write_layout(folder: Path, width: int, longest: int, pooling: str) -> None:
    """The files by which `sentence-transformers` opens the folder, and we tell that it makes vectors."""
    kinds = ("Transformer", ""), ("Pooling", _POOLING_FOLDER), ("Normalize", "2_Normalize")
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(kinds)
    ]
    chosen = {name: ours == (pooling or "mean") for ours, name in POOLINGS.items()}
    pooled = {"word_embedding_dimension": width, **chosen, "include_prompt": True}
    for _, path in kinds:
        (folder / path).mkdir(parents=True, exist_ok=True)
    for name, values in (
        (FEATURES_FILE, modules),
        (f"{_POOLING_FOLDER}/config.json", pooled),
        ("sentence_bert_config.json", {"max_seq_length": longest, "do_lower_case": False}),
        ("config_sentence_transformers.json", {"prompts": {}, "similarity_fn_name": "cosine"}),
    ):
        (folder / name).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _pooling(folder: Path) -> str:
    path = folder / _POOLING_FOLDER / "config.json"
    if not path.is_file():
        return ""
    try:
        values = json.loads(path.read_text("utf-8"))
        asked = [name for name, on in values.items() if name.startswith("pooling_mode") and on]
    except (ValueError, AttributeError):
        raise InputError("not a JSON object", where=str(path)) from None
    ours = [ours for ours, name in POOLINGS.items() if name in asked]
    if len(ours) != 1 or len(asked) != 1:
        expected = f"one of {', '.join(POOLINGS.values())}"
        raise InputError(f"pools by {', '.join(asked) or 'nothing'}", where=str(path), expected=expected)
    return ours[0]
