"""Predict the next token (Radford et al. 2018, section 3.1), over packed rows that keep documents apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from melete.data.batch import Batch, Example, ExampleKey
from melete.models.base import Decoder
from melete.nn.functional import linear_cross_entropy
from melete.objectives.base import Context, Objective


class CausalLM(Objective):
    """Cross-entropy of each token given those before it in the same document.

    Args:
        label_smoothing: probability mass spread over the vocabulary (Szegedy et al. 2016, section 7).
        z_loss: factor of the squared log-normaliser, which keeps logits from drifting (PaLM, section 5).
    """

    def __init__(self, model: Decoder, label_smoothing: float = 0.0, z_loss: float = 0.0) -> None:
        super().__init__()
        self.model: Decoder = model
        self.label_smoothing, self.z_loss = label_smoothing, z_loss
        self.weights = {"causal_lm": 1.0, "z": z_loss} if z_loss else {"causal_lm": 1.0}

    def prepare(
        self, examples: Sequence[Example], rng_for: Callable[[ExampleKey], np.random.Generator]
    ) -> Batch:
        """Rows of `context + 1` tokens become inputs and the same tokens one step later as labels."""
        ids = torch.from_numpy(np.stack([example.data.ids for example in examples]))  # (B, T + 1)
        first = torch.zeros(len(examples), ids.shape[1] - 1, dtype=torch.bool)  # (B, T)
        for row, example in enumerate(examples):
            first[row, torch.from_numpy(example.data.starts)] = True
        first[:, 0] = True  # the rest of a document cut by the row's edge is a document of its own
        columns = torch.arange(first.shape[1]).expand_as(first)  # (B, T)
        return Batch(
            input_ids=ids[:, :-1].contiguous(),
            doc_ids=first.cumsum(1).to(torch.int32),
            position_ids=columns - (columns * first).cummax(1).values,
            doc_starts=first.nonzero(),
            labels={"causal_lm": ids[:, 1:].contiguous()},
        )

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Predicted tokens."""
        count = (batch.labels["causal_lm"] != -100).sum()
        return dict.fromkeys(self.weights, count)

    def forward(self, batch: Batch, ctx: Context) -> dict[str, Tensor]:
        """Sums of the cross-entropy in nats, and of the squared log-normaliser where it is asked for."""
        hidden = self.model.encode(batch)  # (B, T, D)
        # Smoothing and z-loss shape training only: a validation loss stays a plain cross-entropy.
        cross_entropy, z = linear_cross_entropy(
            hidden.flatten(0, 1),
            self.model.head_weight,
            batch.labels["causal_lm"].flatten(),
            label_smoothing=self.label_smoothing if self.training else 0.0,
            z_loss=1.0 if self.z_loss and self.training else 0.0,
        )
        return {"causal_lm": cross_entropy, "z": z} if self.z_loss else {"causal_lm": cross_entropy}
