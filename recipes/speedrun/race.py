"""How soon `train.toml` has the validation loss of nanoGPT's recipe after ten minutes, and what each ingredient gives.

Two numbers make a time: how many steps a loss takes, which no clock changes, and how long a step takes. The first is
searched for cell by cell: a run of so many steps, longer or shorter until the loss lies between two of them. The second
is measured for all on one machine (`--pace`), which should have nothing else to do. Stop it at any time and start it
again: cells that are done are kept, and a run of ours that was stopped goes on.

python recipes/speedrun/race.py                       # everything: many hours on 2 cores
python recipes/speedrun/race.py --list                # what is left
python recipes/speedrun/race.py --pace                # seconds of a step of each kind, minutes
python recipes/speedrun/race.py --once --json         # the two beside each other by the clock: a quarter of an hour
python recipes/speedrun/race.py --minutes 0.05 --steps 4 --folder /tmp/trial
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

from melete import config as configs
from melete.console import counted, duration, say
from melete.evaluation.runs import events_of

HERE = Path(__file__).resolve().parent
RECIPE = HERE / "train.toml"
MELETE = [sys.executable, "-m", "melete"]
NANOGPT = [sys.executable, str(HERE.parents[1] / "benchmarks" / "_nanogpt.py"), str(RECIPE)]
RATES = (1e-3, 2e-3, 4e-3)
BEST_RATE = 2e-3  # of those, by RESULT.md
SEEDS = (0, 1, 2)
OURS = "the recipe"
# What is taken out of the recipe, and what stands in its place
WITHOUT: dict[str, tuple[str, ...]] = {
    "counts: random weights": ("model.init=zero-residual",),
    "counts and AdamW: random weights and Muon": (
        "model.init=zero-residual",
        "optimizer.name=muon",
        "optimizer.learning_rate=0.01",
    ),
    "AdamW: Muon for matrices": ("optimizer.name=muon", "optimizer.learning_rate=0.002"),
    "short rows first": ("training.context_schedule=[]",),
    "small steps: 4,096 tokens": ("training.batch_tokens=4096", "training.micro_batch_rows=16"),
    "a long straight decay: cosine": ("schedule.name=cosine",),
}
_RUNG = 1.5  # one run of a kind has so many times the steps of the one before
_RUNGS = 4  # at most, upwards
_PACED = 40  # steps of ours by which the pace is measured; the recipe's phases are all among them


@dataclass(frozen=True)
class Cell:
    """One training.

    Attributes:
        kind: what is trained; all of one kind take equally long for a step.
        steps: 0 = as many as fit into the minutes of the race.
        changes: of our recipe; for nanoGPT its rate.
    """

    kind: str
    steps: int
    seed: int
    changes: tuple[str, ...]

    @property
    def name(self) -> str:
        """Of the run, and of the cell."""
        words = "".join(letter if letter.isalnum() or letter == "-" else " " for letter in self.kind.lower())
        steps = f"-{self.steps}-steps" if self.steps else ""
        return f"{'-'.join(words.split())}{steps}-seed-{self.seed}"

    @property
    def ours(self) -> bool:
        """Whether melete trains it."""
        return not self.kind.startswith("nanoGPT")


# -- what is to be run --


def reference(rate: float, steps: int, seed: int) -> Cell:
    """nanoGPT at a rate."""
    return Cell(f"nanoGPT, rate {rate:g}", steps, seed, ("--rate", f"{rate:g}"))


def best_rate(book: Mapping[str, Any]) -> float | None:
    """Of nanoGPT, once all are there."""
    steps, cells = book["settings"]["reference_steps"], book["cells"]
    losses = {rate: cells.get(reference(rate, steps, 0).name, {}).get("loss") for rate in RATES}
    return None if None in losses.values() else min(RATES, key=lambda rate: losses[rate])


def target(book: Mapping[str, Any]) -> float | None:
    """The loss that is raced to: nanoGPT's with its best rate."""
    rate = best_rate(book)
    if rate is None:
        return None
    return book["cells"][reference(rate, book["settings"]["reference_steps"], 0).name]["loss"]


def trials(book: Mapping[str, Any], kind: str) -> dict[int, float]:
    """Loss by steps of a kind of ours, seed 0, fewest steps first."""
    found = [cell for cell in book["cells"].values() if cell["kind"] == kind and cell["seed"] == 0]
    return {cell["steps"]: cell["loss"] for cell in sorted(found, key=lambda cell: cell["steps"])}


