"""A Hugging Face folder without the state of training."""

from __future__ import annotations

import shutil
from pathlib import Path

from melete.errors import InputError
from melete.export.precision import cast
from melete.models import OURS
from melete.models.base import Network
from melete.models.checkpoint import GENERATION, save_model
from melete.models.purpose import read_purpose, write_purpose

PACKAGES: tuple[str, ...] = ()


def check(folder: Path, family: str, task: str, precision: str) -> None:
    """Raises InputError: a model that no class of `transformers` opens."""
    if family in OURS:
        do = "it opens with melete.load, and in whatever `melete` does"
        raise InputError(f"transformers has no model like {family}", where=str(folder), do=do)


def write(model: Network, folder: Path, target: Path, precision: str) -> None:
    """Write config.json, the weights, the tokenizer's files, how to generate, and the model card where there is one."""
    state = {name: cast(name, weight, precision) for name, weight in model.state_dict().items()}
    save_model(target, model, tokenizer=folder, state_dict=state)
    for name in (GENERATION, "README.md"):  # what a person wrote there is more than the config knows
        if (folder / name).is_file():
            shutil.copyfile(folder / name, target / name)
    if (purpose := read_purpose(folder)) is not None:
        write_purpose(target, purpose)
