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

from _bars import MELETE, ROOT, Bar, main, run

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
    return training("mini", 300, 15, asked, None, scratch)


def gpt2(scratch: Path) -> list[Bar]:
    """GPT-2 124M beside the Trainer."""
    return training("gpt2", 24, 2, {"trainer-bf16": 1.4}, 0.75, scratch)


def ragged(model: str, steps: int, turn: int, least: float, scratch: Path) -> list[Bar]:
    """An encoder on ragged text beside a loop as the Trainer's, without what the Trainer itself takes."""
    script = str(ROOT / "benchmarks" / "encoder_training.py")
    options = ["wikitext-2", "--model", model, "--steps", str(steps), "--turn", str(turn), "--json"]
    figures, _ = run([sys.executable, script, *options], scratch)
    what, ratio = (
        f"training {figures['model']}, ragged text, beside transformers-bf16",
        figures["beside_bf16"],
    )
    rates = figures["tokens_per_second"]
    said = f"{ratio:.2f}x ({rates['melete, bf16']:,} and {rates['transformers, bf16']:,} tokens/s)"
    apart = figures["loss_difference"]
    return [
        Bar(what, f"{least:g}x", said, ratio >= least),
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


def speculation(scratch: Path) -> list[Bar]:
    """Guesses ahead, by the better of two drafters, of a model that the WikiText-2 recipe has taught for a while."""
    figures, _ = run([sys.executable, str(ROOT / "benchmarks" / "speculation.py"), "--json"], scratch)
    bars = []
    for name in ("greedy", "temperature 1"):
        ways = figures[name]
        best = max((way for way in ways if way != "plain"), key=lambda way: ways[way]["beside_plain"])
        seen, what = ways[best], f"speculation, {name}, {best} beside plain decoding"
        said = (
            f"{seen['beside_plain']:.2f}x ({seen['acceptance'] or 0:.0%} of the guesses right, "
            f"{seen['repetition']:.0%} of the runs of 4 tokens had come before)"
        )
        bars.append(Bar(what, "1.3x", said, seen["beside_plain"] >= 1.3))
        if (
            name == "greedy"
        ):  # draws have the same distribution, which tests/generation/test_drafting.py asserts
            same, answers = seen["same"], figures["answers"]
            bars.append(Bar(f"{what}, same answers", "all", f"{same} of {answers}", same == answers))
    return bars


def encoding(scratch: Path) -> list[Bar]:
    """Vectors of ragged sentences by BERT-base, beside the fastest of three peers."""
    figures, _ = run([sys.executable, str(ROOT / "benchmarks" / "encoding.py"), "--json"], scratch)
    rates = ", ".join(f"{side} {median:,}" for side, (median, _, _) in figures["sides"].items())
    ratio, cosine = figures["beside_the_best"], figures["least_cosine"]
    what = "encoding BERT-base, ragged sentences"
    return [
        Bar(f"{what}, beside the best peer", "1.15x", f"{ratio:.2f}x ({rates} tokens/s)", ratio >= 1.15),
        Bar(f"{what}, cosine to float32", ">= 0.999", f"{cosine:.5f}", cosine >= 0.999),
    ]


def finetuning(scratch: Path) -> list[Bar]:
    """The time of as many steps over phrases of SST-2 from the same trunk, and that the dev score is no worse."""
    short = ["training.steps=300", "training.eval_every=0", "training.save_every=0"]
    recipe = str(ROOT / "recipes" / "english" / "pretrain.toml")
    trunk, _ = run([*MELETE, "train", recipe, *short, "--json"], scratch)
    options = ["--data", "sst2:phrases", "--rows", "4096", "--epochs", "2", "--batch", "32", "--seeds", "3"]
    script = str(ROOT / "benchmarks" / "finetuning.py")
    command = [sys.executable, script, "--model", trunk["run"], *options, "--rate", "3e-4", "--json"]
    figures, _ = run(command, scratch)
    bars = []
    for side, most in (("trainer-float32", 0.25), ("trainer-bf16", 0.5)):
        beside = figures["beside"][side]
        what, share = f"fine-tuning on SST-2 phrases, beside {side}", beside["time"]
        bars.append(Bar(what, f"<= {most:g} of its time", f"{share:.2f}", share <= most))
        least, apart = -beside["noise"], beside["difference"]
        said = f"{apart:+.4f}"
        bars.append(Bar(f"{what}, {figures['metric']}", f">= {least:+.4f} (noise)", said, apart >= least))
    return bars


def speedrun(scratch: Path) -> list[Bar]:
    """Ours by `recipes/speedrun/train.toml` beside ten minutes of nanoGPT's recipe with its best rate."""
    script = str(ROOT / "recipes" / "speedrun" / "race.py")
    found, _ = run([sys.executable, script, "--once", "--json"], scratch)
    ours, theirs, share = found["melete"], found["nanogpt"], found["share_of_time"]
    what, times = "speedrun, beside nanoGPT's recipe", f"{ours['seconds']:.0f} of {theirs['seconds']:.0f} s"
    larger, losses = ours["parameters"] / theirs["parameters"] - 1, (ours["loss"], theirs["loss"])
    said = f"{losses[0]:.4f} beside {losses[1]:.4f}"
    return [
        Bar(f"{what}, training time", "<= 1/3 of it", f"{share:.2f} ({times})", share <= 1 / 3),
        Bar(f"{what}, validation loss", "no higher", said, losses[0] <= losses[1]),
        Bar(f"{what}, parameters", "within 5%", f"{larger:+.1%}", abs(larger) <= 0.05),
    ]


BARS: dict[str, Callable[[Path], list[Bar]]] = {
    "training-mini": mini,
    "training-gpt2": gpt2,
    # Its loss falls steeply from the 40th step to the 70th, sooner or later as dropout has it.
    "training-electra": partial(ragged, "electra:small", 300, 15, 2.0),
    "training-bert": partial(ragged, "bert:base", 24, 4, 2.5),
    "decoding-1": partial(decoding, 1, 1.1),
    "decoding-8": partial(decoding, 8, 1.5),
    "speculation": speculation,
    "encoding": encoding,
    "finetuning": finetuning,
    "speedrun": speedrun,
}

if __name__ == "__main__":
    main(__doc__, BARS)