def next_steps(tried: Mapping[int, float], goal: float, first: int) -> int | None:
    """How long the next run of a kind is; None: the goal lies between two, or is out of reach."""
    if not tried:
        return first
    fewest, most = min(tried), max(tried)
    if tried[fewest] <= goal:
        return max(1, round(fewest / _RUNG)) if len(tried) < _RUNGS and fewest > 1 else None
    if tried[most] > goal:
        return round(most * _RUNG) if len(tried) < _RUNGS else None
    return None


def steps_to(tried: Mapping[int, float], goal: float) -> float | None:
    """Steps to the goal: on a straight line of loss over log(steps), between the two runs around it."""
    below = [steps for steps, loss in tried.items() if loss <= goal]
    above = [steps for steps, loss in tried.items() if loss > goal]
    if not below or not above or max(above) > min(below):
        return None
    before, after = max(above), min(below)
    share = (tried[before] - goal) / (tried[before] - tried[after])
    return before * (after / before) ** share


def left(book: Mapping[str, Any]) -> list[Cell]:
    """What is known to be missing, in the order in which it is run; searches have one cell at a time."""
    settings = book["settings"]
    ours, theirs = settings["steps"], settings["reference_steps"]
    cells = [reference(rate, theirs, 0) for rate in RATES] + [Cell(OURS, ours, 0, ())]
    goal, best = target(book), best_rate(book)
    if goal is not None and best is not None:
        for kind, changes in ({OURS: ()} | {f"without {name}": WITHOUT[name] for name in WITHOUT}).items():
            steps = next_steps(trials(book, kind), goal, ours)
            cells += [] if steps is None else [Cell(kind, steps, 0, changes)]
        cells += [
            cell for seed in SEEDS[1:] for cell in (Cell(OURS, ours, seed, ()), reference(best, theirs, seed))
        ]
    return list({cell.name: cell for cell in cells if cell.name not in book["cells"]}.values())


# -- running it --


def fill(cell: Cell, folder: Path, minutes: float) -> dict[str, Any]:
    """Run a cell, or go on with it, and read what came of it.

    Raises:
        KeyboardInterrupt: a person stopped it; a run of ours can go on.
        SystemExit: the command failed, and has said why.
    """
    found = _melete(cell, folder) if cell.ours else _nanogpt(cell, minutes)
    return {"kind": cell.kind, "seed": cell.seed, **found}


def _nanogpt(cell: Cell, minutes: float) -> dict[str, Any]:
    sizes = ("--steps", str(cell.steps), "--minutes", f"{minutes:g}", "--seed", str(cell.seed))
    return {"init_seconds": 0.0, **json.loads(_run([*NANOGPT, *cell.changes, *sizes], Path()))}


def _melete(cell: Cell, folder: Path) -> dict[str, Any]:
    run = folder / "runs" / cell.name
    if _figures(run) is None:
        settings = (f"name={cell.name}", f"training.steps={cell.steps}", f"seed={cell.seed}", *cell.changes)
        _run(
            [*MELETE, *(("resume", str(run)) if run.exists() else ("train", str(RECIPE), *settings))], folder
        )
    found = _figures(run)
    assert found is not None, f"{run} ended without a result"
    for part in ("checkpoints", "final"):
        shutil.rmtree(run / part, ignore_errors=True)
    return found


def _run(command: Sequence[str], folder: Path) -> str:
    child = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
    try:
        said, _ = child.communicate()
    except KeyboardInterrupt:
        child.terminate()  # ours saves what it has
        child.wait()
        raise
    if child.returncode:
        sys.exit(f"{' '.join(command)} ended with exit code {child.returncode}")
    return said


def _figures(run: Path) -> dict[str, Any] | None:
    """Of a finished run; its seconds are those of its steps, and of what was counted before them."""
    if not (run / "events.jsonl").is_file():
        return None
    events = list(events_of(run))
    if not any(event["event"] == "result" for event in events):
        return None
    steps = [event for event in events if event["event"] == "step"]
    losses = [event["metrics"]["loss"] for event in events if event["event"] == "eval"]
    started = next(event for event in events if event["event"] == "start")
    return {
        "parameters": started["parameters"],
        "steps": len(steps),
        "tokens": steps[-1]["tokens"],
        "loss": losses[-1],
        "init_seconds": started["init_seconds"],
        "seconds": started["init_seconds"] + sum(event["seconds"] for event in steps),
    }


