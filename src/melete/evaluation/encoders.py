"""What an encoder is worth on held-out text, and what it makes of a few sentences of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from melete.config import RunConfig
from melete.console import Progress
from melete.data.batch import Batch, Example
from melete.data.batching import SortedBatches
from melete.data.encoder_text import EncoderText, Samples
from melete.data.sampling import rng_for
from melete.data.scripts import unspaced
from melete.data.tokenizers import Tokenizer
from melete.objectives.base import Context, Objective
from melete.objectives.masked_lm import MaskedLM, chosen
from melete.objectives.replaced_token import ReplacedToken
from melete.training.precision import DTYPES, MasterWeights
from melete.training.trainer import validate

BASELINE = "token frequencies"
_SENTENCES = 3
_CERTAIN = 0.5


def measure_held_out(config: RunConfig, objective: Objective, source: SortedBatches) -> dict[str, float]:
    """The figures of an objective over a whole source, computed as it was trained."""
    device = torch.device(config.training.device)
    MasterWeights(objective.to(device), DTYPES[config.training.precision])
    with Progress("measuring on the held-out text", "batches", source.batches) as progress:
        return validate(objective, _Watched(source, progress), source.batches, device)


@dataclass(frozen=True)
class _Watched:
    """A source that tells how far it is."""

    source: SortedBatches
    progress: Progress

    def micro_batches(self, step: int) -> list[list[Example]]:
        self.progress.advance(1)
        return self.source.micro_batches(step)


def masked_table(
    name: str, figures: dict[str, float], pair: str
) -> tuple[list[dict[str, Any]], list[list[str]]]:
    """A row for the model and one for token frequencies: for JSON, and for a terminal."""
    model = {"name": name, "loss": figures["mlm"], "restored": figures["restored"]}
    guess = {"name": BASELINE, "loss": figures["unigram"], "restored": figures["unigram_restored"]}
    rows = [
        ["held-out text", "nats/hidden token", "restored"],
        *([row["name"], f"{row['loss']:.4f}", f"{row['restored']:.1%}"] for row in (model, guess)),
    ]
    if pair:
        model[f"{pair}_accuracy"] = figures[f"{pair}_accuracy"]
        for row, cell in zip(
            rows, (f"{pair.upper()} right", f"{model[f'{pair}_accuracy']:.1%}", ""), strict=True
        ):
            row.append(cell)
    return [model, guess], rows


def replaced_table(name: str, figures: dict[str, float]) -> tuple[list[dict[str, Any]], list[list[str]]]:
    """A row for the pair and one for token frequencies: for JSON, and for a terminal."""
    keys = {"auc": "auc", "auc_generator": "auc_generator", "loss": "mlm", "ratio": "generator_ratio"}
    pair = {"name": name, **{key: figures[figure] for key, figure in keys.items()}}
    guess = {"name": BASELINE, "loss": figures["unigram"]}
    rows = [
        [
            "held-out text",
            "AUC, drawn by frequency",
            "AUC, generator's draws",
            "generator: nats/hidden token",
        ],
        [
            name,
            f"{pair['auc']:.4f}",
            f"{pair['auc_generator']:.4f}",
            f"{pair['loss']:.4f} ({pair['ratio']:.0%})",
        ],
        [BASELINE, "", "", f"{guess['loss']:.4f}"],
    ]
    return [pair, guess], rows


@torch.no_grad()
def fill_in(
    objective: MaskedLM, text: EncoderText, tokenizer: Tokenizer, length: int
) -> list[tuple[str, str]]:
    """Held-out sentences with hidden tokens, and the likeliest token for each, with its probability."""
    batch = _batch(objective, text, length)
    model = objective.model
    inputs = chosen(model, model.encode(batch), batch.labels["mlm"])
    probabilities = F.linear(inputs[0], inputs[1], model.mlm_bias).float().softmax(-1)  # (M, V)
    best = probabilities.max(-1)
    guesses = iter(zip(best.indices.tolist(), best.values.tolist(), strict=True))
    found: list[tuple[str, str]] = []
    for ids, labels in _documents(batch, batch.input_ids, batch.labels["mlm"]):
        said = []
        for label in labels[labels != -100].tolist():
            guess, probability = next(guesses)
            truth = "" if guess == label else f" (it was {_word(tokenizer, label)})"
            said.append(f"{_word(tokenizer, guess)} {probability:.0%}{truth}")
        found.append((_plain(tokenizer, ids), " · ".join(said)))
    return found


@torch.no_grad()
def tell_replaced(
    objective: ReplacedToken, text: EncoderText, tokenizer: Tokenizer, length: int
) -> list[tuple[str, str]]:
    """Held-out sentences as the generator changed them, and how sure the discriminator is of each change.

    Tokens that it takes for replaced and that are not stand at the end.
    """
    batch = _batch(objective, text, length)
    drawn = objective.drawn(batch, Context(rng=torch.Generator(batch.input_ids.device).manual_seed(0)))
    replaced = objective.replaced(batch, drawn)
    scores = objective.model.rtd_logits(objective.model.encode(replaced)).float().sigmoid()  # (B, T)
    found: list[tuple[str, str]] = []
    columns = replaced.input_ids, batch.labels["mlm"], replaced.labels["rtd"], scores
    for ids, labels, wrong, sure in _documents(batch, *columns):
        said, falsely = [], []
        for id_, label, is_wrong, score in zip(
            *(c.tolist() for c in (ids, labels, wrong, sure)), strict=True
        ):
            if is_wrong:
                said.append(f"{_word(tokenizer, id_)} {score:.0%} (it was {_word(tokenizer, label)})")
            elif score >= _CERTAIN:
                falsely.append(f"{_word(tokenizer, id_)} {score:.0%} (it was there)")
        found.append((_plain(tokenizer, ids), " · ".join([*said, *falsely])))
    return found


def _batch(objective: Any, text: EncoderText, length: int) -> Batch:
    """Some short samples of a text, evenly over it, hidden as the objective does it, on the model's device."""
    samples = Samples(text, length - 2)
    count = len(samples.runs)
    numbers = sorted({count * (2 * i + 1) // (2 * _SENTENCES) for i in range(_SENTENCES)})
    examples = [Example((0, 0, i), samples.sample(i, rng_for((0, 0, i)))) for i in numbers]
    pair, objective.pair = getattr(objective, "pair", ""), ""
    try:
        batch = objective.prepare(examples, rng_for)
    finally:
        objective.pair = pair
    return batch.to(next(objective.parameters()).device)


def _documents(batch: Batch, *columns: Tensor) -> Iterator[Sequence[Tensor]]:
    """The columns (B, T) of each document, in the order of its row and place."""
    for row, column in sorted(batch.doc_starts.tolist()):
        here = batch.doc_ids[row] == batch.doc_ids[row, column]
        yield [values[row][here] for values in columns]


def _plain(tokenizer: Tokenizer, ids: Tensor) -> str:
    """A document without what frames it, masks shown."""
    text = tokenizer.decode(ids[1:-1].tolist(), skip_special_tokens=False)
    return unspaced(text) if tokenizer.continuation else text


def _word(tokenizer: Tokenizer, id_: int) -> str:
    return tokenizer.token(id_) if tokenizer.continuation else tokenizer.decode([id_]).strip() or "␣"
