"""BERT, BERT with sentence pairs, ELECTRA and ModernBERT at equal wall-clock: a table that fills cell by cell.

Each encoder reads the same text with the same tokenizer and blocks of the same size, for the same minutes; then it is
measured on held-out text, and fine-tuned on labelled sets for the same steps. Stop it at any time and start it again:
cells that are done are kept, a run that was stopped goes on.

python recipes/encoders/compare.py                    # everything: many hours on 2 cores
python recipes/encoders/compare.py --list             # what is left, and how long it will take
python recipes/encoders/compare.py --minutes 1 --epochs 0.1 --preset nano --folder /tmp/trial
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
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from melete.console import counted, duration, say
from melete.evaluation.runs import events_of
from melete.training.lock import at_work

MELETE = [sys.executable, "-m", "melete"]
TEXT = "wikitext-2"
TOKENIZER = "runs/tokenizer"
MINUTES = (5.0, 10.0, 30.0)
SEEDS = {10.0: (0, 1, 2)}  # elsewhere seed 0 alone
# name -> family, and what is set for it
MODELS: dict[str, tuple[str, tuple[str, ...]]] = {
    "BERT": ("bert", ()),
    "BERT+NSP": ("bert", ("objective.pair=nsp",)),
    "ELECTRA": ("electra", ()),
    "ModernBERT": ("modernbert", ()),
}
# set -> its task, and what it is called
TASKS = {
    "sst2": ("text-classification", "SST-2"),
    "mrpc": ("text-classification", "MRPC"),
    "ud_english_ewt": ("token-classification", "UD-EWT tags"),
}
# Held-out figures, in the order of the table: key, and how it is written.
HELD_OUT = {
    "auc": "AUC {:.3f}",
    "loss": "{:.3f} nats",
    "restored": "{:.1%} restored",
    "nsp_accuracy": "{:.1%} of pairs",
}
_GUESSED = 180.0  # seconds of a fine-tuning before one has been timed
_AROUND = 30.0  # seconds that a cell takes beside its training


@dataclass(frozen=True)
class Cell:
    """One run of `melete`: an encoder is pretrained for some minutes, or fine-tuned on a set.

    Attributes:
        name: of the run, and of the cell.
        kind: cells of one kind take equally long.
        arguments: of the command, but for the name.
        expected: seconds of training, before one of the kind has been timed.
    """

    name: str
    kind: str
    arguments: tuple[str, ...]
    expected: float


def run_name(model: str, minutes: float, seed: int) -> str:
    """What a pretraining is called."""
    return f"{model.lower().replace('+', '-')}-{minutes:g}min-seed{seed}"


def plan(minutes: Sequence[float], preset: str, epochs: float) -> list[Cell]:
    """All cells, in the order in which they are filled: a row of the table after the other, first seeds first."""
    cells = _tuned("scratch", f"bert:{preset}", 0, epochs, ("--tokenizer", TOKENIZER))
    rows = [(m, seed) for m in minutes for seed in SEEDS.get(m, (0,))]
    for m, seed in sorted(rows, key=lambda row: (row[1] > 0, row)):
        for model, (family, changes) in MODELS.items():
            name, sets = run_name(model, m, seed), [word for key in changes for word in ("--set", key)]
            command = ("pretrain", family, "--preset", preset, "--data", TEXT, "--tokenizer", TOKENIZER)
            chosen = ("--minutes", f"{m:g}", "--seed", str(seed), *sets)
            cells.append(Cell(name, f"{m:g} minutes", (*command, *chosen), 60 * m))
            cells += _tuned(name, f"runs/{name}", seed, epochs, ("--no-baseline",))
    return cells


def _tuned(name: str, model: str, seed: int, epochs: float, options: tuple[str, ...]) -> list[Cell]:
    """A model fine-tuned on each set, for equal steps."""
    chosen = ("--model", model, "--epochs", f"{epochs:g}", "--seed", str(seed), *options)
    return [
        Cell(f"{name}-{rows}", rows, ("finetune", task, "--data", rows, *chosen), _GUESSED)
        for rows, (task, _) in TASKS.items()
    ]


def fill(cell: Cell, folder: Path) -> dict[str, Any]:
    """Run a cell, or go on with it, and read what came of it.

    Raises:
        KeyboardInterrupt: a person stopped it; the run can go on.
        SystemExit: the command failed, and has said why.
    """
    run = folder / "runs" / cell.name
    while at_work(run):  # left behind by a script that was killed
        say(f"{cell.name}: still running since an earlier start; waiting for it")
        time.sleep(10)
    if _result(run) is None:
        command = ["resume", f"runs/{cell.name}"] if run.exists() else [*cell.arguments, "--name", cell.name]
        child = subprocess.Popen([*MELETE, *command], cwd=folder, stdout=subprocess.DEVNULL)
        try:
            code = child.wait()
        except KeyboardInterrupt:
            child.terminate()  # it saves what it has
            child.wait()
            raise
        if code:
            sys.exit(f"{cell.name}: melete {' '.join(command)} ended with exit code {code}")
    found = _result(run)
    assert found is not None, f"{run} ended without a result"
    return found


def _result(run: Path) -> dict[str, Any] | None:
    """The figures of a finished run, its steps and tokens, and seconds of training; None: it is not finished."""
    if not (run / "events.jsonl").is_file():
        return None
    last = {event["event"]: event for event in events_of(run)}
    if "result" not in last:
        return None
    result, step = last["result"], last["step"]
    model, *others = result["table"]
    figures = {key: value for key, value in model.items() if isinstance(value, int | float)}
    metric = result.get("metric")
    beside = {row["name"]: row[metric] for row in others} if metric else {}
    timed = {"steps": step["step"] + 1, "tokens": step["tokens"], "seconds": last["end"]["elapsed"]}
    return {**timed, "metric": metric, "figures": figures, "beside": beside}


def seconds_left(
    cells: Sequence[Cell], done: Mapping[str, Mapping[str, Any]], kinds: dict[str, str]
) -> float:
    """How long the cells that are not done will take, by those of their kind that are."""
    times: dict[str, list[float]] = {}
    for name, record in done.items():
        times.setdefault(kinds.get(name, ""), []).append(record["seconds"])
    return sum(fmean(times.get(cell.kind, [cell.expected])) + _AROUND for cell in cells)


# -- the table --


def page(book: Mapping[str, Any]) -> str:
    """RESULT.md, from what `cells.json` holds."""
    done, settings = book["cells"], book["settings"]
    names = [name for _, name in TASKS.values()]
    head = ["minutes", "encoder", "training", "steps", "tokens read", "on held-out text", *names]
    rows = [head, ["---"] * len(head)]
    for minutes in settings["minutes"]:
        for model in MODELS:
            runs = [run_name(model, minutes, seed) for seed in SEEDS.get(minutes, (0,))]
            runs = [name for name in runs if name in done]
            if runs:
                scores = [_scores(done, runs, labelled) for labelled in TASKS]
                rows.append([f"{minutes:g}", model, *_pretrained([done[name] for name in runs]), *scores])
    rows += _without_reading(done)
    return _PAGE.format(
        table="\n".join(f"| {' | '.join(row)} |" for row in rows),
        leaders="\n".join(leaders(done, settings["minutes"])) or "Nothing to compare yet.",
        text=TEXT,
        **settings,
    )


def _without_reading(done: Mapping[str, Any]) -> list[list[str]]:
    """Rows of the table for an encoder that has read nothing, and for the baselines beside it."""
    records = [done.get(f"scratch-{rows}", {"beside": {}}) for rows in TASKS]
    scores = {"BERT, random weights": [_scores(done, ["scratch"], rows) for rows in TASKS]}
    for name in dict.fromkeys(name for record in records for name in record["beside"]):
        figures = [record["beside"].get(name) for record in records]
        scores[name] = ["" if figure is None else f"{figure:.4f}" for figure in figures]
    return [["", name, "", "", "", "", *cells] for name, cells in scores.items() if any(cells)]


def _pretrained(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Time, steps, tokens and held-out figures, the mean of the seeds."""
    seconds, steps, tokens = (
        fmean(record[key] for record in records) for key in ("seconds", "steps", "tokens")
    )
    held_out = [
        written.format(fmean(record["figures"][key] for record in records))
        for key, written in HELD_OUT.items()
        if key in records[0]["figures"]
    ]
    return [duration(seconds), f"{steps:,.0f}", f"{tokens / 1e6:.2f} M", ", ".join(held_out)]


