"""`melete pretrain`: a model from scratch on a person's own text, or one that is trained on."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from melete.cli._reading import MAX_LINE_BYTES, TEXT_COLUMN
from melete.cli._run import finish, run_options
from melete.errors import InputError

if TYPE_CHECKING:
    from melete.config import RunConfig

BEGUN = time.monotonic()


@click.command()
@click.argument("family", metavar="FAMILY|MODEL")
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
@click.option(
    "--minutes",
    type=click.FloatRange(min=0, min_open=True),
    help="Time budget: model size, steps and schedule are chosen from it.",
)
@TEXT_COLUMN
@MAX_LINE_BYTES
@click.option("--tokenizer", metavar="FOLDER", help="Use this tokenizer; default: one trained on the text.")
@run_options
def command(
    family: str,
    data: tuple[str, ...],
    valid: tuple[str, ...],
    preset: str | None,
    minutes: float | None,
    tokenizer: str | None,
    text_column: str | None,
    max_line_bytes: int,
    changes: tuple[str, ...],
    **options: Any,
) -> None:
    """Train a model of FAMILY from scratch on your text, or train MODEL on.

    gpt2 and qwen3 learn to continue text. bert and modernbert learn to restore hidden words
    (--set objective.pair=nsp: and to tell pairs of sentences), electra to tell replaced words. t5 learns to say what
    is missing in a text, bart and marian to write the whole of it. MODEL is a run, a Hugging Face folder or a Hub id;
    it keeps its size and its tokenizer.

    Any key of the run's config can be changed with --set; `--dry-run` shows them all.

    \b
    Examples:
      melete pretrain qwen3 --data my.txt --minutes 10
      melete pretrain gpt2 --preset tiny --data wikitext-2 --set training.steps=2000
      melete pretrain electra --data my.txt --minutes 30
      melete pretrain t5 --preset nano --data my.txt --steps 2000
      melete pretrain google/bert_uncased_L-4_H-256_A-4 --data my.txt --steps 500
    """
    from melete import config as configs

    tree: dict[str, Any] = {
        **_source(family, preset, minutes),
        "data.train": list(data),
        "data.valid": list(valid),
        "data.text_column": text_column or "",
        "data.max_line_bytes": max_line_bytes,
        "tokenizer.source": tokenizer or "",
        "training.minutes": minutes or 0.0,
    }
    config = configs.change(configs.RunConfig(), tree)
    finish(config, changes, begun=BEGUN, beginning=_beginning, **options)


# Encoders read short texts, as BERT and ELECTRA did first.
_ENCODER_CONTEXT = 128
_SHORT_FIRST, _LAST_BEGINS = ((0.0, 16), (0.08, 32), (0.15, 64)), 0.35
# What is trained on must not forget what it knows.
_TRAINED_ON = {"optimizer.name": "adamw", "optimizer.learning_rate": 1e-4, "schedule.name": "linear"}


def _source(model: str, preset: str | None, minutes: float | None) -> dict[str, Any]:
    """The keys that follow from FAMILY or MODEL; what cannot be is refused before anything is read."""
    from melete.models import causal_families, is_spec, presets
    from melete.models.checkpoint import locate, named_head

    if not is_spec(model) and (Path(model).exists() or "/" in model):
        if preset is not None:
            raise InputError("a model that is trained on keeps its size", where="--preset", do="leave it out")
        tree, family = {"model.source": model, **_TRAINED_ON}, named_head(locate(model))[0]
    else:
        model, _, named = model.partition(":")
        known, preset = presets(model), preset or named or None
        if preset is not None and preset not in known:
            raise InputError(f"{model} has no preset {preset!r}", expected=f"one of {', '.join(known)}")
        source = f"{model}:{preset}" if preset else (model if minutes else f"{model}:mini")
        tree, family = {"model.source": source}, model
    return tree if family in causal_families() else {**tree, "training.context": _ENCODER_CONTEXT}


def _beginning(asked: RunConfig) -> dict[str, Any]:
    """How a new encoder begins, whatever its context.

    New layers find out soonest what stands beside what where little else stands around; a discriminator finds out by
    restoring hidden tokens.
    """
    from melete.models import causal_families, is_spec
    from melete.training.job import family_of, named

    if not is_spec(asked.model.source) or family_of(asked) in causal_families():
        return {}
    tree: dict[str, Any] = {}
    context = asked.training.context
    short = [phase for phase in _SHORT_FIRST if phase[1] < context]
    if short:
        tree["training.context_schedule"] = (*short, (_LAST_BEGINS, context))
    if named(asked).objective.name == "replaced-token":
        tree["objective.restore_first"] = 0.3
    return tree
