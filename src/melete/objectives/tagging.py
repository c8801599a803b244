"""Say what each word is: a label for its first token, each by itself or all of a sentence together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from melete.data.batch import Batch
from melete.errors import InputError
from melete.models.base import Network
from melete.nn.crf import LinearChain
from melete.objectives.labelled import Craft, LabelledObjective, LabelledPiece, Lora
from melete.tasks.token_classification import CRF_FILE

_CRF_RATE = 10.0  # few weights with small gradients: at the network's own rate they would hardly move


class Tagging(LabelledObjective):
    """Cross-entropy of the labels of words; with a CRF, of the whole sequence.

    The label of a piece is int64 (N,): that of a word at its first token, -100 elsewhere.

    Args:
        crf: labels are decided together (Lample et al. 2016, section 2.2).
    """

    term = "tagging"

    def __init__(
        self, model: Network, craft: Craft, pad_id: int, lora: Lora | None = None, *, crf: bool = False
    ) -> None:
        self.agreeing = not crf
        super().__init__(model, craft, pad_id, lora)
        labels = len(model.config.labels)
        if crf and (craft.label_smoothing or craft.class_weights):
            raise InputError(
                "a CRF has one probability for a whole sentence",
                where="finetuning.crf",
                do="leave out weights",
            )
        weights = torch.tensor(craft.class_weights or [1.0] * labels)
        self.register_buffer("class_weights", weights, persistent=False)
        self.class_weights: Tensor
        self.crf = LinearChain(labels) if crf else None

    def label_batch(self, batch: Batch, pieces: Sequence[LabelledPiece]) -> dict[str, Tensor]:
        """int64 (B, T)."""
        labels = torch.full(batch.input_ids.shape, -100)
        for i, piece in enumerate(pieces):
            labels[i, : len(piece.label)] = torch.from_numpy(piece.label)
        return {self.term: labels}

    def items(self, batch: Batch) -> Tensor:
        """Words; where labels weigh differently, the weights of their labels."""
        labels = batch.labels[self.term]
        return self.class_weights.to(labels.device)[labels[labels != -100]].sum()

    def logits(self, batch: Batch) -> Tensor:
        """(B, T, labels)."""
        logits = self.model.tag_logits(self.model.encode(batch))
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def scores(self, logits: Tensor, batch: Batch) -> Tensor:
        """Those of the words, (M, labels)."""
        return logits[batch.labels[self.term] != -100]

    def loss(self, scores: Tensor, batch: Batch) -> Tensor:
        """In nats."""
        labels = batch.labels[self.term]
        real = labels != -100  # (B, T)
        if self.crf is None:
            smoothing = self.craft.label_smoothing if self.training else 0.0
            weights = self.class_weights.to(scores.dtype)
            return F.cross_entropy(scores, labels[real], weights, reduction="sum", label_smoothing=smoothing)
        rows, word = real.nonzero()[:, 0], (real.cumsum(1) - 1)[real]  # (M,) each
        shape = (len(labels), int(real.sum(1).max()))
        emissions = scores.new_zeros(*shape, scores.shape[1]).index_put((rows, word), scores)  # (B, W, C)
        tags = labels.new_zeros(shape).index_put((rows, word), labels[real])
        mask = torch.arange(shape[1], device=labels.device) < real.sum(1, keepdim=True)
        return -self.crf.log_likelihood(emissions, tags, mask).sum()

    def rate_of(self, name: str) -> float:
        """Learning rate of a parameter as a share of the peak."""
        return _CRF_RATE if name.startswith("crf.") else super().rate_of(name)

    def save(self, folder: Path, masters: dict[str, Tensor], tokenizer: Path | None) -> None:
        """The model's folder, and the CRF beside it; see `Objective.save`."""
        chain = {name.removeprefix("crf."): t for name, t in masters.items() if name.startswith("crf.")}
        super().save(folder, {n: t for n, t in masters.items() if not n.startswith("crf.")}, tokenizer)
        if chain:
            save_file({name: tensor.contiguous() for name, tensor in chain.items()}, folder / CRF_FILE)

    def load(self, folder: Path) -> dict[str, Tensor]:
        """What `save` wrote, by parameter name."""
        chain = {} if self.crf is None else load_file(folder / CRF_FILE)
        return super().load(folder) | {f"crf.{name}": tensor for name, tensor in chain.items()}
