"""What stands behind a mask: the task `fill-mask`, and texts from a model that does only that."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch

from melete.data.batch import Batch
from melete.data.corruption import Vocabulary
from melete.data.framing import Framing
from melete.data.readers import Row
from melete.data.scripts import WIDE
from melete.errors import InputError
from melete.generation.mask_predict import mask_predict
from melete.generation.settings import MaskPredictSettings
from melete.models.base import Encoder
from melete.objectives.masked_lm import check_vocabulary
from melete.tasks.base import Answer, Piece, Predictor, text_of

MASK = "[MASK]"
# Masks that meet the vocabulary in one product: logits of a batch full of masks would need gigabytes.
_TOGETHER = 256


class _Masks(NamedTuple):
    text: str
    places: np.ndarray  # of the masks among the tokens of the text, int64 (M,)
    spans: np.ndarray  # their characters in the text, int64 (M, 2)


@dataclass(frozen=True, eq=False)
class FillMask(Predictor):
    """The likeliest tokens behind each mask of a text.

    An answer is `{"text", "filled", "masks"}`: the text, the text with the likeliest token for each mask (each chosen
    by itself), and for each mask a list of `{"token", "id", "probability"}`, the likeliest first.

    Attributes:
        top_k: how many tokens for each mask.

    Raises:
        InputError: the vocabulary lacks a special token or is not the model's, or `top_k` is impossible.
    """

    task: ClassVar[str] = "fill-mask"
    settings: ClassVar[tuple[str, ...]] = ("top_k",)

    model: Encoder
    top_k: int = 5

    def __post_init__(self) -> None:
        size = self.model.config.vocab_size
        if not isinstance(self.top_k, int) or not 1 <= self.top_k <= size:
            raise InputError(f"top_k is {self.top_k!r}", expected=f"between 1 and {size}")
        check_vocabulary(self.model, self.vocabulary)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The special tokens."""
        return Vocabulary.of(self.tokenizer)

    @cached_property
    def framing(self) -> Framing:
        """What stands around a text."""
        return Framing(self.tokenizer, self.model.config.max_position_embeddings, segments=1)

    def cut(self, row: Row) -> list[Piece]:
        """The text in one piece; see `Predictor.cut`."""
        text, where = text_of(row, "text"), f"{row.file}:{row.line}"
        ids, masks = self._masks(text, where)
        if not len(masks.places):
            raise InputError(f"no {MASK} in this text", where=where, expected="one or more")
        return [Piece(self.framing.one(ids).ids, data=masks)]

    def _masks(self, text: str, where: str) -> tuple[np.ndarray, _Masks]:
        """The ids of a text that the model can read, without special tokens around, and where its masks are."""
        text = text.replace(MASK, self.tokenizer.token(self.vocabulary.mask_id))
        ids, spans = self.tokenizer.encode_spans(text)
        longest = self.framing.room(1)
        if len(ids) > longest:
            raise InputError(
                f"a text of {len(ids)} tokens",
                where=where,
                expected=f"at most {longest}",
                do="shorten or split it, or load the model with a longer context (--context, context=)",
            )
        places = np.flatnonzero(ids == self.vocabulary.mask_id)
        return ids, _Masks(text, places, spans[places])

    def run(self, batch: Batch, pieces: Sequence[Piece]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Ids and probabilities of the likeliest tokens, int64 and float32 (M, top_k), of each piece."""
        hidden = self.model.encode(batch)  # (B, T, D)
        at = [
            (row, column)
            for row, piece in enumerate(pieces)
            for column in np.flatnonzero(piece.ids == self.vocabulary.mask_id).tolist()
        ]
        rows, columns = torch.tensor(at, device=hidden.device).T
        found = [
            self.model.mlm_logits(part).float().softmax(-1).topk(self.top_k)  # (M, V) inside
            for part in hidden[rows, columns].split(_TOGETHER)
        ]
        ids = torch.cat([top.indices for top in found]).cpu().numpy()
        probabilities = torch.cat([top.values for top in found]).cpu().numpy()
        ends = np.cumsum([len(piece.data.places) for piece in pieces])[:-1]
        return list(zip(np.split(ids, ends), np.split(probabilities, ends), strict=True))

    def answer(self, row: Row, pieces: Sequence[Piece], outputs: Sequence[Any]) -> Answer:
        """See the class."""
        (piece,), ((ids, probabilities),) = pieces, outputs
        masks = [
            [
                {"token": self._spelled(id_), "id": id_, "probability": share}
                for id_, share in zip(*both, strict=True)
            ]
            for both in zip(ids.tolist(), probabilities.tolist(), strict=True)
        ]
        return {
            "text": row.values["text"],
            "filled": self._filled(piece.data, ids[:, 0].tolist()),
            "masks": masks,
        }

    def in_words(self, answer: Answer) -> str:
        """The filled text, and a line of tokens for each mask; see `Predictor.in_words`."""
        lines = [answer["filled"]]
        for number, tokens in enumerate(answer["masks"], 1):
            shares = [
                f"{one['token'].strip() or repr(one['token'])} {one['probability']:.1%}" for one in tokens
            ]
            lines.append(f"  {number}: {', '.join(shares)}")
        return "\n".join(lines)

    def generate(
        self, prompt: str = "", *, on_iteration: Callable[[], None] | None = None, **settings: Any
    ) -> Any:
        """Text by filling masks: those of the prompt, and `length` new ones behind it, over several iterations.

        Args:
            prompt: a text, with or without masks.
            on_iteration: called after each iteration.
            settings: fields of `MaskPredictSettings`.

        Returns:
            The whole text, prompt included; with `num_return_sequences`, a list of texts.

        Raises:
            InputError: an unknown or impossible setting, nothing to fill, or more than the model's context.
        """
        chosen = MaskPredictSettings.of(settings)
        ids, masks = self._masks(prompt, "the prompt")
        longest = self.framing.room(1)
        if len(ids) + chosen.length > longest:
            raise InputError(
                f"{len(ids)} tokens of prompt and a length of {chosen.length}",
                expected=f"at most {longest} together",
            )
        whole = self.framing.one(np.append(ids, [self.vocabulary.mask_id] * chosen.length))
        answers = mask_predict(self.model, whole.ids.tolist(), self.vocabulary, chosen, on_iteration)
        start, stop = whole.starts[0], whole.starts[0] + whole.kept[0]
        texts = [self._written(masks, np.array(answer[start:stop]), len(ids)) for answer in answers]
        return texts if "num_return_sequences" in settings else texts[0]

    def count_masks(self, text: str) -> int:
        """How many masks a text has."""
        return len(self._masks(text, "the text")[1].places)

    def _written(self, masks: _Masks, ids: np.ndarray, prompt: int) -> str:
        """The prompt with its masks filled, and what stands behind it.

        Args:
            ids: of the whole text, without special tokens around.
            prompt: how many of them are the prompt's.
        """
        if not self.tokenizer.continuation:
            return self.tokenizer.decode(ids.tolist())
        text = self._filled(masks, ids[masks.places].tolist())
        for id_ in ids[prompt:].tolist():
            text = self._joined(text, self._spelled(id_))
        return text

    def _spelled(self, id_: int) -> str:
        """A token as a person reads it; special tokens too."""
        return self.tokenizer.decode([id_], skip_special_tokens=False)

    def _filled(self, masks: _Masks, ids: Sequence[int]) -> str:
        """The text with a token in place of each mask."""
        prefix = self.tokenizer.continuation
        text, end = "", 0
        for first, last in _runs(masks.spans, apart=bool(prefix)):
            (start, _), (_, stop) = masks.spans[first], masks.spans[last]
            text += masks.text[end:start]
            end = stop
            if not prefix:
                text += self.tokenizer.decode(ids[first : last + 1], skip_special_tokens=False)
                continue
            mask, token = masks.text[start:stop], self._spelled(ids[first])
            text += mask[: len(mask) - len(mask.lstrip())]  # some masks take in the space before them
            text = text.rstrip() + token.removeprefix(prefix) if token.startswith(prefix) else text + token
        return text + masks.text[end:]

    def _joined(self, text: str, token: str) -> str:
        """A text and the token behind it, with a space between them where the vocabulary keeps none."""
        prefix = self.tokenizer.continuation
        if token.startswith(prefix):
            return text + token.removeprefix(prefix)
        glued = (
            not text
            or text[-1].isspace()
            or re.search(rf"[({WIDE}]$", text)
            or re.match(rf"[.,;:!?)'{WIDE}]", token)
        )
        return f"{text}{'' if glued else ' '}{token}"


def _runs(spans: np.ndarray, apart: bool) -> list[tuple[int, int]]:
    """First and last of each run of masks with nothing between them; `apart`: each is a run of its own.

    Bytes of one character may stand behind several masks, so those of a run are decoded together.
    """
    breaks = [i for i, (one, other) in enumerate(pairwise(spans)) if apart or one[1] != other[0]]
    return (
        list(zip([0, *(i + 1 for i in breaks)], [*breaks, len(spans) - 1], strict=True)) if len(spans) else []
    )
