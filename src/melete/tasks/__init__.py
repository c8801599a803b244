"""What a model is asked about a text: one file a task, found by its name on the Hub."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from melete.errors import InputError

if TYPE_CHECKING:
    from melete.tasks.base import Predictor

# task -> where its `Predictor` is defined; the families say in their HEADS which of them they have a head for
TASKS: dict[str, str] = {
    "fill-mask": "melete.tasks.fill_mask:FillMask",
}


def predictor_class(task: str) -> type[Predictor]:
    """What answers a task.

    Raises:
        InputError: no such task.
    """
    if task not in TASKS:
        raise InputError(f"unknown task {task!r}", expected=f"one of {', '.join(TASKS)}")
    module, _, name = TASKS[task].partition(":")
    return getattr(importlib.import_module(module), name)


def task_of(folder: Path, wanted: str | None = None) -> str:
    """The task of a model folder: that of the class config.json names, or one whose head is part of that class's.

    Args:
        folder: see `models.checkpoint.locate`.
        wanted: a task that was asked for; whether the folder has weights for it is seen when they are loaded.

    Raises:
        InputError: no config.json, no such task, or a model that answers nothing.
    """
    from melete.models import family
    from melete.models.checkpoint import named_head

    name, architecture, own = named_head(folder)
    heads = family(name).HEADS
    if wanted is not None:
        predictor_class(wanted)
        if wanted not in heads:
            raise InputError(f"{name} has no head for {wanted}", expected=f"one of {', '.join(heads)}")
        return wanted
    if own == "text-generation" or own in TASKS:
        return own
    worn = heads[own].parts.keys() if own is not None else ()
    for task in TASKS:
        if task in heads and heads[task].parts.keys() <= set(worn):
            return task
    generator = folder / "generator"
    if generator.is_dir():
        raise InputError(
            "an ELECTRA discriminator fills no masks: it says which tokens were replaced",
            where=str(folder),
            do=f"look at it with melete inspect, or take its generator: {generator}",
        )
    raise InputError(
        f"a {architecture or name} answers no task",
        where=str(folder / "config.json"),
        expected=f"a model with a head for one of {', '.join(TASKS)}",
        do="fine-tune it first, or say which head to take with --task",
    )
