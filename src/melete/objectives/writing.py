"""Write what somebody wrote for a text: translations, summaries, by an encoder-decoder or a decoder alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from melete.data.batch import Batch, Example, ExampleKey
from melete.models.base import Network
from melete.models.purpose import Purpose, write_purpose
from melete.objectives.base import Context
from melete.objectives.craft import Craft, CraftedObjective, Lora
from melete.objectives.labelled import divergence
from melete.objectives.seq2seq import answer_loss, end_of, lay_out_pairs

TERM = "seq2seq"


class WritingExaminer(Protocol):
    """Lets the model write, and tells how good that is."""

    def note(self, rows: Sequence[int]) -> None:
        """The numbers of pairs that were read in evaluation mode."""

    def take(self) -> dict[str, float]:
        """Figures of them."""
        ...


class Writing(CraftedObjective):
    """Cross-entropy of each token of an answer, its end included, given the source and what precedes.

    Args:
        purpose: what the folder of the model is told that it is for.

    Raises:
        InputError: as `CraftedObjective`; the model's config does not say which token ends a text.
    """

    examiner: WritingExaminer | None = None

    def __init__(
        self,
        model: Network,
        craft: Craft,
        lora: Lora | None = None,
        *,
        purpose: Purpose,
    ) -> None:
        super().__init__(model, craft, lora)
        self.purpose = purpose
        self._end = end_of(model)
        self.weights = {TERM: 1.0} | ({"r_drop": craft.r_drop} if craft.r_drop else {})

    def prepare(
        self, examples: Sequence[Example], rng_for: Callable[[ExampleKey], np.random.Generator]
    ) -> Batch:
        """See `lay_out_pairs`."""
        batch = lay_out_pairs(self.model, [example.data for example in examples], self._end, TERM)
        batch.labels["row"] = torch.tensor([example.key[2] for example in examples])
        return batch

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Predicted tokens, for every term."""
        return dict.fromkeys(self.weights, (batch.labels[TERM] != -100).sum())

    def forward(self, batch: Batch, ctx: Context) -> dict[str, Tensor]:
        """The loss, without smoothing in evaluation mode; in training also the divergence of two passes."""
        if self.training:
            self._freeze(ctx.progress)
        elif self.examiner is not None:
            self.examiner.note(batch.labels["row"].tolist())
        smoothing = self.craft.label_smoothing if self.training else 0.0
        kept = batch.labels[TERM] != -100  # (B, T)
        labels = batch.labels[TERM][kept]  # (N,)
        hidden = self.model.encode(batch)[kept]  # (N, D)
        if not self.training or not self.craft.r_drop:
            return {TERM: answer_loss(self.model, hidden, labels, smoothing)}
        # Two distributions are compared, so that here all logits are held.
        logits: Callable[[Tensor], Tensor] = self.model.logits  # pyright: ignore[reportAssignmentType]
        passes = [logits(one).float() for one in (hidden, self.model.encode(batch)[kept])]
        losses = [F.cross_entropy(one, labels, label_smoothing=smoothing, reduction="sum") for one in passes]
        return {TERM: (losses[0] + losses[1]) / 2, "r_drop": divergence(*passes)}

    def take_figures(self) -> dict[str, float]:
        """What the examiner says; see `Objective.take_figures`."""
        return {} if self.examiner is None else self.examiner.take()

    def save(self, folder: Path, masters: dict[str, Tensor], tokenizer: Path | None) -> None:
        """The model's folder, which says what it is for and how it writes; see `CraftedObjective.save`."""
        super().save(folder, masters, tokenizer)
        write_purpose(folder, self.purpose)
