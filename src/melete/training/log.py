"""`events.jsonl`: the trainer's only output besides checkpoints. Progress, plots and reports are readers of it."""

from __future__ import annotations

import json
import math
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

from melete.console import duration, say
from melete.errors import StorageError


class EventLog:
    """Appends events as JSON lines, and shows each to a live reader.

    Args:
        path: the file; None keeps no file (a rank other than 0).
        live: called with each event.
    """

    def __init__(self, path: Path | None, live: Callable[[dict[str, Any]], None] | None = None) -> None:
        self._path, self._live = path, live

    def write(self, event: str, **fields: Any) -> None:
        """Append one event. JSON has no NaN: a number that is not finite is written as null.

        Raises:
            StorageError: there is no room for it.
        """
        record = {"event": event, **_finite(fields)}
        if self._path:
            line = json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"
            try:
                with self._path.open("ab") as file:
                    file.write(line.encode())
            except OSError as error:
                raise StorageError(
                    f"could not write: {error.strerror}", where=str(self._path), do="free some space"
                ) from None
        if self._live:
            self._live(record)

    def sync(self) -> int:
        """Bytes written so far, now safe on disk: a checkpoint holds this, and a resume cuts the file there."""
        if not self._path:
            return 0
        with self._path.open("ab") as file:
            os.fsync(file.fileno())
            return file.tell()

    def cut(self, offset: int) -> None:
        """Forget what was written after `offset`, and the half line that a power cut may have left before it."""
        if self._path and self._path.exists():
            os.truncate(self._path, self._path.read_bytes()[:offset].rfind(b"\n") + 1)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return value


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """The events of a run that may still be running: a half-written last line is left out."""
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if line.endswith("\n"):
                try:
                    yield json.loads(line)
                except json.JSONDecodeError:
                    continue


class TerminalProgress:
    """Shows events as a person wants them: one line that moves on a terminal, a line now and then elsewhere."""

    def __init__(self, steps: int, interval: float = 10.0) -> None:
        self.steps = steps
        self._terminal = sys.stderr.isatty()
        self._interval = 0.1 if self._terminal else interval
        self._last = -1e9
        self._drawn = False
        # Of the latest steps: one loss alone jumps about, and the first ones are soon history.
        self._losses: deque[float] = deque(maxlen=10)
        self._seconds: deque[float] = deque(maxlen=50)

    def __call__(self, event: dict[str, Any]) -> None:
        match event["event"]:
            case "step":
                self._step(event)
            case "eval":
                figures = "  ".join(
                    f"{name} {math.nan if value is None else value:.4f}"
                    for name, value in event["metrics"].items()
                )
                self._line(f"step {event['step']:,}: validation {figures}")
            case "sample":
                begins, goes_on = (" ".join(event[part].split()) for part in ("prompt", "text"))
                self._line(f"step {event['step']:,}: sample: {begins} | {goes_on[:160]}".replace(":  |", ":"))
            case "skip":
                self._line(f"step {event['step']:,}: left out, {event['reason']}")
            case "rollback":
                self._line(f"step {event['step']:,}: weights back to {event['to']}")
            case "note":
                self._line(event["text"])

    def _step(self, event: dict[str, Any]) -> None:
        if event["loss"] is not None:
            self._losses.append(event["loss"])
        self._seconds.append(event["seconds"])
        done = event["step"] + 1
        if event["elapsed"] - self._last < self._interval and done != self.steps:
            return
        self._last = event["elapsed"]
        left = (self.steps - done) * fmean(self._seconds)
        line = (
            f"step {done:,}/{self.steps:,}  loss {fmean(self._losses or [math.nan]):.3f}  "
            f"lr {event['lr']:.2e}  "
            f"{event['tokens_per_second']:,.0f} tokens/s"
        )
        if event["padding"] > 0.005:
            line += f"  padding {event['padding']:.0%}"
        line += f"  {duration(event['elapsed'])}, {duration(left)} left"
        if self._terminal:
            print(f"\r\x1b[2K{line}", end="", file=sys.stderr, flush=True)
            self._drawn = True
        else:
            say(line)

    def _line(self, text: str) -> None:
        if self._drawn:
            print("\r\x1b[2K", end="", file=sys.stderr)
            self._drawn = False
        say(text)
