"""The options that the verbs share that write text or show what a model says."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from melete.errors import InputError

if TYPE_CHECKING:
    from melete.generation.settings import Settings

SettingsT = TypeVar("SettingsT", bound="Settings")
Command = TypeVar("Command", bound=Callable[..., Any])

# flag, type, what it does; the rest of the flag is the setting's name
_SETTINGS: list[tuple[str, type, str]] = [
    ("--max-new-tokens", int, "Most tokens to add."),
    ("--min-new-tokens", int, "The text does not end before this many."),
    ("--temperature", float, "Below 1 safer, above 1 wilder; 0 always takes the likeliest token. [0.8]"),
    ("--top-k", int, "Choose among the k likeliest tokens."),
    ("--top-p", float, "Choose among the likeliest tokens that make up this probability."),
    ("--min-p", float, "Drop tokens less probable than this share of the likeliest."),
    ("--typical-p", float, "Choose among the tokens of most typical surprise, up to this probability."),
    ("--repetition-penalty", float, "Above 1: weaken tokens of the prompt and the answer."),
    ("--frequency-penalty", float, "Weaken a token by this for each time it was said."),
    ("--presence-penalty", float, "Weaken a token by this once it was said."),
    ("--no-repeat-ngram-size", int, "Never say the same n tokens twice."),
    ("--num-beams", int, "Grow so many texts side by side and keep the likeliest; needs --temperature 0."),
    ("--length-penalty", float, "Of beams: above 0 longer texts gain. [1]"),
    ("--num-beam-groups", int, "Grow beams in so many groups that avoid what those before them say."),
    ("--diversity-penalty", float, "How much a group of beams avoids a token of another."),
    ("--seed", int, "The same seed gives the same text. [0]"),
]


def generation_options(command: Command) -> Command:
    """Add an option for each setting, where to compute, and the size of the context."""
    device = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or mps.")
    command = device(command)
    command = click.option(
        "--precision",
        default="float32",
        show_default=True,
        help="Numbers to compute with: float32, bfloat16; on a CPU also int8 or int4, unless they make it worse.",
    )(command)
    command = click.option(
        "--rope-scaling",
        type=click.Choice(["linear", "yarn"]),
        help="How rotary positions stretch to a longer context.",
    )(command)
    command = click.option("--context", type=int, help="Resize the model's context to this many tokens.")(
        command
    )
    command = click.option(
        "--stop", multiple=True, help="Stop before this text; may be given several times."
    )(command)
    for flag, kind, text in reversed(_SETTINGS):
        command = click.option(flag, type=kind, help=text)(command)
    return command


def of_decoders(options: dict[str, Any]) -> list[str]:
    """Those of the flags that were given and mean nothing to a model that fills masks; 0 says as little."""
    shared = ("--temperature", "--seed")
    names = {
        flag: flag.removeprefix("--").replace("-", "_") for flag, _, _ in _SETTINGS if flag not in shared
    }
    names |= {"--stop": "stop", "--truncate": "truncate"}
    return [flag for flag, name in names.items() if options[name]]


def chosen(options: dict[str, Any]) -> dict[str, Any]:
    """The settings that were given, by name."""
    names = [flag.removeprefix("--").replace("-", "_") for flag, _, _ in _SETTINGS]
    values = {name: options[name] for name in names if options[name] is not None}
    return {**values, "stop": list(options["stop"])}


def settings_of(kind: type[SettingsT], values: dict[str, Any]) -> SettingsT:
    """The settings of these values; what is wrong with one is said of its flag."""
    try:
        return kind.of(values)
    except InputError as error:
        name, _, wrong = str(error).partition(" ")
        flag = "--samples" if name == "num_return_sequences" else "--" + name.replace("_", "-")
        raise InputError(f"{flag} {wrong}") from None


def load_options(options: dict[str, Any]) -> dict[str, Any]:
    """How to load the model."""
    return {name: options[name] for name in ("context", "rope_scaling", "device", "precision")}


def show_any_character() -> None:
    """Let a terminal of few characters (cp1252) show `?` for the others, instead of failing in the middle of a text."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def describe(model: Any) -> str:
    """A model in one line."""
    parameters = getattr(model, "size", 0) or sum(weight.numel() for weight in model.parameters())
    device = next(model.parameters()).device
    return (
        f"{model.family}, {parameters:,} parameters, "
        f"context {model.config.max_position_embeddings} tokens, on {device}"
    )
