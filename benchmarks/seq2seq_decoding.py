"""Beam search beside `transformers.generate` and CTranslate2, on the same weights: sentences a second, and equal texts.

python benchmarks/seq2seq_decoding.py runs/multi30k                  # its held-out texts, 5 beams, batches of 32
python benchmarks/seq2seq_decoding.py                                # of a model that learns for a minute first

Each side is a process of its own; they take turns over batches of like lengths. Tokenizing and detokenizing count.
CTranslate2 ends a search once as many answers have ended as there are beams, ours and `transformers` once none can get
better: with a patience of 2 it waits for twice as many, and finds the same texts. Needs benchmarks/requirements.txt.
"""

from __future__ import annotations

import argparse
import importlib
import json
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from _bars import MELETE, ROOT, run
from _turns import Turns, take_turns
from melete import api
from melete.data.labelled.rows import WrittenRow
from melete.data.labelled.sets import load_labelled
from melete.data.readers import Row
from melete.machine import usable_cores
from melete.models.checkpoint import locate
from melete.tasks.text_to_text import TextToText

ROUNDS = 5


def melete(turns: Turns, folder: str, batches: list[list[str]], beams: int, out: str) -> None:
    """Ours."""
    torch.set_num_threads(usable_cores())
    predictor: TextToText = api.load(folder, device="cpu").with_settings(beams=beams, long="cut")

    def write(texts: list[str]) -> list[str]:
        rows = (Row({"text": text}, "", i) for i, text in enumerate(texts))
        # One batch, whatever its size.
        return [answer["text"] for answer in predictor.stream(rows, budget=10**9)]

    _work(turns, write, batches, out)


def transformers(turns: Turns, folder: str, batches: list[list[str]], beams: int, out: str) -> None:
    """`generate` of transformers."""
    import transformers as peer

    torch.set_num_threads(usable_cores())
    peer.logging.set_verbosity_error()
    model = peer.AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    tokenizer = peer.AutoTokenizer.from_pretrained(folder)

    def write(texts: list[str]) -> list[str]:
        read = tokenizer(
            texts, return_tensors="pt", padding=True, truncation=True, return_token_type_ids=False
        )
        with torch.inference_mode():
            found = model.generate(**read, num_beams=beams)
        return [text.strip() for text in tokenizer.batch_decode(found, skip_special_tokens=True)]

    _work(turns, write, batches, out)


def ctranslate2(
    turns: Turns, folder: str, batches: list[list[str]], beams: int, out: str, precision: str, patience: int
) -> None:
    """CTranslate2, with the tokenizer of `transformers`; its tokens are the numbers of ours."""
    from transformers import AutoTokenizer

    from _ctranslate2 import write_marian

    peer: Any = importlib.import_module("ctranslate2")  # not among what is checked with
    with tempfile.TemporaryDirectory() as converted:
        write_marian(Path(folder), converted)
        model = peer.Translator(converted, compute_type=precision, intra_threads=usable_cores())
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    fixed = {"beam_size": beams, "patience": patience, "max_decoding_length": _longest(folder)}

    def write(texts: list[str]) -> list[str]:
        read = tokenizer(texts, truncation=True)["input_ids"]
        found = model.translate_batch([[str(token) for token in row] for row in read], **fixed)
        rows = [[int(token) for token in each.hypotheses[0]] for each in found]
        return [text.strip() for text in tokenizer.batch_decode(rows, skip_special_tokens=True)]

    _work(turns, write, batches, out)


def _longest(folder: str) -> int:
    """Tokens of an answer, as the model's own settings have it."""
    return json.loads((Path(folder) / "generation_config.json").read_text("utf-8"))["max_new_tokens"]


ALWAYS: dict[str, Callable[..., None]] = {"melete": melete, "transformers": transformers}
SIDES: dict[str, Callable[..., None]] = {
    "ctranslate2 float32": partial(ctranslate2, precision="float32", patience=1),
    "ctranslate2 int8": partial(ctranslate2, precision="int8", patience=1),
    "ctranslate2 float32, patience 2": partial(ctranslate2, precision="float32", patience=2),
    "ctranslate2 int8, patience 2": partial(ctranslate2, precision="int8", patience=2),
}


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


def compared(
    folder: str, data: str, rows: int, batch: int, beams: int, names: Sequence[str]
) -> dict[str, Any]:
    """Sentences a second of ours, of `transformers` and of the sides named, and how many texts are as ours."""
    predictor: TextToText = api.load(folder, device="cpu")
    found = [row for row in load_labelled(data, predictor.task).valid if isinstance(row, WrittenRow)]
    texts = [row.source for row in found][: rows // batch * batch]
    texts.sort(key=lambda text: len(predictor.tokenizer.encode(text)))
    batches = [texts[i : i + batch] for i in range(0, len(texts), batch)]
    with tempfile.TemporaryDirectory() as scratch:
        outs = {name: str(Path(scratch) / f"{name}.json") for name in (*ALWAYS, *names)}
        sides = {name: ((ALWAYS | SIDES)[name], (folder, batches, beams, out)) for name, out in outs.items()}
        rounds = [dict.fromkeys(outs, max(len(batches) // ROUNDS, 1))] * (ROUNDS + 1)
        seen = take_turns("decoding", sides, rounds)
        written = {name: json.loads(Path(out).read_text("utf-8")) for name, out in outs.items()}
    own, rate = written["melete"], seen["melete"].rate
    equal = {
        name: sum(
            one == other for number in own for one, other in zip(own[number], texts[number], strict=True)
        )
        for name, texts in written.items()
    }
    return {
        "rate": rate,
        "their_rate": seen["transformers"].rate,
        "speed_up": rate / seen["transformers"].rate,
        "rows": equal["melete"],
        "identical": equal["transformers"],
        "beside": {
            name: {"rate": seen[name].rate, "speed_up": rate / seen[name].rate, "identical": equal[name]}
            for name in names
        },
        "beams": beams,
        "batch": batch,
        "cores": usable_cores(),
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
    parser.add_argument("--sides", nargs="*", choices=list(SIDES), default=list(SIDES))
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = asked.model or trained(Path(folder))
        figures = compared(str(locate(model)), asked.data, asked.rows, asked.batch, asked.beams, asked.sides)
    if asked.json:
        print(json.dumps(figures))
    else:
        print(f"{'melete':32} {figures['rate']:6.1f} sentences/s")
        for name, side in {
            "transformers": {**figures, "rate": figures["their_rate"]},
            **figures["beside"],
        }.items():
            print(
                f"{name:32} {side['rate']:6.1f} sentences/s, ours is {side['speed_up']:.2f} times as fast; "
                f"{side['identical']} of {figures['rows']} texts are equal"
            )
