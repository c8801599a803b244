"""`melete generate`: continue a prompt, or fill masks behind it."""

from __future__ import annotations

import json
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

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
    from melete.generation.drafting import Drafter
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
@click.option(
    "--draft",
    type=click.Choice(["prompt", "ngram"]),
    help="Guess tokens ahead, by what stood in the text before or by a 5-gram model: the text comes sooner.",
)
@click.option(
    "--draft-data", metavar="DATA", help="Text that the 5-gram model learns from: a set, file or folder."
)
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
      melete generate runs/demo --prompt "import" --temperature 0 --precision int8 --draft prompt
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
    drafter = _drafter(loaded, options["draft"], options["draft_data"])
    say(f"{describe(loaded.model)}; seed {settings.seed}")
    start = time.perf_counter()
    figures: dict[str, Any] = {}
    if task == "fill-mask":
        texts, tokens = _fill(loaded, text, cast(Any, settings), shown=not as_json)
    else:
        texts, tokens, figures = _continue(loaded, text, cast(Any, settings), drafter, shown=not as_json)
    seconds = time.perf_counter() - start
    rate = sum(tokens) / seconds
    if as_json:
        samples = [{"text": sample, "tokens": count} for sample, count in zip(texts, tokens, strict=True)]
        figures |= {"seed": settings.seed, "seconds": round(seconds, 3), "tokens_per_second": round(rate, 1)}
        click.echo(
            json.dumps({"model": model, "prompt": text, "samples": samples, **figures}, ensure_ascii=False)
        )
    say(f"{sum(tokens)} tokens in {seconds:.2f} s, {rate:,.0f} tokens/s")
    if drafter is not None:
        say(
            f"{figures['tokens_per_pass']:.2f} tokens a pass: {figures['acceptance']:.0%} of the guesses were right; "
            f"{figures['repetition']:.0%} of the runs of 4 tokens had come before"
        )
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


def _drafter(loaded: Any, kind: str | None, data: str | None) -> Drafter | None:
    """Who guesses ahead.

    Raises:
        InputError: a model that fills masks; a 5-gram model and no text for it, or a text and no such model.
    """
    if (kind == "ngram") != (data is not None):
        raise InputError(
            "--draft ngram and --draft-data go together", do="give both: --draft-data wikitext-2"
        )
    if kind is None:
        return None
    if not hasattr(loaded, "eos_ids"):
        raise InputError("--draft is for a model that continues a text, and this one fills masks")
    if data is None:
        from melete.generation.drafting import PromptDrafter

        return PromptDrafter()
    from melete.baselines.drafting import NGramDrafter
    from melete.data.datasets import resolve, tokenised
    from melete.evaluation.scorecard import train_baseline

    corpus = tokenised(resolve(data).train, loaded.tokenizer)
    return NGramDrafter(train_baseline(corpus, loaded.tokenizer.vocab_size))


def _continue(
    loaded: LanguageModel, prompt: str, settings: GenerationSettings, drafter: Drafter | None, shown: bool
) -> tuple[list[str], list[int], dict[str, Any]]:
    """The texts, their numbers of tokens, and what came of guesses. Shown, the first is printed as it comes."""
    import msgspec

    from melete.generation.generate import Decoding, Speculation, encode_prompt, follow
    from melete.metrics.diversity import repetition_rate

    settings = msgspec.structs.replace(settings, eos_ids=loaded.eos_ids)
    texts = [""] * settings.num_return_sequences
    tokens = [0] * settings.num_return_sequences
    asked = loaded.model, [encode_prompt(loaded.tokenizer, prompt)], settings, loaded.tokenizer
    decoding = Speculation(*asked, drafter) if drafter is not None else Decoding(*asked)
    said: list[int] = []
    total = settings.num_return_sequences * settings.max_new_tokens
    if shown:
        show_any_character()
        click.echo(printable(prompt), nl=False)
    with Progress("generating", "tokens", total) as progress:
        for piece in follow(decoding):
            said.append(piece.token)
            texts[piece.answer] += piece.text
            tokens[piece.answer] += 1
            if not shown:
                progress.advance(1)
            elif piece.answer == 0:
                click.echo(printable(piece.text), nl=False)
    if shown:
        click.echo()
        _print_others([prompt + text for text in texts])
    if isinstance(decoding, Speculation):
        return texts, tokens, {**decoding.figures(), "repetition": round(repetition_rate([said]), 4)}
    return texts, tokens, {}


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
