"""What this machine can do at most, measured: the fastest product of two matrices, and how fast it reads memory."""

from __future__ import annotations

import mmap
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

Shape = tuple[int, int, int]

# Rows, inner, columns: of training steps, which caches hold, and on a GPU some that fill it.
SHAPES: dict[str, tuple[Shape, ...]] = {
    "cpu": ((2048, 384, 1536), (2048, 768, 3072), (2048, 2048, 2048)),
    "cuda": ((16384, 768, 3072), (4096, 4096, 4096), (8192, 8192, 8192)),
}
_FLOATS = (torch.float32, torch.bfloat16)
_READ = 1 << 29  # bytes: more than caches hold
_LEAST = 3  # times that something is measured, however long it takes


def wait(device: torch.device) -> None:
    """Until what was asked of a device is done: only then is a clock worth reading."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def multiplied(device: torch.device) -> tuple[torch.dtype, ...]:
    """The formats whose product torch has in public and a device computes natively."""
    known: Mapping[str, Any] = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    units = {"cpu": any(known.get(name) for name in ("amx_int8", "avx512_vnni", "avx_vnni")), "cuda": True}
    return (*_FLOATS, torch.int8) if units.get(device.type) else _FLOATS


def product_speed(
    dtype: torch.dtype, device: torch.device, shape: Shape = (1024, 1024, 1024), seconds: float = 0.1
) -> float:
    """Operations a second of a matrix product, two for each multiplication; the median of some in so many seconds.

    Args:
        shape: rows, inner and columns: (R, I) @ (I, C).
    """
    rows, inner, columns = shape
    a, b = _filled((rows, inner), dtype, device), _filled((inner, columns), dtype, device)
    multiply = torch._int_mm if dtype == torch.int8 else torch.mm
    return 2 * rows * inner * columns / _median(lambda: multiply(a, b), device, seconds)


def fastest_shape(dtype: torch.dtype, device: torch.device) -> Shape:
    """The one of `SHAPES` whose product is fastest here: what a format can do at most is measured with it."""
    shapes = SHAPES.get(device.type, SHAPES["cpu"])
    return max(shapes, key=lambda shape: product_speed(dtype, device, shape))


def read_speed(device: torch.device, size: int = _READ, seconds: float = 0.1) -> float:
    """Bytes a second that a device reads from its memory: the median of some sums over `size` bytes."""
    if device.type != "cpu":
        memory = torch.ones(size // 4, device=device)
        return size / _median(memory.sum, device, seconds)
    # Not from the heap, which may keep it for ever: whoever measures may look at the memory of something else next.
    with mmap.mmap(-1, size) as pages:
        memory = torch.frombuffer(pages, dtype=torch.float32).fill_(1.0)
        found = size / _median(memory.sum, device, seconds)
        del memory
    return found


def _filled(shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> Tensor:
    if dtype == torch.int8:
        return torch.randint(-8, 8, shape, dtype=dtype, device=device)
    return torch.randn(shape, device=device).to(dtype)


def _median(work: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Seconds of some work. On a GPU of ten in a row, as launching one may take longer than it does."""
    together = 1 if device.type == "cpu" else 10
    times: list[float] = []
    work()
    wait(device)
    end = time.perf_counter() + seconds
    while len(times) < _LEAST or time.perf_counter() < end:
        begun = time.perf_counter()
        for _ in range(together):
            work()
        wait(device)
        times.append((time.perf_counter() - begun) / together)
    return statistics.median(times)