def _values(done: Mapping[str, Any], runs: Sequence[str], rows: str) -> list[float]:
    """The deciding figure of each run on a labelled set, as far as they are done."""
    records = [done[f"{run}-{rows}"] for run in runs if f"{run}-{rows}" in done]
    return [record["figures"][record["metric"]] for record in records]


def _scores(done: Mapping[str, Any], runs: Sequence[str], rows: str) -> str:
    """Their mean, and how far apart the seeds are."""
    values = _values(done, runs, rows)
    if not values:
        return ""
    spread = f" ({min(values):.4f} to {max(values):.4f})" if len(values) > 1 else ""
    return f"{fmean(values):.4f}{spread}"


def leaders(done: Mapping[str, Any], minutes: Sequence[float]) -> list[str]:
    """Who is best at each budget for which all are done: where the name changes, there is a crossover."""
    lines = []
    for rows, (_, title) in TASKS.items():
        best = []
        for m in minutes:
            values = {
                model: _values(done, [run_name(model, m, seed) for seed in SEEDS.get(m, (0,))], rows)
                for model in MODELS
            }
            if all(values.values()):
                first = max(values, key=lambda model: fmean(values[model]))
                best.append(f"{first} after {m:g} minutes ({fmean(values[first]):.4f})")
        if best:
            lines.append(f"- {title}: {', '.join(best)}")
    return lines


