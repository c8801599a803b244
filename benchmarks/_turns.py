"""Several ways of doing the same, each in a process of its own, that take turns in one run."""

from __future__ import annotations

import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from melete import machine
from melete.console import Progress


class Turns:
    """The end of the pipe at which one side works: it waits for its turn before each step, and tells of it after.

    A turn is a number of steps. Its time runs from when it is given to when its last step is done.
    """

    def __init__(self, pipe: Connection) -> None:
        self._pipe, self._left = pipe, 0
        self._begun, self._tokens = 0.0, 0
        self._losses: list[Any] = []

    def ready(self) -> None:
        """Everything is loaded."""
        self._pipe.send(None)

    def wait(self) -> bool:
        """Before each step: True once it may be taken, False when no more are asked for."""
        if not self._left:
            self._left = self._pipe.recv()
            self._begun, self._tokens, self._losses = time.perf_counter(), 0, []
        return self._left > 0

    def done(self, tokens: int, loss: Any) -> None:
        """After each step: the real tokens that were read, and their mean loss, a number or a tensor of one.

        A tensor is read when the turn ends: to ask a GPU earlier would be to wait for it at each step.
        """
        self._tokens += tokens
        self._losses.append(loss)
        self._left -= 1
        if not self._left:
            losses = [float(loss) for loss in self._losses]
            seconds = time.perf_counter() - self._begun
            self._pipe.send((self._tokens / seconds, losses, peak_memory()))


def peak_memory() -> int:
    """Bytes that this process held at most: of the GPU where it uses one, else of main memory."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    held = machine.peak_memory()
    assert held is not None, "this system does not tell how much memory a process held"
    return held


@dataclass
class Seen:
    """What one side did: tokens a second of each turn, the loss of each step, and its peak memory in bytes."""

    rates: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    memory: int = 0

    @property
    def rate(self) -> float:
        """Median of the turns."""
        return statistics.median(self.rates)


def take_turns(
    name: str, sides: Mapping[str, tuple[Callable[..., None], tuple[Any, ...]]], lengths: list[dict[str, int]]
) -> dict[str, Seen]:
    """Run all sides in turn.

    Args:
        name: of what is compared, for the progress line.
        sides: name -> function and its arguments behind the `Turns`; it runs in a process of its own.
        lengths: for each round, how many steps each side takes; a side that is not named sits it out. The first
            round warms up: its time does not count.
    """
    spawn = multiprocessing.get_context("spawn")
    pipes: dict[str, Any] = {}
    for side, (function, arguments) in sides.items():
        pipes[side], theirs = spawn.Pipe()
        spawn.Process(target=_work, args=(theirs, function, arguments), daemon=True).start()
        theirs.close()
        pipes[side].recv()
    seen = {side: Seen() for side in sides}
    with Progress(name, "rounds", len(lengths)) as progress:
        for number, steps in enumerate(lengths):
            # Neither always goes first.
            for side in list(steps)[:: 1 if number % 2 else -1]:
                pipes[side].send(steps[side])
                rate, losses, seen[side].memory = pipes[side].recv()
                seen[side].losses += losses
                if number:
                    seen[side].rates.append(rate)
            progress.advance(1)
    for pipe in pipes.values():
        pipe.send(0)
    return seen


def _work(pipe: Connection, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    function(Turns(pipe), *arguments)