def paced(book: Mapping[str, Any], minutes: float) -> dict[str, tuple[float, float]]:
    """Seconds before the first step, and of a step, of each kind, by a short run of each, in turns."""
    rate = best_rate(book) or BEST_RATE
    kinds = [Cell(OURS, _PACED, 0, ())]
    kinds += [Cell(f"without {name}", _PACED, 0, changes) for name, changes in WITHOUT.items()]
    seen: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for turn in range(3):
            folder = Path(scratch, str(turn))
            folder.mkdir()
            for cell in (reference(rate, _PACED, 0), *kinds):
                found = fill(cell, folder, minutes)
                first, kind = found["init_seconds"], cell.kind if cell.ours else "nanoGPT"
                seen.setdefault(kind, []).append((first, (found["seconds"] - first) / found["steps"]))
    return {kind: (median(a for a, _ in times), median(b for _, b in times)) for kind, times in seen.items()}


def once(minutes: float, steps: int) -> dict[str, Any]:
    """Both, by the clock: nanoGPT with its best rate for so many minutes, and ours."""
    with tempfile.TemporaryDirectory() as scratch:
        theirs = fill(reference(BEST_RATE, 0, 0), Path(scratch), minutes)
        ours = fill(Cell(OURS, steps, 0, ()), Path(scratch), minutes)
    return {"nanogpt": theirs, "melete": ours, "share_of_time": ours["seconds"] / theirs["seconds"]}


# -- the table --


def tables(book: Mapping[str, Any]) -> str:
    """The figures of RESULT.md, from what `cells.json` holds."""
    settings, goal = book["settings"], target(book)
    groups: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for cell in book["cells"].values():
        groups.setdefault((cell["kind"], cell["steps"]), []).append(cell)
    head = ["", "parameters", "steps", "tokens", "seconds", "validation loss"]
    kinds = {OURS: (), **{f"without {name}": changes for name, changes in WITHOUT.items()}}
    runs = _RUNS.format(runs=_table(head, [_row(book, group) for group in groups.values()]), **settings)
    if goal is None:
        return runs
    worth = [_searched(book, kind, goal) for kind in kinds if trials(book, kind)]
    return runs + _WORTH.format(
        goal=goal, worth=_table(["", "steps", "tokens", "seconds", "beside the recipe's"], worth)
    )


def _row(book: Mapping[str, Any], group: Sequence[Mapping[str, Any]]) -> list[str]:
    """Runs that differ in their seed: the mean of their losses, and how far apart they are."""
    cell, losses = group[0], [cell["loss"] for cell in group]
    spread = f" ({min(losses):.4f} to {max(losses):.4f})" if len(losses) > 1 else ""
    numbers = (f"{cell['parameters'] / 1e6:.2f} M", f"{cell['steps']:,}", f"{cell['tokens'] / 1e6:.2f} M")
    seconds = _seconds(book, cell["kind"], cell["steps"])
    return [cell["kind"], *numbers, _said(seconds), f"{fmean(losses):.4f}{spread}"]


def _said(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:,.0f}"


def _seconds(book: Mapping[str, Any], kind: str, steps: float) -> float | None:
    """Of training, by the pace of the kind; None: it has not been measured."""
    pace = book["pace"].get("nanoGPT" if kind.startswith("nanoGPT") else kind)
    return None if pace is None else pace[0] + pace[1] * steps


def _searched(book: Mapping[str, Any], kind: str, goal: float) -> list[str]:
    """Steps, tokens and seconds that a kind takes to the goal."""
    tried = trials(book, kind)
    steps, ours = steps_to(tried, goal), steps_to(trials(book, OURS), goal)
    if steps is None:
        said = f"more than {max(tried):,}" if min(tried.values()) > goal else f"at most {min(tried):,}"
        return [kind, said, "", "", ""]
    cells = [cell for cell in book["cells"].values() if cell["kind"] == kind]
    tokens = steps * fmean(cell["tokens"] / cell["steps"] for cell in cells)
    seconds, beside = _seconds(book, kind, steps), None if ours is None else _seconds(book, OURS, ours)
    ratio = f"{seconds / beside:.2f}x" if seconds and beside else ""
    return [kind, f"{steps:,.0f}", f"{tokens / 1e6:.2f} M", _said(seconds), ratio]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


