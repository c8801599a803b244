"""Re-run the measured promises of the encoders, and say of each what was asked and what came out.

python benchmarks/bars_encoders.py                    # all of them, up to 75 minutes on 2 cores
python benchmarks/bars_encoders.py throughput         # some of them
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from _bars import MELETE, ROOT, Bar, main, passes, run


def proofs(scratch: Path) -> list[Bar]:
    """What is exact, as tests."""
    return [
        passes("parity and folders, both ways", "tests/parity", "tests/models"),
        passes("packed = padded, and masking", "tests/objectives", "tests/data/test_corruption.py"),
        passes("kill and resume, each objective", "tests/training/test_kill.py"),
    ]


def electra(scratch: Path) -> list[Bar]:
    """ELECTRA from scratch in half an hour."""
    recipe = ROOT / "recipes" / "wikitext-2" / "electra-thirty-minutes.toml"
    card, seconds = run([*MELETE, "train", str(recipe), "--json"], scratch)
    score = card["table"][0]
    auc, ratio = score["auc"], score["ratio"]
    own = f"{auc:.3f}, and {score['auc_generator']:.3f} on its own generator's samples"
    return [
        Bar("ELECTRA, wall clock", "<= 1800 s", f"{seconds:.0f} s", seconds <= 1800),
        Bar("ELECTRA, AUC on the fixed corruption", ">= 0.85", own, auc >= 0.85),
        Bar("ELECTRA, generator beside unigram entropy", "<= 0.9x", f"{ratio:.3f}x", ratio <= 0.9),
    ]


def throughput(scratch: Path) -> list[Bar]:
    """Real tokens a second beside a `transformers` loop, and the loss after 300 steps."""
    script = str(ROOT / "benchmarks" / "encoder_training.py")
    bars = []
    for text in ("sst2", "thucnews_title", "wikitext-2"):
        figures, _ = run([sys.executable, script, text, "--json"], scratch)
        bf16, float32, drift = (figures[key] for key in ("beside_bf16", "beside_float32", "loss_difference"))
        bars += [
            Bar(f"{text}, beside its bf16", ">= 1.8x", f"{bf16:.2f}x", bf16 >= 1.8),
            Bar(f"{text}, beside its float32", ">= 3x", f"{float32:.2f}x", float32 >= 3),
            Bar(f"{text}, loss of steps 250-300", "within 0.5 %", f"{drift:+.2%}", abs(drift) <= 0.005),
        ]
    return bars


BARS: dict[str, Callable[[Path], list[Bar]]] = {
    "proofs": proofs,
    "throughput": throughput,
    "electra": electra,
}

if __name__ == "__main__":
    main(__doc__, BARS)
