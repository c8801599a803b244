"""What a finished run is worth: its final model, a 5-gram of the same tokens, and both mixed, on the held-out text."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from melete.baselines.ngram import NGram
from melete.config import RunConfig
from melete.console import say
from melete.data.corpus import Corpus
from melete.data.tokenizers import Tokenizer
from melete.evaluation.evaluate import compare, evaluate_corpus, readable
from melete.generation.generate import complete
from melete.metrics.diversity import diversity
from melete.models.checkpoint import load_model
from melete.training.job import Card
from melete.training.precision import DTYPES

# What the n-gram tables of this many tokens take, about 1 GB, every laptop has.
BASELINE_TOKENS = 20_000_000
_PROMPT = 24  # characters that are typed willingly


def train_baseline(train: Corpus, vocab_size: int) -> NGram:
    """The 5-gram of a text, or of its beginning, which is then said: n-grams are counted in memory."""
    seen = min(len(train), BASELINE_TOKENS)
    if seen < len(train):
        say(f"the 5-gram learns from the first {seen:,} of {len(train):,} tokens: it is counted in memory")
    return NGram.train(train.read(0, seen), vocab_size)


def score_decoder(config: RunConfig, final: Path, train: Corpus, valid: Corpus) -> Card:
    """Score a finished decoder beside a 5-gram.

    Args:
        final: folder of the model and its tokenizer.
        train: what the 5-gram learns from, in the run's tokens.
        valid: the held-out text, in the run's tokens; all of it is scored.

    Returns:
        Figures: `precision`, `table` (one row a model), `samples`, `diversity`.
    """
    section, t = config.evaluation, config.training
    tokenizer = Tokenizer.load(final)
    model = load_model(final).to(t.device, DTYPES[t.precision])
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
    if not scores["model"].has_words:
        for row in table:
            del row["word_perplexity"]
    answers = complete(model, tokenizer, t.prompts)
    samples = [
        {"prompt": prompt, "text": tokenizer.decode(ids)}
        for prompt, ids in zip(t.prompts, answers, strict=True)
    ]
    figures = {"table": table, "samples": samples, "diversity": diversity(answers), "precision": t.precision}
    score = table[0]
    run = final.parent
    prompt = next(filter(str.strip, t.prompts), "") or _opening(valid, tokenizer)
    return Card(
        figures,
        _rows(table),
        f"{score['tokens']:,} tokens, {score['words']:,} words with line ends, {score['bytes']:,} bytes; "
        f"context {score['context']}, stride {score['stride']}, {t.precision}",
        f"melete generate {run} --prompt {shlex.quote(prompt)}   or   melete chat {run}",
    )


def _opening(valid: Corpus, tokenizer: Tokenizer) -> str:
    """Words that the held-out text begins with: a prompt of the kind that the model knows."""
    text = " ".join(tokenizer.decode(valid.read(0, min(len(valid), 4 * _PROMPT)).tolist()).split())
    text = text.rstrip("\ufffd")  # half of a character
    return text if len(text) <= _PROMPT else text[:_PROMPT].rsplit(" ", 1)[0]


def _rows(table: list[dict[str, Any]]) -> list[list[str]]:
    """A line a model, the 5-gram's difference beside it."""
    baseline = next((row["bits_per_byte"] for row in table if row["name"] == "5-gram"), None)
    words = "word_perplexity" in table[0]
    rows = [["held-out text", "bits/byte", "nats/token"]]
    rows[0] += ["perplexity per word"] * words + ["beside the 5-gram"] * (baseline is not None)
    for row in table:
        cells = [row["name"], f"{row['bits_per_byte']:.4f}", f"{row['loss']:.4f}"]
        cells += [readable(row["word_perplexity"])] if words else []
        if baseline is not None:
            cells.append("" if row["name"] == "5-gram" else f"{row['bits_per_byte'] / baseline - 1:+.1%}")
        rows.append(cells)
    return rows
