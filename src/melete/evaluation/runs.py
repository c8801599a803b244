"""What a run folder says about its run: read from `events.jsonl` and `config.toml`, whatever state they are in."""

from __future__ import annotations

import json
import math
import time
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from melete.errors import InputError
from melete.training.log import read_events

# A run that has written nothing for this long, and has not said that it ended, was killed.
SILENCE_SECONDS = 300.0


@dataclass(frozen=True)
class RunSummary:
    """One line about a run. Figures that the run has not reached yet are None.

    Attributes:
        state: empty, running, interrupted (killed), stopped (by a person or the guard) or finished.
        metric: which figure `best` is: "bits_per_byte" or "loss", on validation text.
        elapsed: seconds of training.
        age: seconds since the run last wrote something.
    """

    name: str
    path: str
    state: str
    family: str | None
    parameters: int | None
    step: int
    steps: int | None
    tokens: int
    loss: float | None
    metric: str | None
    best: float | None
    elapsed: float
    age: float

    def plain(self) -> dict[str, Any]:
        """The same as a dict for JSON."""
        return asdict(self)


def run_folder(name: str) -> Path:
    """The folder that a person means: a path, or else the name of a run in `runs/`."""
    path, inside = Path(name), Path("runs", name)
    return inside if not path.exists() and inside.is_dir() else path


def events_path(run: Path) -> Path:
    """`events.jsonl` of a run folder.

    Raises:
        InputError: the folder is not a run.
    """
    path = run / "events.jsonl"
    if not path.is_file():
        what = "not a run folder" if run.is_dir() else "no such run folder"
        raise InputError(
            what,
            where=str(run),
            expected="a folder with events.jsonl",
            do="`melete runs` lists the runs here",
        )
    return path


def events_of(run: Path) -> Iterator[dict[str, Any]]:
    """The events of a run, one dict each; what is half-written or not an event is left out.

    Raises:
        InputError: the folder is not a run.
    """
    for event in read_events(events_path(run)):
        if isinstance(event, dict) and isinstance(event.get("event"), str):
            yield event


def find_runs(folder: Path) -> list[Path]:
    """The run folders directly below `folder`, the one written last at the end."""
    if not folder.is_dir():
        return []
    runs = [path.parent for path in folder.glob("*/events.jsonl")]
    return sorted(runs, key=lambda run: (run / "events.jsonl").stat().st_mtime)


def summarise(run: Path, events: Iterable[dict[str, Any]] | None = None) -> RunSummary:
    """One line about a run.

    Args:
        events: those of `events_of`, if they are already at hand.

    Raises:
        InputError: the folder is not a run.
    """
    age = max(time.time() - events_path(run).stat().st_mtime, 0.0)
    start: dict[str, Any] = {}
    last: dict[str, Any] = {}
    reason = None
    best: dict[str, float] = {}
    elapsed = 0.0
    for event in events_of(run) if events is None else events:
        elapsed = number(event.get("elapsed")) or elapsed
        match event["event"]:
            case "start":
                start, reason = start or event, None
            case "step":
                last, reason = event, None
            case "eval":
                for name, value in (event.get("metrics") or {}).items():
                    if (figure := number(value)) is not None:
                        best[name] = min(best.get(name, math.inf), figure)
            case "end":
                reason = str(event.get("reason", "finished"))
    metric = next((name for name in ("bits_per_byte", "loss") if name in best), None)
    steps = number(start.get("steps"))
    return RunSummary(
        name=run.name,
        path=str(run),
        state=state_of(bool(start or last), reason, age),
        family=start.get("family"),
        parameters=start.get("parameters"),
        step=last["step"] + 1 if "step" in last else 0,
        steps=int(steps) if steps is not None else None,
        tokens=int(number(last.get("tokens")) or 0),
        loss=number(last.get("loss")),
        metric=metric,
        best=best[metric] if metric else None,
        elapsed=elapsed,
        age=age,
    )


def state_of(begun: bool, reason: str | None, age: float) -> str:
    """The state of a run from whether it began, the reason its end gave, and its silence in seconds."""
    if reason is not None:
        return "finished" if reason in ("done", "early stop") else "stopped"
    if not begun:
        return "empty"
    return "running" if age < SILENCE_SECONDS else "interrupted"


def read_config(run: Path) -> dict[str, Any]:
    """`config.toml` of a run as nested dicts; empty if there is none yet.

    Raises:
        InputError: the file is broken.
    """
    path = run / "config.toml"
    if not path.is_file():
        return {}
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"broken TOML: {error}", where=str(path)) from None


def read_environment(run: Path) -> dict[str, Any]:
    """`environment.json` of a run; empty if there is none yet.

    Raises:
        InputError: the file is broken.
    """
    path = run / "environment.json"
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise InputError(f"broken JSON: {error}", where=str(path)) from None


def differing_keys(configs: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Config keys that are not the same in all runs: dotted key -> its value in each (None where it is missing)."""
    flat = [dict(_flatten(config)) for config in configs]
    keys = sorted({key for one in flat for key in one if not key.startswith("choices.") and key != "name"})
    rows = {key: [one.get(key) for one in flat] for key in keys}
    return {key: values for key, values in rows.items() if any(value != values[0] for value in values)}


def _flatten(tree: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def number(value: Any) -> float | None:
    """A finite number, or None for anything else: a page cannot draw NaN."""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return None
