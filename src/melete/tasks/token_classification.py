"""What each word of a text is: names, parts of speech."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from melete.data.batch import Batch
from melete.data.labelled.rows import TAGGING
from melete.data.readers import Row, file_format, read_rows
from melete.data.scripts import CJK
from melete.data.streams import STDIN
from melete.errors import InputError
from melete.metrics.tagging import entities, marks_entities
from melete.nn.crf import LinearChain
from melete.tasks.base import Answer, Piece, read_inputs, text_of
from melete.tasks.labelled import LabelledPredictor

CRF_FILE = "crf.safetensors"
OUTSIDE = "O"
# Words as sets of tags cut them: letters and digits together, all else, and each character of Chinese, by itself.
_WORD = re.compile(rf"[{CJK}]|[^\W{CJK}]+|[^\w\s]")
_GLUED = re.compile(rf"[{CJK}\u3000-\u303f\uff00-\uffef]")


class TaggedWords(NamedTuple):
    """The words that a piece decides: their numbers in the row, and their first tokens in the piece, int64 (W,)."""

    words: np.ndarray
    columns: np.ndarray


@dataclass(frozen=True, eq=False)
class TokenClassification(LabelledPredictor):
    """A tag for each word: those of `words` where a row has them, else of its `text`.

    An answer is `{"words", "tags", "probabilities"}`, one of each a word, and `"entities"` where tags mark stretches of
    words (BIO, BIOES): `{"label", "text", "words": [first, behind the last]}`. A sentence longer than the model reads
    is tagged in windows that overlap, each word where most is known around it. A word that the tokenizer drops has no
    tag of its own: `O`, or the first label.

    Attributes:
        overlap: share of a window that stands in the next one too.
        crf: decides the tags of a sentence together, where the folder has one.
    """

    task: ClassVar[str] = TAGGING
    reads: ClassVar[str] = TAGGING

    overlap: float = 0.25
    crf: LinearChain | None = None

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu", **resize: Any) -> Self:
        """Read model, tokenizer and perhaps a CRF from a folder; see `Predictor.load`."""
        loaded = super().load(folder, device, **resize)
        return cls(loaded.model, loaded.tokenizer, folder, crf=load_crf(folder, len(loaded.labels), device))

    def read(self, source: str, named: Mapping[str, str | None]) -> Iterator[Row]:
        """The rows of a file: words, where its rows are lists or its lines are words; else texts."""
        if source != STDIN and file_format(source) != "text":
            first = next(read_rows(source), None)
            if first is not None and not any(isinstance(value, list) for value in first.values.values()):
                return read_inputs(source, self.columns, named)
        return super().read(source, named)

    def cut(self, row: Row) -> list[Piece]:
        """The sentence, in windows where it is long; see `Predictor.cut`."""
        # Each word by itself, or a token could reach from one Chinese word into the next.
        parts = self.tokenizer.encode_batch(spaced(words_of(row)))
        lengths = np.array([len(part) for part in parts], dtype=np.int64)
        ids = np.concatenate([*parts, np.zeros(0, dtype=np.int64)])
        words_here = np.flatnonzero(lengths)
        first = (np.cumsum(lengths) - lengths)[words_here]
        windows = self.framing.windows(None, ids, self.overlap)
        pieces: list[Piece] = []
        edges = deciding_edges(windows, len(ids))
        for (framed, start), low, high in zip(windows, edges[:-1], edges[1:], strict=True):
            own = (first >= low) & (first < high)
            data = TaggedWords(words_here[own], first[own] - start + framed.starts[0])
            if own.any():
                pieces.append(Piece(framed.ids, framed.types, data))
        return pieces

    def scores(self, batch: Batch, pieces: Sequence[Piece]) -> Tensor:
        """Of each label for each token, (B, T, labels)."""
        return self.model.tag_logits(self.model.encode(batch)).float()

    def outputs(self, scores: Tensor, pieces: Sequence[Piece]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Labels and their probabilities, int64 and float32 (W,), of the words of each piece."""
        words = [torch.from_numpy(piece.data.columns).to(scores.device) for piece in pieces]
        said = [scores[i, columns] for i, columns in enumerate(words)]  # (W, labels) each
        if self.crf is None:
            best = [one.softmax(-1).max(-1) for one in said]
            return [(top.indices.cpu().numpy(), top.values.cpu().numpy()) for top in best]
        emissions = torch.nn.utils.rnn.pad_sequence(said, batch_first=True)  # (B, W, labels)
        lengths = torch.tensor([len(one) for one in said], device=scores.device)
        mask = torch.arange(emissions.shape[1], device=scores.device) < lengths[:, None]
        labels, shares = (tensor.cpu().numpy() for tensor in self.crf.decode(emissions, mask))
        counts = lengths.tolist()
        return [(labels[i, :count], shares[i, :count]) for i, count in enumerate(counts)]

    def answer(self, row: Row, pieces: Sequence[Piece], outputs: Sequence[Any]) -> Answer:
        """See the class."""
        words = words_of(row)
        fallback = OUTSIDE if OUTSIDE in self.labels else self.labels[0]
        tags, shares = [fallback] * len(words), [0.0] * len(words)
        for piece, (labels, probabilities) in zip(pieces, outputs, strict=True):
            for word, label, share in zip(piece.data.words, labels, probabilities.tolist(), strict=True):
                tags[word], shares[word] = self.labels[label], share
        found: Answer = {"words": words, "tags": tags, "probabilities": shares}
        if marks_entities(self.labels):
            found["entities"] = [
                {"label": label, "text": "".join(spaced(words[first:stop])), "words": [first, stop]}
                for label, first, stop in entities(tags)
            ]
        return found

    def in_words(self, answer: Answer) -> str:
        """Names by themselves where there are names, else each word with its tag; see `Predictor.in_words`."""
        if "entities" in answer:
            names = [f"{entity['text']} ({entity['label']})" for entity in answer["entities"]]
            return ", ".join(names) or "no names"
        return " ".join(f"{word}/{tag}" for word, tag in zip(answer["words"], answer["tags"], strict=True))


