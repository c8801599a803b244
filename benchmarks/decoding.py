"""Greedy decoding of GPT-2 124M through our public API, beside CTranslate2 and `transformers`: tokens a second.

python benchmarks/decoding.py                        # batch 1 and 8; about 10 minutes on 2 cores
python benchmarks/decoding.py --batch 1 --json
python benchmarks/decoding.py --device cuda          # bfloat16 on one NVIDIA GPU, beside `transformers` alone

The weights are random and no token ends a text, so all sides write 128 tokens behind 32. Each side has a process of its
own, as two OpenMP runtimes in one fight over the cores; they take turns. On a CPU it needs benchmarks/requirements.txt.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from _turns import Turns, take_turns
from melete.machine import usable_cores


@dataclass(frozen=True)
class Task:
    """What all sides do.

    Attributes:
        preset: of GPT-2.
        prompt, new: tokens that are read, and written.
        rounds: the first one warms up.
    """

    preset: str = "gpt2"
    prompt: int = 32
    new: int = 128
    rounds: int = 6
    device: str = "cpu"


TINY = Task("nano", 8, 16, 2)  # not a measurement: whether it works


def make_model(folder: Path, task: Task) -> int:
    """GPT-2 with random weights, and a tokenizer that knows a few of its tokens; how many weights."""
    from melete.data.tokenizers import Tokenizer
    from melete.models import build
    from melete.models.checkpoint import save_model

    text = Path(argparse.__file__).read_text("utf-8")
    Tokenizer.train([text], "byte-bpe", 500).save(folder)
    model = build(f"gpt2:{task.preset}", eos_token_id=None, bos_token_id=None)
    save_model(folder, model, tokenizer=None)
    return sum(p.numel() for p in model.parameters())


def prompts(folder: Path, task: Task, rows: int) -> list[str]:
    """Texts of so many tokens, each another."""
    from melete.data.tokenizers import Tokenizer

    tokenizer = Tokenizer.load(folder)
    ids = tokenizer.encode(Path(argparse.__file__).read_text("utf-8"))
    return [tokenizer.decode(ids[row * 100 : row * 100 + task.prompt]) for row in range(rows)]


def melete(turns: Turns, folder: Path, task: Task, rows: int, precision: str) -> None:
    """Ours."""
    import torch

    from melete.api import load

    torch.set_num_threads(usable_cores())
    model = load(folder, task="text-generation", precision=precision, device=task.device)
    texts = prompts(folder, task, rows)
    turns.ready()
    while turns.wait():
        assert len(model.generate(texts, temperature=0, max_new_tokens=task.new, eos_ids=())) == rows
        turns.done(rows * task.new, 0.0)


def ctranslate2(turns: Turns, folder: Path, task: Task, rows: int, precision: str) -> None:
    """CTranslate2."""
    from _ctranslate2 import write_gpt2

    peer: Any = importlib.import_module("ctranslate2")  # not among what is checked with
    with tempfile.TemporaryDirectory() as converted:
        write_gpt2(folder, converted)
        model = peer.Generator(converted, compute_type=precision, intra_threads=usable_cores())
    tokens = [[f"{(row * 131 + i * 17) % 50000}" for i in range(task.prompt)] for row in range(rows)]
    greedy = {"beam_size": 1, "sampling_topk": 1, "end_token": [], "include_prompt_in_result": False}
    turns.ready()
    while turns.wait():
        found = model.generate_batch(tokens, max_length=task.new, min_length=task.new, **greedy)
        assert all(len(each.sequences_ids[0]) == task.new for each in found)
        turns.done(rows * task.new, 0.0)


def transformers(turns: Turns, folder: Path, task: Task, rows: int, precision: str, cache: str = "") -> None:
    """`generate` of transformers."""
    import torch
    import transformers as peer

    torch.set_num_threads(usable_cores())
    model: Any = peer.AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, precision))
    model = model.eval().to(task.device)
    model.generation_config.eos_token_id = None
    model.generation_config.cache_implementation = cache or None
    ids = torch.arange(rows * task.prompt, device=task.device).view(rows, task.prompt)
    fixed = {"do_sample": False, "max_new_tokens": task.new, "min_new_tokens": task.new, "pad_token_id": 0}
    turns.ready()
    while turns.wait():
        found = model.generate(ids, attention_mask=torch.ones_like(ids), **fixed).tolist()
        assert all(len(row) == task.prompt + task.new for row in found)
        turns.done(rows * task.new, 0.0)


def transformers_static(turns: Turns, folder: Path, task: Task, rows: int, precision: str) -> None:
    """The same with a cache whose shape stays: on a GPU `generate` then compiles the step into CUDA graphs."""
    transformers(turns, folder, task, rows, precision, "static")


Side = Callable[..., None]
SIDES: dict[str, tuple[Side, str]] = {
    "melete int8": (melete, "int8"),
    "melete int4": (melete, "int4"),
    "melete float32": (melete, "float32"),
    "melete bfloat16": (melete, "bfloat16"),
    "ctranslate2 int8": (ctranslate2, "int8"),
    "ctranslate2 float32": (ctranslate2, "float32"),
    "transformers float32": (transformers, "float32"),
    "transformers bfloat16": (transformers, "bfloat16"),
    "transformers static bfloat16": (transformers_static, "bfloat16"),
}
# int8, int4 and CTranslate2 are for CPUs here.
ON_GPU = ["melete bfloat16", "transformers bfloat16", "transformers static bfloat16"]
USUAL = {
    "cpu": [name for name in SIDES if name not in ON_GPU or name == "transformers bfloat16"],
    "cuda": ON_GPU,
}


def compare(folder: Path, task: Task, weights: int, rows: int, names: list[str]) -> dict[str, Any]:
    """Median tokens/s of each side, lowest and highest, what that is in bytes of weights read, and its memory."""
    from melete.compression.prepare import bytes_of_weight  # not at the top: as in `main`

    sides = {name: (SIDES[name][0], (folder, task, rows, SIDES[name][1])) for name in names}
    seen = take_turns(f"decoding, batch {rows}", sides, [dict.fromkeys(names, 1)] * task.rounds)
    peer = seen["ctranslate2 int8"].rate if "ctranslate2 int8" in seen else None
    best = max((side.rate for name, side in seen.items() if not name.startswith("melete")), default=None)
    figures = {}
    for name, side in seen.items():
        read = weights * bytes_of_weight(SIDES[name][1]) * side.rate / rows / 1e9
        figures[name] = {
            "tokens_per_second": round(side.rate, 1),
            "lowest": round(min(side.rates), 1),
            "highest": round(max(side.rates), 1),
            "GB_per_second": round(read, 1),
            "peak_gib": round(side.memory / 2**30, 2),
            "beside_ctranslate2_int8": round(side.rate / peer, 2) if peer else None,
            "beside_the_best_peer": round(side.rate / best, 2) if best else None,
        }
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--sides", nargs="+", choices=list(SIDES), help="default: those that suit the device")
    parser.add_argument("--device", choices=list(USUAL), default="cpu")
    parser.add_argument("--tiny", action="store_true", help="not a measurement: whether it works")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    from _device import bandwidth, described  # not at the top: the process of CTranslate2 shall have no torch

    device = arguments.device
    task = replace(TINY if arguments.tiny else Task(), device=device)
    names = arguments.sides or USUAL[device]
    packages = ["torch", "transformers", *["ctranslate2"] * any("ctranslate2" in name for name in names)]
    versions = {name: importlib.metadata.version(name) for name in packages}
    with tempfile.TemporaryDirectory(prefix="melete-decoding-") as folder:
        weights = make_model(Path(folder), task)
        figures: dict[str, Any] = {
            "model": f"gpt2:{task.preset}, {weights / 1e6:.0f}M random weights",
            "shape": f"{task.prompt} + {task.new} tokens, greedy",
            "device": described(device),
            "read_GB_per_second": round(bandwidth(device, 1 << (20 if arguments.tiny else 27)), 1),
            "versions": versions,
            "batch": {rows: compare(Path(folder), task, weights, rows, names) for rows in arguments.batch},
        }
    if arguments.json:
        print(json.dumps(figures))
        return
    print(f"{figures['model']}, {figures['shape']}; {figures['device']}, versions {versions}")
    print(f"this device reads {figures['read_GB_per_second']:,} GB/s")
    for rows, sides in figures["batch"].items():
        print(f"\nbatch {rows}, median of {task.rounds - 1}")
        for name, side in sides.items():
            spread = f"{side['lowest']:,.0f} to {side['highest']:,.0f}"
            ratio = f"{side['beside_the_best_peer']}x the best peer"
            print(f"  {name:28} {side['tokens_per_second']:8,.1f} tokens/s ({spread}), "
                  f"{side['GB_per_second']} GB/s, {side['peak_gib']} GiB, {ratio}")  # fmt: skip


if __name__ == "__main__":
    main()