_BEGIN, _END = "<!-- race.py writes what follows -->", "<!-- up to here -->"
_RUNS = """
Seconds are those of training, counting included ({machine}): the pace of each kind, the median of three short
runs in turns, times the steps; empty where it has not been measured. Where there are several seeds: the mean of their
losses, and the lowest to the highest.

{runs}

"""
_WORTH = """What each ingredient is worth: steps until the loss is {goal:.4f}, by a straight line of loss over
log(steps) between the two runs around it; seed 0.

{worth}

"""


def write_page(path: Path, book: Mapping[str, Any]) -> None:
    """Put the figures into the page, and leave what people wrote around them."""
    before = path.read_text("utf-8") if path.is_file() else f"{_BEGIN}\n{_END}\n"
    head, _, rest = before.partition(_BEGIN)
    _write(path, f"{head}{_BEGIN}\n{tables(book)}{_END}{rest.partition(_END)[2]}")


# -- the command --


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def _book(args: argparse.Namespace) -> dict[str, Any]:
    """What has been measured so far; a table is of one length of each side."""
    path = args.folder / "cells.json"
    if path.is_file():
        book = json.loads(path.read_text("utf-8"))
        asked = {"steps": args.steps, "reference_steps": args.reference_steps}
        apart = {key: value for key, value in asked.items() if value and value != book["settings"][key]}
        if apart:
            sys.exit(f"{path} was measured with {book['settings']}, not {apart}: give another --folder")
        return book
    if not args.reference_steps:
        say(f"how many steps of nanoGPT fit into {args.minutes:g} minutes?")
        found = fill(reference(BEST_RATE, _PACED, 0), args.folder, args.minutes)
        args.reference_steps = max(1, int(60 * args.minutes * found["steps"] / found["seconds"]))
    machine = f"{platform.machine()}, {counted(len(os.sched_getaffinity(0)), 'core')}"
    steps = args.steps or configs.load(RECIPE).training.steps
    settings = {"steps": steps, "reference_steps": args.reference_steps, "machine": machine}
    return {"settings": settings, "pace": {}, "cells": {}}


def main(arguments: Sequence[str] | None = None) -> None:
    """Fill what is not there yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="that nanoGPT has [10]")
    parser.add_argument("--reference-steps", type=int, default=0, help="of nanoGPT, instead of minutes")
    parser.add_argument("--steps", type=int, default=0, help="of ours [those of train.toml]")
    parser.add_argument("--folder", type=Path, default=HERE, help="of cells.json, RESULT.md and runs/")
    parser.add_argument("--list", action="store_true", help="show what is left, and run nothing")
    parser.add_argument("--pace", action="store_true", help="measure seconds of a step, and nothing else")
    parser.add_argument("--once", action="store_true", help="the two by the clock; keeps nothing")
    parser.add_argument("--json", action="store_true", help="of --once: figures as one JSON object")
    args = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    args.folder = args.folder.resolve()
    args.folder.mkdir(parents=True, exist_ok=True)
    if args.once:
        found = once(args.minutes, args.steps or configs.load(RECIPE).training.steps)
        print(json.dumps(found) if args.json else _in_words(found))
        return
    book = _book(args)
    if args.list:
        print("\n".join([cell.name for cell in left(book)] or ["nothing is left"]))
        return
    if args.pace:
        book["pace"] = paced(book, args.minutes)
        _keep(args.folder, book)
    else:
        _fill_all(args, book)
    say(f"{args.folder / 'RESULT.md'} has the figures")


def _fill_all(args: argparse.Namespace, book: dict[str, Any]) -> None:
    while cells := left(book):
        say(f"\n== {cells[0].name}: {len(cells)} known to be left")
        try:
            book["cells"][cells[0].name] = fill(cells[0], args.folder, args.minutes)
        except KeyboardInterrupt:
            sys.exit(f"stopped; the same command goes on with {cells[0].name}")
        _keep(args.folder, book)


def _keep(folder: Path, book: Mapping[str, Any]) -> None:
    _write(folder / "cells.json", json.dumps(book, indent=1, ensure_ascii=False) + "\n")
    write_page(folder / "RESULT.md", book)


def _in_words(found: Mapping[str, Any]) -> str:
    lines = [
        f"{side}: {found[side]['steps']:,} steps, {found[side]['tokens']:,} tokens, "
        f"{duration(found[side]['seconds'])}, validation loss {found[side]['loss']:.4f}"
        for side in ("nanogpt", "melete")
    ]
    return "\n".join([*lines, f"ours in {found['share_of_time']:.2f} of the time"])


if __name__ == "__main__":
    main()