def load_crf(folder: Path, labels: int, device: torch.device | str = "cpu") -> LinearChain | None:
    """The CRF of a folder, if it has one.

    Raises:
        InputError: it is for other labels.
    """
    path = folder / CRF_FILE
    if not path.is_file():
        return None
    tensors, chain = load_file(path), LinearChain(labels)
    if {name: p.shape for name, p in chain.named_parameters()} != {n: t.shape for n, t in tensors.items()}:
        raise InputError("not a CRF over the labels of config.json", where=str(path))
    chain.load_state_dict(tensors)
    return chain.to(device).eval()


def words_of(row: Row) -> list[str]:
    """The words of a row: as it names them, else those of its text.

    Raises:
        InputError: neither words nor text.
    """
    words = row.values.get("words")
    if words is None:
        return _WORD.findall(text_of(row, "text"))
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise InputError("`words` is no list of texts", where=f"{row.file}:{row.line}")
    return words


def spaced(words: Sequence[str]) -> list[str]:
    """Words with a space before each, where the script has them; put together they are the text."""
    found: list[str] = []
    last = ""
    for word in words:
        glued = not last or not word or (_GLUED.match(last) and _GLUED.match(word))
        found.append(word if glued else f" {word}")
        last = word[-1:] or last
    return found


def deciding_edges(windows: Sequence[tuple[Any, int]], tokens: int) -> list[int]:
    """From which token on each window decides: the middle of what two share, where both know as much."""
    starts = [start for _, start in windows]
    stops = [start + framed.kept[0] for framed, start in windows]
    return [0, *((stop + start) // 2 for stop, start in zip(stops[:-1], starts[1:], strict=True)), tokens]
