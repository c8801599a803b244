"""How the cost of training grows: tokens a second and peak memory against width, context, batch and size of the text.

python benchmarks/growth.py                              # all four, about 10 minutes on 2 cores
python benchmarks/growth.py width --plot growth.svg

A decoder of 4 layers as `melete pretrain` trains it, in bfloat16: 256 wide, 16 rows of 256 tokens, 1 MB of Python
source, one of them changed at a time. With the context the rows become fewer: a step is always 4,096 tokens. Each point
is a process of its own, its speed the median of three turns; its memory is that of torch, reading and training.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import cycle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from _turns import Turns, take_turns
from melete.console import say
from melete.data.corpus import Corpus, prepare
from melete.data.datasets import STDLIB, resolve
from melete.data.readers import Document
from melete.data.sampling import PackedRows
from melete.data.tokenizers import Tokenizer
from melete.machine import usable_cores
from melete.models import build
from melete.models.checkpoint import save_model
from training import VOCABULARY, Shape, melete

LAYERS, HEAD = 4, 64
STEP_TOKENS = 4096
ROUNDS, TURN = 4, 2  # steps of a turn; the first round warms up


@dataclass(frozen=True)
class Point:
    """What is trained: width of the model, tokens and number of rows, megabytes of text."""

    width: int = 256
    context: int = 256
    batch: int = STEP_TOKENS // 256
    text: int = 1


AXES = {
    "width": [Point(width=width) for width in (128, 256, 384, 512, 768)],
    "context": [Point(context=n, batch=STEP_TOKENS // n) for n in (128, 256, 512, 1024, 2048, 4096)],
    "batch": [Point(batch=rows) for rows in (1, 2, 4, 8, 16, 32)],
    "text": [Point(text=megabytes) for megabytes in (1, 4, 16, 64)],
}
NAMES = {"width": "width", "context": "tokens of a row", "batch": "rows of a step", "text": "MB of text"}
CURVES = {"tokens_per_second": "tokens a second", "peak_gib": "peak memory, GiB"}


def pieces(megabytes: int) -> Iterator[Document]:
    """So much Python source; where this Python has no more, from the beginning again."""
    left = megabytes * 10**6
    for document in cycle(resolve(STDLIB).train):
        yield replace(document, text=document.text[:left])
        left -= len(document.text)
        if left <= 0:
            return


def train(turns: Turns, folder: Path, corpus: Path, point: Point) -> None:
    """Our trainer on a prepared text."""
    source = PackedRows(Corpus.load(corpus), point.context, point.batch, point.batch)
    rows: Any = SimpleNamespace(
        shape=Shape("", VOCABULARY, point.batch, point.context, ()), micro_batches=source.micro_batches
    )
    melete(turns, folder, rows, ROUNDS * TURN)


def measure(point: Point, tokenizer: Tokenizer, texts: Path) -> dict[str, Any]:
    """Median tokens a second, and the most memory in GiB."""
    corpus = texts / str(point.text)
    prepare(pieces(point.text), tokenizer, corpus, source_hash=f"{point.text} MB")
    sizes: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": point.width,
        "intermediate_size": 4 * point.width,
        "num_attention_heads": point.width // HEAD,
        "num_hidden_layers": LAYERS,
        "max_position_embeddings": point.context,
    }
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model = build("gpt2:mini", **sizes)
        save_model(folder / "start", model, tokenizer=None)
        side = {"melete": (train, (folder, corpus, point))}
        seen = take_turns("growth", side, [{"melete": TURN}] * ROUNDS)["melete"]
    return {
        **asdict(point),
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokens_per_second": round(statistics.median(seen.rates)),
        "peak_gib": round(seen.memory / 2**30, 2),
    }


# ---------------------------------------------------------------------- the picture

# Of a panel, and what is left free beside, above and below the curve.
WIDE, HIGH = 260, 150
EDGE, ABOVE, BELOW = 46, 35, 23


def panel(axis: str, name: str, found: Sequence[dict[str, Any]], left: int, top: int) -> str:
    """One curve, evenly spaced along, from zero up."""
    most = max(row[name] for row in found)
    step = (WIDE - 2 * EDGE) / (len(found) - 1)
    places = [
        (left + EDGE + i * step, top + HIGH - BELOW - (HIGH - ABOVE - BELOW) * row[name] / most)
        for i, row in enumerate(found)
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    marks = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"/>'
        f'<text x="{x:.1f}" y="{y - 7:.1f}">{row[name]:,}</text>'
        f'<text x="{x:.1f}" y="{top + HIGH - 8}">{row[axis]:,}</text>'
        for (x, y), row in zip(places, found, strict=True)
    )
    title = (
        f'<text x="{left + WIDE / 2}" y="{top + 10}" class="title">{CURVES[name]}, by {NAMES[axis]}</text>'
    )
    return f'{title}<polyline points="{line}"/>{marks}'


def picture(figures: dict[str, list[dict[str, Any]]]) -> str:
    """An SVG: a row of curves for speed, one for memory."""
    panels = "".join(
        panel(axis, name, found, column * WIDE, row * (HIGH + 12))
        for column, (axis, found) in enumerate(figures.items())
        for row, name in enumerate(CURVES)
    )
    style = (
        "svg{background:#fff}text{font:9px sans-serif;text-anchor:middle}.title{font-weight:bold}"
        "polyline{fill:none;stroke:#2563eb}circle{fill:#2563eb}"
    )
    size = f"{len(figures) * WIDE} {2 * (HIGH + 12)}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}"><style>{style}</style>{panels}</svg>\n'
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("axes", nargs="*", default=list(AXES), metavar=f"{{{','.join(AXES)}}}")
    parser.add_argument("--plot", type=Path, help="an SVG of the curves")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    asked = parser.parse_args()
    say(f"{platform.system()} {platform.machine()}, {usable_cores()} cores, torch {torch.__version__}")
    with tempfile.TemporaryDirectory(prefix="melete-growth-") as texts:
        tokenizer = Tokenizer.train((document.text for document in pieces(1)), "byte-bpe", VOCABULARY)
        find = partial(measure, tokenizer=tokenizer, texts=Path(texts))
        figures = {axis: [find(point) for point in AXES[axis]] for axis in asked.axes}
    if asked.plot:
        asked.plot.write_text(picture(figures), encoding="utf-8")
    if asked.json:
        print(json.dumps(figures))
        return
    for axis, found in figures.items():
        for row in found:
            print(
                f"{NAMES[axis]} {row[axis]:,}: {row['tokens_per_second']:,} tokens/s, {row['peak_gib']} GiB"
            )


if __name__ == "__main__":
    main()
