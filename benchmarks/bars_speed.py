"""Re-run the measured promises of speed at short length, and say of each what was asked and what came out.

python benchmarks/bars_speed.py                       # all, up to 75 minutes on 2 cores
python benchmarks/bars_speed.py training-mini         # any of them

Each row alternates ours and its peers in one run, in processes of their own; what is asked is a ratio of medians.
`benchmarks/training.py` and its neighbours measure the same at length.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from _bars import ROOT, Bar, main, run

# Not more than this share may a loss differ where only speed should.
_LOSS = 0.005


def training(
    shape: str, steps: int, turn: int, asked: dict[str, float], memory: float | None, scratch: Path
) -> list[Bar]:
    """Tokens a second beside each peer, the loss of the same steps, and peak memory beside the bfloat16 Trainer's."""
    script = str(ROOT / "benchmarks" / "training.py")
    command = [sys.executable, script, shape, "--steps", str(steps), "--turn", str(turn), "--json"]
    figures, _ = run(command, scratch)
    ours, bars = figures["sides"]["melete"], []
    for side, least in asked.items():
        peer = figures["sides"][side]
        ratio, what = (
            peer["ours_beside_it"],
            f"training {figures['model']}, {figures['shape']}, beside {side}",
        )
        rates = f"{ours['tokens_per_second']:,} and {peer['tokens_per_second']:,} tokens/s"
        bars.append(Bar(what, f"{least:g}x", f"{ratio:.2f}x ({rates})", ratio >= least))
        apart = peer["our_loss_beside_it"]
        bars.append(Bar(f"{what}, loss", f"within {_LOSS:.1%}", f"{apart:+.2%}", abs(apart) <= _LOSS))
    if memory is not None:
        share = figures["sides"]["trainer-bf16"]["our_memory_beside_it"]
        what = f"training {figures['model']}, peak memory beside trainer-bf16"
        bars.append(Bar(what, f"<= {memory:g}x", f"{share:.2f}x", share <= memory))
    return bars


def mini(scratch: Path) -> list[Bar]:
    """A small decoder beside nanoGPT's step and the Trainer."""
    asked = {"nanogpt-bf16": 1.3, "trainer-bf16": 1.6, "trainer-float32": 3.5}
    return training("mini", 60, 5, asked, None, scratch)


def gpt2(scratch: Path) -> list[Bar]:
    """GPT-2 124M beside the Trainer."""
    return training("gpt2", 24, 2, {"trainer-bf16": 1.4}, 0.75, scratch)


def bert(scratch: Path) -> list[Bar]:
    """BERT-base on ragged text beside a loop as the Trainer's, without what the Trainer itself takes."""
    script = str(ROOT / "benchmarks" / "encoder_training.py")
    options = ["wikitext-2", "--preset", "base", "--steps", "24", "--turn", "4", "--json"]
    figures, _ = run([sys.executable, script, *options], scratch)
    what, ratio = (
        f"training {figures['model']}, ragged text, beside transformers-bf16",
        figures["beside_bf16"],
    )
    rates = figures["tokens_per_second"]
    said = f"{ratio:.2f}x ({rates['melete, bf16']:,} and {rates['transformers, bf16']:,} tokens/s)"
    apart = figures["loss_difference"]
    return [
        Bar(what, "2.5x", said, ratio >= 2.5),
        Bar(f"{what}, loss", f"within {_LOSS:.1%}", f"{apart:+.2%}", abs(apart) <= _LOSS),
    ]


def decoding(rows: int, least: float, scratch: Path) -> list[Bar]:
    """GPT-2 124M through the public API, in the fewest bits that are not refused, beside CTranslate2's int8."""
    script = str(ROOT / "benchmarks" / "decoding.py")
    sides = ["melete int8", "melete int4", "ctranslate2 int8"]
    figures, _ = run([sys.executable, script, "--batch", str(rows), "--sides", *sides, "--json"], scratch)
    seen = figures["batch"][str(rows)]
    rates = ", ".join(f"{side} {seen[side]['tokens_per_second']:,.0f}" for side in sides)
    ratio = max(seen[side]["beside_ctranslate2_int8"] for side in sides[:2])
    what = f"decoding 124M, batch {rows}, beside CTranslate2 int8"
    return [Bar(what, f"{least:g}x", f"{ratio:.2f}x ({rates} tokens/s)", ratio >= least)]


BARS: dict[str, Callable[[Path], list[Bar]]] = {
    "training-mini": mini,
    "training-gpt2": gpt2,
    "training-bert": bert,
    "decoding-1": partial(decoding, 1, 1.1),
    "decoding-8": partial(decoding, 8, 1.5),
}

if __name__ == "__main__":
    main(__doc__, BARS)
