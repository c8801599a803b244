"""What is measured of a model: its work in a turn, and how much of the machine's arithmetic or memory a token takes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from melete import config as configs
from melete.api import load
from melete.compression.prepare import PRECISIONS, bytes_of_weight
from melete.config import RunConfig
from melete.data.stdlib import python_stdlib
from melete.data.tokenizers import Tokenizer
from melete.errors import InputError
from melete.models import build, build_encoder, family, is_spec, preset, skeleton
from melete.models.base import Decoder, Encoder, Network
from melete.models.checkpoint import load_config, locate, save_model
from melete.tasks import FEATURES, GENERATION
from melete.training.job import family_of
from melete.training.precision import choose_precision

MEMORY = "memory"  # what decoding is held against; all else by the product of its format
PARTS: dict[type[Network], tuple[str, ...]] = {
    Decoder: ("decoding", "training"),
    Encoder: ("encoding", "training"),
}
PROMPT, NEW = 32, 64  # tokens that are read and written, in a context that has room for them
SENTENCES = 128
_DOCUMENTS = 40  # of Python's library, from which prompts, sentences and tokenizers are made
_VOCABULARY = {Decoder: ("byte-bpe", 500), Encoder: ("wordpiece", 4000)}


@dataclass
class Side:
    """One kind of work on one model.

    Attributes:
        what: "training", "decoding" or "encoding".
        shape: of a turn, for a person.
        of: the ceiling it is held against: a number format, or `MEMORY`.
        cost: operations, or bytes read, for a token.
        work: does some, and says how many tokens that were; None: it cannot be had here.
        refused: why not.
        rates: tokens a second of each turn.
        peak: most bytes of memory held in a turn; None: not known.
    """

    model: str
    what: str
    dtype: str
    shape: str
    of: str = ""
    cost: float = 0.0
    work: Callable[[], int] | None = None
    refused: str = ""
    rates: list[float] = field(default_factory=list)
    peak: int | None = None


@dataclass(frozen=True)
class Sizes:
    """How much is done at once: rows of so many tokens in a step, and how many texts are written together."""

    rows: int = 16
    context: int | None = None  # 256, or as long as the model's
    batches: tuple[int, ...] = (1, 8)


def kind_of(source: str) -> type[Network]:
    """Decoder or Encoder.

    Raises:
        InputError: no such model, or one of another kind.
    """
    name = family_of(configs.change(RunConfig(), {"model.source": source}))
    for kind in PARTS:
        if issubclass(family(name).Model, kind):
            return kind
    raise InputError(f"{name} models are not measured", where=source, expected="a decoder or an encoder")


def config_of(source: str) -> Any:
    """The config of a folder or a preset."""
    return preset(source) if is_spec(source) else load_config(locate(source))


def parameters_of(source: str) -> int:
    """Numbers in a model."""
    name = family_of(configs.change(RunConfig(), {"model.source": source}))
    return sum(p.numel() for p in skeleton(name, config_of(source)).parameters())


def readable(source: str, scratch: Path) -> Path:
    """The folder of a model; a preset is written to an empty one: random weights, a tokenizer of few tokens."""
    if not is_spec(source):
        return locate(source)
    kind = kind_of(source)
    sort, size = _VOCABULARY[kind]
    Tokenizer.train(texts(), sort, min(size, preset(source).vocab_size)).save(scratch)
    if kind is Decoder:
        model: Network = build(source, eos_token_id=None, bos_token_id=None)
    else:
        model = build_encoder(source, task=FEATURES)
    save_model(scratch, model, tokenizer=None)
    return scratch


@cache
def texts() -> list[str]:
    """Some of the source of Python's library."""
    return [document.text for document in islice(python_stdlib()[0], _DOCUMENTS)]


# ---------------------------------------------------------------------- arithmetic


def block_weights(model: Network) -> int:
    """Numbers in the matrices of the blocks: each token meets all of them once."""
    matrices = ((name, p.numel()) for name, p in model.named_parameters() if p.dim() == 2)
    return sum(count for name, count in matrices if 1 <= model.depth(name) <= model.num_blocks)


def attention_cost(model: Network, lengths: np.ndarray) -> float:
    """Operations of attention for a token, forward: queries with keys, and shares with values."""
    config = model.config
    width = config.num_attention_heads * getattr(config, "head_size", 0) or config.hidden_size
    seen = float((lengths**2).sum() / lengths.sum()) / (2 if isinstance(model, Decoder) else 1)
    return 4.0 * config.num_hidden_layers * width * seen


# ---------------------------------------------------------------------- decoding and encoding


def precisions(device: torch.device) -> list[str]:
    """The number formats a model may be loaded in that are worth measuring on a device."""
    fast = choose_precision("auto", device)[0]
    narrow = PRECISIONS[2:] if device.type == "cpu" else ()
    return ["float32", *(["bfloat16"] if fast == "bfloat16" else []), *narrow]


def decoding(source: str, sizes: Sizes, device: torch.device, scratch: Path) -> Iterator[Side]:
    """Greedy texts by `melete.load(folder).generate`; a format that the model or the machine refuses says why."""
    folder = readable(source, scratch)
    model: Any = load(folder, task=GENERATION, device=str(device))
    weights = block_weights(model.model) + model.model.head_weight.numel()
    length = model.model.config.max_position_embeddings
    new, read = min(NEW, length // 2), min(PROMPT, length // 4)
    ids = model.tokenizer.encode("\n".join(texts()))
    prompts = [model.tokenizer.decode(ids[100 * row : 100 * row + read]) for row in range(max(sizes.batches))]
    for precision in precisions(device):
        try:
            if precision != "float32":
                model = load(folder, task=GENERATION, device=str(device), precision=precision)
        except InputError as error:
            yield Side(source, "decoding", precision, "", refused=str(error))
            continue
        for rows in sizes.batches:
            shape, cost = f"{rows} x {new} new", weights * bytes_of_weight(precision) / rows
            work = partial(_write, model, prompts[:rows], new)
            yield Side(source, "decoding", precision, shape, MEMORY, cost, work)


def _write(model: Any, prompts: list[str], new: int) -> int:
    model.generate(prompts, temperature=0, max_new_tokens=new, eos_ids=())
    return len(prompts) * new


def encoding(source: str, sizes: Sizes, device: torch.device, scratch: Path) -> Iterator[Side]:
    """Vectors of sentences by `melete.load(folder).embed`; real tokens, padding not counted."""
    folder = readable(source, scratch)
    model: Any = load(folder, task=FEATURES, device=str(device))
    lines = {" ".join(line.split()) for text in texts() for line in re.split(r"\n\s*\n|\. ", text)}
    some = sorted((line for line in lines if 20 < len(line) < 400), key=lambda line: line[::-1])[:SENTENCES]
    framed = [model.framing.one(np.array(model.tokenizer.encode(line), dtype=np.int64)).ids for line in some]
    lengths = np.array([len(ids) for ids in framed])
    cost, shape = (
        2.0 * block_weights(model.model) + attention_cost(model.model, lengths),
        f"{len(some)} sentences",
    )
    for precision in precisions(device):
        if precision in ("float32", "bfloat16"):
            if precision != "float32":
                model = load(folder, task=FEATURES, device=str(device), precision=precision)
            work = partial(_read, model, some, int(lengths.sum()))
            yield Side(source, "encoding", precision, shape, precision, cost, work)


def _read(model: Any, lines: list[str], tokens: int) -> int:
    model.embed(lines)
    return tokens
