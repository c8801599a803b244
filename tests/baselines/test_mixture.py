"""The mixture: at least as good as its parts, and honest about its weight."""

from __future__ import annotations

import numpy as np

from melete.baselines.mixture import mix


def two_models(tokens: int = 20_000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Model a is good where the bucket is 1, model b where it is 0."""
    rng = np.random.default_rng(0)
    buckets = rng.integers(0, 2, tokens)
    good, bad = rng.beta(4, 2, tokens), rng.beta(1, 6, tokens)
    a = np.where(buckets == 1, good, bad)
    b = np.where(buckets == 1, bad, good)
    return np.log(a), np.log(b), buckets


def test_weight_of_each_half_is_the_best_one_of_the_other() -> None:
    log_a, log_b, _ = two_models(4000)
    mixed, weights = mix(log_a, log_b)
    grid = np.linspace(0.001, 0.999, 999)[:, None]
    a, b = np.exp(log_a), np.exp(log_b)
    for half, other in ((slice(0, 2000), 1), (slice(2000, None), 0)):
        likelihood = np.log(grid * a[half] + (1 - grid) * b[half]).sum(1)
        assert abs(weights[other, 0] - grid[likelihood.argmax(), 0]) < 2e-3
    first = np.log(weights[0, 0] * a[:2000] + (1 - weights[0, 0]) * b[:2000])
    np.testing.assert_allclose(mixed[:2000], first, rtol=0, atol=1e-12)


def test_no_token_has_a_part_in_its_own_weight() -> None:
    log_a, log_b, buckets = two_models(1000)
    before, _ = mix(log_a, log_b, buckets)
    log_a[700:], log_b[700:] = -9.0, -1.0
    after, _ = mix(log_a, log_b, buckets)
    assert not np.array_equal(before[:500], after[:500])
    assert np.array_equal(before[500:700], after[500:700])


def test_buckets_find_where_each_model_is_to_be_trusted() -> None:
    log_a, log_b, buckets = two_models()
    plain, _ = mix(log_a, log_b)
    by_bucket, weights = mix(log_a, log_b, buckets)
    assert plain.mean() > max(log_a.mean(), log_b.mean())
    assert by_bucket.mean() > plain.mean() + 0.1
    assert (weights[:, 0] < 0.3).all()
    assert (weights[:, 1] > 0.7).all()


def test_a_hopeless_model_costs_next_to_nothing() -> None:
    log_a, _, _ = two_models()
    mixed, weights = mix(log_a, np.full_like(log_a, -40.0))
    assert np.abs(mixed - log_a).max() < 1e-3
    assert (weights > 0.999).all()


def test_one_token_gets_an_even_weight() -> None:
    mixed, weights = mix(np.log([0.5]), np.log([0.1]))
    np.testing.assert_allclose(mixed, np.log([0.3]))
    assert weights[1, 0] == 0.5
