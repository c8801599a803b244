"""`melete train`: a run from a recipe file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from melete.cli._run import finish, run_options

BEGUN = time.monotonic()


@click.command()
@click.argument("recipe", required=False, metavar="[RECIPE.toml]")
@click.argument("keys", nargs=-1, metavar="[key=value]...")
@run_options
def command(recipe: str | None, keys: tuple[str, ...], changes: tuple[str, ...], **options: Any) -> None:
    """Train from a recipe, with any key changed on the command line.

    \b
    Examples:
      melete train recipes/shakespeare/fast.toml
      melete train recipes/shakespeare/fast.toml training.steps=500 seed=1
      melete train data.train='["my.txt"]' model.source=gpt2:tiny
    """
    from melete import config as configs

    if recipe is not None and "=" in recipe and not Path(recipe).exists():
        keys, recipe = (recipe, *keys), None
    config = configs.load(Path(recipe) if recipe else None, keys)
    finish(config, changes, begun=BEGUN, **options)
