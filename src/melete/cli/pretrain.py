"""`melete pretrain`: a model from scratch on a person's own text."""

from __future__ import annotations

import time
from typing import Any

import click

from melete.cli._run import finish, run_options
from melete.errors import InputError

BEGUN = time.monotonic()


@click.command()
@click.argument("family")
@click.option(
    "--data",
    "-d",
    multiple=True,
    required=True,
    metavar="FILE|FOLDER|NAME",
    help="Training text; may be repeated.",
)
@click.option(
    "--valid", multiple=True, metavar="FILE|NAME", help="Validation text; default: split off by document."
)
@click.option(
    "--preset", help="Size, e.g. nano, tiny, mini, small; default: chosen from --minutes, else mini."
)
@click.option("--minutes", type=float, help="Time budget: model size, steps and schedule are chosen from it.")
@click.option("--tokenizer", metavar="FOLDER", help="Use this tokenizer; default: one trained on the text.")
@run_options
def command(
    family: str,
    data: tuple[str, ...],
    valid: tuple[str, ...],
    preset: str | None,
    minutes: float | None,
    tokenizer: str | None,
    changes: tuple[str, ...],
    **options: Any,
) -> None:
    """Train a model of FAMILY (gpt2, qwen3) from scratch on your text.

    Any key of the run's config can be changed with --set; `--dry-run` shows them all.

    \b
    Examples:
      melete pretrain qwen3 --data my.txt --minutes 10
      melete pretrain gpt2 --preset tiny --data wikitext-2 --set training.steps=2000
    """
    from melete import config as configs
    from melete.models import presets

    if preset is not None and preset not in presets(family):
        raise InputError(
            f"{family} has no preset {preset!r}", expected=f"one of {', '.join(presets(family))}"
        )
    source = f"{family}:{preset}" if preset else (family if minutes else f"{family}:mini")
    presets(family)  # an unknown family is refused before anything is read
    tree: dict[str, Any] = {
        "model.source": source,
        "data.train": list(data),
        "data.valid": list(valid),
        "tokenizer.source": tokenizer or "",
        "training.minutes": minutes or 0.0,
    }
    config = configs.change(configs.RunConfig(), tree)
    finish(config, changes, begun=BEGUN, **options)
