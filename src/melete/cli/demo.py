"""`melete demo`: the whole way in four minutes, on text that every machine has."""

from __future__ import annotations

import time
from importlib.resources import files
from pathlib import Path

import click

from melete.cli._run import close, json_option

BEGUN = time.monotonic()


@click.command()
@click.option(
    "--lang",
    type=click.Choice(["en", "zh"]),
    default="en",
    show_default=True,
    help="zh: Tang poems, where present.",
)
@click.option("--name", help="Name of the run folder; default: demo, demo-2, ...")
@json_option
def command(lang: str, name: str | None, as_json: bool) -> None:
    """Train a small model on this Python's own source, beside an honest 5-gram, and write a page about it.

    Tokenizer, 5-gram, GPT, held-out bits per byte of both and of their mixture, three completions, report.html.

    \b
    Examples:
      melete demo
      melete demo --lang zh
    """
    from melete import config as configs
    from melete.console import say
    from melete.training.run import start

    recipe = Path(str(files("melete") / "cli" / "recipes" / f"demo-{lang}.toml"))
    config = configs.load(recipe)
    say(
        "Melete trains a small language model on "
        + ("the source text of this Python" if lang == "en" else "Tang poems")
    )
    say("and measures it beside a 5-gram of the same tokens. It takes about four minutes on two cores.")
    # Without a name of its own the run is demo, or demo-2, ...: the recipe's name is what it is called.
    finished = start(configs.change(config, {"name": name or ""}), BEGUN, called=config.name)
    close(finished, as_json, BEGUN)
