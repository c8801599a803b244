"""What a finished run is worth: its final model, a 5-gram of the same tokens, and both mixed, on the held-out text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from melete import config as configs
from melete.baselines.ngram import NGram
from melete.console import say
from melete.data.corpus import Corpus
from melete.data.tokenizers import Tokenizer
from melete.evaluation.evaluate import compare, evaluate_corpus
from melete.evaluation.report import write_report
from melete.generation.generate import complete
from melete.machine import keep_freed_memory
from melete.metrics.diversity import diversity
from melete.models.checkpoint import load_model
from melete.training.log import EventLog
from melete.training.precision import DTYPES

# What the n-gram tables of this many tokens take, about 1 GB, every laptop has.
BASELINE_TOKENS = 20_000_000
MOST_BYTES_PER_WORD = 15


def train_baseline(train: Corpus, vocab_size: int) -> NGram:
    """The 5-gram of a text, or of its beginning, which is then said: n-grams are counted in memory."""
    seen = min(len(train), BASELINE_TOKENS)
    if seen < len(train):
        say(f"the 5-gram learns from the first {seen:,} of {len(train):,} tokens: it is counted in memory")
    return NGram.train(train.read(0, seen), vocab_size)


def score_run(folder: Path, train: Corpus, valid: Corpus) -> dict[str, Any]:
    """Score `final/`, add the result to the run's events, and write its page.

    Args:
        folder: a finished run.
        train: what the 5-gram learns from, in the run's tokens.
        valid: the held-out text, in the run's tokens; all of it is scored.

    Returns:
        `run`, `precision`, `table` (one row a model), `samples`, `diversity`.
    """
    keep_freed_memory()
    config = configs.load(folder / "config.toml")
    section, t = config.evaluation, config.training
    tokenizer = Tokenizer.load(folder / "final")
    model = load_model(folder / "final").to(t.device, DTYPES[t.precision])
    context = section.context or t.context
    stride = section.stride or max(1, context // 2)
    if section.baseline:
        say("building the 5-gram of the same tokens and scoring the held-out text with both")
        ngram = train_baseline(train, tokenizer.vocab_size)
        scores = compare(model, ngram, valid, context=context, stride=stride)
    else:
        scores = {"model": evaluate_corpus(model, valid, context=context, stride=stride)}
    names = {"model": config.model.source, "ngram": "5-gram", "mixture": "mixture of both"}
    table = [{"name": names[key], **score.to_dict()} for key, score in scores.items()]
    if valid.num_bytes > MOST_BYTES_PER_WORD * valid.num_words:
        for row in table:
            del row["word_perplexity"]  # a script without spaces has no such words
    answers = complete(model, tokenizer, t.prompts)
    samples = [
        {"prompt": prompt, "text": tokenizer.decode(ids)}
        for prompt, ids in zip(t.prompts, answers, strict=True)
    ]
    result = {"table": table, "samples": samples, "diversity": diversity(answers)}
    EventLog(folder / "events.jsonl").write("result", **result)
    write_report(folder)
    return {"run": str(folder), "precision": t.precision, **result}
