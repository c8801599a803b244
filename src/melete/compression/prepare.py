"""A decoder in fewer bits, and whether it still says the same."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
from pathlib import Path

import torch
from torch import Tensor

from melete.compression.narrow import NarrowDecoder, suits
from melete.console import say
from melete.data.batch import Batch
from melete.data.datasets import cache_folder
from melete.errors import InputError
from melete.generation.generate import generate
from melete.generation.settings import GenerationSettings
from melete.models.base import Decoder
from melete.nn.kernels import GROUP, library
from melete.nn.quantised import Int8Linear, quantise

PRECISIONS = ("float32", "bfloat16", "int8", "int4")
# How much a perplexity may rise.
MOST = {"int8": 0.005, "int4": 0.02}
# The text on which that is found out: rows of so many tokens.
_ROWS, _LENGTH = 4, 128


def bytes_of_weight(precision: str) -> float:
    """What a pass reads of each weight: one of `PRECISIONS`; in 4 bits with its part of the scale of its group."""
    return {"float32": 4.0, "bfloat16": 2.0, "int8": 1.0, "int4": 0.5 + 2 / GROUP}[precision]


def prepared(model: Decoder, folder: Path, precision: str) -> Decoder:
    """The same model in other numbers; it may be taken apart for them.

    In 8 and 4 bits its perplexity is looked at once for each folder, and the answer is kept in the cache.

    Args:
        model: in float32, on the CPU.
        folder: where its weights were read from.
        precision: one of `PRECISIONS`.

    Raises:
        InputError: an unknown precision; the perplexity rises by more than `MOST`; 4 bits without a C++ compiler, a
            processor with AVX-512 VNNI, or a family of `narrow.FAMILIES`.
    """
    if precision not in PRECISIONS:
        raise InputError(f"precision is {precision!r}", expected=f"one of {', '.join(PRECISIONS)}")
    if precision == "float32":
        return model
    if precision == "bfloat16":
        return model.to(torch.bfloat16)
    narrow = _narrowed(model, precision)
    _check(model, narrow, folder, precision)
    if isinstance(narrow, NarrowDecoder):
        narrow.let_go()
    return narrow


def _narrowed(model: Decoder, precision: str) -> Decoder:
    compiled = library(cache_folder() / "native") if suits(model) else None
    if compiled is not None:
        return NarrowDecoder(model, compiled, 8 if precision == "int8" else 4)
    if precision == "int4":
        raise InputError(
            f"{precision} needs a C++ compiler, a processor with AVX-512 VNNI, and gpt2 or qwen3",
            do="use int8",
        )
    say("int8 by torch's own products: no C++ compiler, or a processor or model that ours do not suit")
    slow = copy.deepcopy(model)
    slow.narrow_head = Int8Linear(slow.head_weight, None)
    quantise(slow)
    return slow


def _check(model: Decoder, narrow: Decoder, folder: Path, precision: str) -> None:
    """Refuse what says something else.

    Raises:
        InputError: see `prepared`.
    """
    kept = cache_folder() / "narrow" / f"{_fingerprint(folder)}-{precision}.json"
    if kept.is_file():
        rise = json.loads(kept.read_text("utf-8"))["rise"]
    else:
        rise = perplexity_rise(model, narrow)
        kept.parent.mkdir(parents=True, exist_ok=True)
        unfinished = kept.with_suffix(f".{os.getpid()}")
        unfinished.write_text(json.dumps({"rise": rise}) + "\n", encoding="utf-8")
        unfinished.rename(kept)
    if not rise <= MOST[precision]:
        raise InputError(
            f"in {precision} the perplexity rises by {rise:.2%} on what the model itself would write",
            where=str(folder),
            expected=f"at most {MOST[precision]:.1%}",
            do=f"use {'int8' if precision == 'int4' else 'bfloat16'}",
        )
    say(f"{precision}: perplexity {rise:+.2%} on what the model itself would write")


@torch.inference_mode()
def perplexity_rise(model: Decoder, narrow: Decoder) -> float:
    """By how much the perplexity rises, as a share, on text distributed as the model would have it.

    At each token of a text that the narrow model writes, the whole distributions are compared, not the tokens drawn:
    exp of the mean Kullback-Leibler divergence, less 1.
    """
    config = model.config
    start = next((i for i in (config.bos_token_id, config.eos_token_id) if isinstance(i, int)), 0)
    length = min(_LENGTH, config.max_position_embeddings)
    settings = GenerationSettings(max_new_tokens=length - 1, temperature=1.0, num_return_sequences=_ROWS)
    rows = [[start, *answer] for answer in generate(narrow, [[start]], settings)] if length > 1 else [[start]]
    divergence: list[Tensor] = []
    for row in rows:
        batch = Batch.from_rows([row])
        ours, theirs = (each.logits(each.encode(batch)).float().log_softmax(-1) for each in (model, narrow))
        divergence.append((ours.exp() * (ours - theirs)).sum(-1).mean())
    return math.expm1(float(torch.stack(divergence).double().mean()))


def _fingerprint(folder: Path) -> str:
    """Of the weights and the config in a folder."""
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("*.safetensors"), folder / "config.json"]):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]
