"""Write the answer to a source, token by token (Sutskever et al. 2014): translation, summarisation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from melete.data.batch import Batch, Example, ExampleKey
from melete.errors import InputError
from melete.models.base import EncoderDecoder
from melete.models.checkpoint import load_encoder_decoder
from melete.nn.functional import linear_cross_entropy
from melete.objectives.base import Context, Objective


@dataclass(frozen=True)
class Pair:
    """A source and its answer: token ids, int64 (S,) and (T,), without tokens that begin or end them."""

    source: np.ndarray
    target: np.ndarray


class SequenceToSequence(Objective):
    """Cross-entropy of each token of an answer, its end included, given the source and what precedes.

    Args:
        label_smoothing: probability mass spread over the vocabulary (Szegedy et al. 2016, section 7).

    Raises:
        InputError: the model's config does not say which token ends a text.
    """

    def __init__(self, model: EncoderDecoder, label_smoothing: float = 0.0) -> None:
        super().__init__()
        end = model.config.eos_token_id
        if not isinstance(end, int):
            raise InputError(
                f"eos_token_id is {end}", where="model.config", expected="the token that ends a text"
            )
        self.model: EncoderDecoder = model
        self.label_smoothing, self._end = label_smoothing, end
        self.weights = {"seq2seq": 1.0}

    def prepare(
        self, examples: Sequence[Example], rng_for: Callable[[ExampleKey], np.random.Generator]
    ) -> Batch:
        """The encoder reads `source <end>`, the decoder `<start> target`; the label is `target <end>`."""
        config, end = self.model.config, [self._end]
        pad_id = config.pad_token_id or 0
        targets = [example.data.target for example in examples]
        rows = [np.concatenate([[config.decoder_start_token_id], target]) for target in targets]
        batch = Batch.from_rows([torch.from_numpy(row) for row in rows], pad_id)
        labels = torch.full_like(batch.input_ids, -100)
        for row, target in zip(labels, targets, strict=True):
            row[: len(target) + 1] = torch.from_numpy(np.concatenate([target, end]))
        sources = [torch.from_numpy(np.concatenate([example.data.source, end])) for example in examples]
        return replace(batch, labels={"seq2seq": labels}, source=Batch.from_rows(sources, pad_id))

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Predicted tokens."""
        return {"seq2seq": (batch.labels["seq2seq"] != -100).sum()}

    def forward(self, batch: Batch, ctx: Context) -> dict[str, Tensor]:
        """The sum of the cross-entropy in nats."""
        hidden = self.model.encode(batch)  # (B, T, D)
        # Smoothing shapes training only: a validation loss stays a plain cross-entropy.
        loss, _ = linear_cross_entropy(
            hidden.flatten(0, 1),
            self.model.head_weight,
            batch.labels["seq2seq"].flatten(),
            bias=self.model.head_bias,
            label_smoothing=self.label_smoothing if self.training else 0.0,
        )
        return {"seq2seq": loss}

    def load(self, folder: Path) -> dict[str, Tensor]:
        """The float32 values by this objective's parameter names that `save` wrote."""
        return {f"model.{name}": p.detach() for name, p in load_encoder_decoder(folder).named_parameters()}
