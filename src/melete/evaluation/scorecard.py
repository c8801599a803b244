"""What a finished run is worth: its final model, a 5-gram of the same tokens, and both mixed, on the held-out text."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from melete import config as configs
from melete.baselines.ngram import NGram
from melete.console import say
from melete.data.corpus import Corpus
from melete.data.tokenizers import Tokenizer
from melete.evaluation.evaluate import Scores, compare, evaluate_corpus
from melete.evaluation.report import write_report
from melete.generation.generate import encode_prompt, generate
from melete.generation.settings import GenerationSettings
from melete.machine import keep_freed_memory
from melete.metrics.diversity import diversity
from melete.models.base import Decoder
from melete.models.checkpoint import load_model
from melete.training.log import EventLog
from melete.training.precision import DTYPES


def score_run(folder: Path, train: Corpus, valid: Corpus) -> dict[str, Any]:
    """Score `final/`, add the result to the run's events, and write its page.

    Args:
        folder: a finished run.
        train: what the 5-gram learns from, in the run's tokens.
        valid: the held-out text, in the run's tokens; all of it is scored.

    Returns:
        `table` (one row a model), `samples`, `diversity`, `seconds`.
    """
    begun = time.monotonic()
    keep_freed_memory()
    config = configs.load(folder / "config.toml")
    section, t = config.evaluation, config.training
    tokenizer = Tokenizer.load(folder / "final")
    model = load_model(folder / "final").to(t.device, DTYPES[t.precision])
    context = section.context or t.context
    stride = section.stride or max(1, context // 2)
    if section.baseline:
        say("building the 5-gram of the same tokens and scoring the held-out text with both")
        ngram = NGram.train(train.read(0, len(train)), tokenizer.vocab_size)
        scores = compare(model, ngram, valid, context=context, stride=stride)
    else:
        scores = {"model": evaluate_corpus(model, valid, context=context, stride=stride)}
    names = {"model": config.model.source, "ngram": "5-gram", "mixture": "mixture of both"}
    table = [{"name": names[key], **score.to_dict()} for key, score in scores.items()]
    samples, tokens = _complete(model, tokenizer, t.prompts)
    result = {"table": table, "samples": samples, "diversity": diversity(tokens)}
    EventLog(folder / "events.jsonl").write("result", **result)
    write_report(folder)
    _show(scores, names, t.precision)
    return {"run": str(folder), **result, "seconds": time.monotonic() - begun}


def _complete(
    model: Decoder, tokenizer: Tokenizer, prompts: Sequence[str]
) -> tuple[list[dict[str, str]], list[list[int]]]:
    """One answer to each prompt, as text and as tokens."""
    eos_ids = () if tokenizer.eos_id is None else (tokenizer.eos_id,)
    settings = GenerationSettings(max_new_tokens=96, top_p=0.95, eos_ids=eos_ids, truncate=True)
    answers = generate(model, [encode_prompt(tokenizer, prompt) for prompt in prompts], settings)
    pairs = zip(prompts, answers, strict=True)
    return [{"prompt": prompt, "text": tokenizer.decode(answer)} for prompt, answer in pairs], answers


def _show(scores: dict[str, Scores], names: dict[str, str], precision: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("held-out text", "bits/byte", "per word", "per token", "beside the 5-gram"):
        table.add_column(heading, justify="left" if heading == "held-out text" else "right")
    for key, score in scores.items():
        beside = ""
        if "ngram" in scores and key != "ngram":
            beside = f"{score.bits_per_byte / scores['ngram'].bits_per_byte - 1:+.1%}"
        figures = (f"{score.bits_per_byte:.4f}", f"{score.word_perplexity:,.2f}", f"{score.perplexity:,.2f}")
        table.add_row(names[key], *figures, beside)
    Console(stderr=True).print(table)
    score = scores["model"]
    say(
        f"{score.tokens:,} tokens, {score.words:,} words with line ends, {score.bytes:,} bytes; "
        f"context {score.context}, stride {score.stride}, {precision}"
    )
