"""What a finished run is worth: its final model, a 5-gram of the same tokens, and both mixed, on the held-out text."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from melete import api
from melete import config as configs
from melete.baselines.ngram import NGram
from melete.console import say
from melete.data.corpus import Corpus
from melete.evaluation.evaluate import Scores, compare, evaluate_corpus
from melete.evaluation.report import write_report
from melete.machine import keep_freed_memory
from melete.metrics.diversity import diversity
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
    loaded = api.load(str(folder / "final"), device=t.device)
    loaded.model.to(DTYPES[t.precision])
    context = section.context or t.context
    stride = section.stride or max(1, context // 2)
    if section.baseline:
        say("building the 5-gram of the same tokens and scoring the held-out text with both")
        ngram = NGram.train(train.read(0, len(train)), loaded.tokenizer.vocab_size)
        scores = compare(loaded.model, ngram, valid, context=context, stride=stride)
    else:
        scores = {"model": evaluate_corpus(loaded.model, valid, context=context, stride=stride)}
    names = {"model": config.model.source, "ngram": "5-gram", "mixture": "mixture of both"}
    table = [{"name": names[key], **score.to_dict()} for key, score in scores.items()]
    samples = [{"prompt": prompt, "text": loaded.generate(prompt, max_new_tokens=96)} for prompt in t.prompts]
    tokens = [loaded.tokenizer.encode(sample["text"]) for sample in samples]
    result = {"table": table, "samples": samples, "diversity": diversity(tokens)}
    EventLog(folder / "events.jsonl").write("result", **result)
    write_report(folder)
    _show(scores, names, t.precision)
    return {"run": str(folder), **result, "seconds": time.monotonic() - begun}


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
