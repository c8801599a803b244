"""Beam search beside `transformers.generate`, on the same weights: sentences a second, and whether all texts are equal.

python benchmarks/seq2seq_decoding.py runs/multi30k                  # its held-out texts, 5 beams, batches of 32
python benchmarks/seq2seq_decoding.py                                # of a model that learns for a minute first

Each side is a process of its own; they take turns over batches of like lengths. Tokenizing and detokenizing count.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from _bars import MELETE, ROOT, run
from _turns import Turns, take_turns
from melete import api
from melete.data.labelled.rows import WrittenRow
from melete.data.labelled.sets import load_labelled
from melete.data.readers import Row
from melete.models.checkpoint import locate
from melete.tasks.text_to_text import TextToText

ROUNDS = 4


def ours(turns: Turns, folder: str, batches: list[list[str]], beams: int, out: str) -> None:
    """Melete."""
    predictor: TextToText = api.load(folder, device="cpu").with_settings(beams=beams, long="cut")

    def write(texts: list[str]) -> list[str]:
        rows = (Row({"text": text}, "", i) for i, text in enumerate(texts))
        # One batch, whatever its size.
        return [answer["text"] for answer in predictor.stream(rows, budget=10**9)]

    _work(turns, write, batches, out)


def theirs(turns: Turns, folder: str, batches: list[list[str]], beams: int, out: str) -> None:
    """transformers."""
    import transformers

    transformers.logging.set_verbosity_error()
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)

    def write(texts: list[str]) -> list[str]:
        read = tokenizer(
            texts, return_tensors="pt", padding=True, truncation=True, return_token_type_ids=False
        )
        with torch.inference_mode():
            found = model.generate(**read, num_beams=beams)
        return [text.strip() for text in tokenizer.batch_decode(found, skip_special_tokens=True)]

    _work(turns, write, batches, out)


def _work(turns: Turns, write: Any, batches: list[list[str]], out: str) -> None:
    write(batches[0])
    turns.ready()
    number, found = 0, dict[int, list[str]]()
    while turns.wait():
        batch = number % len(batches)
        found[batch] = write(batches[batch])
        Path(out).write_text(json.dumps(found), encoding="utf-8")
        turns.done(len(batches[batch]), 0.0)
        number += 1


def compared(folder: str, data: str, rows: int, batch: int, beams: int) -> dict[str, Any]:
    """Sentences a second of both sides, and how many texts are equal."""
    predictor: TextToText = api.load(folder, device="cpu")
    found = [row for row in load_labelled(data, predictor.task).valid if isinstance(row, WrittenRow)]
    texts = [row.source for row in found][: rows // batch * batch]
    texts.sort(key=lambda text: len(predictor.tokenizer.encode(text)))
    batches = [texts[i : i + batch] for i in range(0, len(texts), batch)]
    with tempfile.TemporaryDirectory() as scratch:
        outs = {name: str(Path(scratch) / f"{name}.json") for name in ("melete", "transformers")}
        work = {"melete": ours, "transformers": theirs}
        sides = {name: (work[name], (folder, batches, beams, outs[name])) for name in outs}
        rounds = [{name: max(len(batches) // ROUNDS, 1) for name in outs}] * (ROUNDS + 1)
        seen = take_turns("decoding", sides, rounds)
        written = {name: json.loads(Path(out).read_text("utf-8")) for name, out in outs.items()}
    pairs = [
        pair
        for number, own in written["melete"].items()
        for pair in zip(own, written["transformers"][number], strict=True)
    ]
    rate, their_rate = seen["melete"].rate, seen["transformers"].rate
    return {
        "rate": rate,
        "their_rate": their_rate,
        "speed_up": rate / their_rate,
        "rows": len(pairs),
        "identical": sum(one == other for one, other in pairs),
        "beams": beams,
        "batch": batch,
        "threads": torch.get_num_threads(),
    }


def trained(scratch: Path) -> str:
    """A model of the Multi30k recipe that has learnt for a minute."""
    recipe = ROOT / "recipes" / "multi30k" / "train.toml"
    run(
        [*MELETE, "train", str(recipe), "finetuning.minutes=1", "evaluation.baseline=false", "--json"],
        scratch,
    )
    return str(scratch / "runs" / "multi30k")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", help="a run, or a folder of an encoder-decoder")
    parser.add_argument("--data", default="multi30k", help="a named set")
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--beams", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = asked.model or trained(Path(folder))
        figures = compared(str(locate(model)), asked.data, asked.rows, asked.batch, asked.beams)
    if asked.json:
        print(json.dumps(figures))
    else:
        print(
            f"{figures['rate']:.1f} sentences/s, transformers {figures['their_rate']:.1f}: "
            f"{figures['speed_up']:.2f} times as fast; {figures['identical']} of {figures['rows']} texts are equal"
        )
