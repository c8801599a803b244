"""The causal objective: documents kept apart, sums that are what their formulas say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kit import tiny, token_rows
from melete.data.batch import Batch, Example
from melete.data.sampling import PackedRow, rng_for
from melete.objectives.base import Context
from melete.objectives.causal_lm import CausalLM


def example(ids: list[int], *starts: int, index: int = 0) -> Example:
    return Example((0, 0, index), PackedRow(np.array(ids), np.array(starts, dtype=np.int64)))


def test_documents_are_kept_apart() -> None:
    batch = CausalLM(tiny("gpt2")).prepare(
        [example([9, 8, 7, 6, 5, 4], 2, 4), example([1, 2, 3, 4, 5, 6])], rng_for
    )
    assert batch.input_ids.tolist() == [[9, 8, 7, 6, 5], [1, 2, 3, 4, 5]]
    assert batch.doc_ids.tolist() == [[1, 1, 2, 2, 3], [1, 1, 1, 1, 1]]
    assert batch.position_ids.tolist() == [[0, 1, 0, 1, 0], [0, 1, 2, 3, 4]]
    assert batch.doc_starts.tolist() == [[0, 0], [0, 2], [0, 4], [1, 0]]
    # A document's first token closes the one before it: that is what its last token is to predict.
    assert batch.labels["causal_lm"].tolist() == [[8, 7, 6, 5, 4], [2, 3, 4, 5, 6]]
    assert batch.tokens == 10


@pytest.mark.parametrize("family", ["gpt2", "qwen3"])
def test_a_document_does_not_see_its_neighbours(family: str) -> None:
    objective = CausalLM(tiny(family))
    ids = token_rows(17)[0].tolist()
    together = objective.prepare([example(ids, 0, 6, 11)], rng_for)
    hidden = objective.model.encode(together)[0]
    for start, stop in ((0, 6), (6, 11), (11, 16)):
        alone = objective.model.encode(Batch.from_rows([ids[start:stop]]))[0]
        torch.testing.assert_close(hidden[start:stop], alone, rtol=0, atol=2e-6)


def prepared(objective: CausalLM, rows: int = 3) -> Batch:
    ids = [row.tolist() for row in token_rows(*[17] * rows)]
    batch = objective.prepare([example(row, 5, index=i) for i, row in enumerate(ids)], rng_for)
    batch.labels["causal_lm"][1, 4:9] = -100
    return batch


def literal(objective: CausalLM, batch: Batch, smoothing: float) -> tuple[Tensor, Tensor]:
    """Both sums as their papers write them, position by position."""
    logits = objective.model.logits(objective.model.encode(batch)).flatten(0, 1)
    cross_entropy, squares = torch.zeros(()).double(), torch.zeros(()).double()
    size = logits.shape[1]
    for scores, label in zip(logits, batch.labels["causal_lm"].flatten().tolist(), strict=True):
        if label == -100:
            continue
        log_norm = scores.exp().sum().log()
        target = torch.full((size,), smoothing / size, dtype=torch.float64)
        target[label] += 1 - smoothing
        cross_entropy = cross_entropy - (target * (scores - log_norm)).sum()
        squares = squares + log_norm**2
    return cross_entropy, squares


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("z_loss", [0.0, 1e-2])
def test_the_sums_and_their_gradients_are_the_formulas(smoothing: float, z_loss: float) -> None:
    objective = CausalLM(tiny("gpt2").double(), smoothing, z_loss).train()
    batch = prepared(objective)
    parts = objective(batch, Context())
    cross_entropy, squares = literal(objective, batch, smoothing)
    torch.testing.assert_close(parts["causal_lm"], cross_entropy)
    assert set(parts) == set(objective.weights) == set(objective.counts(batch))
    total = torch.stack([objective.weights[name] * part for name, part in parts.items()]).sum()
    torch.testing.assert_close(total, cross_entropy + z_loss * squares)
    expected = torch.autograd.grad(cross_entropy + z_loss * squares, list(objective.parameters()))
    for gradient, right in zip(
        torch.autograd.grad(total, list(objective.parameters())), expected, strict=True
    ):
        torch.testing.assert_close(gradient, right, rtol=1e-9, atol=1e-9)


def test_counts_come_from_labels_alone() -> None:
    objective = CausalLM(tiny("gpt2"), z_loss=1e-4)
    batch = prepared(objective)
    assert {name: int(count) for name, count in objective.counts(batch).items()} == {
        "causal_lm": 3 * 16 - 5,
        "z": 3 * 16 - 5,
    }


def test_validation_is_plain_cross_entropy() -> None:
    plain, shaped = CausalLM(tiny("gpt2")), CausalLM(tiny("gpt2"), label_smoothing=0.2, z_loss=0.1)
    batch = prepared(plain)
    with torch.no_grad():
        expected = plain.eval()(batch, Context())["causal_lm"]
        parts = shaped.eval()(batch, Context())
        training = shaped.train()(batch, Context())
    assert torch.equal(parts["causal_lm"], expected)
    assert float(parts["z"]) == 0.0
    assert float(training["causal_lm"]) != float(expected)
    logits = plain.model.logits(plain.model.encode(batch)).flatten(0, 1)
    reference = nn.functional.cross_entropy(logits, batch.labels["causal_lm"].flatten(), reduction="sum")
    torch.testing.assert_close(expected, reference.detach())
