"""A language model and a text to figures: every token scored once, by a sliding window."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from melete.baselines.mixture import mix
from melete.baselines.ngram import NGram
from melete.console import Progress
from melete.data.batch import Batch
from melete.errors import InputError
from melete.metrics.language_model import bits_per_byte, interval, perplexity
from melete.models.base import Decoder

if TYPE_CHECKING:
    from melete.data.corpus import Corpus

Floats = NDArray[np.float64]

# Tokens in one forward pass, and logits held at once (32 MB in float32), when the caller does not choose.
TOKENS_PER_BATCH = 8192
LOGITS_PER_BLOCK = 2**23
_MOST_BYTES_PER_WORD = 15


@dataclass(frozen=True)
class Scores:
    """What a model made of a text.

    Attributes:
        tokens: how many were predicted.
        words: whitespace-separated words, plus the ends of lines where the data set counts them.
        bytes: of the text in UTF-8.
        loss: nats a token.
        perplexity: over tokens.
        word_perplexity: exp(total nats / words), whatever the tokenizer.
        bits_per_byte: total bits / bytes, whatever the tokenizer.
        bits_per_byte_interval: its 95 % interval over the blocks of this text.
        context: most tokens the model could look at.
        stride: tokens scored a window; smaller is dearer and kinder.
        seconds: wall clock of the scoring.
        tokens_per_second: tokens / seconds.
    """

    tokens: int
    words: int
    bytes: int
    loss: float
    perplexity: float
    word_perplexity: float
    bits_per_byte: float
    bits_per_byte_interval: tuple[float, float]
    context: int
    stride: int
    seconds: float
    tokens_per_second: float

    @property
    def has_words(self) -> bool:
        """Whether the text has words to speak of: a script without spaces has none."""
        return self.bytes <= _MOST_BYTES_PER_WORD * self.words

    @classmethod
    def of(
        cls, log_probs: Floats, *, words: int, num_bytes: int, context: int, stride: int, seconds: float
    ) -> Scores:
        """Sum up natural log-probabilities (N,) of a text of that many words and bytes."""
        tokens, nats = len(log_probs), -float(log_probs.sum())
        low, high = interval(-log_probs)
        return cls(
            tokens=tokens,
            words=words,
            bytes=num_bytes,
            loss=nats / tokens,
            perplexity=perplexity(nats, tokens),
            word_perplexity=perplexity(nats, words),
            bits_per_byte=bits_per_byte(nats, num_bytes),
            bits_per_byte_interval=(
                bits_per_byte(low * tokens, num_bytes),
                bits_per_byte(high * tokens, num_bytes),
            ),
            context=context,
            stride=stride,
            seconds=seconds,
            tokens_per_second=tokens / max(seconds, 1e-9),
        )

    def to_dict(self) -> dict[str, Any]:
        """The figures by name, for JSON."""
        return asdict(self)


def readable(perplexity: float) -> str:
    """A perplexity as a table shows it."""
    return f"{perplexity:,.2f}" if perplexity < 1e6 else f"{perplexity:.2e}"


def token_log_probs(
    model: Decoder,
    ids: np.ndarray,
    *,
    context: int,
    stride: int,
    document_starts: np.ndarray | None = None,
    batch_rows: int | None = None,
    progress: Progress | None = None,
) -> Floats:
    """Natural log-probability of each of ids[1:] given what precedes it, by a sliding window.

    Every token is scored once, with at least `context - stride` tokens of left context except at the start of
    the stream and of its document. `stride == context` cuts plain windows; `stride == 1` gives each token all the
    context there is.

    Args:
        model: a decoder, on any device.
        ids: token ids, int (N,); the first one is context only.
        context: tokens a window.
        stride: tokens scored by each window after the first, 1..context.
        document_starts: sorted positions of the documents' first tokens. Attention stays inside a document and
            positions restart there, as in training. None: the stream is one document.
        batch_rows: windows a forward pass; changes nothing but speed and memory.
        progress: counts the tokens that are done.

    Returns:
        float64 (N-1,).

    Raises:
        InputError: a context beyond the model's, a stride outside 1..context, an id beyond its vocabulary.
    """
    check_window(model, context, stride)
    _check_ids(model, ids)
    inputs = len(ids) - 1
    starts = np.zeros(0, dtype=np.int64) if document_starts is None else document_starts
    result = np.empty(inputs)
    rows = batch_rows or max(1, TOKENS_PER_BATCH // context)
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for windows in _batched(_windows(inputs, context, stride), rows):
                at = np.stack([np.arange(first, last) for first, _, last in windows])  # (B, T)
                hidden = model.encode(_batch(ids, at, starts).to(device))  # (B, T, D)
                # Only what is scored reaches the head, and never more logits at once than a block.
                scored = at >= np.array([[since] for _, since, _ in windows])
                targets = torch.from_numpy(ids[at[scored] + 1].astype(np.int64)).to(device)
                chosen = hidden[torch.from_numpy(scored).to(device)]  # (N, D)
                result[at[scored]] = _log_probs(chosen, model, targets)
                if progress is not None:
                    progress.advance(int(scored.sum()))
    finally:
        model.train(training)
    return result


def evaluate_corpus(
    scorer: Decoder | NGram,
    corpus: Corpus,
    *,
    context: int | None = None,
    stride: int | None = None,
    words: int | None = None,
    batch_rows: int | None = None,
) -> Scores:
    """Score every token of a corpus with a neural model or an n-gram model.

    Args:
        scorer: the model.
        corpus: the text, in the scorer's tokens.
        context, stride: see `token_log_probs`; half a window where no stride is given. An n-gram model has its own.
        words: exact number of words, where the data set has its own way of counting; else the corpus's.
        batch_rows: windows a forward pass.

    Raises:
        InputError: see `token_log_probs`; also a corpus of fewer than two tokens.
    """
    return _summary(_Scored.by(scorer, corpus, context, stride, batch_rows), corpus, words)


def compare(
    model: Decoder,
    baseline: NGram,
    corpus: Corpus,
    *,
    context: int | None = None,
    stride: int | None = None,
    words: int | None = None,
    batch_rows: int | None = None,
) -> dict[str, Scores]:
    """Score a corpus by a neural model, an n-gram model, and their mixture: `model`, `ngram`, `mixture`.

    The mixture's weight depends on how far the n-gram model is to be trusted, and is cross-fitted: no token
    has a part in the weight it is scored with (`melete.baselines.mixture.mix`).
    """
    by_model = _Scored.by(model, corpus, context, stride, batch_rows)
    by_ngram = _Scored.by(baseline, corpus, None, None, None)
    start = time.monotonic()
    mixed, _ = mix(by_model.log_probs, by_ngram.log_probs, by_ngram.trust)
    seconds = by_model.seconds + by_ngram.seconds + time.monotonic() - start
    by_both = _Scored(mixed, by_model.context, by_model.stride, seconds)
    return {
        "model": _summary(by_model, corpus, words),
        "ngram": _summary(by_ngram, corpus, words),
        "mixture": _summary(by_both, corpus, words),
    }


@dataclass(frozen=True)
class _Scored:
    """Log-probabilities of a corpus, and how they were come by."""

    log_probs: Floats
    context: int
    stride: int
    seconds: float
    trust: np.ndarray | None = None

    @classmethod
    def by(
        cls,
        scorer: Decoder | NGram,
        corpus: Corpus,
        context: int | None,
        stride: int | None,
        batch_rows: int | None,
    ) -> _Scored:
        if len(corpus) < 2:
            raise InputError(f"{len(corpus)} tokens are too few to evaluate", expected="at least 2")
        start = time.monotonic()
        ids = corpus.read(0, len(corpus))
        if isinstance(scorer, NGram):
            log_probs, trust = scorer.score(ids)
            return cls(log_probs, scorer.order - 1, 1, time.monotonic() - start, trust)
        context = default_context(scorer) if context is None else context
        stride = max(1, context // 2) if stride is None else stride
        with Progress("evaluating", "tokens", len(ids) - 1) as progress:
            log_probs = token_log_probs(
                scorer,
                ids,
                context=context,
                stride=stride,
                document_starts=corpus.document_starts(0, len(corpus)),
                batch_rows=batch_rows,
                progress=progress,
            )
        return cls(log_probs, context, stride, time.monotonic() - start)


def default_context(model: Decoder) -> int:
    """What a window holds when nobody says: all the model has positions for, 1024 tokens at most."""
    return min(model.config.max_position_embeddings, 1024)


def _summary(scored: _Scored, corpus: Corpus, words: int | None) -> Scores:
    return Scores.of(
        scored.log_probs,
        words=corpus.num_words if words is None else words,
        num_bytes=corpus.num_bytes,
        context=scored.context,
        stride=scored.stride,
        seconds=scored.seconds,
    )


def check_window(model: Decoder, context: int, stride: int) -> None:
    """Refuse a window the model cannot do, before minutes are spent on it.

    Raises:
        InputError: a context beyond the model's, or a stride outside 1..context.
    """
    most = model.config.max_position_embeddings
    if not 1 <= context <= most:
        raise InputError(
            f"a context of {context} tokens", expected=f"1 to {most}, all this model has positions for"
        )
    if not 1 <= stride <= context:
        raise InputError(f"a stride of {stride} tokens", expected=f"1 to {context}, the context")


def _check_ids(model: Decoder, ids: np.ndarray) -> None:
    vocab_size = model.config.vocab_size
    if len(ids) and (ids.min() < 0 or ids.max() >= vocab_size):
        outside = int(ids.min() if ids.min() < 0 else ids.max())
        raise InputError(
            f"token id {outside} is outside the model's vocabulary",
            expected=f"ids from 0 to {vocab_size - 1}",
            do="use the tokenizer of this model",
        )


def _windows(inputs: int, context: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """(first input, first one that is scored, end) of each window; the last one may be shorter."""
    done = 0
    for first in range(0, inputs, stride):
        last = min(first + context, inputs)
        if last > done:
            yield first, done, last
        done = last


def _batched(windows: Iterator[tuple[int, int, int]], rows: int) -> Iterator[list[tuple[int, int, int]]]:
    """Windows of one length, at most `rows` at a time."""
    batch: list[tuple[int, int, int]] = []
    for window in windows:
        if len(batch) == rows or (batch and window[2] - window[0] != batch[0][2] - batch[0][0]):
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch


def _batch(ids: np.ndarray, at: NDArray[np.int64], starts: np.ndarray) -> Batch:
    """The rows at these positions of the stream, with the documents that lie in each."""
    document = np.searchsorted(starts, at, side="right")  # (B, T): how many documents began up to here
    opened = np.concatenate(([0], starts))[document]
    position_ids = at - np.maximum(opened, at[:, :1])
    return Batch(
        input_ids=torch.from_numpy(ids[at].astype(np.int64)),
        doc_ids=torch.from_numpy((document - document[:, :1] + 1).astype(np.int32)),
        position_ids=torch.from_numpy(position_ids),
        doc_starts=torch.from_numpy(np.argwhere(position_ids == 0)),
    )


def _log_probs(hidden: Tensor, model: Decoder, targets: Tensor) -> Floats:
    """Log-probability of each target: (N, D), (N,) -> (N,), a block of logits at a time."""
    block = max(1, LOGITS_PER_BLOCK // model.config.vocab_size)
    found = []
    for rows, wanted in zip(hidden.split(block), targets.split(block), strict=True):
        logits = model.logits(rows).float()  # (N, V)
        found.append(logits.gather(1, wanted[:, None])[:, 0] - logits.logsumexp(1))
    return torch.cat(found).double().cpu().numpy()
