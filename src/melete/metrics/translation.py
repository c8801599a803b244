"""BLEU, chrF and TER as `sacrebleu` computes them, each with the signature that says how (Post 2018).

`translation_scores` gives the figures of a corpus; `translation_counts` what each of its texts adds to them, so that
they can be had of any part of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from melete.errors import InputError

Kind = Literal["bleu", "chrf", "ter"]


@dataclass(frozen=True)
class TranslationScore:
    """One figure of a corpus.

    Attributes:
        value: 0 to 100; of TER, the fewer the better.
        signature: tokens, case, smoothing and version: figures compare where it is the same.
    """

    value: float
    signature: str


@dataclass(frozen=True)
class TranslationCounts:
    """What each text adds to one figure.

    Attributes:
        counts: float64 (N, K).
        signature: see `TranslationScore`.
        metric: of `sacrebleu`.
    """

    counts: np.ndarray
    signature: str
    metric: Any

    def score(self, counts: np.ndarray) -> float:
        """The figure of texts whose counts are given, (M, K): 0 to 100."""
        return float(self.metric._compute_score_from_stats(counts.sum(0).tolist()).score)


def translation_counts(
    predicted: Sequence[str],
    references: Sequence[Sequence[str]],
    language: str = "",
    *,
    tokenised: bool = False,
) -> dict[str, TranslationCounts]:
    """BLEU, chrF and TER of a corpus, text by text; otherwise as `translation_scores`.

    Args:
        references: of each text at least one, not as many for all.
        tokenised: also "tokenised_bleu", of lower-cased Moses tokens, as the Multi30k literature has it.
    """
    streams = [
        [several[i] if i < len(several) else None for several in references]
        for i in range(max(map(len, references)))
    ]
    found = {kind: _counted(metric, predicted, streams) for kind, metric in _metrics(language).items()}
    if tokenised:
        found["tokenised_bleu"] = _tokenised(predicted, streams, language)
    return found


def _counted(
    metric: Any, predicted: Sequence[str], streams: Sequence[Sequence[str | None]]
) -> TranslationCounts:
    # What sacrebleu's own tests of significance are made of.
    counts = metric._extract_corpus_statistics(list(predicted), streams)
    return TranslationCounts(np.array(counts, dtype=np.float64), str(metric.get_signature()), metric)


def _tokenised(
    predicted: Sequence[str], streams: Sequence[Sequence[str | None]], language: str
) -> TranslationCounts:
    try:
        import sacremoses
        from sacrebleu.metrics.bleu import BLEU
    except ImportError:
        raise InputError("tokenised BLEU needs sacremoses", do="pip install 'melete[translation]'") from None
    moses = sacremoses.MosesTokenizer(lang=language or "en")

    def cut(text: str | None) -> str | None:
        return None if text is None else str(moses.tokenize(text.lower(), return_str=True, escape=False))

    metric = BLEU(tokenize="none", force=True)
    found = _counted(
        metric, [cut(text) or "" for text in predicted], [list(map(cut, own)) for own in streams]
    )
    signature = f"{found.signature}|lower-cased, sacremoses:{sacremoses.__version__}:{language or 'en'}"
    return TranslationCounts(found.counts, signature, metric)


def translation_scores(
    predicted: Sequence[str], references: Sequence[Sequence[str]], language: str = ""
) -> dict[Kind, TranslationScore]:
    """BLEU, chrF and TER of a corpus.

    Args:
        predicted: N texts.
        references: of each text as many.
        language: of the texts ("zh", "en"): Chinese is cut into characters, Japanese and Korean as `sacrebleu` does.

    Raises:
        InputError: no texts, texts with different numbers of references, or `sacrebleu` is not installed.
    """
    numbers = {len(each) for each in references}
    if len(predicted) != len(references) or not predicted or len(numbers) != 1 or 0 in numbers:
        raise InputError(
            f"{len(predicted)} texts with {len(references)} times {sorted(numbers)} references",
            expected="as many references, at least one, for each text",
        )
    streams = [list(stream) for stream in zip(*references, strict=True)]
    return {kind: _scored(metric, predicted, streams) for kind, metric in _metrics(language).items()}


def _metrics(language: str) -> dict[Kind, Any]:
    try:
        from sacrebleu.metrics.bleu import BLEU
        from sacrebleu.metrics.chrf import CHRF
        from sacrebleu.metrics.ter import TER
    except ImportError:
        raise InputError(
            "BLEU, chrF and TER need sacrebleu", do="pip install 'melete[translation]'"
        ) from None
    asian = language in ("zh", "ja")
    try:
        bleu = BLEU(trg_lang=language)
    except RuntimeError as error:  # Japanese and Korean are cut by packages of their own
        reason = " ".join(str(error).split("\n\n")[0].split())
        raise InputError(reason, do=f"pip install 'sacrebleu[{language}]'") from None
    return {"bleu": bleu, "chrf": CHRF(), "ter": TER(normalized=asian, asian_support=asian)}


def _scored(metric: Any, predicted: Sequence[str], streams: list[list[str]]) -> TranslationScore:
    value = metric.corpus_score(list(predicted), streams).score
    return TranslationScore(float(value), str(metric.get_signature()))
