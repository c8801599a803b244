from __future__ import annotations

import pytest
import torch

from melete.nn.positions import (
    RopeParameters,
    Rotary,
    resized_positions,
    rotary_frequencies,
    rotate,
    sinusoids,
    stretched,
)


def test_rotation_is_a_rotation_of_each_pair() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 5, 2, 8, generator=generator)
    positions = torch.tensor([[0, 3, 4, 100, 7]])
    cos, sin = Rotary(8, RopeParameters())(positions, 101, torch.float32)
    out = rotate(x, cos, sin).transpose(1, 2)
    frequencies, _ = rotary_frequencies(8, RopeParameters())
    turn = torch.polar(torch.ones(5, 4), positions[0, :, None] * frequencies)[None, :, None]
    expected = torch.complex(x[..., :4], x[..., 4:]) * turn
    assert torch.allclose(out, torch.cat([expected.real, expected.imag], dim=-1), atol=1e-5)


def test_scores_depend_on_distance_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 1, 1, 16, generator=generator)
    rotary = Rotary(16, RopeParameters())

    def score(query: int, key: int) -> float:
        at = [rotary(torch.tensor([[position]]), 64, torch.float32) for position in (query, key)]
        return float((rotate(q, *at[0]) * rotate(k, *at[1])).sum())

    assert score(5, 2) == pytest.approx(score(43, 40), abs=1e-4)
    assert score(5, 2) != pytest.approx(score(5, 4), abs=0.1)


def test_rotation_gradients_are_exact() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 2, 4, dtype=torch.float64, generator=generator).requires_grad_()
    cos, sin = Rotary(4, RopeParameters())(torch.tensor([[0, 1, 2], [2, 0, 9]]), 10, torch.float64)
    assert torch.autograd.gradcheck(lambda x: rotate(x, cos, sin), (x,))


def test_angles_stay_exact_in_a_bfloat16_model() -> None:
    rotary = Rotary(8, RopeParameters())
    far = torch.tensor([[4001]])
    exact = rotary(far, 4002, torch.float32)[0]
    assert (rotary(far, 4002, torch.bfloat16)[0].float() - exact).abs().max() < 2**-8


def test_angles_made_in_inference_mode_serve_training() -> None:
    rotary = Rotary(4, RopeParameters())
    positions = torch.arange(3)[None]
    with torch.inference_mode():
        rotary(positions, 3, torch.float32)
    x = torch.randn(1, 3, 1, 4, requires_grad=True)
    rotate(x, *rotary(positions, 3, torch.float32)).sum().backward()
    assert x.grad is not None


def test_stretching_keeps_the_context_of_training() -> None:
    yarn = stretched(RopeParameters(rope_theta=1e6), 32, 128, "yarn")
    assert (yarn.factor, yarn.original_max_position_embeddings, yarn.rope_theta) == (4.0, 32, 1e6)
    assert stretched(yarn, 128, 256, "yarn").factor == 8.0
    assert stretched(stretched(RopeParameters(), 32, 64, "linear"), 64, 128, "linear").factor == 4.0


def test_incomplete_scaling_is_refused() -> None:
    with pytest.raises(ValueError, match="factor is None"):
        RopeParameters(rope_type="linear")
    with pytest.raises(ValueError, match="original_max_position_embeddings is missing"):
        RopeParameters(rope_type="yarn", factor=2.0)


def test_sinusoids_are_those_of_the_paper() -> None:
    table = sinusoids(10, 6)
    assert table.shape == (10, 6)
    assert torch.equal(table[0], torch.tensor([0.0, 0, 0, 1, 1, 1]))
    assert table[3, 1].item() == pytest.approx(torch.tensor(3 / 10000 ** (2 / 6)).sin().item(), abs=1e-6)


def test_learned_positions_are_interpolated_or_cut() -> None:
    table = torch.tensor([[0.0, 10.0], [1.0, 20.0], [2.0, 30.0]])
    assert torch.allclose(resized_positions(table, 5)[:, 0], torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0]))
    assert torch.equal(resized_positions(table, 2), table[:2])
