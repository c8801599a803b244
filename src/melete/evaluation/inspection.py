"""What a model makes of one text, token by token: what it expects at each place, and where each token looks.

What is asked depends on what the model is for:

- "masked" (fill-mask): each token is hidden in turn, and the model says what stands there;
- "replaced" (ELECTRA's discriminator): how much each token looks replaced;
- "next" (text-generation): what the model expects after the tokens before;
- "attention" (all others): attention alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from melete.data.batch import Batch
from melete.data.corruption import Vocabulary
from melete.data.framing import Framing
from melete.data.tokenizers import Tokenizer
from melete.errors import InputError
from melete.evaluation.inspection_attention import read_with_attention
from melete.models import family
from melete.models.base import Decoder, Encoder, ModelConfig, Network
from melete.models.checkpoint import load_network, named_head
from melete.tasks import GENERATION
from melete.tasks.base import BUDGET

# Attention weights that a page holds: four megabytes of it.
MOST_WEIGHTS = 1_500_000
MOST_TOKENS = 256
TOP_K = 5

Guess = tuple[str, float]
Asked = tuple[float | None, tuple[Guess, ...]]  # `probability` and `guesses` of a token


@dataclass(frozen=True)
class Token:
    """One token of the text, as the model sees it.

    Attributes:
        text: the part of the text it stands for; of a special token its name.
        before: what stands between it and the token before it.
        special: it is no part of the text.
        probability: of this very token at its place ("masked", "next"), or that it was replaced ("replaced"); None
            where nothing was asked.
        guesses: the likeliest tokens at its place, and their probabilities.
    """

    text: str
    before: str = ""
    special: bool = False
    probability: float | None = None
    guesses: tuple[Guess, ...] = ()


@dataclass(frozen=True)
class Inspection:
    """All that is known of a text.

    Attributes:
        kind: "masked", "replaced", "next" or "attention".
        family, parameters: of the model.
        tokens: what it read.
        attention: float32 (L, H, T, T): row t is how token t divides its attention.
        after: what a model that continues texts expects behind the last token.
        left_out: tokens at the end of the text that were not read.
    """

    kind: str
    family: str
    parameters: int
    tokens: tuple[Token, ...]
    attention: np.ndarray
    after: tuple[Guess, ...] = ()
    left_out: int = 0

    @property
    def perplexity(self) -> float | None:
        """exp of the mean negative log-probability of the tokens, each given all others ("masked") or those before.

        The former is the pseudo-perplexity of Salazar et al. 2020, section 2.
        """
        known = [token.probability for token in self.tokens if token.probability is not None]
        if self.kind not in ("masked", "next") or not known:
            return None
        return math.exp(-sum(math.log(max(share, 1e-45)) for share in known) / len(known))


@dataclass(frozen=True)
class Subject:
    """A model, its tokenizer, and what it is asked: see the top of this file."""

    model: Any
    tokenizer: Tokenizer
    kind: str

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> Self:
        """The model of a folder, with the head that its page is about.

        Raises:
            InputError: the files cannot be read or contradict one another.
        """
        name, _, task = named_head(folder)
        heads = family(name).HEADS
        worn = heads[task].parts if task is not None else ()
        kind = "attention"
        if task == GENERATION or (task is None and GENERATION in heads):
            kind, task = "next", GENERATION
        elif "mlm" in worn:
            kind, task = "masked", "fill-mask"
        elif "discriminator" in worn:
            kind = "replaced"
        return cls(load_network(folder, task=task).to(device).eval(), Tokenizer.load(folder), kind)


def inspect(subject: Subject, text: str, on_token: Callable[[int], None] = lambda count: None) -> Inspection:
    """Ask a model about a text.

    Args:
        on_token: told how many more tokens were asked about.

    Raises:
        InputError: a text of too few tokens, or a tokenizer without the special tokens that the model needs.
    """
    model, tokenizer = subject.model, subject.tokenizer
    ids, spans = tokenizer.encode_spans(text)
    room = _most_tokens(model.config) - 2  # for special tokens
    left_out = max(0, len(ids) - room)
    ids, spans = ids[:room], spans[:room]
    read, first = _framed(model, tokenizer, ids)
    if len(read) < 2 or not len(ids):
        raise InputError("the text is too short to look at", expected="two tokens or more")
    hidden, attention = read_with_attention(
        model, Batch.from_rows([read]).to(next(model.parameters()).device)
    )
    places, after = range(first, first + len(ids)), ()
    asked: dict[int, Asked] = {}
    if subject.kind == "next":
        asked, after = _next(model, tokenizer, hidden[0], read)
    elif subject.kind == "masked":
        asked = _masked(model, tokenizer, read, places, on_token)
    elif subject.kind == "replaced":
        shares = model.rtd_logits(hidden)[0].float().sigmoid().tolist()  # (T,)
        asked = {place: (shares[place], ()) for place in places}
    words = [("", tokenizer.token(id_)) for id_ in read]
    words[first : first + len(ids)] = _words(text, spans)
    tokens = [
        Token(own, before, place not in places, *asked.get(place, (None, ())))
        for place, (before, own) in enumerate(words)
    ]
    return Inspection(
        subject.kind,
        model.family,
        sum(weight.numel() for weight in model.parameters()),
        tuple(tokens),
        attention[:, 0].cpu().numpy(),
        after,
        left_out,
    )


def _most_tokens(config: ModelConfig) -> int:
    """Tokens of which the page can hold all attention weights."""
    maps = config.num_hidden_layers * config.num_attention_heads
    return min(MOST_TOKENS, math.isqrt(MOST_WEIGHTS // maps), config.max_position_embeddings)


def _framed(model: Network, tokenizer: Tokenizer, ids: np.ndarray) -> tuple[list[int], int]:
    """What the model reads, and where the text begins in it."""
    if isinstance(model, Encoder):
        Vocabulary.of(tokenizer)  # the four special tokens are there
        framed = Framing(tokenizer, model.config.max_position_embeddings, segments=1).one(ids)
        return framed.ids.tolist(), framed.starts[0]
    start = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    return [*start, *ids.tolist()], len(start)


def _words(text: str, spans: np.ndarray) -> list[tuple[str, str]]:
    """For each token what stands before it and its own part of the text; nothing stands twice.

    Several tokens may be bytes of one character: it is shown at the first of them, and the others are dots.
    """
    found: list[tuple[str, str]] = []
    end = 0
    for start, stop in spans.tolist():
        own = text[max(start, end) : stop]
        bare = own.lstrip(" ") or own
        found.append((text[end:start] + own[: len(own) - len(bare)], bare or "⋯"))
        end = max(end, stop)
    return found


def _guesses(tokenizer: Tokenizer, shares: Tensor) -> tuple[Guess, ...]:
    """The likeliest tokens of a distribution (V,)."""
    top = shares.topk(min(TOP_K, len(shares)))
    return tuple(
        (tokenizer.decode([id_], skip_special_tokens=False) or tokenizer.token(id_), share)
        for id_, share in zip(top.indices.tolist(), top.values.tolist(), strict=True)
    )


@torch.no_grad()
def _next(
    model: Decoder, tokenizer: Tokenizer, hidden: Tensor, read: Sequence[int]
) -> tuple[dict[int, Asked], tuple[Guess, ...]]:
    """What was expected at each place but the first, and behind the last."""
    expected = model.logits(hidden).float().softmax(-1)  # (T, V)
    asked = {
        place: (expected[place - 1, id_].item(), _guesses(tokenizer, expected[place - 1]))
        for place, id_ in enumerate(read)
        if place
    }
    return asked, _guesses(tokenizer, expected[-1])


@torch.no_grad()
def _masked(
    model: Encoder, tokenizer: Tokenizer, read: Sequence[int], places: range, on_token: Callable[[int], None]
) -> dict[int, Asked]:
    """What is expected at each place when its token is hidden; a mask of the text has no token of its own."""
    assert tokenizer.mask_id is not None  # the vocabulary was checked
    device = next(model.parameters()).device
    asked: dict[int, Asked] = {}
    for hidden in torch.tensor(places, dtype=torch.int64).split(max(1, BUDGET // len(read))):
        rows = torch.tensor([read] * len(hidden))
        rows[torch.arange(len(hidden)), hidden] = tokenizer.mask_id
        states = model.encode(Batch.from_rows(list(rows)).to(device))  # (B, T, D)
        logits = model.mlm_logits(states[torch.arange(len(hidden)), hidden])  # (B, V)
        for place, shares in zip(hidden.tolist(), logits.float().softmax(-1).cpu(), strict=True):
            known = None if read[place] == tokenizer.mask_id else shares[read[place]].item()
            asked[place] = (known, _guesses(tokenizer, shares))
        on_token(len(hidden))
    return asked
