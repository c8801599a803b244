"""The device on which a comparison runs: its name, what it can do at most, and how its clock is read."""

from __future__ import annotations

import platform
import re
import statistics
import time
from collections.abc import Callable, Sequence

import torch

from melete.machine import usable_cores

# FLOP/s of bfloat16 products without sparsity, by words of the device's name, from NVIDIA's data sheets; the first of
# which all words are there counts.
PEAKS: tuple[tuple[tuple[str, ...], float], ...] = (
    (("B200",), 2250e12),
    (("H200", "NVL"), 836e12),
    (("H200",), 989e12),
    (("GH200",), 989e12),
    (("H100", "PCIe"), 756e12),
    (("H100", "NVL"), 836e12),
    (("H100",), 989e12),
    (("A100",), 312e12),
    (("A30",), 165e12),
    (("A10G",), 70e12),
    (("A10",), 125e12),
    (("L40S",), 362e12),
    (("L40",), 181e12),
    (("L4",), 121e12),
    (("4090",), 165e12),
    (("3090",), 71e12),
)
# Products of a training step on a CPU; large ones, which fill a GPU.
SHAPES = {
    "cpu": ((2048, 768, 3072), (2048, 384, 1536), (4096, 4096, 4096)),
    "cuda": ((16384, 768, 3072), (4096, 4096, 4096), (8192, 8192, 8192)),
}


def described(device: str) -> str:
    """What it is, for the first line of a report."""
    if device == "cuda":
        facts = torch.cuda.get_device_properties(0)
        return f"{facts.name}, {facts.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"
    return f"{platform.system()} {platform.machine()}, {usable_cores()} cores"


def published_peak(name: str) -> float | None:
    """FLOP/s of bfloat16 products by the data sheet of a GPU of this name; None: unknown, or only a part of one."""
    words = set(re.findall(r"\w+", name))
    if "MIG" in words:
        return None
    return next((peak for need, peak in PEAKS if words.issuperset(need)), None)


def peak_of(device: str) -> float | None:
    """`published_peak` of the device that is here; of a CPU nothing is published that its clock would keep."""
    return published_peak(torch.cuda.get_device_name(0)) if device == "cuda" else None


def wait(device: str) -> None:
    """Until what was asked of it is done."""
    if device == "cuda":
        torch.cuda.synchronize()


def ceiling(device: str, shapes: Sequence[tuple[int, int, int]] = ()) -> float:
    """FLOP/s of the fastest bfloat16 product among a few shapes: (rows, inner, columns) each; none: the device's."""
    best = 0.0
    for rows, inner, columns in shapes or SHAPES[device]:
        a = torch.randn(rows, inner, device=device).bfloat16()
        b = torch.randn(inner, columns, device=device).bfloat16()
        seconds = _seconds(device, lambda a=a, b=b: torch.mm(a, b), 20)
        best = max(best, 2 * rows * inner * columns / seconds)
    return best


def bandwidth(device: str, numbers: int = 1 << 27) -> float:
    """GB a second that the device reads from its memory; `numbers` of 4 bytes each time."""
    memory = torch.ones(numbers, device=device)
    return memory.nbytes / 1e9 / _seconds(device, memory.sum, 9)


def _seconds(device: str, work: Callable[[], object], repeats: int) -> float:
    """Median time of some work. On a GPU of ten in a row, as launching one may take longer than it does."""
    together = 10 if device == "cuda" else 1
    seconds = []
    for _ in range(repeats):
        wait(device)
        begun = time.perf_counter()
        for _ in range(together):
            work()
        wait(device)
        seconds.append((time.perf_counter() - begun) / together)
    return statistics.median(seconds)
