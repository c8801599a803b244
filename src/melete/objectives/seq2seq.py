"""Write the answer to a source, token by token (Sutskever et al. 2014): translation, summarisation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from melete.data.batch import Batch, Example, ExampleKey, padded
from melete.errors import InputError
from melete.models.base import EncoderDecoder, Network
from melete.models.checkpoint import load_encoder_decoder
from melete.nn.functional import linear_cross_entropy
from melete.objectives.base import Context, Objective


@dataclass(frozen=True)
class Pair:
    """A source and its answer: token ids, int64 (S,) and (T,), without tokens that begin or end them."""

    source: np.ndarray
    target: np.ndarray


def lay_out_pairs(model: Network, pairs: Sequence[Pair], end: int, term: str) -> Batch:
    """Pairs as a model reads them, a row each; what it should say is labelled by the name of the term.

    An encoder reads `source <end>`, its decoder `<start> target`, and the labels are `target <end>`. A model that
    only continues texts reads `source <end> target`, and its labels begin behind the first end.
    """
    pad_id = model.config.pad_token_id or 0
    sources = [np.append(pair.source, end) for pair in pairs]
    answers = [np.append(pair.target, end) for pair in pairs]
    if isinstance(model, EncoderDecoder):
        begun = [np.append(model.config.decoder_start_token_id, pair.target) for pair in pairs]
    else:
        begun = [np.append(source, pair.target) for source, pair in zip(sources, pairs, strict=True)]
    silent = [np.full(len(read) - len(answer), -100) for read, answer in zip(begun, answers, strict=True)]
    labels, _ = padded([np.concatenate(both) for both in zip(silent, answers, strict=True)], -100)
    batch = replace(Batch.from_rows(begun, pad_id), labels={term: labels})
    if not isinstance(model, EncoderDecoder):
        return batch
    return replace(batch, source=Batch.from_rows(sources, pad_id))


def end_of(model: Network) -> int:
    """The token that ends a text.

    Raises:
        InputError: the model's config does not say.
    """
    end = model.config.eos_token_id
    if not isinstance(end, int):
        raise InputError(
            f"eos_token_id is {end}", where="model.config", expected="the token that ends a text"
        )
    return end


def answer_loss(model: Network, hidden: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
    """The sum of the cross-entropy in nats, from what `encode` gives at each place: (N, ...) and int64 (N,)."""
    if isinstance(model, EncoderDecoder) and model.mixes:  # all logits are held
        logits = model.logits(hidden)
        return F.cross_entropy(logits, labels, reduction="sum", label_smoothing=label_smoothing)
    bias = model.head_bias if isinstance(model, EncoderDecoder) else None
    weight: Tensor = model.head_weight  # pyright: ignore[reportAssignmentType]  # every head that writes has one
    loss, _ = linear_cross_entropy(hidden, weight, labels, bias=bias, label_smoothing=label_smoothing)
    return loss


class SequenceToSequence(Objective):
    """Cross-entropy of each token of an answer, its end included, given the source and what precedes.

    Args:
        label_smoothing: probability mass spread over the vocabulary (Szegedy et al. 2016, section 7).

    Raises:
        InputError: the model's config does not say which token ends a text.
    """

    def __init__(self, model: EncoderDecoder, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.model: EncoderDecoder = model
        self.label_smoothing, self._end = label_smoothing, end_of(model)
        self.weights = {"seq2seq": 1.0}

    def prepare(
        self, examples: Sequence[Example], rng_for: Callable[[ExampleKey], np.random.Generator]
    ) -> Batch:
        """See `lay_out_pairs`."""
        return lay_out_pairs(self.model, [example.data for example in examples], self._end, "seq2seq")

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Predicted tokens."""
        return {"seq2seq": (batch.labels["seq2seq"] != -100).sum()}

    def forward(self, batch: Batch, ctx: Context) -> dict[str, Tensor]:
        """The sum of the cross-entropy in nats."""
        # Smoothing shapes training only: a validation loss stays a plain cross-entropy.
        smoothing = self.label_smoothing if self.training else 0.0
        hidden = self.model.encode(batch).flatten(0, 1)  # (B * T, D)
        return {"seq2seq": answer_loss(self.model, hidden, batch.labels["seq2seq"].flatten(), smoothing)}

    def load(self, folder: Path) -> dict[str, Tensor]:
        """The float32 values by this objective's parameter names that `save` wrote."""
        return {f"model.{name}": p.detach() for name, p in load_encoder_decoder(folder).named_parameters()}
