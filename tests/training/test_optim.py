"""The optimisers: Muon against its definition, and who decays."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kit import SIZES, tiny
from melete.config import OPTIMIZERS, OptimizerSection
from melete.data.batch import Batch
from melete.objectives.causal_lm import CausalLM
from melete.training.optim import Muon, Optimizer, matrices, orthogonalize


def random_matrix(rows: int, columns: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def conditioned(rows: int, columns: int, smallest: float) -> Tensor:
    """Singular values from 1 down to `smallest`, evenly in the logarithm."""
    u, _, v = torch.linalg.svd(random_matrix(rows, columns).double(), full_matrices=False)
    values = torch.logspace(0, torch.log10(torch.tensor(smallest)).item(), min(rows, columns)).double()
    return (u * values @ v).float()


@pytest.mark.parametrize(
    ("matrix", "low"),
    [
        (random_matrix(32, 32), 0.6),  # a square random matrix has singular values near zero
        (random_matrix(64, 16), 0.85),
        (random_matrix(16, 64), 0.85),
        (random_matrix(1, 32), 0.85),
        (conditioned(32, 32, 1e-2), 0.85),
        (conditioned(48, 32, 1e-3), 0.6),
        (1e-6 * random_matrix(64, 16), 0.7),
        (1e6 * random_matrix(64, 16), 0.85),
    ],
    ids=["square", "tall", "wide", "row", "condition 100", "condition 1000", "tiny", "huge"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_orthogonalize_brings_singular_values_to_one(matrix: Tensor, low: float, dtype: torch.dtype) -> None:
    out = orthogonalize(matrix[None], dtype)[0].float()
    values = torch.linalg.svdvals(out)
    assert low - 0.05 < float(values.min())
    assert float(values.max()) < 1.2
    # The directions stay: the result is U V^T of the singular value decomposition, but for those values.
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    overlap = (u.T @ out @ v.T).diagonal()
    assert float(overlap.mean()) > 0.8


def test_orthogonalize_works_on_each_matrix_of_a_batch_and_on_none() -> None:
    batch = torch.stack([random_matrix(8, 5, seed) for seed in range(3)])
    each = torch.stack([orthogonalize(matrix[None], torch.float64)[0] for matrix in batch])
    torch.testing.assert_close(orthogonalize(batch, torch.float64), each)
    assert not orthogonalize(torch.zeros(1, 4, 4)).any()


def literal_muon(weight: Tensor, gradients: list[Tensor], lr: float, momentum: float, decay: float) -> Tensor:
    """One matrix, step by step, as the definition reads."""
    buffer = torch.zeros_like(weight)
    for gradient in gradients:
        buffer = momentum * buffer + (1 - momentum) * gradient
        looked_ahead = (1 - momentum) * gradient + momentum * buffer
        x = looked_ahead / (looked_ahead.float().norm().double() * 1.02 + 1e-7)
        for a, b, c in (
            (8.156554524902461, -22.48329292557795, 15.878769915207462),
            (4.042929935166739, -2.808917465908714, 0.5000178451051316),
            (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
            (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
            (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
        ):
            x = a * x + b * x @ x.T @ x + c * x @ x.T @ x @ x.T @ x
        rows, columns = weight.shape
        weight = weight * (1 - lr * decay) - lr * max(1.0, rows / columns) ** 0.5 * x
    return weight


def test_muon_is_what_its_definition_says() -> None:
    shapes = [(6, 4), (4, 6), (6, 4), (5, 5)]
    params = [nn.Parameter(random_matrix(*shape, seed=i).double()) for i, shape in enumerate(shapes)]
    start = [p.detach().clone() for p in params]
    muon = Muon(params, lr=0.02, momentum=0.95, weight_decay=0.1, compute_dtype=torch.float64)
    history: list[list[Tensor]] = [[] for _ in params]
    for step in range(5):
        for i, p in enumerate(params):
            p.grad = random_matrix(*p.shape, seed=100 + 10 * step + i).double()
            history[i].append(p.grad)
        muon.step()
    for p, before, gradients in zip(params, start, history, strict=True):
        expected = literal_muon(before, gradients, 0.02, 0.95, 0.1)
        torch.testing.assert_close(p.detach(), expected, rtol=0, atol=1e-7)  # the norm is taken in float32


# -- who is a matrix --


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", SIZES)
def test_decay_is_for_matrices_and_every_parameter_has_one_place(family: str, tied: bool) -> None:
    objective = CausalLM(tiny(family, tie_word_embeddings=tied))
    named = dict(objective.named_parameters())
    decayed = matrices(objective)
    for name, p in named.items():
        plain = p.ndim < 2 or "embed" in name or "lm_head" in name
        assert (name in decayed) == (not plain), name
    for kind in OPTIMIZERS:
        optimizer = Optimizer(objective, named, OptimizerSection(name=kind, weight_decay=0.1))
        placed = [id(p) for part in optimizer.parts for group in part.param_groups for p in group["params"]]
        assert sorted(placed) == sorted(map(id, named.values()))
        if kind in ("adamw", "adafactor"):
            groups = [group for part in optimizer.parts for group in part.param_groups]
            shares = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
            assert {name for name, p in named.items() if shares[id(p)] == 0.1} == decayed


def stepped(section: OptimizerSection, ratio: float = 1.0) -> tuple[CausalLM, dict[str, Tensor]]:
    """A model after one step with no gradient at all, and its weights before."""
    objective = CausalLM(tiny("gpt2", seed=1))
    named = dict(objective.named_parameters())
    before = {name: p.detach().clone() for name, p in named.items()}
    optimizer = Optimizer(objective, named, section)
    for p in named.values():
        p.grad = torch.zeros_like(p)
    optimizer.step(ratio)
    return objective, before


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_decay_is_decoupled_and_follows_the_schedule(name: str) -> None:
    section = OptimizerSection(name=name, learning_rate=0.02, matrix_learning_rate=0.02, weight_decay=0.5)
    objective, before = stepped(section, ratio=0.25)
    decayed = matrices(objective)
    for key, p in objective.named_parameters():
        # Adafactor's rate is relative to the size of the weights, but its decay is plain.
        expected = before[key] * (1 - 0.25 * 0.02 * 0.5) if key in decayed else before[key]
        torch.testing.assert_close(
            p.detach(), expected, rtol=1e-6, atol=1e-8, msg=lambda m, k=key: f"{k}: {m}"
        )


def test_l1_draws_matrices_to_exact_zeros() -> None:
    section = OptimizerSection(name="adamw", learning_rate=0.1, weight_decay=0.0, l1=0.5)
    objective, before = stepped(section)
    decayed = matrices(objective)
    for key, p in objective.named_parameters():
        expected = before[key]
        if key in decayed:
            expected = expected.sign() * (expected.abs() - 0.05).clamp_min(0.0)
            assert bool((expected == 0).any())
        torch.testing.assert_close(p.detach(), expected, rtol=0, atol=1e-7)


def gradients_of(objective: CausalLM, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 97, (2, 9), generator=generator)
    batch = Batch.from_rows(list(ids[:, :-1]))
    hidden = objective.model.encode(batch)
    loss = nn.functional.cross_entropy(objective.model.logits(hidden).flatten(0, 1), ids[:, 1:].flatten())
    objective.zero_grad()
    loss.backward()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_state_goes_round(name: str) -> None:
    """A second optimiser that takes up the state of the first makes the same next step."""
    section = OptimizerSection(name=name)
    first, second = CausalLM(tiny("qwen3")), CausalLM(tiny("qwen3"))
    a = Optimizer(first, dict(first.named_parameters()), section)
    for seed in range(3):
        gradients_of(first, seed)
        a.step(1.0)
    second.load_state_dict(first.state_dict())
    b = Optimizer(second, dict(second.named_parameters()), section)
    saved: dict[str, Any] = a.tensors()
    assert saved
    assert all(isinstance(tensor, Tensor) for tensor in saved.values())
    b.load(saved)
    for model, optimizer in ((first, a), (second, b)):
        gradients_of(model, 7)
        optimizer.step(0.5)
    for (key, p), q in zip(first.named_parameters(), second.parameters(), strict=True):
        assert torch.equal(p, q), key
    assert {key: tensor.dtype for key, tensor in b.tensors().items()} == {
        k: t.dtype for k, t in saved.items()
    }


def test_adamw_is_torchs() -> None:
    objective, other = CausalLM(tiny("gpt2").double()), CausalLM(tiny("gpt2").double())
    named = dict(objective.named_parameters())
    ours = Optimizer(objective, named, OptimizerSection(name="adamw", learning_rate=0.01, eps=1e-6))
    decayed = matrices(other)
    groups = [
        {
            "params": [p for name, p in other.named_parameters() if (name in decayed) == flag],
            "weight_decay": decay,
        }
        for flag, decay in ((True, 0.1), (False, 0.0))
    ]
    theirs = torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.95), eps=1e-6)
    for seed in range(3):
        gradients_of(objective, seed)
        gradients_of(other, seed)
        ours.step(1.0)
        theirs.step()
    for (key, p), q in zip(objective.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-9, msg=lambda m, k=key: f"{k}: {m}")


# -- as BERT and ELECTRA were trained --


def test_without_bias_correction_it_is_the_update_of_the_original() -> None:
    """The update as BERT's `optimization.py` writes it, over three steps."""
    weight, bias = random_matrix(4, 3, 1), random_matrix(1, 3, 2)[0]
    module = nn.Linear(3, 4)
    masters = {"weight": weight.clone().requires_grad_(), "bias": bias.clone().requires_grad_()}
    section = OptimizerSection(
        name="adamw",
        learning_rate=0.01,
        betas=(0.9, 0.999),
        eps=1e-6,
        weight_decay=0.1,
        bias_correction=False,
    )
    ours = Optimizer(module, masters, section)
    expected = {"weight": (weight, 0.1), "bias": (bias, 0.0)}
    for name, (value, decay) in expected.items():
        m, v = torch.zeros_like(value), torch.zeros_like(value)
        for step in range(3):
            gradient = random_matrix(*(value.shape if value.ndim == 2 else (1, 3)), seed=step).view_as(value)
            m = 0.9 * m + 0.1 * gradient
            v = 0.999 * v + 0.001 * gradient.square()
            value = value - 0.01 * (m / (v.sqrt() + 1e-6) + decay * value)
        expected[name] = (value, decay)
    for step in range(3):
        for master in masters.values():
            shape = master.shape if master.ndim == 2 else (1, 3)
            master.grad = random_matrix(*shape, seed=step).view_as(master)
        ours.step(1.0)
    for name, master in masters.items():
        torch.testing.assert_close(master.detach(), expected[name][0], rtol=1e-5, atol=1e-7)
