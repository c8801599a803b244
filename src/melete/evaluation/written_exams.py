"""How good written answers are, beside those that somebody wrote: translations, summaries, and any others."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from melete.data.labelled.rows import SUMMARIZATION, TRANSLATION, WrittenRow
from melete.data.scripts import HAN
from melete.data.sentences import split_sentences
from melete.evaluation.exams import Answer, Exam
from melete.metrics.rouge import rouge
from melete.metrics.translation import TranslationCounts, translation_counts

_KANA, _HAN = re.compile(r"[\u3040-\u30ff]"), re.compile(f"[{HAN}]")
# Languages without spaces, whose words Moses does not tell apart.
_UNSPACED = ("zh", "ja", "ko", "th")


class Written(Exam):
    """What the exams of all written answers share."""

    scale = 100.0

    def __init__(self, rows: Sequence[WrittenRow]) -> None:
        super().__init__(rows)
        self.truth = [row.targets or ("",) for row in rows]


class Translations(Written):
    """Marks are what each text adds to BLEU, chrF and TER: float (N, K); of TER, less is better."""

    def __init__(self, rows: Sequence[WrittenRow], language: str = "") -> None:
        super().__init__(rows)
        self.language = language or _language(self.truth)
        spaced = self.language not in _UNSPACED
        self.names = ("bleu", "chrf", "ter", *(("tokenised_bleu",) if spaced else ()))
        # The references' own figures: which columns are whose, how to sum them up, and that all is installed.
        self._counts = self._counted([targets[0] for targets in self.truth])
        self.signatures = {name: own.signature for name, own in self._counts.items()}
        ends = np.cumsum([own.counts.shape[1] for own in self._counts.values()]).tolist()
        self._columns = dict(zip(self._counts, map(slice, [0, *ends], ends), strict=False))

    def _counted(self, texts: Sequence[str]) -> dict[str, TranslationCounts]:
        tokenised = "tokenised_bleu" in self.names
        return translation_counts(texts, self.truth, self.language, tokenised=tokenised)

    def mark(self, answers: Sequence[Answer]) -> np.ndarray:
        """See `Exam.mark`."""
        found = self._counted([str(answer["text"]) for answer in answers])
        return np.concatenate([own.counts for own in found.values()], axis=1)

    def figure(self, name: str, marks: np.ndarray, rows: np.ndarray) -> float:
        """See `Exam.figure`."""
        return self._counts[name].score(marks[:, self._columns[name]])

    def each(self, marks: np.ndarray) -> np.ndarray:
        """See `Exam.each`; chrF, since few sentences have four words in a row right."""
        own = marks[:, self._columns["chrf"]]
        return np.array([self._counts["chrf"].score(row[None]) / self.scale for row in own])


class Summaries(Written):
    """Marks are the F1 of each text by each kind of ROUGE, 0 to 100: float (N, 4)."""

    names = ("rouge1", "rouge2", "rougeL", "rougeLsum")

    def mark(self, answers: Sequence[Answer]) -> np.ndarray:
        """See `Exam.mark`; a sentence is a line."""
        said = [_lines(str(answer["text"])) for answer in answers]
        found = rouge(said, [[_lines(text) for text in targets] for targets in self.truth])
        return self.scale * np.stack([found[name] for name in self.names], axis=1)

    def figure(self, name: str, marks: np.ndarray, rows: np.ndarray) -> float:
        """See `Exam.figure`."""
        return float(marks[:, self.names.index(name)].mean())

    def each(self, marks: np.ndarray) -> np.ndarray:
        """See `Exam.each`."""
        return marks[:, 0] / self.scale


class AnyTexts(Written):
    """Marks are ROUGE-L, and whether a text is one that was asked for, white space aside: 0 to 100, float (N, 2)."""

    names = ("rougeL", "exact_match")

    def mark(self, answers: Sequence[Answer]) -> np.ndarray:
        """See `Exam.mark`."""
        said = [str(answer["text"]) for answer in answers]
        pairs = zip(said, self.truth, strict=True)
        exact = [text.split() in [other.split() for other in targets] for text, targets in pairs]
        return self.scale * np.stack(
            [rouge(said, self.truth)["rougeL"], np.array(exact, dtype=float)], axis=1
        )

    def figure(self, name: str, marks: np.ndarray, rows: np.ndarray) -> float:
        """See `Exam.figure`."""
        return float(marks[:, self.names.index(name)].mean())

    def each(self, marks: np.ndarray) -> np.ndarray:
        """See `Exam.each`."""
        return marks[:, 0] / self.scale


def written_exam(task: str, rows: Sequence[WrittenRow], language: str = "") -> Written:
    """The exam of a task; see `exam_of`."""
    if task == TRANSLATION:
        return Translations(rows, language)
    return Summaries(rows) if task == SUMMARIZATION else AnyTexts(rows)


def _lines(text: str) -> str:
    """A text with a sentence a line."""
    return "\n".join(" ".join(text[start:stop].split()) for start, stop in split_sentences(text))


def _language(truth: Sequence[Sequence[str]]) -> str:
    """Chinese or Japanese, by the script of most texts; "": neither."""
    texts = [targets[0] for targets in truth]
    if 2 * sum(bool(_KANA.search(text)) for text in texts) > len(texts):
        return "ja"
    return "zh" if 2 * sum(bool(_HAN.search(text)) for text in texts) > len(texts) else ""
