from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import melete.nn.functional as functional
from melete.nn.functional import linear_cross_entropy, rms_norm, sampled_cross_entropy


def example(dtype=torch.float64, rows=10, width=6, vocab=7):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(rows, width, dtype=dtype, generator=generator).requires_grad_()
    weight = torch.randn(vocab, width, dtype=dtype, generator=generator).requires_grad_()
    labels = torch.randint(0, vocab, (rows,), generator=generator)
    return hidden, weight, labels


@pytest.fixture
def small_blocks(monkeypatch) -> None:
    monkeypatch.setattr(functional, "_BLOCK_ROWS", 3)


@pytest.mark.parametrize("ignored", [[], [2, 9], list(range(10))], ids=["all", "some", "none"])
@pytest.mark.parametrize(("smoothing", "z_loss"), [(0.0, 0.0), (0.1, 0.0), (0.0, 0.3), (0.1, 0.3)])
def test_cross_entropy_gradients_are_exact(small_blocks, ignored, smoothing, z_loss) -> None:
    hidden, weight, labels = example()
    labels[ignored] = -100

    def loss(hidden, weight):
        return linear_cross_entropy(hidden, weight, labels, label_smoothing=smoothing, z_loss=z_loss)

    assert torch.autograd.gradcheck(loss, (hidden, weight))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy_is_torchs(small_blocks, smoothing: float) -> None:
    hidden, weight, labels = example()
    labels[4] = -100
    scores = hidden @ weight.t()
    expected = F.cross_entropy(scores, labels, reduction="sum", label_smoothing=smoothing)
    total, z = linear_cross_entropy(hidden, weight, labels, label_smoothing=smoothing, z_loss=0.5)
    assert torch.allclose(total, expected)
    assert torch.allclose(z, 0.5 * scores[labels != -100].logsumexp(-1).square().sum())


def test_cross_entropy_terms_may_be_weighted_apart(small_blocks) -> None:
    hidden, weight, labels = example()
    total, z = linear_cross_entropy(hidden, weight, labels, z_loss=0.5)
    gradient = torch.autograd.grad(3 * total + 7 * z, weight)[0]
    scores = hidden @ weight.t()
    reference = (
        3 * F.cross_entropy(scores, labels, reduction="sum") + 3.5 * scores.logsumexp(-1).square().sum()
    )
    assert torch.allclose(gradient, torch.autograd.grad(reference, weight)[0])


@pytest.mark.parametrize("frozen", ["hidden", "weight", "both"])
def test_cross_entropy_forms_only_the_gradients_asked_for(frozen: str) -> None:
    hidden, weight, labels = example()
    hidden.requires_grad_(frozen == "weight")
    weight.requires_grad_(frozen == "hidden")
    total, _ = linear_cross_entropy(hidden, weight, labels)
    assert total.requires_grad == (frozen != "both")
    if total.requires_grad:
        total.backward()
    assert (hidden.grad is not None, weight.grad is not None) == (hidden.requires_grad, weight.requires_grad)


def test_cross_entropy_in_bfloat16_sums_in_float32(small_blocks) -> None:
    hidden, weight, labels = example(torch.float32, rows=200, width=32, vocab=50)
    expected, _ = linear_cross_entropy(hidden, weight, labels)
    half_hidden, half_weight = (x.detach().bfloat16().requires_grad_() for x in (hidden, weight))
    total, _ = linear_cross_entropy(half_hidden, half_weight, labels)
    assert total.dtype == torch.float32
    assert total.item() == pytest.approx(expected.item(), rel=2e-3)
    expected.backward()
    total.backward()
    for half, full in ((half_hidden.grad, hidden.grad), (half_weight.grad, weight.grad)):
        assert half is not None and full is not None
        assert half.dtype == torch.bfloat16
        assert (half.float() - full).norm() < 0.02 * full.norm()


def test_cross_entropy_follows_autocast() -> None:
    hidden, weight, labels = example(torch.float32, rows=20, width=16, vocab=30)
    expected, _ = linear_cross_entropy(hidden, weight, labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total, _ = linear_cross_entropy(hidden, weight, labels)
    total.backward()
    assert total.item() == pytest.approx(expected.item(), rel=1e-2)
    assert weight.grad is not None and weight.grad.dtype == torch.float32


@pytest.mark.parametrize("z_loss", [0.0, 0.3])
def test_cross_entropy_with_a_bias(small_blocks, z_loss: float) -> None:
    hidden, weight, labels = example()
    bias = torch.linspace(-1, 1, 7, dtype=torch.float64).requires_grad_()
    labels[4] = -100
    total, _ = linear_cross_entropy(hidden, weight, labels, bias=bias)
    expected = F.cross_entropy(F.linear(hidden, weight, bias), labels, reduction="sum")
    assert torch.allclose(total, expected)

    def loss(hidden, weight, bias):
        return linear_cross_entropy(hidden, weight, labels, bias=bias, z_loss=z_loss)

    assert torch.autograd.gradcheck(loss, (hidden, weight, bias))


def test_draws_follow_the_softmax_and_carry_no_gradient(small_blocks, monkeypatch) -> None:
    monkeypatch.setattr(functional, "_BLOCK_ROWS", 1000)
    one, weight, _ = example(rows=1)
    hidden, labels = one.expand(200_000, -1), torch.zeros(200_000, dtype=torch.int64)
    bias = torch.linspace(-1, 1, 7, dtype=torch.float64)
    rng = torch.Generator().manual_seed(1)
    total, drawn = sampled_cross_entropy(hidden, weight, labels, bias=bias, rng=rng)
    shares = drawn.bincount(minlength=7) / len(drawn)
    assert (shares - F.linear(one, weight, bias).softmax(-1)).abs().max() < 0.004  # 3.6 standard errors
    assert not drawn.requires_grad
    assert torch.allclose(total, linear_cross_entropy(hidden, weight, labels, bias=bias)[0])
    with torch.no_grad():
        rng = torch.Generator().manual_seed(1)
        assert torch.equal(sampled_cross_entropy(hidden, weight, labels, bias=bias, rng=rng)[1], drawn)


def reference_norm(x, weight, eps):
    """What Qwen3RMSNorm computes."""
    wide = x.float()
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return weight * wide.to(x.dtype)


def test_rms_norm_is_the_reference() -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(3, 5, 48, generator=generator) * 3, 1 + 0.2 * torch.randn(48, generator=generator)
    assert (rms_norm(x, weight, 1e-6) - reference_norm(x, weight, 1e-6)).abs().max() <= 1e-6
    x, weight = x.bfloat16(), weight.bfloat16()
    ours, reference = rms_norm(x, weight, 1e-6), reference_norm(x, weight, 1e-6)
    assert ours.dtype == torch.bfloat16
    assert ((ours - reference).abs() <= 2**-7 * reference.abs()).all()  # one unit in the last place


def test_rms_norm_gradients_are_exact() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 3, 6, dtype=torch.float64, generator=generator).transpose(0, 1).requires_grad_()
    weight = torch.randn(6, dtype=torch.float64, generator=generator).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, w: rms_norm(x, w, 1e-3), (x, weight))
