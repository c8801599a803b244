"""What a machine can do is measured in bounds that any has."""

from __future__ import annotations

import pytest
import torch

from melete.training.ceilings import multiplied, product_speed, read_speed

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", multiplied(CPU), ids=str)
def test_products_are_measured(dtype: torch.dtype) -> None:
    assert 1e7 < product_speed(dtype, CPU, (64, 64, 64), seconds=0.01) < 1e15


def test_reading_is_measured() -> None:
    assert 1e7 < read_speed(CPU, 1 << 22, seconds=0.01) < 1e14
