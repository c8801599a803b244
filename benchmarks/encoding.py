"""Vectors of ragged sentences by a model of BERT-base's size: ours in bfloat16 beside what else reads them.

python benchmarks/encoding.py                        # about 5 minutes on 2 cores
python benchmarks/encoding.py --device cuda          # more sentences on one NVIDIA GPU, beside `transformers` alone

Random weights; real tokens a second, padding not counted. The peers get tokens and batches of like lengths, 32 on a CPU
and 128 on a GPU; ours gets the texts and tokenizes them. A process a side, in turns; on a CPU it needs
benchmarks/requirements.txt.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from _turns import Turns, take_turns
from melete.machine import usable_cores


@dataclass(frozen=True)
class Task:
    """What all sides do.

    Attributes:
        preset: of BERT.
        sentences, times: so many, each so often.
        batch: sentences that a peer reads at once.
        rounds: the first one warms up.
    """

    preset: str = "base"
    sentences: int = 192
    times: int = 1
    batch: int = 32
    rounds: int = 6
    device: str = "cpu"


TASKS = {"cpu": Task(), "cuda": Task(times=32, batch=128, device="cuda")}
TINY = Task("mini", 16, 1, 8, 2)  # not a measurement: whether it works


def make_model(folder: Path, task: Task) -> int:
    """BERT with random weights, and a tokenizer of our own pages' words; the texts beside them.

    Returns:
        FLOPs of a token in the matrices of the layers; those of attention, a few in a hundred here, do not count.
    """
    from melete.data.tokenizers import Tokenizer
    from melete.models import build_encoder
    from melete.models.checkpoint import save_model

    pages = Path(__file__).resolve().parents[1] / "docs" / "en"
    lines = [
        line.strip() for page in sorted(pages.glob("*.md")) for line in page.read_text("utf-8").split(". ")
    ]
    texts = sorted({line for line in lines if 20 < len(line) < 600}, key=lambda text: text[::-1])
    texts = texts[: task.sentences] * task.times
    (folder / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
    Tokenizer.train(lines, "wordpiece", 4000).save(folder)
    model = build_encoder(f"bert:{task.preset}", task="text-classification")
    save_model(folder, model, tokenizer=None)
    return 2 * sum(p.numel() for p in model.layers.parameters() if p.dim() == 2)  # pyright: ignore


def opened(folder: Path, precision: str, device: str = "cpu") -> tuple[Any, list[str], list[np.ndarray]]:
    """Ours, the texts, and their tokens as ours frames them."""
    from melete.api import load

    model = load(folder, task="feature-extraction", precision=precision, device=device)
    texts = json.loads((folder / "texts.json").read_text("utf-8"))
    framed = [model.framing.one(np.array(model.tokenizer.encode(text), dtype=np.int64)).ids for text in texts]
    return model, texts, framed


def batches(rows: list[np.ndarray], size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Tokens and what of them is real, int64 (B, T) each, like lengths together."""
    order = sorted(rows, key=len)
    for start in range(0, len(order), size):
        some = order[start : start + size]
        ids = np.zeros((len(some), max(map(len, some))), dtype=np.int64)
        real = np.zeros_like(ids)
        for i, row in enumerate(some):
            ids[i, : len(row)], real[i, : len(row)] = row, 1
        yield ids, real


def melete(turns: Turns, folder: Path, task: Task) -> None:
    """Ours: `melete.load(folder, precision="bfloat16").embed(texts)`."""
    import torch

    torch.set_num_threads(usable_cores())
    exact, texts, rows = opened(folder, "float32", task.device)
    model, _, _ = opened(folder, "bfloat16", task.device)
    least = float(np.einsum("nd,nd->n", model.embed(texts[:64]), exact.embed(texts[:64])).min())
    del exact
    if task.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    turns.ready()
    while turns.wait():
        model.embed(texts)
        turns.done(sum(map(len, rows)), least)


def transformers(turns: Turns, folder: Path, task: Task) -> None:
    """BertModel in bfloat16, and the mean of the tokens."""
    import torch
    import transformers as peer

    torch.set_num_threads(usable_cores())
    model: Any = peer.BertModel.from_pretrained(folder, dtype=torch.bfloat16).eval()
    model = model.to(task.device)
    _, _, rows = opened(folder, "float32")
    turns.ready()
    while turns.wait():
        with torch.inference_mode():
            for ids, real in batches(rows, task.batch):
                given, seen = (torch.from_numpy(part).to(task.device) for part in (ids, real))
                hidden = model(input_ids=given, attention_mask=seen).last_hidden_state
                _ = ((hidden * seen[..., None]).sum(1) / seen.sum(1, keepdim=True)).cpu()
        turns.done(sum(map(len, rows)), 0.0)


