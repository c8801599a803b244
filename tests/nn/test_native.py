"""The kernels in C give what torch gives in float32, up to the rounding of bfloat16; forward and backward."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from melete.nn import functional, fused, native
from melete.nn.attention import Mask, attention, document_mask, mutual_mask, source_mask
from melete.nn.cache import Source
from melete.nn.positions import RopeParameters, Rotary, rotate


@pytest.fixture(scope="module", autouse=True)
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CC", "cc")
        why = native.use(tmp_path_factory.mktemp("kernels"))
    if not native.in_use():
        pytest.skip(why)
    yield
    native.use(None)


def check(function: Callable[..., Tensor], *inputs: Tensor, error: float = 0.01) -> None:
    """Outputs and slopes in bfloat16 beside those in float32, by the norm of the difference."""
    narrow = [x.bfloat16().requires_grad_() for x in inputs]
    wide = [x.detach().float().requires_grad_() for x in narrow]
    found, expected = function(*narrow), function(*wide)
    upstream = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    found.backward(upstream.to(found.dtype))
    expected.backward(upstream.float())
    pairs = [(found, expected), *((a.grad, b.grad) for a, b in zip(narrow, wide, strict=True))]
    for ours, right in pairs:
        assert ours is not None and right is not None
        assert float((ours.detach().float() - right.detach()).norm() / right.detach().norm()) < error


def draw(*shape: int, scale: float = 1.0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))) * scale


@pytest.mark.parametrize("kind", ["gelu", "gelu_tanh", "silu"])
def test_activations(kind: str) -> None:
    check(lambda x: functional.activate(x, kind), draw(7, 33, 257, scale=2.0))
    check(lambda x, y: functional.gated(x, y, kind), draw(5, 33), draw(33, 5).t())
    check(lambda x: functional.gated_halves(x, kind), draw(5, 9, 66))


@pytest.mark.parametrize("kind", ["gelu", "gelu_tanh", "silu"])
def test_activations_of_large_numbers(kind: str) -> None:
    x = torch.tensor([-3e4, -200.0, -88.5, -87.0, -11.0, -9.5, -1.0, 0.0, 9.5, 11.0, 88.5, 3e4])
    check(lambda x: functional.activate(x, kind).clamp(-1e4, 1e4), x)
    check(lambda x: functional.gated(x, torch.ones_like(x), kind).clamp(-1e4, 1e4), x)


def test_norms_and_linear() -> None:
    check(lambda x, w, b: functional.layer_norm(x, w, b, 1e-5), draw(3, 50, 65) + 1.0, draw(65), draw(65))
    check(lambda x, w: functional.rms_norm(x, w, 1e-5), draw(3, 50, 65), draw(65))
    check(functional.linear, draw(3, 35, 30), draw(75, 30), draw(75))


def test_the_slopes_of_both_ways_around_a_norm_are_added() -> None:
    def block(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        if native.fits(x):
            normed, past = fused.Norm.apply(x, w, b, 1e-5, True)  # pyright: ignore[reportGeneralTypeIssues]
        else:
            normed, past = functional.layer_norm(x, w, b, 1e-5), x
        return normed * 0.5 + past.square()

    check(block, draw(3, 50, 65) + 1.0, draw(65), draw(65))


def test_rotation() -> None:
    rotary = Rotary(16, RopeParameters())
    positions = torch.arange(40).view(2, 20)
    check(lambda x: rotate(x, *rotary(positions, 40, x.dtype)), draw(2, 20, 3, 16))
    check(lambda x: rotate(x.unbind(2)[1], *rotary(positions, 40, x.dtype)), draw(2, 20, 3, 3, 16))


@pytest.mark.parametrize(("heads", "kv_heads", "length"), [(4, 2, 37), (2, 2, 531)])
def test_attention(heads: int, kv_heads: int, length: int) -> None:
    documents = torch.ones(2, length, dtype=torch.int32)
    documents[:, length // 3 :], documents[0, length // 2 :], documents[1, -5:] = 2, 3, 0
    q, k, v = draw(2, heads, length, 16), draw(2, kv_heads, length, 16), draw(2, kv_heads, length, 16).flip(2)
    masks: list[Callable[[], Mask]] = [
        lambda: document_mask(torch.ones_like(documents)),
        lambda: document_mask(documents),
        lambda: mutual_mask(documents),
        lambda: mutual_mask(documents, 8),
        lambda: Mask(plain=True),
        lambda: source_mask(documents.clamp_max(1), Source((documents < 3).int().cummin(1).values, [])),
    ]
    for mask in masks:
        check(lambda q, k, v, mask=mask: attention(q, k, v, mask()), q, k, v)


@pytest.mark.parametrize(("rows", "vocabulary"), [(100, 1000), (1500, 333)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy(rows: int, vocabulary: int, smoothing: float) -> None:
    labels = torch.randint(vocabulary, (rows,), generator=torch.Generator().manual_seed(0))
    labels[3] = -100

    def loss(hidden: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return functional.linear_cross_entropy(hidden, weight, labels, bias=bias, label_smoothing=smoothing)[
            0
        ]

    hidden, weight = draw(rows, 32), draw(vocabulary, 32, scale=0.3)
    check(loss, hidden, weight, draw(vocabulary))
    check(loss, hidden, weight)
    broken = hidden.bfloat16()
    broken[0, 0] = float("nan")
    assert not torch.isfinite(loss(broken, weight.bfloat16()))


def test_draws_follow_the_softmax() -> None:
    hidden, weight = draw(1, 32).bfloat16(), draw(5, 32).bfloat16()
    rows, labels = hidden.expand(50_000, 32), torch.zeros(50_000, dtype=torch.int64)
    rng = torch.Generator().manual_seed(0)
    _, drawn = functional.sampled_cross_entropy(rows, weight, labels, rng=rng)
    shares = torch.bincount(drawn, minlength=5) / len(drawn)
    expected = (hidden.float() @ weight.float().t()).softmax(-1)[0]
    torch.testing.assert_close(shares, expected, rtol=0, atol=0.01)


def test_dropout_drops_the_same_twice_and_follows_the_seed() -> None:
    x = torch.ones(100_000, dtype=torch.bfloat16, requires_grad=True)

    def dropped() -> Tensor:
        torch.manual_seed(3)
        return functional.dropout(x, 0.1)

    y = dropped()
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, y.detach())
    assert torch.equal(y, dropped())
    assert not torch.equal(y, functional.dropout(x, 0.1))
    assert float((y == 0).float().mean()) == pytest.approx(0.1, abs=0.005)
    assert float(y.detach().float().mean()) == pytest.approx(1.0, abs=0.005)


@pytest.mark.parametrize("length", [40, 600])
def test_dropped_attention_is_linear_in_its_values(length: int) -> None:
    q, v = (draw(1, 2, length, 16, scale=x).bfloat16().requires_grad_() for x in (1.0, 2.0))
    torch.manual_seed(5)
    out = attention(q, q, v, Mask(plain=True), dropout=0.5).float()
    torch.manual_seed(5)
    assert torch.equal(out, attention(q, q, v, Mask(plain=True), dropout=0.5).float())
    (out * out.detach()).sum().backward()
    assert v.grad is not None
    assert float((v.grad * v).detach().float().sum()) == pytest.approx(
        float(out.detach().square().sum()), rel=0.02
    )
    assert not torch.allclose(out, attention(q, q, v, Mask(plain=True)).float(), atol=0.1)
