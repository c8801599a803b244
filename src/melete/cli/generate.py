"""`melete generate`: continue a prompt, or fill masks behind it."""

from __future__ import annotations

import json
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from melete.cli._generation import (
    chosen,
    describe,
    generation_options,
    load_options,
    of_decoders,
    settings_of,
    show_any_character,
)
from melete.console import Progress, printable, say
from melete.errors import InputError

if TYPE_CHECKING:
    from melete.api import LanguageModel
    from melete.generation.settings import GenerationSettings, MaskPredictSettings
    from melete.tasks.fill_mask import FillMask


@click.command()
@click.argument("model")
@click.option("--prompt", help="The text to continue. Without one, the model begins a text of its own.")
@click.option(
    "--prompt-file", metavar="FILE", help="Read the prompt from a file, or from standard input with -."
)
@click.option("--samples", type=int, default=1, show_default=True, help="How many different continuations.")
@click.option("--truncate", is_flag=True, help="Leave out the beginning of a prompt longer than the context.")
@click.option("--length", type=int, help="Masked LM: tokens to write behind the prompt, by filling masks.")
@click.option("--iterations", type=int, help="Masked LM: times that the least certain are filled again. [10]")
@generation_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of the text.")
def command(model: str, prompt: str | None, prompt_file: str | None, as_json: bool, **options: Any) -> None:
    """Continue a prompt with MODEL: a run, a checkpoint, a Hugging Face folder or a Hub id.

    The prompt and what follows it go to standard output as they come, without control characters; --json keeps them.

    A masked language model (BERT) writes --length tokens at once, and fills the [MASK]s of the prompt, in a few
    iterations (mask-predict): before each, the tokens it was least sure of are hidden again.

    \b
    Examples:
      melete generate runs/demo --prompt "def read("
      melete generate runs/demo --prompt "Once" --samples 3 --temperature 1 --top-p 0.95
      cat story.txt | melete generate runs/demo --prompt-file - --max-new-tokens 400 --truncate
      melete generate runs/bert --prompt "The [MASK] sea" --length 12 --iterations 6
    """
    from melete.api import load
    from melete.models.checkpoint import locate
    from melete.tasks import task_of

    if prompt is not None and prompt_file is not None:
        raise InputError("--prompt and --prompt-file were both given", do="give one of them")
    task = task_of(locate(model))
    settings = _settings(model, task, options)  # a mistyped setting should not wait for the model
    text = _read(prompt_file) if prompt_file is not None else prompt or ""
    loaded = load(model, task=task, **load_options(options))
    say(f"{describe(loaded.model)}; seed {settings.seed}")
    start = time.perf_counter()
    run: Any = _fill if task == "fill-mask" else _continue
    texts, tokens = run(loaded, text, settings, shown=not as_json)
    seconds = time.perf_counter() - start
    rate = sum(tokens) / seconds
    if as_json:
        samples = [{"text": sample, "tokens": count} for sample, count in zip(texts, tokens, strict=True)]
        figures = {"seed": settings.seed, "seconds": round(seconds, 3), "tokens_per_second": round(rate, 1)}
        click.echo(
            json.dumps({"model": model, "prompt": text, "samples": samples, **figures}, ensure_ascii=False)
        )
    say(f"{sum(tokens)} tokens in {seconds:.2f} s, {rate:,.0f} tokens/s")
    after = f"predict {shlex.quote(model)} --text '... [MASK] ...'"
    if task == "text-generation":
        after = f"chat {shlex.quote(model)}"
    say(f"next: melete {after}   (another text: --seed {settings.seed + 1})")


def _settings(model: str, task: str, options: dict[str, Any]) -> GenerationSettings | MaskPredictSettings:
    """What was asked for, of a model of this task.

    Raises:
        InputError: a flag of the other kind of model; a value out of range; a task that writes nothing.
    """
    from melete.generation.settings import GenerationSettings, MaskPredictSettings

    given = chosen(options)
    masked = {name: options[name] for name in ("length", "iterations") if options[name] is not None}
    shared = {"num_return_sequences": options["samples"]}
    if task == "fill-mask":
        if others := of_decoders(options):
            what = f"{others[0]} is for a model that continues a text, and this one fills masks"
            raise InputError(what, where=model, do="say how much it shall write with --length")
        given.pop("stop")
        return settings_of(MaskPredictSettings, {**given, **masked, **shared})
    if task != "text-generation":
        raise InputError(
            f"a model for {task} writes no text", where=model, do=f"ask it: melete predict {model}"
        )
    if masked:
        what = f"--{next(iter(masked))} is for a model that fills masks, and this one continues a text"
        raise InputError(what, where=model, do="say how much it shall write with --max-new-tokens")
    return settings_of(GenerationSettings, {**given, **shared, "truncate": options["truncate"]})


def _fill(
    loaded: FillMask, prompt: str, settings: MaskPredictSettings, shown: bool
) -> tuple[list[str], list[int]]:
    """The whole texts, and how many masks were filled in each."""
    import msgspec

    with Progress("filling", "iterations", settings.iterations) as progress:
        texts = loaded.generate(
            prompt, on_iteration=lambda: progress.advance(1), **msgspec.structs.asdict(settings)
        )
    if shown:
        show_any_character()
        click.echo(printable(texts[0]))
        _print_others(texts)
    return texts, [settings.length + loaded.count_masks(prompt)] * len(texts)


def _continue(
    loaded: LanguageModel, prompt: str, settings: GenerationSettings, shown: bool
) -> tuple[list[str], list[int]]:
    """The texts and their numbers of tokens. Shown, the first is printed as it comes, then the others."""
    import msgspec

    from melete.generation.generate import encode_prompt, stream

    settings = msgspec.structs.replace(settings, eos_ids=loaded.eos_ids)
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
        _print_others([prompt + text for text in texts])
    return texts, tokens


def _print_others(texts: list[str]) -> None:
    """All whole texts but the first, one below the other."""
    for number, text in enumerate(texts[1:], 2):
        click.echo(printable(f"--- {number} of {len(texts)}\n{text}"))


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
