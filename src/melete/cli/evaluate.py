"""`melete evaluate`: how well a model predicts a text."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

import click

from melete.cli._evaluate_task import evaluate_task
from melete.cli._hints import again
from melete.cli._labelled import COLUMNS, WRITING_SETTINGS, given, writing_options
from melete.cli._reading import MAX_LINE_BYTES, TEXT_COLUMN
from melete.cli._table import table
from melete.console import say
from melete.errors import InputError

if TYPE_CHECKING:
    from melete.data.splits import Documents
    from melete.evaluation.evaluate import Scores
    from melete.evaluation.texts import Text


@click.command()
@click.argument("model")
@click.option("--data", required=True, metavar="NAME|PATH", help="A named set, a file, a folder, or - .")
@click.option(
    "--split",
    type=click.Choice(["train", "valid", "all"]),
    help="Which part. valid: the set's own, or what training holds out of a file. "
    "Default: a set's own valid part, all of a file.",
)
@click.option("--valid-fraction", type=float, default=0.05, show_default=True, help="Held out of a file.")
@click.option("--seed", type=int, default=0, show_default=True, help="Decides what is held out of a file.")
@TEXT_COLUMN
@MAX_LINE_BYTES
@COLUMNS
@writing_options
@click.option(
    "--context", type=int, help="Most tokens the model looks at. Default: all it can, 1024 at most."
)
@click.option("--stride", type=int, help="Tokens scored by each window. Default: half the context.")
@click.option(
    "--baseline",
    type=click.Choice(["ngram"]),
    help="Train a 5-gram on the same tokens; score it, and both mixed.",
)
@click.option(
    "--baseline-data", metavar="NAME|PATH", help="What it learns from. Default: the train part of --data."
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or mps.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of the table.")
def command(
    model: str, data: str, context: int | None, stride: int | None, as_json: bool, **options: Any
) -> None:
    """Perplexity and bits per byte of MODEL: a run, a checkpoint, a Hugging Face folder or a Hub id.

    Every token is scored once, by a sliding window. Perplexity per word and bits per byte do not depend on the
    tokenizer. A model for a task is asked about labelled rows instead: the usual figures of the task, and an interval.

    \b
    Examples:
      melete evaluate runs/demo --data python-stdlib
      melete evaluate runs/wiki --data wikitext-2 --context 256 --stride 32 --baseline ngram
      melete evaluate runs/mine --data book.txt --json
      melete evaluate runs/reviews --data dev.tsv --column label=stars
      melete evaluate runs/translator --data val.en,val.de --beams 10 --length-penalty 0.8
    """
    from melete.api import load
    from melete.data.datasets import tokenised
    from melete.data.labelled.rows import LABELLED_TASKS
    from melete.evaluation.evaluate import check_window, compare, default_context, evaluate_corpus
    from melete.evaluation.texts import choose_text
    from melete.models.checkpoint import locate
    from melete.tasks import EXTRACTION, FEATURES, task_of

    if task_of(locate(model)) in (*LABELLED_TASKS, FEATURES, EXTRACTION):
        evaluate_task(model, data, as_json, options)
        return
    for name in given(options, WRITING_SETTINGS):
        flag = f"--{name.replace('_', '-')}"
        raise InputError(f"{flag} is for models that write answers, and this one's text is only read")
    chosen = ("text_column", "max_line_bytes", "valid_fraction", "seed")
    text = choose_text(data, options["split"], **{name: options[name] for name in chosen})
    learnt_from = _baseline_text(text, **options) if options["baseline"] else None
    loaded = load(model, task="text-generation", device=options["device"])
    context = default_context(loaded.model) if context is None else context
    stride = max(1, context // 2) if stride is None else stride
    check_window(loaded.model, context, stride)
    corpus = tokenised(text.documents, loaded.tokenizer)
    if learnt_from is None:
        scores = {"model": evaluate_corpus(loaded.model, corpus, context=context, stride=stride)}
    else:
        from melete.evaluation.scorecard import train_baseline

        ngram = train_baseline(tokenised(learnt_from, loaded.tokenizer), loaded.tokenizer.vocab_size)
        scores = compare(loaded.model, ngram, corpus, context=context, stride=stride)
    if as_json:
        import msgspec

        found = {name: score.to_dict() for name, score in scores.items()}
        click.echo(msgspec.json.encode({"model": model, "data": data, "split": text.split, "scores": found}))
    else:
        _show(scores, f"{text.scored} of {data}")
    after = f"melete chat {shlex.quote(model)}"
    if text.train is not None and learnt_from is None:
        after = again("--baseline", "ngram")
    say(f"next: {after}")


def _baseline_text(
    text: Text, baseline_data: str | None, text_column: str | None, max_line_bytes: int, **_: Any
) -> Documents:
    """What the baseline learns from."""
    from melete.data.datasets import resolve

    if baseline_data is not None:
        return resolve(baseline_data, text_column=text_column, max_line_bytes=max_line_bytes).train
    if text.train is None:
        raise InputError(
            f"the baseline has nothing to learn from: {text.scored} of --data is scored",
            do="give --baseline-data, or hold a part out: --split valid",
        )
    return text.train


def _show(scores: dict[str, Scores], scored: str) -> None:
    """A line a model, and below it what all were measured on."""
    from melete.evaluation.evaluate import readable

    words = scores["model"].has_words
    head = ["", "bits/byte", "95 % interval", "perplexity per token", "nats/token", "tokens/s"]
    rows = [[*head, "perplexity per word"] if words else head]
    for name, score in scores.items():
        low, high = score.bits_per_byte_interval
        cells = [
            "5-gram" if name == "ngram" else name,
            f"{score.bits_per_byte:.4f}",
            f"{low:.4f} to {high:.4f}",
            readable(score.perplexity),
            f"{score.loss:.4f}",
            f"{score.tokens_per_second:,.0f}",
        ]
        rows.append([*cells, readable(score.word_perplexity)] if words else cells)
    click.echo(table(rows))
    score = scores["model"]
    click.echo(
        f"{scored}: {score.tokens:,} tokens, {score.words:,} words with line ends, {score.bytes:,} bytes; "
        f"context {score.context}, stride {score.stride}"
    )
