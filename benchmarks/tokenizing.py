"""Tokenising and sharding beside `tokenizers` alone, interleaved in one run; and the memory it takes.

python benchmarks/tokenizing.py                      # on this Python's own standard library
python benchmarks/tokenizing.py my.txt --json
python benchmarks/tokenizing.py --memory 5GB         # streams a made-up file of that size
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from melete.data.corpus import prepare
from melete.data.datasets import resolve
from melete.data.readers import Document, read_documents
from melete.data.tokenizers import Tokenizer
from melete.machine import usable_cores

ROUNDS = 5
VOCABULARY = 8192


def compare(documents: list[Document]) -> dict[str, Any]:
    """Median MB/s of `encode_batch` alone and of ours, tokenising and writing shards, with what each round gave."""
    texts = [document.text for document in documents]
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    tokenizer = Tokenizer.train(texts, "byte-bpe", VOCABULARY)
    from tokenizers import Tokenizer as Theirs

    theirs = Theirs.from_str(tokenizer.definition)

    def ours() -> None:
        with tempfile.TemporaryDirectory() as folder:
            # A tokenizer of its own, so that building and proving the quick encoder is part of every round.
            fresh = Tokenizer(tokenizer.definition, tokenizer.config)
            prepare(documents, fresh, folder, source_hash="benchmark")

    contestants: dict[str, Callable[[], Any]] = {
        "tokenizers encode_batch, no sharding": lambda: theirs.encode_batch(texts, add_special_tokens=False),
        "melete prepare, to disk": ours,
    }
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(ROUNDS):
        for name, run in contestants.items():
            start = time.perf_counter()
            run()
            rates[name].append(megabytes / (time.perf_counter() - start))
    first, second = (statistics.median(rates[name]) for name in contestants)
    return {
        "megabytes": round(megabytes, 2),
        "encoder": tokenizer.encoder.name,
        "MB_per_second": {name: round(statistics.median(each), 2) for name, each in rates.items()},
        "rounds": {name: [round(rate, 2) for rate in each] for name, each in rates.items()},
        "ratio": round(second / first, 2),
    }


def memory(size: int) -> dict[str, Any]:
    """Peak memory of this process while it prepares a file of `size` bytes, made of shuffled lines of the library."""
    lines = [
        line
        for document in resolve("python-stdlib").train
        for line in document.text.splitlines(keepends=True)
    ]
    del lines[200_000:]
    tokenizer = Tokenizer.train(lines, "byte-bpe", VOCABULARY)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "text.txt"
        written, at = 0, 0
        with path.open("w", encoding="utf-8") as file:
            while written < size:
                at = (at + 7919) % len(lines)  # a prime: another order of lines each time round
                written += file.write(lines[at])
        before = _peak()
        start = time.perf_counter()
        corpus = prepare(
            read_documents([str(path)]),
            tokenizer,
            Path(folder) / "corpus",
            source_hash="benchmark",
            total_bytes=size,
        )
        seconds = time.perf_counter() - start
        return {
            "bytes": corpus.num_bytes,
            "tokens": len(corpus),
            "MB_per_second": round(corpus.num_bytes / 1e6 / seconds, 2),
            "peak_MiB_before": before,
            "peak_MiB": _peak(),
        }


def _peak() -> int:
    """MiB, of this process: tokenising uses threads, no other process."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used >> (20 if sys.platform == "darwin" else 10)


def _bytes(text: str) -> int:
    units = {"KB": 10**3, "MB": 10**6, "GB": 10**9}
    return int(float(text[:-2]) * units[text[-2:].upper()]) if text[-2:].upper() in units else int(text)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="?", default="python-stdlib", help="a file, a folder or a named set")
    parser.add_argument(
        "--memory", type=_bytes, metavar="SIZE", help="measure memory on SIZE bytes (5GB) instead"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    if arguments.memory:
        figures = memory(arguments.memory)
    else:
        figures = {"data": arguments.data, **compare(list(resolve(arguments.data).train))}
    versions = {name: importlib.metadata.version(name) for name in ("tokenizers", "tiktoken", "numpy")}
    figures |= {"cores": usable_cores(), "load": round(os.getloadavg()[0], 1), "versions": versions}
    if arguments.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name}: {value}")


if __name__ == "__main__":
    main()
