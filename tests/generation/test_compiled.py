"""Answers in compiled code: the numbers of the layers themselves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import kit
from melete.data.batch import Batch
from melete.errors import InputError
from melete.generation import compiled
from melete.generation.compiled import CompiledReading, writer_of
from melete.models.postnorm import PostNorm
from melete.nn.writer import library

VOCAB, BEAMS = 150, 3
SOURCES = [[5, 6, 7, 8, 9], [10, 11], [12, 13, 14, 15, 16, 17, 18, 19]]


@pytest.fixture(params=["marian", "bart"])
def model(request, built, monkeypatch) -> PostNorm:
    found = built(library)
    monkeypatch.setattr(compiled, "library", lambda _: found)
    sizes: dict[str, Any] = {"vocab_size": VOCAB, "hidden_size": 48, "intermediate_size": 72}
    model = kit.tiny_network(request.param, "text2text-generation", seed=2, **sizes)
    assert isinstance(model, PostNorm)
    with torch.no_grad():
        model.head_bias.normal_(generator=torch.Generator().manual_seed(0))
    return model.eval()


def expected(model: PostNorm, texts: list[list[int]], sources: list[list[int]]) -> torch.Tensor:
    """Log-probabilities of what follows each text, (B, V), every token read anew."""
    batch = replace(Batch.from_rows(texts), source=Batch.from_rows(sources))
    with torch.no_grad():
        return model.logits(model.encode(batch)[:, -1]).log_softmax(-1)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_likeliest_tokens_are_those_of_the_layers(model: PostNorm, threads: int) -> None:
    """Texts begin with two tokens, part, move, leave and grow; a token is forbidden."""
    writer = writer_of(model)
    assert writer is not None
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        reading = CompiledReading(writer, model, [[0, 4]] * 3, 9, SOURCES, BEAMS)
        texts, sources = [[0, 4]] * 9, [source for source in SOURCES for _ in range(BEAMS)]
        draw = torch.Generator().manual_seed(1)
        for step in range(5):
            truth = expected(model, texts, sources)
            forbidden = int(truth[0].argmax())
            truth[:, forbidden] = -torch.inf
            scores, tokens = truth.topk(7)
            found = reading.best(7, [forbidden])
            torch.testing.assert_close(found[0], scores, atol=2e-5, rtol=0)
            assert torch.equal(found[1], tokens)
            rows = [1, 1, 0, 5, 3, 4, 8, 7, 7] if step != 2 else [0, 2, 2, 6, 7, 8]
            rows = rows[: len(texts)]
            new = torch.randint(VOCAB, (len(rows),), generator=draw).tolist()
            reading.select(rows)
            reading.append(new)
            texts = [[*texts[row], token] for row, token in zip(rows, new, strict=True)]
            sources = [sources[row] for row in rows]
        logits = reading.next_logits()
        torch.testing.assert_close(logits.log_softmax(-1), expected(model, texts, sources), atol=2e-5, rtol=0)
    finally:
        torch.set_num_threads(before)


def test_new_weights_are_noticed_and_broken_ones_refused(model: PostNorm) -> None:
    writer = writer_of(model)
    assert writer is not None and writer_of(model) is writer
    with torch.no_grad():
        model.head_weight.mul_(2.0)
    assert writer_of(model) not in (writer, None)
    with torch.no_grad():
        model.head_weight[3, 0] = float("nan")
    with pytest.raises(InputError, match="NaN"):
        writer_of(model)


def test_other_models_write_as_ever(model: PostNorm) -> None:
    assert writer_of(model.bfloat16()) is None
    assert writer_of(kit.tiny_network("t5", "text2text-generation")) is None  # pyright: ignore[reportArgumentType]


def test_a_token_far_ahead_of_all_others_is_certain(model: PostNorm) -> None:
    with torch.no_grad():
        model.head_bias[100] += 1000.0
    writer = writer_of(model)
    assert writer is not None
    scores, tokens = CompiledReading(writer, model, [[0]], 2, SOURCES[:1], 1).best(2, [])
    assert int(tokens[0, 0]) == 100 and float(scores[0, 0]) == 0.0
    assert -1100.0 < float(scores[0, 1]) < -900.0
