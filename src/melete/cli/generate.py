"""`melete generate`: continue a prompt."""

from __future__ import annotations

import json
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from melete.cli._generation import chosen, describe, generation_options, load_options, show_any_character
from melete.console import Progress, printable, say
from melete.errors import InputError

if TYPE_CHECKING:
    from melete.api import LanguageModel
    from melete.generation.settings import GenerationSettings


@click.command()
@click.argument("model")
@click.option("--prompt", help="The text to continue. Without one, the model begins a text of its own.")
@click.option(
    "--prompt-file", metavar="FILE", help="Read the prompt from a file, or from standard input with -."
)
@click.option("--samples", type=int, default=1, show_default=True, help="How many different continuations.")
@click.option("--truncate", is_flag=True, help="Leave out the beginning of a prompt longer than the context.")
@generation_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of the text.")
def command(model: str, prompt: str | None, prompt_file: str | None, as_json: bool, **options: Any) -> None:
    """Continue a prompt with MODEL: a run, a checkpoint, a Hugging Face folder or a Hub id.

    The prompt and what follows it go to standard output as they come, without control characters; --json keeps them.

    \b
    Examples:
      melete generate runs/demo --prompt "def read("
      melete generate runs/demo --prompt "Once" --samples 3 --temperature 1 --top-p 0.95
      cat story.txt | melete generate runs/demo --prompt-file - --max-new-tokens 400 --truncate
    """
    from melete.generation.settings import GenerationSettings

    values = {**chosen(options), "num_return_sequences": options["samples"], "truncate": options["truncate"]}
    GenerationSettings.of(values)  # a mistyped setting should not wait for the model
    if prompt is not None and prompt_file is not None:
        raise InputError("--prompt and --prompt-file were both given", do="give one of them")
    text = _read(prompt_file) if prompt_file is not None else prompt or ""

    from melete.api import load

    loaded = load(model, **load_options(options))
    settings = GenerationSettings.of({"eos_ids": loaded.eos_ids, **values})
    say(f"{describe(loaded.model)}; seed {settings.seed}")
    start = time.perf_counter()
    texts, tokens = _run(loaded, text, settings, shown=not as_json)
    seconds = time.perf_counter() - start
    rate = sum(tokens) / seconds
    if as_json:
        samples = [{"text": sample, "tokens": count} for sample, count in zip(texts, tokens, strict=True)]
        figures = {"seed": settings.seed, "seconds": round(seconds, 3), "tokens_per_second": round(rate, 1)}
        click.echo(
            json.dumps({"model": model, "prompt": text, "samples": samples, **figures}, ensure_ascii=False)
        )
    say(f"{sum(tokens)} tokens in {seconds:.2f} s, {rate:,.0f} tokens/s")
    say(f"next: melete chat {shlex.quote(model)}   (another text: --seed {settings.seed + 1})")


def _run(
    loaded: LanguageModel, prompt: str, settings: GenerationSettings, shown: bool
) -> tuple[list[str], list[int]]:
    """The texts and their numbers of tokens. Shown, the first is printed as it comes, then the others."""
    from melete.generation.generate import encode_prompt, stream

    texts = [""] * settings.num_return_sequences
    tokens = [0] * settings.num_return_sequences
    pieces = stream(loaded.model, [encode_prompt(loaded.tokenizer, prompt)], settings, loaded.tokenizer)
    total = settings.num_return_sequences * settings.max_new_tokens
    if shown:
        show_any_character()
        click.echo(printable(prompt), nl=False)
    with Progress("generating", "tokens", total) as progress:
        for piece in pieces:
            texts[piece.answer] += piece.text
            tokens[piece.answer] += 1
            if not shown:
                progress.advance(1)
            elif piece.answer == 0:
                click.echo(printable(piece.text), nl=False)
    if shown:
        click.echo()
        for number, text in enumerate(texts[1:], 2):
            click.echo(printable(f"--- {number} of {len(texts)}\n{prompt}{text}"))
    return texts, tokens


def _read(name: str) -> str:
    """The prompt in a file; the line break that ends the file is not part of it."""
    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except FileNotFoundError:
        raise InputError("no such prompt file", where=name) from None
    except IsADirectoryError:
        raise InputError("the prompt file is a folder", where=name) from None
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError("not valid UTF-8", where=f"{name}:{line}", do="save the prompt as UTF-8") from None
    return text.removesuffix("\n").removesuffix("\r")
