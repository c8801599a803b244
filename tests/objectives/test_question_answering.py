"""Both ends of an answer: the loss against its definition, over the columns that may be an end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import kit
from melete.data.batch import Example
from melete.data.sampling import rng_for
from melete.objectives.base import Context
from melete.objectives.labelled import Craft, LabelledPiece
from melete.objectives.question_answering import QuestionAnsweringLoss

LENGTHS = (12, 9, 20)
LABELS = [(5, 7, 4, 11), (0, 0, 3, 8), (18, 18, 6, 19)]  # start, end, columns of the context


def objective(family: str = "bert", **craft: float) -> QuestionAnsweringLoss:
    model = (
        kit.tiny_network(family, "question-answering", hidden_dropout=0.1 if craft else 0.0)
        if (family not in ("modernbert",))
        else kit.tiny_network(family, "question-answering")
    )
    return QuestionAnsweringLoss(model, Craft(**craft), pad_id=0, no_answer=True).eval()


def examples() -> list[Example]:
    rows = kit.token_rows(*LENGTHS)
    return [
        Example((0, 0, i), LabelledPiece(row.numpy(), None, label))
        for i, (row, label) in enumerate(zip(rows, LABELS, strict=True))
    ]


@pytest.mark.parametrize("family", kit.LABELLED)
def test_the_loss_is_over_the_context_and_the_first_token(family: str) -> None:
    task, every = objective(family), examples()
    with torch.no_grad():
        total = task(task.prepare(every, rng_for), Context())["question_answering"].item()
        expected = 0.0
        for example in every:
            logits = task.logits(task.prepare([example], rng_for))[0]  # (T, 2)
            start, end, low, high = example.data.label
            possible = [0, *range(low, high)]
            for column, side in ((start, 0), (end, 1)):
                said = logits[possible, side][None]
                expected += F.cross_entropy(said, torch.tensor([possible.index(column)])).item() / 2
    assert total == pytest.approx(expected, rel=1e-5)
    assert task.counts(task.prepare(every, rng_for))["question_answering"] == 3


def test_smoothing_and_r_drop_are_finite_and_for_training() -> None:
    task = objective(label_smoothing=0.1, r_drop=2.0)
    batch = task.prepare(examples(), rng_for)
    plain = objective()(batch, Context())
    assert task(batch, Context()).keys() == plain.keys() == {"question_answering"}
    parts = task.train()(batch, Context())
    assert parts.keys() == {"question_answering", "r_drop"}
    assert 0 < parts["r_drop"].item() < 50
    sum(parts.values()).backward()  # pyright: ignore[reportAttributeAccessIssue]
    assert all(p.grad.isfinite().all() for p in task.parameters() if p.grad is not None)


def test_a_folder_says_whether_there_may_be_no_answer(tmp_path: Path) -> None:
    task = objective()
    masters = {name: p.detach() for name, p in task.named_parameters()}
    task.save(tmp_path, masters, None)
    assert json.loads((tmp_path / "question_answering.json").read_text()) == {"no_answer": True}
    again = task.load(tmp_path)
    assert all(torch.equal(again[name], masters[name]) for name in masters)