def onnxruntime(turns: Turns, folder: Path, task: Task) -> None:
    """Our export to ONNX, with the pooler and a small head in the place of a mean, quantised by ONNX Runtime."""
    import onnx
    import onnxruntime as peer

    from melete.export.export import export_model

    quantise: Any = importlib.import_module("onnxruntime.quantization").quantize_dynamic
    _, _, rows = opened(folder, "float32")
    with tempfile.TemporaryDirectory() as scratch:
        export_model(str(folder), "onnx", Path(scratch) / "graph")
        graph = next((Path(scratch) / "graph").glob("*.onnx"))
        model = onnx.load(graph)
        del model.graph.value_info[:]  # shapes that the quantiser infers otherwise
        onnx.save(model, f"{scratch}/float32.onnx")
        quantise(f"{scratch}/float32.onnx", f"{scratch}/int8.onnx")
        options = peer.SessionOptions()
        options.intra_op_num_threads = usable_cores()
        session = peer.InferenceSession(f"{scratch}/int8.onnx", options)
    names = [given.name for given in session.get_inputs()]
    turns.ready()
    while turns.wait():
        for ids, real in batches(rows, task.batch):
            given = {"input_ids": ids, "attention_mask": real, "token_type_ids": np.zeros_like(ids)}
            session.run(None, {name: given[name] for name in names})
        turns.done(sum(map(len, rows)), 0.0)


def ctranslate2(turns: Turns, folder: Path, task: Task) -> None:
    """CTranslate2's encoder in int8, and the mean of the tokens."""
    from _ctranslate2 import write_bert

    peer: Any = importlib.import_module("ctranslate2")  # not among what is checked with
    with tempfile.TemporaryDirectory() as converted:
        write_bert(folder, converted)
        model = peer.Encoder(converted, compute_type="int8", intra_threads=usable_cores())
    _, _, rows = opened(folder, "float32")
    turns.ready()
    while turns.wait():
        for ids, real in batches(rows, task.batch):
            lengths = real.sum(1).tolist()
            read = [row[:length].tolist() for row, length in zip(ids, lengths, strict=True)]
            hidden = np.array(
                model.forward_batch(read, token_type_ids=[[0] * n for n in lengths]).last_hidden_state
            )
            _ = (hidden * real[..., None]).sum(1) / real.sum(1, keepdims=True)
        turns.done(sum(map(len, rows)), 0.0)


SIDES: dict[str, Callable[..., None]] = {
    "melete bfloat16": melete,
    "transformers bfloat16": transformers,
    "onnxruntime int8": onnxruntime,
    "ctranslate2 int8": ctranslate2,
}


ON_GPU = ["melete bfloat16", "transformers bfloat16"]
USUAL = {"cpu": list(SIDES), "cuda": ON_GPU}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sides", nargs="+", choices=list(SIDES), help="default: those that suit the device")
    parser.add_argument("--device", choices=list(USUAL), default="cpu")
    parser.add_argument("--tiny", action="store_true", help="not a measurement: whether it works")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    from _device import (
        SHAPES,
        ceiling,
        described,
        peak_of,
    )  # not at the top: the process of CTranslate2 shall have no torch

    task = TINY if arguments.tiny else TASKS[arguments.device]
    names = arguments.sides or USUAL[arguments.device]
    with tempfile.TemporaryDirectory(prefix="melete-encoding-") as folder:
        flops = make_model(Path(folder), task)
        sides = {name: (SIDES[name], (Path(folder), task)) for name in names}
        seen = take_turns("encoding", sides, [dict.fromkeys(names, 1)] * task.rounds)
    best = max((side.rate for name, side in seen.items() if name != "melete bfloat16"), default=0.0)
    ours = seen.get("melete bfloat16")
    peak = peak_of(arguments.device)
    fastest = ceiling(arguments.device, SHAPES["cpu"][1:2] if arguments.tiny else ())
    packages = {"torch", *(name.split()[0] for name in names)} - {"melete"}
    figures = {
        "device": described(arguments.device),
        "versions": {name: importlib.metadata.version(name) for name in sorted(packages)},
        "sides": {
            name: [round(side.rate), round(min(side.rates)), round(max(side.rates))]
            for name, side in seen.items()
        },
        "gflops": {name: round(side.rate * flops / 1e9) for name, side in seen.items()},
        "fastest_product_gflops": round(fastest / 1e9),
        "mfu": {name: round(side.rate * flops / peak, 3) for name, side in seen.items()} if peak else None,
        "peak_gib": {name: round(side.memory / 2**30, 2) for name, side in seen.items()},
        "beside_the_best": round(ours.rate / best, 3) if ours and best else None,
        "least_cosine": ours.losses[0] if ours else None,
    }
    if arguments.json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    main()
