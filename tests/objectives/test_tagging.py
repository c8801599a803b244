"""Tags of words: the losses against their definitions, with a chain and without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import kit
from melete.data.batch import Example
from melete.data.sampling import rng_for
from melete.errors import InputError
from melete.objectives.base import Context
from melete.objectives.labelled import Craft, LabelledPiece
from melete.objectives.tagging import Tagging
from melete.tasks.token_classification import load_crf

LENGTHS = (9, 5, 12, 1)
LABELS = ["O", "B", "I"]


def objective(family: str = "bert", craft: Craft | None = None, crf: bool = False, **fields: Any) -> Tagging:
    model = kit.tiny_network(family, "token-classification", id2label=LABELS, **fields)
    task = Tagging(model, craft or Craft(), pad_id=0, crf=crf).eval()
    if task.crf is not None:
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for p in task.crf.parameters():
                p.normal_(generator=generator)
    return task


def examples() -> list[Example]:
    rng = np.random.default_rng(0)
    found = []
    for i, row in enumerate(kit.token_rows(*LENGTHS)):
        label = np.where(rng.random(len(row)) < 0.6, rng.integers(0, 3, len(row)), -100)
        label[-1] = 1  # at least one word
        found.append(Example((0, 0, i), LabelledPiece(row.numpy(), None, label)))
    return found


@pytest.mark.parametrize("family", kit.LABELLED)
@pytest.mark.parametrize("crf", [False, True])
def test_the_loss_is_a_sum_over_words_however_they_are_batched(family: str, crf: bool) -> None:
    task, every = objective(family, crf=crf), examples()
    words = sum(int((e.data.label != -100).sum()) for e in every)
    with torch.no_grad():
        whole = task.prepare(every, rng_for)
        total = task(whole, Context())["tagging"]
        parts = [task.prepare(part, rng_for) for part in (every[:1], every[1:])]
        assert sum(task(part, Context())["tagging"].item() for part in parts) == pytest.approx(
            total.item(), rel=1e-5
        )
        assert task.counts(whole)["tagging"] == words
        if not crf:
            logits, labels = task.logits(whole), whole.labels["tagging"]
            expected = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
            assert total.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_chain_is_over_the_words_alone() -> None:
    """Tokens inside words, special tokens and padding are no part of the sequence."""
    task = objective(crf=True)
    assert task.crf is not None
    every = examples()
    expected = 0.0
    with torch.no_grad():
        for example in every:
            batch = task.prepare([example], rng_for)
            real = torch.from_numpy(example.data.label != -100)
            emissions = task.logits(batch)[:, real]
            labels = torch.from_numpy(example.data.label)[real][None]
            mask = torch.ones_like(labels, dtype=torch.bool)
            expected -= task.crf.log_likelihood(emissions, labels, mask).item()
        assert task(task.prepare(every, rng_for), Context())["tagging"].item() == pytest.approx(
            expected, rel=1e-5
        )


def test_class_weights_and_smoothing_are_torchs() -> None:
    craft = Craft(label_smoothing=0.1, class_weights=(0.2, 1.0, 3.0))
    task = objective(craft=craft).train()
    batch = task.prepare(examples(), rng_for)
    labels = batch.labels["tagging"]
    expected = F.cross_entropy(
        task.logits(batch).flatten(0, 1),
        labels.flatten(),
        torch.tensor(craft.class_weights),
        label_smoothing=0.1,
    )
    loss = task(batch, Context())["tagging"] / task.counts(batch)["tagging"]
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("crf", [False, True])
def test_saving_and_loading_is_the_identity(crf: bool, tmp_path: Path) -> None:
    task = objective(crf=crf)
    masters = {name: p.detach() + 1e-4 for name, p in task.named_parameters()}
    task.save(tmp_path, masters, None)
    again = task.load(tmp_path)
    assert again.keys() == masters.keys()
    assert all(torch.equal(again[name], masters[name]) for name in masters)
    chain = load_crf(tmp_path, 3)
    assert (chain is not None) == crf
    if chain is not None:
        assert torch.equal(chain.transitions, masters["crf.transitions"])
        with pytest.raises(InputError, match=r"crf.safetensors: not a CRF over the labels"):
            load_crf(tmp_path, 4)


def test_a_chain_learns_faster_and_knows_no_weights() -> None:
    task = objective(crf=True, craft=Craft(layer_decay=0.5))
    assert task.rate_of("crf.transitions") == 10.0
    with pytest.raises(InputError, match="one probability for a whole sentence"):
        objective(crf=True, craft=Craft(label_smoothing=0.1))
    with pytest.raises(InputError, match="distributions over labels"):
        objective(crf=True, craft=Craft(r_drop=1.0), hidden_dropout=0.1)


def test_r_drop_is_over_words() -> None:
    task = objective(craft=Craft(r_drop=1.0), hidden_dropout=0.2).train()
    parts = task(task.prepare(examples(), rng_for), Context())
    assert 0 < parts["r_drop"].item() < 100
