"""What a person sees while waiting. Everything here goes to standard error, so that `--json` stays clean."""

from __future__ import annotations

import sys
import time

# C0 but tab and line feed, DEL, C1: what a terminal obeys instead of showing.
_CONTROLS = dict.fromkeys([*range(0x09), *range(0x0B, 0x20), *range(0x7F, 0xA0)])


def printable(text: str) -> str:
    """Text without the control characters that a terminal would obey; tabs and line feeds stay.

    A model or a file may say anything, so whatever of theirs is shown to a person goes through here.
    """
    return text.translate(_CONTROLS)


def say(text: str = "") -> None:
    """One line for the person at the terminal."""
    print(printable(text), file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """Seconds as a person says them: `8 s`, `3 min 20 s`, `2 h 05 min`."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def counted(number: int, noun: str) -> str:
    """`1 document`, `1,200 documents`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


class Progress:
    """A line that tells how far, how fast and how long, for work of more than two seconds.

    On a terminal the line is rewritten in place; in a file or a pipe a line is printed every 15 seconds.

    Args:
        label: what is being done ("tokenising").
        unit: what is counted ("MB", "tokens").
        total: how many units there are, if known.
    """

    def __init__(self, label: str, unit: str, total: float | None = None) -> None:
        self.label, self.unit, self.total = label, unit, total
        self.done = 0.0
        self._start = time.monotonic()
        self._terminal = sys.stderr.isatty()
        self._next = self._start + 2.0
        self._shown = False

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._shown and self._terminal:
            print(file=sys.stderr, flush=True)

    def advance(self, amount: float) -> None:
        """Count `amount` more units, and redraw when it is time to."""
        self.done += amount
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + (0.2 if self._terminal else 15.0)
        self._shown = True
        rate = self.done / (now - self._start)
        line = f"{self.label}: {self.done:,.0f}"
        if self.total:
            left = max(self.total - self.done, 0.0) / max(rate, 1e-9)
            line += f" of {self.total:,.0f} {self.unit}, {rate:,.1f} {self.unit}/s, {duration(left)} left"
        else:
            line += f" {self.unit}, {rate:,.1f} {self.unit}/s"
        if self._terminal:
            print(f"\r\x1b[2K{line}", end="", file=sys.stderr, flush=True)
        else:
            say(line)
