"""What the files of bars have in common: a bar, how commands and tests are run, and what is printed."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MELETE = [sys.executable, "-m", "melete"]


@dataclass(frozen=True)
class Bar:
    """One promise: what was asked, what was measured, and whether that is enough.

    Attributes:
        asked: empty = nothing, the figure is only told.
    """

    what: str
    asked: str
    got: str
    met: bool


def run(command: list[str], scratch: Path) -> tuple[dict[str, Any], float]:
    """The JSON object a command prints, and its wall clock; its progress goes to our standard error."""
    begun = time.monotonic()
    done = subprocess.run(command, cwd=scratch, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout), time.monotonic() - begun


@cache
def read_first(recipe: Path, scratch: Path) -> float:
    """Pretrain by a recipe, once for all that goes on from it; the seconds it took."""
    return run([*MELETE, "train", str(recipe), "--json"], scratch)[1]


def passes(what: str, *tests: str) -> Bar:
    """Whether tests pass, the slow ones too."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "slow or not slow"]
    done = subprocess.run([*command, *tests], cwd=ROOT, capture_output=True, text=True)
    last = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr.strip()[-200:]
    return Bar(what, "all pass", last.strip("= "), done.returncode == 0)


def main(
    description: str | None, bars: dict[str, Callable[[Path], list[Bar]]], usual: Sequence[str] = ()
) -> None:
    """Run what was asked for, print a line as each figure comes, exit 1 if a promise is not kept.

    Args:
        usual: what is run where nothing is asked for; empty = all.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bars", nargs="*", choices=[*bars, []], help=f"default: {' '.join(usual) or 'all'}")
    names = parser.parse_args().bars or usual or bars
    import torch

    machine = f"{platform.system()} {platform.machine()}, {len(os.sched_getaffinity(0))} cores"
    print(f"{machine}, torch {torch.__version__}, seed 0")
    kept = True
    with tempfile.TemporaryDirectory(prefix="melete-bars-") as folder:
        os.environ["MELETE_CACHE"] = str(Path(folder) / "cache")  # nothing is found that was made before
        for name in names:
            begun = time.monotonic()
            for bar in bars[name](Path(folder)):
                kept &= bar.met
                verdict = ("met   " if bar.met else "MISSED") if bar.asked else ""
                asked = f", asked {bar.asked}" if bar.asked else ""
                print(f"{verdict:6}  {bar.what}: {bar.got}{asked}", flush=True)
            print(f"        ({name}: {time.monotonic() - begun:.0f} s)", flush=True)
    sys.exit(not kept)
