"""ELECTRA's two models, which share their embeddings, in one folder.

The folder is the discriminator's, `generator/` inside it is a whole folder of the generator's.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from melete.errors import InputError
from melete.models import random_model
from melete.models.base import Encoder
from melete.models.checkpoint import load_encoder, save_model
from melete.models.electra import KEYS, Config, Model, generator_config

GENERATOR = "generator"
_SHARED = ("vocab_size", "embedding_size", "max_position_embeddings", "type_vocab_size", "layer_norm_eps")


def build_generator(
    discriminator: Model, *, share: float = 0.25, seed: int = 0, init: str | None = None
) -> Model:
    """A new generator for a discriminator, over the same embeddings (word, position, token type and their norm).

    Args:
        share: its width as a share of the discriminator's.
        seed, init: see `models.build`.
    """
    config = discriminator.config
    assert isinstance(config, Config)
    model = random_model("electra", generator_config(config, share), "fill-mask", seed=seed, init=init)
    generator = _electra(model)
    generator.embeddings = discriminator.embeddings
    return generator


def save_pair(
    folder: Path,
    discriminator: Model,
    generator: Model,
    *,
    tokenizer: Path | None,
    states: tuple[Mapping[str, Tensor], Mapping[str, Tensor]] | None = None,
) -> None:
    """Write a folder that `ElectraForPreTraining` opens, and in it one that `ElectraForMaskedLM` opens.

    Args:
        tokenizer: folder whose tokenizer files are copied into both.
        states: other weights under the models' names, the discriminator's first. The shared embeddings need only
            stand in that one.

    Raises:
        StorageError: the folder cannot be written.
    """
    first, second = states or (discriminator.state_dict(), generator.state_dict())
    shared = {name: tensor for name, tensor in first.items() if name.startswith("embeddings.")}
    save_model(folder, discriminator, tokenizer=tokenizer, state_dict=first)
    save_model(folder / GENERATOR, generator, tokenizer=tokenizer, state_dict={**second, **shared})


def load_pair(folder: Path) -> tuple[Model, Model]:
    """Discriminator and generator, sharing their embeddings, float32, on the CPU, in evaluation mode.

    Raises:
        InputError: one of the two is not there, cannot be read or contradicts the other.
    """
    if not (folder / GENERATOR).is_dir():
        raise InputError(
            f"no {GENERATOR} folder", where=str(folder), expected="an ELECTRA pretraining checkpoint"
        )
    discriminator = _electra(load_encoder(folder, task="pretraining"))
    generator = _electra(load_encoder(folder / GENERATOR, task="fill-mask"))
    for name in _SHARED:
        ours, theirs = getattr(generator.config, name), getattr(discriminator.config, name)
        if ours != theirs:
            raise InputError(
                f"{name} is {ours}, but {theirs} in the discriminator",
                where=str(folder / GENERATOR / "config.json"),
                expected="the same, as the two share their embeddings",
            )
    originals = discriminator.embeddings.state_dict()
    for name, tensor in generator.embeddings.state_dict().items():
        if not torch.equal(tensor, originals[name]):
            raise InputError(
                f"{KEYS.their_name(f'embeddings.{name}')} differs from the discriminator's",
                where=str(folder / GENERATOR),
                expected="the same, as the two share their embeddings",
            )
    generator.embeddings = discriminator.embeddings
    return discriminator, generator


def _electra(model: object) -> Model:
    if not isinstance(model, Model):
        family = model.family if isinstance(model, Encoder) else "other"
        raise InputError(f"a {family} model is no ELECTRA")
    return model