_PAGE = """# Encoders at equal wall-clock

The same text (`{text}`), the same WordPiece tokenizer of 8,192 tokens, blocks of the same size (`{preset}`), whatever
else `melete pretrain` chooses; {machine}. Then fine-tuned for {epochs:g} epochs: the same steps for all.
Scores are the figure that decides for the set (accuracy of texts and of tags), on its validation rows; where there are
several seeds their mean, and the lowest to the highest. The rate is what `melete finetune` takes for what has read
(1e-4 at this width) and for random weights (5e-4): after few minutes of reading the lower one can cost more than the
reading gave.

{table}

Nats and restored tokens of BERT and ModernBERT compare; those of ELECTRA are of its small generator, and its AUC is of
its discriminator, on tokens replaced by draws of their frequency.

## Who leads

{leaders}

ChnSentiCorp is left out: the text these encoders read is English. A difference within the spread of the seeds at 10
minutes is none. `python recipes/encoders/compare.py` fills this page from `cells.json`.
"""


# -- the command --


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def _book(args: argparse.Namespace) -> dict[str, Any]:
    """What has been measured so far; a table is of one preset and one number of epochs."""
    machine = f"{platform.machine()}, {counted(len(os.sched_getaffinity(0)), 'core')}"
    settings = {"preset": args.preset, "epochs": args.epochs, "machine": machine}
    path = args.folder / "cells.json"
    book = json.loads(path.read_text()) if path.is_file() else {"settings": settings, "cells": {}}
    if {key: book["settings"][key] for key in settings} != settings:
        sys.exit(f"{path} was measured with {book['settings']}, not {settings}: give another --folder")
    book["settings"]["minutes"] = sorted({*book["settings"].get("minutes", ()), *args.minutes})
    return book


def _prepare(folder: Path) -> None:
    """The tokenizer of all, and the text as its tokens: no encoder shall spend its minutes on them."""
    if (folder / TOKENIZER).is_dir():
        return
    partial = f"{TOKENIZER}.partial"
    shutil.rmtree(folder / partial, ignore_errors=True)
    rehearsal = ("pretrain", "bert", "--data", TEXT, "--tokenizer", partial, "--minutes", "5", "--dry-run")
    for command in (("tokenizer", "train", TEXT, "--kind", "wordpiece", "--out", partial), rehearsal):
        subprocess.run([*MELETE, *command], cwd=folder, check=True)
    (folder / partial).rename(folder / TOKENIZER)


def main(arguments: Sequence[str] | None = None) -> None:
    """Fill what is not there yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, nargs="+", default=MINUTES, help="budgets [5 10 30]")
    parser.add_argument("--preset", default="tiny", help="size of the blocks [tiny]")
    parser.add_argument("--epochs", type=float, default=3.0, help="of each fine-tuning [3]")
    parser.add_argument(
        "--folder", type=Path, default=Path(__file__).parent, help="of cells.json, RESULT.md and runs/"
    )
    parser.add_argument("--list", action="store_true", help="show what is left, and run nothing")
    args = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    book, cells = _book(args), plan(args.minutes, args.preset, args.epochs)
    kinds = {cell.name: cell.kind for cell in cells}
    left = [cell for cell in cells if cell.name not in book["cells"]]
    if args.list:
        for cell in left:
            print(f"{cell.name}: about {duration(seconds_left([cell], book['cells'], kinds))}")
        print(f"{len(left)} of {len(cells)} cells left, {duration(seconds_left(left, book['cells'], kinds))}")
        return
    args.folder.mkdir(parents=True, exist_ok=True)
    _prepare(args.folder)
    for number, cell in enumerate(left):
        rest = seconds_left(left[number:], book["cells"], kinds)
        say(f"\n== {cell.name}: {len(left) - number} of {len(cells)} cells left, {duration(rest)}")
        try:
            book["cells"][cell.name] = fill(cell, args.folder)
        except KeyboardInterrupt:
            sys.exit(f"stopped; the same command goes on with {cell.name}")
        _write(args.folder / "cells.json", json.dumps(book, indent=1, ensure_ascii=False) + "\n")
        _write(args.folder / "RESULT.md", page(book))
        shutil.rmtree(
            args.folder / "runs" / cell.name / "checkpoints", ignore_errors=True
        )  # `final` is enough
    say(f"all {len(cells)} cells are there: {args.folder / 'RESULT.md'}")


if __name__ == "__main__":
    main()
