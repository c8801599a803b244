"""Re-run the measured promises of the main job, and say of each what was asked and what came out.

python benchmarks/bars_main_job.py                    # all of them, up to 75 minutes on 2 cores
python benchmarks/bars_main_job.py demo startup       # some of them
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from _bars import MELETE, ROOT, Bar, main, passes, run


def demo(scratch: Path) -> list[Bar]:
    """The demo, from process start to its page."""
    card, seconds = run([*MELETE, "demo", "--json"], scratch)
    gpt, ngram, mixture = (row["bits_per_byte"] for row in card["table"])
    return [
        Bar("demo, wall clock", "<= 240 s", f"{seconds:.0f} s", seconds <= 240),
        _better("demo, GPT beside the 5-gram", gpt, ngram, 0.03),
        _better("demo, mixture beside the 5-gram", mixture, ngram, 0.10),
    ]


def wikitext(scratch: Path) -> list[Bar]:
    """WikiText-2, per-word perplexity over the whole validation split."""
    recipe = ROOT / "recipes" / "wikitext-2" / "thirty-minutes.toml"
    card, seconds = run([*MELETE, "train", str(recipe), "--json"], scratch)
    score = card["table"][0]
    perplexity = score["word_perplexity"]
    where = f"{score['words']:,} words, context {score['context']}, stride {score['stride']}"
    return [
        Bar("WikiText-2, wall clock", "<= 1800 s", f"{seconds:.0f} s", seconds <= 1800),
        Bar("WikiText-2, words scored", "217,646", f"{score['words']:,}", score["words"] == 217_646),
        Bar("WikiText-2, perplexity per word", "<= 140", f"{perplexity:.1f} ({where})", perplexity <= 140),
    ]


def ngram(scratch: Path) -> list[Bar]:
    """The 5-gram at word level: whitespace tokens, and one <eos> a line."""
    import numpy as np

    from melete.baselines.ngram import NGram
    from melete.data.datasets import resolve

    data = resolve("wikitext-2")
    assert data.valid is not None
    words = [
        [word for line in text.split("\n")[:-1] for word in [*line.split(), "<eos>"]]
        for text in ("".join(document.text for document in side) for side in (data.train, data.valid))
    ]
    vocabulary = {word: i for i, word in enumerate(sorted({*words[0], *words[1]}))}
    train, valid = (np.array([vocabulary[word] for word in side], dtype=np.int64) for side in words)
    begun = time.monotonic()
    model = NGram.train(train, len(vocabulary), order=5)
    seconds = time.monotonic() - begun
    start = np.array([vocabulary["<eos>"]])
    perplexity = float(np.exp(-model.token_log_probs(np.concatenate([start, valid])).mean()))
    return [
        Bar(
            "5-gram of words, WikiText-2", "233.9 +- 1.5", f"{perplexity:.2f}", abs(perplexity - 233.9) <= 1.5
        ),
        Bar("5-gram of words, built in", "<= 60 s", f"{seconds:.1f} s", seconds <= 60),
    ]


def shakespeare_fast(scratch: Path) -> list[Bar]:
    """tinyshakespeare in twenty seconds."""
    return _shakespeare(scratch, "twenty-seconds", 20, 1.88)


def shakespeare_long(scratch: Path) -> list[Bar]:
    """tinyshakespeare in twenty minutes."""
    return _shakespeare(scratch, "twenty-minutes", 1200, 1.55)


def _shakespeare(scratch: Path, recipe: str, limit: float, loss: float) -> list[Bar]:
    path = ROOT / "recipes" / "shakespeare" / f"{recipe}.toml"
    card, seconds = run([*MELETE, "train", str(path), "--json"], scratch)
    score = card["table"][0]
    windows = f"{score['tokens']:,} characters in windows of {score['context']}"
    name = f"tinyshakespeare, {recipe}"
    return [
        Bar(f"{name}, wall clock", f"<= {limit:.0f} s", f"{seconds:.1f} s", seconds <= limit),
        Bar(f"{name}, nats", f"<= {loss}", f"{score['loss']:.4f} ({windows})", score["loss"] <= loss),
    ]


def tokenizing(scratch: Path) -> list[Bar]:
    """Speed beside `tokenizers` alone, and memory on 0.5 and 5 GB."""
    script = str(ROOT / "benchmarks" / "tokenizing.py")
    speed, _ = run([sys.executable, script, "--json"], scratch)
    ratio = speed["ratio"]
    bars = [Bar("tokenising and sharding beside encode_batch", ">= 1x (aim 2x)", f"{ratio:.2f}x", ratio >= 1)]
    peaks = []
    for size in ("500MB", "5GB"):
        figures, seconds = run([sys.executable, script, "--memory", size, "--json"], scratch)
        peaks.append(figures["peak_MiB"])
        bars.append(
            Bar(
                f"peak memory on {size}",
                "< 1024 MiB",
                f"{peaks[-1]:.0f} MiB, {seconds:.0f} s",
                peaks[-1] < 1024,
            )
        )
    grown = peaks[1] / peaks[0] - 1
    bars.append(Bar("growth from 0.5 to 5 GB", "flat (<= 10 %)", f"{grown:+.1%}", grown <= 0.10))
    return bars


def startup(scratch: Path) -> list[Bar]:
    """The two start-up times, medians of nine."""
    shown = _median_seconds([*MELETE, "--help"])
    bare = _median_seconds([sys.executable, "-c", "pass"])
    imported = _median_seconds([sys.executable, "-c", "import melete"]) - bare
    return [
        Bar("melete --help", "< 0.2 s", f"{shown:.3f} s", shown < 0.2),
        Bar("import melete, beyond Python's start", "< 0.1 s", f"{imported:.3f} s", imported < 0.1),
    ]


def _median_seconds(command: list[str]) -> float:
    def once() -> float:
        begun = time.monotonic()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return time.monotonic() - begun

    return statistics.median(once() for _ in range(9))


def proofs(scratch: Path) -> list[Bar]:
    """20 kill -9 and resume cycles, the guard's injections, and every bad input, as tests."""
    tests = ("training/test_kill.py", "training/test_guard.py", "cli", "data/test_readers.py")
    return [passes("kills, guard and bad input", *(f"tests/{place}" for place in tests))]


BARS: dict[str, Callable[[Path], list[Bar]]] = {
    "startup": startup,
    "ngram": ngram,
    "demo": demo,
    "shakespeare-fast": shakespeare_fast,
    "tokenizing": tokenizing,
    "proofs": proofs,
    "shakespeare-long": shakespeare_long,
    "wikitext": wikitext,
}


def _better(what: str, got: float, baseline: float, share: float) -> Bar:
    gain = 1 - got / baseline
    figures = f"{gain:.1%} ({got:.4f} beside {baseline:.4f} bits/byte)"
    return Bar(what, f">= {share:.0%} better", figures, gain >= share)


if __name__ == "__main__":
    main(__doc__, BARS)
