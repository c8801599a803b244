"""Guesses ahead beside our own plain decoding: tokens a second of a trained model, one answer at a time.

python benchmarks/speculation.py runs/wikitext-2-thirty-minutes
python benchmarks/speculation.py                     # of a model that learns for a few minutes first

Who guesses is the 5-gram of the training text, or a look-up in the answer so far. All continue pieces of the held-out
text, with the likeliest tokens and with drawn ones, in turns in one process. Greedy answers must be the same; so are
drawn ones of the look-up, while those of the 5-gram, which draws its guesses, only have the same distribution.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from _bars import MELETE, ROOT, run
from melete.api import LanguageModel, load
from melete.baselines.drafting import NGramDrafter
from melete.console import Progress
from melete.data.datasets import resolve, tokenised
from melete.evaluation.scorecard import train_baseline
from melete.generation.drafting import Drafter, PromptDrafter
from melete.generation.generate import Decoding, Speculation, follow
from melete.generation.settings import GenerationSettings
from melete.machine import usable_cores
from melete.metrics.diversity import repetition_rate

PROMPT, NEW = 32, 128


class Way:
    """Decoding with a drafter or without, and what came of it."""

    def __init__(self, drafter: Drafter | None) -> None:
        self.drafter = drafter
        self.rates: list[float] = []  # tokens a second of each answer
        self.answers: list[list[int]] = []
        self.passes = self.guessed = self.accepted = 0

    def answer(self, loaded: LanguageModel, prompt: list[int], settings: GenerationSettings) -> None:
        """Continue a prompt."""
        begun = time.perf_counter()
        asked = loaded.model, [prompt], settings, loaded.tokenizer
        decoding = Speculation(*asked, self.drafter) if self.drafter else Decoding(*asked)
        self.answers.append([piece.token for piece in follow(decoding)])
        self.rates.append(NEW / (time.perf_counter() - begun))
        if isinstance(decoding, Speculation):
            self.passes += decoding.passes
            self.guessed += decoding.guessed
            self.accepted += decoding.accepted

    def figures(self, plain: Way) -> dict[str, Any]:
        """Medians, beside plain decoding."""
        rate = statistics.median(self.rates)
        return {
            "tokens_per_second": round(rate, 1),
            "beside_plain": round(rate / statistics.median(plain.rates), 3),
            "acceptance": round(self.accepted / self.guessed, 3) if self.guessed else None,
            "tokens_per_pass": round(NEW * len(self.answers) / self.passes, 2) if self.passes else 1.0,
            "repetition": round(repetition_rate(self.answers), 3),
            "same": sum(one == other for one, other in zip(self.answers, plain.answers, strict=True)),
        }


def compare(source: str, data: str, precision: str, rows: int) -> dict[str, Any]:
    """For greedy decoding and for draws at temperature 1, the figures of each way."""
    torch.set_num_threads(usable_cores())
    loaded = load(source, task="text-generation", precision=precision)
    named = resolve(data)
    assert named.valid is not None
    text = tokenised(named.valid, loaded.tokenizer)
    starts = range(0, len(text) - PROMPT, (len(text) - PROMPT) // rows)[:rows]
    prompts = [text.read(start, start + PROMPT).tolist() for start in starts]
    ngram = train_baseline(tokenised(named.train, loaded.tokenizer), loaded.tokenizer.vocab_size)
    drafters = {"plain": None, "5-gram": NGramDrafter(ngram), "look-up": PromptDrafter()}
    found = {}
    for name, temperature in (("greedy", 0.0), ("temperature 1", 1.0)):
        ways = {way: Way(drafter) for way, drafter in drafters.items()}
        settings = GenerationSettings(temperature=temperature, max_new_tokens=NEW)
        for drafter in drafters.values():
            Way(drafter).answer(loaded, prompts[0], settings)  # warms up
        with Progress(name, "answers", len(prompts)) as progress:
            for prompt in prompts:
                for way in ways.values():
                    way.answer(loaded, prompt, settings)
                progress.advance(1)
        found[name] = {way: each.figures(ways["plain"]) for way, each in ways.items()}
    return {"precision": precision, "answers": len(prompts), "cores": usable_cores(), **found}


def trained(scratch: Path) -> str:
    """A model of the WikiText-2 recipe after a seventh of its steps."""
    recipe = ROOT / "recipes" / "wikitext-2" / "thirty-minutes.toml"
    short = [
        "training.steps=470",
        "training.eval_every=0",
        "evaluation.baseline=false",
        "evaluation.stride=256",
    ]
    run([*MELETE, "train", str(recipe), *short, "--json"], scratch)
    return str(scratch / "runs" / "wikitext-2-thirty-minutes")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", help="a run, or a folder of a decoder")
    parser.add_argument("--data", default="wikitext-2", help="a named set: what the 5-gram learns from")
    parser.add_argument("--precision", default="int8")
    parser.add_argument("--rows", type=int, default=24, help="answers of each way")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="melete-speculation-") as folder:
        model = asked.model or trained(Path(folder))
        figures = compare(model, asked.data, asked.precision, asked.rows)
    if asked.json:
        print(json.dumps(figures))
        return
    print(f"{figures['precision']}, {figures['cores']} cores, {figures['answers']} answers of {NEW} tokens")
    for name in ("greedy", "temperature 1"):
        for way, seen in figures[name].items():
            print(f"{name}, {way}: {seen}")


if __name__ == "__main__":
    main()
