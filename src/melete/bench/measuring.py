"""Models measured on this machine, in turns with what the machine can do at most."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from melete import __version__
from melete.bench import sides, steps
from melete.bench.sides import MEMORY, PARTS, Side, Sizes, kind_of
from melete.console import Progress, say
from melete.errors import InputError
from melete.machine import forget_peak, peak_memory, usable_cores
from melete.nn import native
from melete.training import ceilings
from melete.training.doctor import cpu_name, gpu_names
from melete.training.precision import choose_device

USUAL = ("gpt2:mini", "bert:mini")
TURN = 0.5  # seconds of one side, before the next one's turn
_PREPARED = {"training": steps.training, "decoding": sides.decoding, "encoding": sides.encoding}


@dataclass(frozen=True)
class Measured:
    """Median of the repeats, lowest and highest."""

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Measured:
        """Of one value or more."""
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True)
class Figure:
    """One kind of work on one model.

    Attributes:
        shape: of a turn.
        tokens_per_second: None where it cannot be had.
        reached: operations, or bytes of weights read, a second.
        of: the ceiling beside it: a number format, or "memory".
        share: of that ceiling.
        peak_bytes: most memory held: of the GPU where one is used; None: not known.
        refused: why it cannot be had.
    """

    model: str
    what: str
    dtype: str
    shape: str
    tokens_per_second: Measured | None = None
    reached: float | None = None
    of: str = ""
    share: float | None = None
    peak_bytes: int | None = None
    refused: str = ""


@dataclass(frozen=True)
class Report:
    """What came of it.

    Attributes:
        machine: processor, GPUs, cores, threads, device, versions.
        repeats: of each turn; one before them warmed up.
        parameters: of each model.
        ceilings: operations a second by number format, and bytes read a second as "memory".
    """

    machine: dict[str, Any]
    repeats: int
    parameters: dict[str, int]
    ceilings: dict[str, Measured]
    figures: list[Figure]


class _Ceilings:
    """What the machine can do, looked at again in each round: other programs slow both it and the models."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.shapes = {dtype: ceilings.fastest_shape(dtype, device) for dtype in ceilings.multiplied(device)}
        self.seen: dict[str, list[float]] = {}

    def look(self) -> None:
        """Measure each once more."""
        for dtype, shape in self.shapes.items():
            name = str(dtype).removeprefix("torch.")
            self.seen.setdefault(name, []).append(ceilings.product_speed(dtype, self.device, shape))
        self.seen.setdefault(MEMORY, []).append(ceilings.read_speed(self.device))


def bench(
    sources: Sequence[str] = (),
    only: Sequence[str] = (),
    *,
    sizes: Sizes | None = None,
    repeats: int = 5,
    device: str = "auto",
) -> Report:
    """Measure models on this machine: training, decoding or encoding, beside its fastest products and its memory.

    The repeats of what is compared take turns. Nothing is kept: weights and files are temporary.

    Args:
        sources: folders or presets; none: `USUAL`, a small decoder and a small encoder, the encoder without training.
        only: parts to measure; none: all that a model has.
        device: auto, cpu, cuda or mps.

    Raises:
        InputError: no such model, part or device; sizes that the model does not have.
    """
    sizes, place = sizes or Sizes(), choose_device(device)
    counts = (repeats, sizes.rows, sizes.context, min(sizes.batches))
    for name, value in zip(("repeats", "rows", "context", "batch"), counts, strict=True):
        if value is not None and value < 1:
            raise InputError(f"{name} is {value}", expected="1 or more")
    work = list(_parts(sources, only))
    for source, part in work:
        if part == "training":
            steps.run_of(source, sizes, place)  # what it refuses should not wait for the rest
    parameters = {source: sides.parameters_of(source) for source, _ in work}
    done: list[Side] = []
    say("measuring what this machine can do ...")
    with TemporaryDirectory(prefix="melete-bench-") as folder, native.unused():
        seen = _Ceilings(place)
        for number, (source, part) in enumerate(work):
            scratch = Path(folder, str(number))
            scratch.mkdir()
            say(f"preparing {part} of {source} ...")
            found = list(_PREPARED[part](source, sizes, place, scratch))
            _take_turns(f"{part} of {source}", found, repeats, seen)
            done += found
            for side in found:
                side.work = None  # lets go of its model
    highest = {name: Measured.of(values) for name, values in seen.seen.items()}
    order = list(_PREPARED)
    done.sort(key=lambda side: (order.index(side.what), side.model))
    return Report(_machine(place), repeats, parameters, highest, [_figure(side, highest) for side in done])


def _parts(sources: Sequence[str], only: Sequence[str]) -> Iterator[tuple[str, str]]:
    """What is measured of which model. Training last: it keeps what memory it frees, and so would what follows."""
    have: dict[str, tuple[str, ...]] = {source: PARTS[kind_of(source)] for source in sources or USUAL}
    if not sources and not only:
        have[USUAL[1]] = ("encoding",)
    known = {part for parts in have.values() for part in parts}
    for part in only:
        if part not in known:
            source = ", ".join(have)
            raise InputError(f"{source} does no {part}", expected=" or ".join(sorted(known)))
    for last in (False, True):
        for source, parts in have.items():
            yield from (
                (source, part) for part in parts if (part == "training") is last and part in (only or known)
            )


def _take_turns(label: str, found: list[Side], repeats: int, seen: _Ceilings) -> None:
    """Every side once a round, and neither always first; the first round warms up."""
    able = [side for side in found if side.work is not None]
    with Progress(label, "turns", (repeats + 1) * len(able)) as progress:
        for number in range(repeats + 1):
            seen.look()
            for side in able[:: 1 if number % 2 else -1]:
                rate, peak = _turn(side, seen.device)
                if number:
                    side.rates.append(rate)
                    side.peak = peak if peak is None else max(peak, side.peak or 0)
                progress.advance(1)


def _turn(side: Side, device: torch.device) -> tuple[float, int | None]:
    """Tokens a second of about `TURN` seconds of work, and the most memory that was held."""
    assert side.work is not None
    known = forget_peak()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    tokens, seconds, begun = 0, 0.0, time.perf_counter()
    while not tokens or seconds < TURN:
        tokens += side.work()
        ceilings.wait(device)
        seconds = time.perf_counter() - begun
    if device.type == "cuda":
        return tokens / seconds, torch.cuda.max_memory_allocated(device)
    return tokens / seconds, peak_memory() if known and device.type == "cpu" else None


def _figure(side: Side, highest: Mapping[str, Measured]) -> Figure:
    if not side.rates:
        return Figure(side.model, side.what, side.dtype, side.shape, refused=side.refused)
    rate = Measured.of(side.rates)
    reached = rate.median * side.cost
    # A format that is not measured (float16, on an old GPU) has nothing to stand beside.
    share = reached / highest[side.of].median if side.of in highest else None
    # Several precisions of one model lie beside each other while it is written with: only a trainer is alone.
    peak = side.peak if side.what == "training" else None
    return Figure(side.model, side.what, side.dtype, side.shape, rate, reached, side.of, share, peak)


def _machine(device: torch.device) -> dict[str, Any]:
    return {
        "cpu": cpu_name(),
        "gpu": gpu_names(),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "device": str(device),
        "system": platform.system(),
        "melete": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
