"""BLEU, chrF and TER as `sacrebleu` computes them, each with the signature that says how (Post 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

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
