"""The device on which a comparison runs: its name, and what it can do at most."""

from __future__ import annotations

import platform
import re
from collections.abc import Sequence

import torch

from melete.machine import usable_cores
from melete.training.ceilings import SHAPES, Shape, product_speed, read_speed

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


def ceiling(device: str, shapes: Sequence[Shape] = ()) -> float:
    """FLOP/s of the fastest bfloat16 product among a few shapes: (rows, inner, columns) each; none: the device's."""
    place = torch.device(device)
    return max(product_speed(torch.bfloat16, place, shape) for shape in shapes or SHAPES[device])


def bandwidth(device: str, numbers: int = 1 << 27) -> float:
    """GB a second that the device reads from its memory; `numbers` of 4 bytes each time."""
    return read_speed(torch.device(device), 4 * numbers) / 1e9
