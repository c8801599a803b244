"""Tiny tokenizers and predictors of tasks with labels."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import kit
from melete.data.tokenizers import Tokenizer
from melete.models import causal_families
from melete.tasks.labelled import LabelledPredictor
from melete.tasks.question_answering import QuestionAnswering
from melete.tasks.text_classification import TextClassification
from melete.tasks.token_classification import TokenClassification

SENTENCES = (
    "the lobster lives on the sea floor, where it hunts at night",
    "Berlin and Paris are cities; so is 北京",
    "我喜欢自然语言处理 and natural language processing",
    "what a terrible film! nobody should have to sit through it",
    "a charming, funny and moving story",
    "Who wrote it? It was written by Jane Doe in 1930.",
)
KINDS: dict[str, type[LabelledPredictor]] = {
    "text-classification": TextClassification,
    "token-classification": TokenClassification,
    "question-answering": QuestionAnswering,
}


@cache
def tokenizer(kind: str) -> Tokenizer:
    """A tokenizer of the sentences above, small enough for the tiny models."""
    return Tokenizer.train(SENTENCES * 20, kind, kit.VOCAB * 4)


def predictor(family: str, task: str, folder: Path = Path(), **fields: Any) -> Any:
    """A predictor over a tiny random model that reads 32 tokens."""
    own = tokenizer("byte-bpe" if family in causal_families() else "wordpiece")
    ids = {f"{role}_token_id": getattr(own, f"{role}_id") for role in ("bos", "eos", "pad")}
    model = kit.tiny_network(family, task, **{"vocab_size": own.vocab_size, **ids, **fields})
    return KINDS[task](model, own, folder)
