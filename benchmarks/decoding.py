"""Greedy decoding of GPT-2 124M through our public API, beside CTranslate2 and `transformers`: tokens a second.

python benchmarks/decoding.py                        # batch 1 and 8; about 10 minutes on 2 cores
python benchmarks/decoding.py --batch 1 --json

The weights are random and no token ends a text, so all sides write 128 tokens behind 32. Each side has a process of its
own, as two OpenMP runtimes in one fight over the cores; they take turns. Needs benchmarks/requirements.txt.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _turns import Turns, take_turns
from melete.machine import usable_cores

PROMPT, NEW, ROUNDS = 32, 128, 6  # the first round warms up
PARAMETERS = 124_439_808
# Bytes of a weight that a step reads.
BYTES = {"float32": 4.0, "bfloat16": 2.0, "int8": 1.0, "int4": 0.5625}


def make_model(folder: Path) -> None:
    """GPT-2's size with random weights, and a tokenizer that knows a few of its tokens."""
    from melete.data.tokenizers import Tokenizer
    from melete.models import build
    from melete.models.checkpoint import save_model

    text = Path(argparse.__file__).read_text("utf-8")
    Tokenizer.train([text], "byte-bpe", 500).save(folder)
    model = build("gpt2:gpt2", eos_token_id=None, bos_token_id=None)
    save_model(folder, model, tokenizer=None)


def prompts(folder: Path, rows: int) -> list[str]:
    """Texts of `PROMPT` tokens, each another."""
    from melete.data.tokenizers import Tokenizer

    tokenizer = Tokenizer.load(folder)
    ids = tokenizer.encode(Path(argparse.__file__).read_text("utf-8"))
    return [tokenizer.decode(ids[row * 100 : row * 100 + PROMPT]) for row in range(rows)]


def melete(turns: Turns, folder: Path, rows: int, precision: str) -> None:
    """Ours."""
    import torch

    from melete.api import load

    torch.set_num_threads(usable_cores())
    model = load(folder, task="text-generation", precision=precision)
    texts = prompts(folder, rows)
    turns.ready()
    while turns.wait():
        assert len(model.generate(texts, temperature=0, max_new_tokens=NEW, eos_ids=())) == rows
        turns.done(rows * NEW, 0.0)


def ctranslate2(turns: Turns, folder: Path, rows: int, precision: str) -> None:
    """CTranslate2."""
    from _ctranslate2 import write_gpt2

    peer: Any = importlib.import_module("ctranslate2")  # not among what is checked with
    with tempfile.TemporaryDirectory() as converted:
        write_gpt2(folder, converted)
        model = peer.Generator(converted, compute_type=precision, intra_threads=usable_cores())
    tokens = [[f"{(row * 131 + i * 17) % 50000}" for i in range(PROMPT)] for row in range(rows)]
    greedy = {"beam_size": 1, "sampling_topk": 1, "end_token": [], "include_prompt_in_result": False}
    turns.ready()
    while turns.wait():
        found = model.generate_batch(tokens, max_length=NEW, min_length=NEW, **greedy)
        assert all(len(each.sequences_ids[0]) == NEW for each in found)
        turns.done(rows * NEW, 0.0)


def transformers(turns: Turns, folder: Path, rows: int, precision: str) -> None:
    """`generate` of transformers."""
    import torch
    import transformers as peer

    torch.set_num_threads(usable_cores())
    model: Any = peer.AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, precision)).eval()
    model.generation_config.eos_token_id = None
    ids = torch.arange(rows * PROMPT).view(rows, PROMPT)
    fixed = {"do_sample": False, "max_new_tokens": NEW, "min_new_tokens": NEW, "pad_token_id": 0}
    turns.ready()
    while turns.wait():
        found = model.generate(ids, attention_mask=torch.ones_like(ids), **fixed)
        assert found.shape[1] == PROMPT + NEW
        turns.done(rows * NEW, 0.0)


Side = Callable[..., None]
SIDES: dict[str, tuple[Side, str]] = {
    "melete int8": (melete, "int8"),
    "melete int4": (melete, "int4"),
    "melete float32": (melete, "float32"),
    "ctranslate2 int8": (ctranslate2, "int8"),
    "ctranslate2 float32": (ctranslate2, "float32"),
    "transformers float32": (transformers, "float32"),
    "transformers bfloat16": (transformers, "bfloat16"),
}


def bandwidth() -> float:
    """GB a second that this machine reads, median of 9."""
    import torch

    torch.set_num_threads(usable_cores())
    memory, rates = torch.ones(1 << 27), []
    for _ in range(9):
        begun = time.perf_counter()
        memory.sum()
        rates.append(memory.nbytes / 1e9 / (time.perf_counter() - begun))
    return statistics.median(rates)


def compare(folder: Path, rows: int, names: list[str]) -> dict[str, Any]:
    """Median tokens/s of each side, lowest and highest, and what that is in bytes of weights read."""
    sides = {name: (SIDES[name][0], (folder, rows, SIDES[name][1])) for name in names}
    seen = take_turns(f"decoding, batch {rows}", sides, [dict.fromkeys(names, 1)] * ROUNDS)
    peer = seen["ctranslate2 int8"].rate if "ctranslate2 int8" in seen else None
    figures = {}
    for name, side in seen.items():
        read = PARAMETERS * BYTES[SIDES[name][1]] * side.rate / rows / 1e9
        figures[name] = {
            "tokens_per_second": round(side.rate, 1),
            "lowest": round(min(side.rates), 1),
            "highest": round(max(side.rates), 1),
            "GB_per_second": round(read, 1),
            "beside_ctranslate2_int8": round(side.rate / peer, 2) if peer else None,
        }
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--sides", nargs="+", choices=list(SIDES), default=list(SIDES))
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers", "ctranslate2")}
    figures: dict[str, Any] = {
        "model": "gpt2 124M, random weights",
        "shape": f"{PROMPT} + {NEW} tokens, greedy",
        "cores": usable_cores(),
        "read_GB_per_second": round(bandwidth(), 1),
        "versions": versions,
    }
    with tempfile.TemporaryDirectory(prefix="melete-decoding-") as folder:
        make_model(Path(folder))
        figures["batch"] = {rows: compare(Path(folder), rows, arguments.sides) for rows in arguments.batch}
    if arguments.json:
        print(json.dumps(figures))
        return
    print(f"{figures['model']}, {figures['shape']}; {figures['cores']} cores, versions {versions}")
    print(f"this machine reads {figures['read_GB_per_second']} GB/s")
    for rows, sides in figures["batch"].items():
        print(f"\nbatch {rows}, median of {ROUNDS - 1}")
        for name, side in sides.items():
            spread = f"{side['lowest']:,.0f} to {side['highest']:,.0f}"
            ratio = f"{side['beside_ctranslate2_int8']}x CTranslate2 int8"
            print(f"  {name:22} {side['tokens_per_second']:8,.1f} tokens/s ({spread}), "
                  f"{side['GB_per_second']} GB/s, {ratio}")  # fmt: skip


if __name__ == "__main__":
    main()
