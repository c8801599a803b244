"""What a text is: the losses against their definitions, and the craft of small data."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import kit
from melete.data.augmentation import Augmentation
from melete.data.batch import Batch, Example
from melete.data.sampling import rng_for
from melete.errors import InputError
from melete.objectives.base import Context
from melete.objectives.classification import Classification
from melete.objectives.labelled import Craft, LabelledPiece

LENGTHS = (9, 5, 12, 1, 7)
SINGLE = [2, 0, 1, 1, 0]
MULTI = [[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0], [1, 0, 0]]
NUMBERS = [0.5, 2.0, -1.0, 3.25, 0.0]
PROBLEMS: dict[str, Any] = {
    "single_label_classification": SINGLE,
    "multi_label_classification": MULTI,
    "regression": NUMBERS,
}


def objective(
    problem: str = "single_label_classification",
    family: str = "bert",
    craft: Craft | None = None,
    **fields: Any,
) -> Classification:
    labels = ["score"] if problem == "regression" else ["a", "b", "c"]
    model = kit.tiny_network(family, "text-classification", problem_type=problem, id2label=labels, **fields)
    return Classification(model, craft or Craft(), pad_id=0).eval()


def examples(labels: list[Any], **fields: Any) -> list[Example]:
    rows = kit.token_rows(*LENGTHS)
    return [
        Example((0, 0, i), LabelledPiece(row.numpy(), None, label, **fields))
        for i, (row, label) in enumerate(zip(rows, labels, strict=True))
    ]


def expected_loss(scores: torch.Tensor, problem: str, **settings: Any) -> torch.Tensor:
    if problem == "single_label_classification":
        return F.cross_entropy(scores, torch.tensor(SINGLE), **settings)
    if problem == "regression":
        return F.mse_loss(scores[:, 0], torch.tensor(NUMBERS))
    return F.binary_cross_entropy_with_logits(scores, torch.tensor(MULTI).float())


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("family", kit.LABELLED)
def test_the_loss_is_the_mean_over_texts_however_they_are_batched(problem: str, family: str) -> None:
    task, every = objective(problem, family), examples(PROBLEMS[problem])
    with torch.no_grad():
        whole = task.prepare(every, rng_for)
        expected = expected_loss(task.logits(whole), problem)
        total = count = torch.zeros(())
        for part in (every[:2], every[2:3], every[3:]):
            batch = task.prepare(part, rng_for)
            total = total + task(batch, Context())["classification"]
            count = count + task.counts(batch)["classification"]
    assert count == len(LENGTHS)
    assert (total / count).item() == pytest.approx(expected.item(), abs=1e-5)


def test_label_smoothing_and_class_weights_are_torchs_and_smoothing_is_for_training() -> None:
    craft = Craft(label_smoothing=0.2, class_weights=(0.5, 2.0, 1.0))
    task = objective(craft=craft)
    batch = task.prepare(examples(SINGLE), rng_for)
    settings: dict[str, Any] = {"weight": torch.tensor(craft.class_weights)}
    for training in (False, True):
        task.train(training)
        smoothing = {"label_smoothing": 0.2} if training else {}
        with torch.no_grad():
            expected = expected_loss(
                task.logits(batch), "single_label_classification", **settings, **smoothing
            )
            loss = task(batch, Context())["classification"] / task.counts(batch)["classification"]
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_pairs_have_types_and_packed_is_padded() -> None:
    task = objective()
    pieces = [e.data for e in examples(SINGLE)]
    typed = [replace(p, types=(np.arange(len(p.ids)) > 3).astype(np.int64)) for p in pieces]
    batch = task.prepare([Example((0, 0, i), p) for i, p in enumerate(typed)], rng_for)
    assert batch.token_type_ids is not None
    assert batch.token_type_ids.sum() == sum(max(0, n - 4) for n in LENGTHS)
    with torch.no_grad():
        together = task.model.class_logits(
            task.model.encode(kit.packed(*kit.token_rows(*LENGTHS))), kit.packed(*kit.token_rows(*LENGTHS))
        )
        alone = task.logits(task.prepare(examples(SINGLE), rng_for))
    assert torch.allclose(together, alone, atol=1e-5)


def test_r_drop_is_the_divergence_of_two_passes() -> None:
    task = objective(craft=Craft(r_drop=3.0), hidden_dropout=0.3).train()
    batch = task.prepare(examples(SINGLE), rng_for)
    torch.manual_seed(1)
    parts = task(batch, Context())
    torch.manual_seed(1)
    first, second = task.logits(batch), task.logits(batch)
    p, q = first.softmax(-1), second.softmax(-1)
    both = (p * (p / q).log()).sum() + (q * (q / p).log()).sum()
    assert parts["r_drop"].item() == pytest.approx(both.item() / 2, rel=1e-4)
    mean = (task.loss(first, batch) + task.loss(second, batch)) / 2
    assert parts["classification"].item() == pytest.approx(mean.item(), rel=1e-5)
    assert task.weights == {"classification": 1.0, "r_drop": 3.0}
    assert task.eval()(batch, Context()).keys() == {"classification"}
    assert task.counts(batch).keys() == {"classification", "r_drop"}


def test_an_adversarial_step_makes_the_loss_larger_and_leaves_the_weights() -> None:
    task = objective(craft=Craft(adversarial=0.5)).train()
    batch = task.prepare(examples(SINGLE), rng_for)
    before = {name: p.detach().clone() for name, p in task.named_parameters()}
    parts = task(batch, Context())
    assert parts["adversarial"] > parts["classification"] + 0.05
    sum(parts.values()).backward()  # pyright: ignore[reportAttributeAccessIssue]
    assert all(torch.equal(p, before[name]) for name, p in task.named_parameters())
    plain = objective().train()
    plain(batch, Context())["classification"].backward()
    ours, theirs = (m.model.get_parameter("layers.0.attention.query.weight").grad for m in (task, plain))
    assert ours is not None
    assert theirs is not None
    assert not torch.allclose(ours, 2 * theirs)  # the second pass adds gradients of its own


def test_augmentation_touches_training_texts_only() -> None:
    augmentation = Augmentation(delete=0.3, replace=0.3, ordinary=np.arange(5, 90))
    task = objective(craft=Craft(augmentation=augmentation))
    plain = task.prepare(examples(SINGLE), rng_for)
    assert torch.equal(plain.input_ids, objective().prepare(examples(SINGLE), rng_for).input_ids)
    free = [replace(e, data=replace(e.data, sentence=np.ones(len(e.data.ids)))) for e in examples(SINGLE)]
    changed = task.prepare(free, rng_for)
    assert changed.tokens < plain.tokens
    assert torch.equal(changed.input_ids, task.prepare(free, rng_for).input_ids)
    other = [replace(e, key=(0, 1, e.key[2])) for e in free]
    assert not torch.equal(changed.input_ids, task.prepare(other, rng_for).input_ids)


# -- depths --


@pytest.mark.parametrize("family", kit.LABELLED)
def test_rates_fall_with_depth_and_the_head_has_its_own(family: str) -> None:
    task = objective(family=family, craft=Craft(layer_decay=0.5, head_rate=4.0))
    rates = {name: task.rate_of(name) for name, _ in task.named_parameters()}
    layers = task.model.config.num_hidden_layers
    for i in range(layers):
        assert {r for n, r in rates.items() if n.startswith(f"model.layers.{i}.")} == {
            0.5 ** (layers - 1 - i)
        }
    assert {r for n, r in rates.items() if "embed" in n} == {0.5**layers}
    assert {r for n, r in rates.items() if "classifier" in n} == {4.0}
    assert set(rates.values()) == {4.0, *(0.5**i for i in range(layers + 1))}


def trained(task: Classification, progress: float) -> set[int]:
    """The depths that have gradients."""
    task.train().zero_grad()
    batch: Batch = task.prepare(examples(SINGLE), rng_for)
    task(batch, Context(progress=progress))["classification"].backward()
    return {
        task.model.depth(name.removeprefix("model."))
        for name, p in task.named_parameters()
        if p.grad is not None
    }


def test_frozen_depths_have_no_gradients_and_thaw_from_the_top() -> None:
    assert trained(objective(), 0.0) == {0, 1, 2, 3}
    assert trained(objective(craft=Craft(freeze_layers=1)), 0.0) == {2, 3}
    assert trained(objective(craft=Craft(head_only=True)), 0.9) == {3}
    thawing = objective(craft=Craft(unfreeze=0.6))
    assert [min(trained(thawing, progress)) for progress in (0.0, 0.2, 0.41, 0.6, 1.0)] == [3, 2, 1, 0, 0]
    assert min(trained(thawing, 0.0)) == 3  # the step alone decides


@pytest.mark.parametrize(
    ("problem", "craft", "message"),
    [
        ("single_label_classification", Craft(freeze_layers=3), "the model has 2 layers"),
        ("single_label_classification", Craft(adversarial=1.0, freeze_layers=1), "which are frozen"),
        (
            "single_label_classification",
            Craft(head_only=True, unfreeze=0.5),
            "nothing but the head is trained",
        ),
        ("single_label_classification", Craft(r_drop=1.0), "this model drops none"),
        ("multi_label_classification", Craft(r_drop=1.0), "distributions over labels"),
        ("regression", Craft(label_smoothing=0.1), "no labels to smooth"),
    ],
)
def test_what_does_not_go_together_is_refused(problem: str, craft: Craft, message: str) -> None:
    with pytest.raises(InputError, match=message):
        objective(problem, craft=craft)


@pytest.mark.parametrize("family", kit.LABELLED)
def test_saving_and_loading_is_the_identity(family: str, tmp_path) -> None:
    task = objective(family=family)
    masters = {name: p.detach() + 1e-4 for name, p in task.named_parameters()}
    task.save(tmp_path, masters, None)
    again = task.load(tmp_path)
    assert again.keys() == masters.keys()
    assert all(torch.equal(again[name], masters[name]) for name in masters)
