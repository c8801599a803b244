"""What the objectives of all tasks with labels share: batches of like length, and the craft of small data.

Small data overfits, and a pretrained model forgets. Against both: other learning rates for other depths, parts that
stay as they are, two passes that must agree, passes over inputs made worse on purpose, texts changed a little.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from melete.data.augmentation import Augmentation, augmented
from melete.data.batch import Batch, Example, ExampleKey
from melete.data.batching import lay_out
from melete.errors import InputError
from melete.models.adapter import FOLDER, load_adapter, save_adapter
from melete.models.base import Network
from melete.models.checkpoint import load_network, save_model
from melete.nn.lora import A, B, add_lora, merged
from melete.objectives.base import Context, Objective


@dataclass(frozen=True)
class LabelledPiece:
    """What the model reads in one go, and what it should say.

    Attributes:
        ids: int64 (N,), special tokens included.
        types: int64 (N,), which text of a pair a token is in; None: there is one text.
        label: as the task has it.
        sentence: number of the sentence of each token, 0 where augmentation must not touch it, int64 (N,); None:
            nowhere may it, as in validation.
    """

    ids: np.ndarray
    types: np.ndarray | None
    label: Any
    sentence: np.ndarray | None = None


@dataclass(frozen=True)
class Craft:
    """How a model is trained on few labels. Everything is off at its default.

    Attributes:
        label_smoothing: probability mass spread over the labels (Szegedy et al. 2016, section 7).
        class_weights: a factor for each label.
        layer_decay: learning rate of a layer as a share of that of the layer above (Howard and Ruder 2018).
        head_rate: learning rate of the head as a multiple of the top layer's.
        freeze_layers: the embeddings and this many layers stay as they are.
        head_only: everything but the head stays as it is.
        unfreeze: share of the training over which layers thaw one by one, from the top.
        r_drop: weight of the divergence of two passes with dropout (Wu et al. 2021, equation 4).
        adversarial: length of a step of the embeddings along the loss's gradient, for a second pass (Miyato et al.
            2017, section 3).
        augmentation: changes of the texts.
    """

    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] = ()
    layer_decay: float = 1.0
    head_rate: float = 1.0
    freeze_layers: int = 0
    head_only: bool = False
    unfreeze: float = 0.0
    r_drop: float = 0.0
    adversarial: float = 0.0
    augmentation: Augmentation = field(default_factory=Augmentation)


@dataclass(frozen=True)
class Lora:
    """Thin matrices beside those of a pretrained model, which stay as they are; see `nn.lora`.

    Attributes:
        base: folder of the model.
        rank, alpha, dropout, targets: see `nn.lora.add_lora`.
        seed: of their first values.
    """

    base: Path
    rank: int
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ()
    seed: int = 0


class Examiner(Protocol):
    """Reads what the model says of the validation rows, and tells how good it is by the task's own measure."""

    def note(self, logits: Tensor, rows: Sequence[int]) -> None:
        """The logits of a batch, and the numbers of its pieces."""

    def take(self) -> dict[str, float]:
        """Figures of what was noted since the last call."""
        ...


