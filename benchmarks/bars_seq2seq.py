"""Re-run the measured promises of translation and summarisation, and say of each what was asked and what came out.

python benchmarks/bars_seq2seq.py                       # Multi30k and decoding, up to 75 minutes on 2 cores
python benchmarks/bars_seq2seq.py dialogsum             # any of them

Each set is learnt from scratch by its recipe, on nothing else. `learning` are the tests of rules, `proofs` those of
interrupted runs and of bad input.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from _bars import MELETE, ROOT, Bar, main, passes, read_first, run

USUAL = ("multi30k", "decoding")
MOST_PARAMETERS = 3_000_000
LEAST_SPEED_UP = 3.0


class Promise(NamedTuple):
    """What is asked of a set.

    Attributes:
        metric: the figure that counts.
        minutes: of pretraining, training and scoring together.
        least: what the figure is to be, at least; None: it is to be better than every baseline.
        recipe: the file in the set's folder.
        reads: whether the set's `pretrain.toml` goes before.
        small: whether the model is to stay below `MOST_PARAMETERS`.
        beside: the recipe of another model, which learns first and stands in the next column.
    """

    metric: str
    minutes: int
    least: float | None = None
    recipe: str = "train.toml"
    reads: bool = False
    small: bool = False
    beside: str = ""


PROMISES = {
    "multi30k": Promise("tokenised_bleu", 45, least=39.0, reads=True, small=True),
    "multi30k:de-en": Promise("tokenised_bleu", 45, recipe="de-en.toml", reads=True, small=True),
    "tatoeba_eng_cmn": Promise("bleu", 45, reads=True, beside="lstm.toml"),
    "tatoeba_eng_cmn:zh-en": Promise("bleu", 45, recipe="zh-en.toml", reads=True),
    "dialogsum": Promise("rouge1", 120, least=33.0, reads=True),
}


def trained(name: str, scratch: Path) -> list[Bar]:
    """The bars of a set."""
    promise = PROMISES[name]
    folder = ROOT / "recipes" / name.partition(":")[0]
    reading = read_first(folder / "pretrain.toml", scratch) if promise.reads else 0.0
    others = []
    if promise.beside:
        other, _ = run([*MELETE, "train", str(folder / promise.beside), "--json"], scratch)
        others = [f"evaluation.beside=['{other['run']}']"]
    card, training = run([*MELETE, "train", str(folder / promise.recipe), *others, "--json"], scratch)
    seconds = reading + training
    model, *baselines = card["table"]
    figure, limit = model[promise.metric], 60 * promise.minutes
    beside = ", ".join(f"{row['name']} {row[promise.metric]:.2f}" for row in baselines)
    least = max((row[promise.metric] for row in baselines), default=0.0)
    asked = f">= {promise.least}" if promise.least is not None else f"> {least:.2f}"
    met = figure >= promise.least if promise.least is not None else figure > least
    bars = [
        Bar(f"{name}, wall clock", f"<= {limit} s", f"{seconds:.0f} s", seconds <= limit),
        Bar(f"{name}, {promise.metric}", asked, f"{figure:.2f} ({beside})", met),
    ]
    if promise.small:
        count = card["parameters"]
        asked = f"<= {MOST_PARAMETERS:,}"
        bars.append(Bar(f"{name}, parameters", asked, f"{count:,}", count <= MOST_PARAMETERS))
    return bars


def decoding(scratch: Path) -> list[Bar]:
    """Speed of beam search beside `transformers` and CTranslate2, on the weights of the Multi30k run before it."""
    script = str(ROOT / "benchmarks" / "seq2seq_decoding.py")
    found, _ = run([sys.executable, script, str(scratch / "runs" / "multi30k"), "--json"], scratch)
    faster, same = found["speed_up"], found["identical"]
    return [
        Bar("decoding, outputs identical", "all", f"{same:,} of {found['rows']:,}", same == found["rows"]),
        Bar(
            "decoding, beside transformers",
            f">= {LEAST_SPEED_UP} times",
            f"{faster:.2f} times, {found['rate']:.1f} and {found['their_rate']:.1f} sentences/s",
            faster >= LEAST_SPEED_UP,
        ),
        *(
            Bar(
                f"decoding, beside {name}",
                "",
                f"{side['speed_up']:.2f} times, {side['rate']:.1f} of its sentences/s, "
                f"{side['identical']:,} texts identical",
                True,
            )
            for name, side in found["beside"].items()
        ),
    ]


def learning(scratch: Path) -> list[Bar]:
    """Rules that are learnt without a slip."""
    return [passes("copy, reverse and sort, 1,000 unseen words each", "tests/objectives/test_seq2seq.py")]


def proofs(scratch: Path) -> list[Bar]:
    """What holds whatever happens."""
    killed = "tests/training/test_kill.py::test_twenty_kills_change_nothing[translation]"
    bad = ("tests/cli/test_cli_writing.py", "tests/data/labelled/test_written.py")
    return [
        passes("20 kills, each gone on from: the same weights", killed),
        passes("pairs that cannot be used: one line, nothing half-written", *bad),
    ]


BARS: dict[str, Callable[[Path], list[Bar]]] = {
    **{name: partial(trained, name) for name in PROMISES},
    "decoding": decoding,
    "learning": learning,
    "proofs": proofs,
}

if __name__ == "__main__":
    main(__doc__, BARS, USUAL)
