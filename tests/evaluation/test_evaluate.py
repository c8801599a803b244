"""Sliding-window scores against scoring each token by itself, on a small model that reads doc_ids and positions."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from melete.baselines.ngram import NGram
from melete.data.batch import Batch
from melete.errors import InputError
from melete.evaluation import evaluate
from melete.evaluation.evaluate import compare, evaluate_corpus, token_log_probs

VOCABULARY, CONTEXT = 11, 16


class Tiny(nn.Module):
    """One attention layer with learned positions and dropout: whatever it may not see changes its output."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.config = SimpleNamespace(max_position_embeddings=CONTEXT, vocab_size=VOCABULARY)
        self.tokens = nn.Embedding(VOCABULARY, 8)
        self.positions = nn.Embedding(CONTEXT, 8)
        self.mix = nn.Linear(8, 8)
        self.dropout = nn.Dropout(0.5)
        self.batches: list[Batch] = []

    @property
    def head_weight(self) -> Tensor:
        return self.tokens.weight

    def logits(self, hidden: Tensor) -> Tensor:
        return hidden @ self.head_weight.T

    def encode(self, batch: Batch, cache: Any = None) -> Tensor:
        assert torch.is_inference_mode_enabled()
        self.batches.append(batch)
        x = self.dropout(self.tokens(batch.input_ids) + self.positions(batch.position_ids))  # (B, T, D)
        same = batch.doc_ids[:, :, None] == batch.doc_ids[:, None, :]
        scores = (self.mix(x) @ x.transpose(1, 2)).masked_fill(~same.tril(), -math.inf)
        return x + scores.softmax(-1) @ x


class Stream:
    """A corpus in memory: `0 t .. t` documents and one closing 0."""

    num_words, num_bytes = 40, 200

    def __init__(self, lengths: list[int], seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.ids = np.concatenate([*(np.append(0, rng.integers(1, VOCABULARY, n)) for n in lengths), [0]])

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, start: int, stop: int) -> np.ndarray:
        return self.ids[start:stop]

    def document_starts(self, start: int, stop: int) -> np.ndarray:
        return start + np.flatnonzero(self.ids[start:stop] == 0)


def alone(model: Tiny, ids: np.ndarray, first: int, at: int) -> float:
    """Log-probability of ids[at + 1] after ids[first : at + 1], in a pass of its own."""
    model.eval()
    with torch.inference_mode():
        hidden = model.encode(Batch.from_rows([torch.from_numpy(ids[first : at + 1])]))[0, -1]
        return float((model.head_weight @ hidden).log_softmax(0)[ids[at + 1]])


@pytest.fixture
def model() -> Tiny:
    return Tiny()


def test_stride_equal_to_the_context_is_plain_windows(model: Tiny) -> None:
    ids = np.random.default_rng(0).integers(0, VOCABULARY, 45)
    found = token_log_probs(model, ids, context=16, stride=16)
    expected = [alone(model, ids, at - at % 16, at) for at in range(44)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_stride_one_gives_every_token_all_the_context_there_is(model: Tiny) -> None:
    ids = np.random.default_rng(1).integers(0, VOCABULARY, 45)
    found = token_log_probs(model, ids, context=16, stride=1)
    expected = [alone(model, ids, max(0, at - 15), at) for at in range(44)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_attention_and_positions_stay_inside_a_document(model: Tiny) -> None:
    corpus = Stream([3, 0, 20, 5])
    starts = corpus.document_starts(0, len(corpus))
    found = token_log_probs(model, corpus.ids, context=16, stride=1, document_starts=starts)
    opened = [starts[starts <= at][-1] for at in range(len(corpus) - 1)]
    expected = [alone(model, corpus.ids, max(start, at - 15), at) for at, start in enumerate(opened)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    for batch in model.batches:
        rows, columns = batch.doc_starts.T
        assert (batch.position_ids[rows, columns] == 0).all()
        assert len(rows) == int(batch.doc_ids.amax(1).sum())


@pytest.mark.parametrize(
    ("length", "stride"), [(1, 4), (2, 4), (16, 7), (17, 7), (18, 7), (100, 7), (100, 16)]
)
def test_every_token_is_scored_once_with_the_promised_context(model: Tiny, length: int, stride: int) -> None:
    seen = np.zeros(length - 1, dtype=int)
    for first, since, last in evaluate._windows(length - 1, 16, stride):
        seen[since:last] += 1
        assert last - first <= 16
        assert first == 0 or since - first >= 16 - stride
    assert (seen == 1).all()


def test_rows_of_a_batch_and_blocks_of_logits_change_nothing(
    model: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = Stream([30, 7, 60])
    starts = corpus.document_starts(0, len(corpus))
    expected = token_log_probs(model, corpus.ids, context=16, stride=5, document_starts=starts, batch_rows=1)
    monkeypatch.setattr(evaluate, "LOGITS_PER_BLOCK", 3 * VOCABULARY)
    for rows in (2, 5, 64):
        found = token_log_probs(
            model, corpus.ids, context=16, stride=5, document_starts=starts, batch_rows=rows
        )
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_model_comes_back_in_the_mode_it_was_in(model: Tiny) -> None:
    ids = np.arange(10)
    model.train()
    assert np.array_equal(*(token_log_probs(model, ids, context=8, stride=4) for _ in range(2)))
    assert model.training


def test_scores_are_the_same_facts_in_several_units(model: Tiny) -> None:
    corpus = Stream([30, 7, 60])
    scores = evaluate_corpus(model, corpus)
    assert (scores.context, scores.stride, scores.tokens) == (16, 8, 100)
    nats = scores.loss * 100
    assert scores.perplexity == pytest.approx(math.exp(nats / 100))
    assert scores.word_perplexity == pytest.approx(math.exp(nats / 40))
    assert scores.bits_per_byte == pytest.approx(nats / math.log(2) / 200)
    low, high = scores.bits_per_byte_interval
    assert low < scores.bits_per_byte < high
    assert evaluate_corpus(model, corpus, words=50).word_perplexity == pytest.approx(math.exp(nats / 50))


def test_model_ngram_and_mixture_are_scored_on_the_same_tokens(model: Tiny) -> None:
    corpus = Stream([200, 100, 150])
    ngram = NGram.train(Stream([3000], seed=1).ids, VOCABULARY, order=3)
    found = compare(model, ngram, corpus, context=16)
    assert list(found) == ["model", "ngram", "mixture"]
    assert {scores.tokens for scores in found.values()} == {453}
    assert found["ngram"].context == 2
    assert found["ngram"].loss == pytest.approx(evaluate_corpus(ngram, corpus).loss)
    assert found["mixture"].loss < max(found["model"].loss, found["ngram"].loss)


def test_what_a_model_cannot_do_is_said_at_once(model: Tiny) -> None:
    ids = np.arange(10)
    with pytest.raises(InputError, match="a context of 17 tokens; expected 1 to 16"):
        token_log_probs(model, ids, context=17, stride=1)
    with pytest.raises(InputError, match="a stride of 9 tokens; expected 1 to 8"):
        token_log_probs(model, ids, context=8, stride=9)
    with pytest.raises(InputError, match="token id 11 is outside the model's vocabulary"):
        token_log_probs(model, np.array([1, 11]), context=8, stride=8)
    with pytest.raises(InputError, match="too few to evaluate"):
        evaluate_corpus(model, Stream([]))
