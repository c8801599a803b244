"""How a model learns from little data: depths at rates of their own, or left as they are; thin matrices (LoRA).

What the objectives of all fine-tuned tasks share, whether a model picks labels or writes texts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from melete.data.augmentation import Augmentation
from melete.errors import InputError
from melete.models.adapter import FOLDER, load_adapter, save_adapter
from melete.models.base import Network
from melete.models.checkpoint import load_network, save_model
from melete.nn.lora import A, B, add_lora, merged
from melete.objectives.base import Objective


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


class CraftedObjective(Objective):
    """An objective whose model may learn in parts.

    Attributes:
        agreeing: whether two passes with dropout can be compared (R-Drop).

    Args:
        model: wears the head of the task.
        lora: what is trained in place of the model's matrices; `save` writes the model with it, and it alone.

    Raises:
        InputError: what is asked for does not go together, or not with this model.
    """

    agreeing = True

    def __init__(self, model: Network, craft: Craft, lora: Lora | None = None) -> None:
        super().__init__()
        self.model: Network = model
        self.craft, self.lora = craft, lora
        self.thin: list[str] = []
        if lora is not None:
            settings = {"rank": lora.rank, "alpha": lora.alpha, "dropout": lora.dropout, "seed": lora.seed}
            self.thin = add_lora(model, lora.targets, **settings)
        self._check()
        self._freeze(0.0)

    def rate_of(self, name: str) -> float:
        """Learning rate of a parameter as a share of the peak."""
        if not name.startswith("model."):
            return self.craft.head_rate
        top, depth = self.model.num_blocks, self.model.depth(name.removeprefix("model."))
        return self.craft.head_rate if depth > top else self.craft.layer_decay ** (top - depth)

    def _freeze(self, progress: float) -> None:
        """Only what trains at this point of the training has gradients."""
        craft, top = self.craft, self.model.num_blocks
        lowest = top + 1 if craft.head_only else (craft.freeze_layers + 1 if craft.freeze_layers else 0)
        if craft.unfreeze:
            lowest = max(lowest, round((top + 1) * (1 - min(progress / craft.unfreeze, 1.0))))
        for name, parameter in self.model.named_parameters():
            depth = self.model.depth(name)
            thin = not self.thin or depth > top or name.rpartition(".")[2] in (A, B)
            parameter.requires_grad_(thin and depth >= lowest)

    def _check(self) -> None:
        craft, layers = self.craft, self.model.num_blocks
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
