"""Which sentences belong to a summary: the loss against its definition, and its gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import kit
from melete.data.batch import Example
from melete.data.sampling import rng_for
from melete.objectives.base import Context
from melete.objectives.craft import Craft
from melete.objectives.extraction import Extraction
from melete.objectives.labelled import LabelledPiece

PARTS = ([-1, 0, 0, 0, 1, 1, -1], [-1, 0, 0, 1, 1, 1, 1, 2, -1, -1])
BELONGS = ([0, 1], [1, 0, 1])


@pytest.mark.parametrize("family", kit.ENCODER_SIZES)
def test_the_loss_is_that_of_the_means_of_sentences(family: str) -> None:
    task = Extraction(
        kit.tiny_network(family, "token-classification", id2label=["summary"]), Craft(), 0
    ).eval()
    examples = [
        Example((0, 0, i), LabelledPiece(row.numpy(), None, (np.array(parts), np.float32(belongs))))
        for i, (row, parts, belongs) in enumerate(zip(kit.token_rows(7, 10), PARTS, BELONGS, strict=True))
    ]
    batch = task.prepare(examples, rng_for)
    loss = task(batch, Context())["extraction"]
    expected = torch.zeros(())
    for example, parts, belongs in zip(examples, PARTS, BELONGS, strict=True):
        logits = task.logits(task.prepare([example], rng_for))[0]
        for number, label in enumerate(belongs):
            mean = logits[torch.tensor(parts) == number].mean()
            expected = expected + F.binary_cross_entropy_with_logits(mean, torch.tensor(float(label)))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert task.counts(batch)["extraction"] == 5
    loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in task.parameters())
