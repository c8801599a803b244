"""Which words of a source an answer was written from: cross-attention, as a picture of an alignment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from melete.data.batch import Batch
from melete.data.labelled.rows import LabelledRow
from melete.data.tokenizers import Tokenizer
from melete.evaluation.inspection_attention import attention_to_source
from melete.models.base import EncoderDecoder
from melete.tasks.base import Answer
from melete.tasks.text_to_text import TextToText

MOST_PICTURES, _MOST_TOKENS = 6, 40


def alignments(
    predictor: TextToText, rows: Sequence[LabelledRow], answers: Sequence[Answer]
) -> list[dict[str, Any]]:
    """Pictures of the first answers that are short enough to be looked at; none of a decoder alone.

    Returns:
        Of each `source` and `answer`, the tokens as text, and `weights`, a list of numbers for each token of the
        answer: the mean over heads and layers.
    """
    model, tokenizer = predictor.model, predictor.tokenizer
    if not isinstance(model, EncoderDecoder):
        return []
    pictures: list[dict[str, Any]] = []
    for row, answer in zip(rows, answers, strict=True):
        source, written = (tokenizer.encode(text) for text in (row.texts[0], str(answer["text"])))
        if len(pictures) == MOST_PICTURES:
            break
        if not 2 <= len(source) <= _MOST_TOKENS or not 2 <= len(written) <= _MOST_TOKENS:
            continue
        begun = Batch.from_rows([[model.config.decoder_start_token_id, *written[:-1]]])
        before = predictor.begin
        batch = replace(begun, source=Batch.from_rows([[*before, *source, predictor.end]]))
        weights = attention_to_source(model, batch.to(next(model.parameters()).device))  # (L, 1, H, T, S)
        picture = weights.mean((0, 1, 2))[:, len(before) : len(before) + len(source)].cpu()  # (T, S)
        shown = [[round(share, 3) for share in line] for line in picture.tolist()]
        tokens = {"source": _texts(tokenizer, source), "answer": _texts(tokenizer, written)}
        pictures.append(tokens | {"weights": shown})
    return pictures


def _texts(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    return [tokenizer.decode([id_]).strip() or "·" for id_ in ids]