class LabelledObjective(Objective):
    """A task: scores of what may be said, and the loss of the scores.

    Attributes:
        term: name of the loss.
        agreeing: whether `loss` is a softmax over the last dimension of `scores`, so that R-Drop is defined.
        examiner: asked in evaluation mode.

    Args:
        model: wears the head of the task.
        pad_id: what fills rows.
        lora: what is trained in place of the model's matrices; `save` writes the model with it, and it alone.

    Raises:
        InputError: what is asked for does not go together, or not with this model.
    """

    term: ClassVar[str]
    agreeing = True
    examiner: Examiner | None = None

    def __init__(self, model: Network, craft: Craft, pad_id: int, lora: Lora | None = None) -> None:
        super().__init__()
        self.model: Network = model
        self.craft, self.pad_id, self.lora = craft, pad_id, lora
        self.thin: list[str] = []
        if lora is not None:
            settings = {"rank": lora.rank, "alpha": lora.alpha, "dropout": lora.dropout, "seed": lora.seed}
            self.thin = add_lora(model, lora.targets, **settings)
        self.weights = {self.term: 1.0}
        if craft.r_drop:
            self.weights["r_drop"] = craft.r_drop
        if craft.adversarial:
            self.weights["adversarial"] = 1.0
        self._check()
        self._freeze(0.0)

    @abstractmethod
    def logits(self, batch: Batch) -> Tensor:
        """What the model says of a batch, in float32 or wider: a row for each piece, in their order."""

    def scores(self, logits: Tensor, batch: Batch) -> Tensor:
        """What counts of the logits: (M, C), a row for each text, word or end of an answer."""
        return logits

    @abstractmethod
    def loss(self, scores: Tensor, batch: Batch) -> Tensor:
        """The sum over all that counts."""

    @abstractmethod
    def label_batch(self, batch: Batch, pieces: Sequence[LabelledPiece]) -> dict[str, Tensor]:
        """The labels of a batch, by name."""

    @abstractmethod
    def items(self, batch: Batch) -> Tensor:
        """How much counts, from labels alone."""

    def prepare(
        self, examples: Sequence[Example], rng_for: Callable[[ExampleKey], np.random.Generator]
    ) -> Batch:
        """Pad; change what may be changed."""
        pieces: list[LabelledPiece] = [example.data for example in examples]
        if self.craft.augmentation.active:
            pieces = [
                augmented_piece(piece, self.craft.augmentation, rng_for(example.key))
                for piece, example in zip(pieces, examples, strict=True)
            ]
        columns = {"input_ids": [piece.ids for piece in pieces]}
        if any(piece.types is not None for piece in pieces):
            columns["token_type_ids"] = [
                np.zeros_like(piece.ids) if piece.types is None else piece.types for piece in pieces
            ]
        batch = lay_out(columns, {"input_ids": self.pad_id, "token_type_ids": 0})
        batch.labels.update(self.label_batch(batch, pieces))
        batch.labels["row"] = torch.tensor([example.key[2] for example in examples])
        return batch

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """What `items` says, for every term."""
        return dict.fromkeys(self.weights, self.items(batch))

    def forward(self, batch: Batch, ctx: Context) -> dict[str, Tensor]:
        """The loss; in training also the divergence of two passes, and the loss of a worse input."""
        if self.training:
            self._freeze(ctx.progress)
        logits = self.logits(batch)
        if not self.training and self.examiner is not None:
            self.examiner.note(logits, batch.labels["row"].tolist())
        scores = self.scores(logits, batch)
        loss = self.loss(scores, batch)
        parts = {self.term: loss}
        if self.training and self.craft.r_drop:
            again = self.scores(self.logits(batch), batch)
            parts[self.term] = (loss + self.loss(again, batch)) / 2
            parts["r_drop"] = divergence(scores, again)
        if self.training and self.craft.adversarial:
            parts["adversarial"] = self._worse(batch, loss)
        return parts

    def _worse(self, batch: Batch, loss: Tensor) -> Tensor:
        """The loss with the embeddings moved a step in the direction that makes it larger."""
        weight = _embedding(self.model).weight
        if not weight.requires_grad:  # not thawed yet
            return loss
        (gradient,) = torch.autograd.grad(loss, weight, retain_graph=True)
        norm = gradient.float().norm()
        kept = weight.detach().clone()
        # An embedding's backward pass reads the ids alone, so that its values may change between two passes.
        weight.data.add_(gradient * (self.craft.adversarial / norm.clamp_min(1e-12)).to(gradient.dtype))
        try:
            return self.loss(self.scores(self.logits(batch), batch), batch)
        finally:
            weight.data.copy_(kept)

    def take_figures(self) -> dict[str, float]:
        """What the examiner says; see `Objective.take_figures`."""
        return {} if self.examiner is None else self.examiner.take()

    # ------------------------------------------------------------------ depths

    def rate_of(self, name: str) -> float:
        """Learning rate of a parameter as a share of the peak."""
        if not name.startswith("model."):
            return self.craft.head_rate
        top, depth = self.model.config.num_hidden_layers, self.model.depth(name.removeprefix("model."))
        return self.craft.head_rate if depth > top else self.craft.layer_decay ** (top - depth)

    def _freeze(self, progress: float) -> None:
        """Only what trains at this point of the training has gradients."""
        craft, top = self.craft, self.model.config.num_hidden_layers
        lowest = top + 1 if craft.head_only else (craft.freeze_layers + 1 if craft.freeze_layers else 0)
        if craft.unfreeze:
            lowest = max(lowest, round((top + 1) * (1 - min(progress / craft.unfreeze, 1.0))))
        for name, parameter in self.model.named_parameters():
            depth = self.model.depth(name)
            thin = not self.thin or depth > top or name.rpartition(".")[2] in (A, B)
            parameter.requires_grad_(thin and depth >= lowest)

    def _check(self) -> None:
        craft, layers = self.craft, self.model.config.num_hidden_layers
        if craft.freeze_layers > layers:
            raise InputError(
                f"the model has {layers} layers", where=f"finetuning.freeze_layers={craft.freeze_layers}"
            )
        if craft.adversarial and (craft.freeze_layers or craft.head_only or self.thin):
            raise InputError(
                "an adversarial step moves the embeddings, which are frozen", where="finetuning.adversarial"
            )
        if craft.head_only and (self.thin or craft.freeze_layers or craft.unfreeze):
            raise InputError(
                "nothing but the head is trained",
                where="finetuning.head_only",
                do="leave out LoRA and freezing",
            )
        if craft.r_drop and not self.agreeing:
            raise InputError("R-Drop compares distributions over labels", where="finetuning.r_drop")
        config = self.model.config
        drops = [name for name in config.__struct_fields__ if name.endswith("_dropout")]
        if craft.r_drop and not any(getattr(config, name) for name in drops):
            raise InputError(
                "R-Drop compares two passes that drop different units, and this model drops none",
                where="finetuning.r_drop",
                do="set finetuning.dropout, or model.config.hidden_dropout",
            )

    def save(self, folder: Path, masters: dict[str, Tensor], tokenizer: Path | None) -> None:
        """The model's folder; with LoRA the model with the thin matrices in it, and they alone in `adapter/`."""
        lora = self.lora
        if lora is None:
            super().save(folder, masters, tokenizer)
            return
        state = {name.removeprefix("model."): tensor for name, tensor in masters.items()}
        save_model(folder, self.model, tokenizer=tokenizer, state_dict=merged(state, lora.alpha / lora.rank))
        settings = {"rank": lora.rank, "alpha": lora.alpha, "dropout": lora.dropout}
        save_adapter(folder / FOLDER, self.model, state, self.thin, base=str(lora.base), **settings)

    def load(self, folder: Path) -> dict[str, Tensor]:
        """The float32 values by this objective's parameter names that `save` wrote."""
        if self.lora is None:
            state = dict(load_network(folder, task=self.model.task).named_parameters())
        else:  # the merged matrices are rounded: the frozen ones are read where they came from
            state = dict(load_network(self.lora.base).named_parameters())
            state |= load_adapter(folder / FOLDER, self.model, self.thin)
            state = {name: state[name] for name, _ in self.model.named_parameters()}
        return {f"model.{name}": tensor.detach() for name, tensor in state.items()}


def divergence(first: Tensor, second: Tensor) -> Tensor:
    """Sum of the mean of both Kullback-Leibler divergences of two softmaxes, (M, C) each."""
    one, other = first.log_softmax(-1), second.log_softmax(-1)
    return ((one.exp() - other.exp()) * (one - other)).sum() / 2


def augmented_piece(
    piece: LabelledPiece, augmentation: Augmentation, rng: np.random.Generator
) -> LabelledPiece:
    """The piece with the tokens changed that may be."""
    if piece.sentence is None:
        return piece
    ids, order = augmented(piece.ids, piece.sentence, augmentation, rng)
    return LabelledPiece(ids, None if piece.types is None else piece.types[order], piece.label)


def _embedding(model: Network) -> nn.Embedding:
    """That of the tokens."""
    size = model.config.vocab_size
    return next(m for m in model.modules() if isinstance(m, nn.Embedding) and m.num_embeddings == size)
