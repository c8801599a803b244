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
from melete.training.lock import at_work
from melete.training.log import read_events

# Where its lock does not tell: a run that has written nothing for this long, and has not ended, was killed.
SILENCE_SECONDS = 300.0


@dataclass(frozen=True)
class RunSummary:
    """One line about a run. Figures that the run has not reached yet are None.

    Attributes:
        state: empty, running, interrupted (killed), stopped (by a person or the guard) or finished.
        metric: which figure `best` is: the result's own once there is one, else the validation loss.
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
    """The run folders directly below `folder`, the one written last at the end; none where it is not there.

    Raises:
        InputError: it is a file.
    """
    if folder.is_file():
        raise InputError("not a folder", where=str(folder), expected="the folder that holds the run folders")
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
    loss, result, elapsed = math.inf, None, 0.0
    for event in events_of(run) if events is None else events:
        elapsed = number(event.get("elapsed")) or elapsed
        match event["event"]:
            case "start":
                start, reason = start or event, None
            case "step":
                last, reason = event, None
            case "eval":
                found = number((event.get("metrics") or {}).get("loss"))
                loss = loss if found is None else min(loss, found)
            case "end":
                reason = str(event.get("reason", "finished"))
            case "result":
                result = _figure(event) or result
    metric, best = result or (("loss", loss) if loss < math.inf else (None, None))
    steps = number(start.get("steps"))
    return RunSummary(
        name=run.name,
        path=str(run),
        state=state_of(bool(start or last), reason, age, at_work(run)),
        family=start.get("family"),
        parameters=start.get("parameters"),
        step=last["step"] + 1 if "step" in last else 0,
        steps=int(steps) if steps is not None else None,
        tokens=int(number(last.get("tokens")) or 0),
        loss=number(last.get("loss")),
        metric=metric,
        best=best,
        elapsed=elapsed,
        age=age,
    )


def _figure(result: dict[str, Any]) -> tuple[str, float] | None:
    """The figure to take home of a result, by name."""
    row = (result.get("table") or [{}])[0]
    names = (result.get("metric"), "bits_per_byte", "auc", "restored")
    return next(
        ((name, figure) for name in names if name and (figure := number(row.get(name))) is not None), None
    )


def state_of(begun: bool, reason: str | None, age: float, at_work: bool | None) -> str:
    """The state of a run from whether it began, the reason its end gave, its silence in seconds, and its lock."""
    if reason is not None:
        return "finished" if reason in ("done", "early stop") else "stopped"
    if not begun:
        return "empty"
    if at_work is None:
        at_work = age < SILENCE_SECONDS
    return "running" if at_work else "interrupted"


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
