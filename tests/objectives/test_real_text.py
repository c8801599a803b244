"""Ragged real text, English and Chinese: what a batch costs does not depend on how it is laid out."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

import kit
from encoder_examples import likeliest
from melete.data.batch import Batch, Example
from melete.data.corruption import Vocabulary
from melete.data.encoder_text import EncoderText, Samples
from melete.data.sampling import PackedRow, rng_for
from melete.data.tokenizers import Tokenizer
from melete.models.electra_pair import build_generator
from melete.objectives import replaced_token
from melete.objectives.base import Context, Objective
from melete.objectives.causal_lm import CausalLM
from melete.objectives.masked_lm import MaskedLM
from melete.objectives.replaced_token import ReplacedToken
from real_text import documents

LENGTH, WIDTH = 61, 192
SENTENCES, TEXTS = ("sst2", "thucnews_title"), ("wikitext-2", "tang_poems")
CASES = [
    (name, family, pair)
    for name in SENTENCES + TEXTS
    for family in ("bert", "modernbert", "electra")
    for pair in ("", "nsp", "sop")
    if not pair or (family == "bert" and name in TEXTS)  # a lone sentence makes no pair
]


@cache
def text(name: str) -> tuple[EncoderText, Vocabulary]:
    """Some documents of a set, and a vocabulary of theirs."""
    texts = documents(name, 6000, most=500)
    tokenizer = Tokenizer.train(texts, "wordpiece", 300)
    return EncoderText.tokenise(texts, tokenizer), Vocabulary.of(tokenizer)


@cache
def examples(name: str, pair: str) -> list[Example]:
    """The first samples of a set; at least three lengths among them."""
    samples = Samples(text(name)[0], LENGTH, pair)
    keys = [(0, 0, index) for index in range(min(40, len(samples.runs)))]
    found = [Example(key, samples.sample(key[2], rng_for(key))) for key in keys]
    assert len({len(example.data.ids) for example in found}) > 2
    return found


def objective(name: str, family: str, pair: str, width: int | None) -> Objective:
    vocabulary = text(name)[1]
    sizes = {"vocab_size": len(vocabulary.is_ordinary), "max_position_embeddings": 64}
    if family == "electra":
        model = kit.tiny_encoder(family, task="pretraining", **sizes)
        return ReplacedToken(model, build_generator(model, share=0.5), vocabulary, width=width).double()
    model = kit.tiny_encoder(family, task="pretraining" if pair else "fill-mask", **sizes)
    return MaskedLM(model, vocabulary, pair=pair, width=width).double()


def mean_losses(objective: Objective, batch: Batch) -> dict[str, float]:
    with torch.no_grad():
        parts, counts = objective(batch, Context()), objective.counts(batch)
    return {name: float(part / counts[name]) for name, part in parts.items()}


@pytest.mark.parametrize(("name", "family", "pair"), CASES)
def test_packed_encoders_lose_what_padded_ones_do(name: str, family: str, pair: str, monkeypatch) -> None:
    monkeypatch.setattr(replaced_token, "sampled_cross_entropy", likeliest)
    padded, packed = (objective(name, family, pair, width) for width in (None, WIDTH))
    batches = [one.prepare(examples(name, pair), rng_for) for one in (padded, packed)]
    assert batches[0].tokens == batches[1].tokens
    assert batches[1].input_ids.numel() < batches[0].input_ids.numel()
    assert int(batches[1].doc_ids.max()) > 2
    expected, found = mean_losses(padded, batches[0]), mean_losses(packed, batches[1])
    assert expected.keys() == found.keys()
    assert all(abs(found[term] - loss) <= 1e-10 and loss > 0 for term, loss in expected.items())


@pytest.mark.parametrize("family", sorted(kit.SIZES))
@pytest.mark.parametrize("name", SENTENCES + TEXTS)
def test_packed_decoders_lose_what_padded_ones_do(name: str, family: str) -> None:
    corpus, vocabulary = text(name)
    ids, starts = corpus.ids.astype(np.int64), corpus.documents
    rows = []
    for first in range(0, 8 * WIDTH, WIDTH):
        inside = starts[(starts >= first) & (starts < first + WIDTH)] - first
        rows.append(PackedRow(ids[first : first + WIDTH + 1], inside))
    sizes = {"vocab_size": len(vocabulary.is_ordinary), "max_position_embeddings": WIDTH}
    causal = CausalLM(kit.tiny(family, **sizes)).double()
    packed = causal.prepare([Example((0, 0, i), row) for i, row in enumerate(rows)], rng_for)
    assert len(packed.doc_starts) > len(rows)
    expected, found = mean_losses(causal, one_a_row(packed)), mean_losses(causal, packed)
    assert abs(expected["causal_lm"] - found["causal_lm"]) <= 1e-10


def one_a_row(batch: Batch) -> Batch:
    """The documents of a packed batch, each in a row of its own and padded."""
    places = [
        (row, (batch.doc_ids[row] == batch.doc_ids[row, column]).nonzero().squeeze(1))
        for row, column in batch.doc_starts.tolist()
    ]
    padded = Batch.from_rows([batch.input_ids[row, at] for row, at in places])
    labels = torch.full_like(padded.input_ids, -100)
    for i, (row, at) in enumerate(places):
        labels[i, : len(at)] = batch.labels["causal_lm"][row, at]
    padded.labels["causal_lm"] = labels
    return padded
