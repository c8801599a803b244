"""The contract between what is minimised and the one loop that minimises it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from melete.data.batch import Batch, Example, ExampleKey
from melete.models.checkpoint import load_model, save_model


@dataclass(frozen=True)
class Context:
    """Where in training a forward pass stands.

    Attributes:
        step: the optimiser step.
        progress: 0 at the start, 1 at the end.
        rng: generator for model-side noise; seeded from (seed, step, micro-batch), so a resume repeats it.
    """

    step: int = 0
    progress: float = 0.0
    rng: torch.Generator | None = None


class Objective(nn.Module):
    """Turns examples into a batch, and a batch into sums.

    The trainer minimises `sum_term weight * sum / count`, with counts added over micro-batches and ranks before
    the backward pass, so that how a batch is cut changes nothing. A loss must therefore return SUMS.

    Attributes:
        model: the network that is trained and saved.
        weights: factor of each term.
        deciding: the figure by which weights are better: a lower loss, or a higher value of anything else.
        micro_batch_fixed: True for a loss that is not a sum over samples (in-batch contrastive): the trainer
            then never re-cuts its batches.
    """

    model: Any  # a Network: each objective says which
    weights: dict[str, float]
    deciding = "loss"
    micro_batch_fixed = False

    @abstractmethod
    def prepare(
        self, examples: Sequence[Example], rng_for: Callable[[ExampleKey], np.random.Generator]
    ) -> Batch:
        """Pad or pack, corrupt, label. Runs on the CPU; draws only from `rng_for(example.key)`."""

    @abstractmethod
    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Items of each term, from labels alone: scalar tensors."""

    @abstractmethod
    def forward(self, batch: Batch, ctx: Context) -> dict[str, Tensor]:
        """The differentiable SUM of each term: scalar tensors."""

    def phase(self, progress: float) -> float:
        """Where in training (0 to 1) the part began that `progress` lies in.

        Each part minimises something else: the learning rate warms up anew, and what loss is usual is forgotten.
        """
        return 0.0

    def take_figures(self) -> dict[str, float]:
        """What the forward passes in evaluation mode since the last call tell beside the loss, by name.

        For the log: nothing in training depends on it. NaN is a figure that could not be measured.
        """
        return {}

    def take_notes(self) -> list[str]:
        """What is wrong by the figures that were taken last, a line each."""
        return []

    def save(self, folder: Path, masters: dict[str, Tensor], tokenizer: Path | None) -> None:
        """Write the trained network into `folder` in the Hugging Face layout.

        Args:
            masters: float32 values by this objective's parameter names.
            tokenizer: folder whose tokenizer files are copied along.
        """
        weights = {name.removeprefix("model."): tensor for name, tensor in masters.items()}
        save_model(folder, self.model, tokenizer=tokenizer, state_dict=weights)

    def load(self, folder: Path) -> dict[str, Tensor]:
        """The float32 values by this objective's parameter names that `save` wrote."""
        return {f"model.{name}": p.detach() for name, p in load_model(folder).named_parameters()}
