"""ROUGE: how much of a reference summary is in another text (Lin 2004). Pure functions.

On English as `rouge-score` computes it, without its stemmer. Text in other scripts, which that package drops, is cut
into its words, and Chinese, which has no spaces, into characters.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Cut = Callable[[str], list[str]]

KINDS = ("rouge1", "rouge2", "rougeL", "rougeLsum")
# Chinese characters, those of rare words and of Japanese and Korean texts with them; or a run of other letters.
_HAN = r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
_TOKEN = re.compile(rf"[{_HAN}]|[^\W_{_HAN}]+")


@dataclass(frozen=True)
class Rouge:
    """One kind of ROUGE of one text, 0 to 1 each."""

    precision: float
    recall: float
    f1: float


def tokens(text: str) -> list[str]:
    """Words in lower case, and Chinese character by character; signs are left out."""
    return _TOKEN.findall(text.lower())


def rouge(
    predicted: Sequence[str], references: Sequence[Sequence[str]], cut: Cut = tokens
) -> dict[str, np.ndarray]:
    """F1 of each text by each of `KINDS`, 0 to 1: float64 (N,).

    Args:
        predicted: N texts.
        references: of each at least one; the one that is nearest by a kind counts for it.
        cut: text -> tokens: another one cuts Chinese into words, say.
    """
    scores = [_nearest(text, several, cut) for text, several in zip(predicted, references, strict=True)]
    return {kind: np.array([each[kind].f1 for each in scores]) for kind in KINDS}


def _nearest(predicted: str, references: Sequence[str], cut: Cut) -> dict[str, Rouge]:
    each = [scores(predicted, reference, cut) for reference in references]
    return {kind: max((one[kind] for one in each), key=lambda score: score.f1) for kind in KINDS}


def scores(predicted: str, reference: str, cut: Cut = tokens) -> dict[str, Rouge]:
    """Each of `KINDS` for a text beside one reference.

    rouge1, rouge2: common words, and pairs of words; rougeL: longest common subsequence of the whole; rougeLsum: of the
    lines of both, one sentence a line.
    """
    said, right = cut(predicted), cut(reference)
    return {
        "rouge1": _of_ngrams(said, right, 1),
        "rouge2": _of_ngrams(said, right, 2),
        "rougeL": _score(len(_common(right, said)), len(said), len(right)),
        "rougeLsum": _of_lines(
            *([cut(line) for line in text.split("\n")] for text in (predicted, reference))
        ),
    }


def greedy_choice(sentences: Sequence[str], reference: str, cut: Cut = tokens) -> tuple[list[int], float]:
    """Sentences of a text that together come near to its summary: what a model that picks sentences learns to pick.

    One by one, that which adds most to rouge1 + rouge2, until none adds anything (Nallapati et al. 2017, section 3; the
    two kinds as Liu 2019 has them). Pairs of words do not reach from one sentence into another.

    Returns:
        Their numbers, rising, and rouge1 + rouge2 of the choice, 0 to 2.
    """
    said, right = [cut(sentence) for sentence in sentences], cut(reference)
    tables = [_shared_ngrams(said, right, n) for n in (1, 2)]
    chosen: list[int] = []
    best = 0.0
    while len(chosen) < len(said):
        together = np.zeros(len(said))
        for shared, totals, there in tables:
            hits = np.minimum(shared[chosen].sum(0) + shared, there).sum(1)
            together += 2 * hits / np.maximum(totals[chosen].sum() + totals + there.sum(), 1)
        together[chosen] = 0.0
        next_one = int(together.argmax())
        if together[next_one] <= best:
            break
        best = float(together[next_one])
        chosen.append(next_one)
    return sorted(chosen), best


def _shared_ngrams(
    said: Sequence[list[str]], right: list[str], n: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How often each n-gram of a reference stands in each text, (S, N); n-grams of each (S,), of the reference (N,)."""
    there = _ngrams(right, n)
    column = {ngram: i for i, ngram in enumerate(there)}
    shared, totals = np.zeros((len(said), len(there))), np.zeros(len(said))
    for i, words in enumerate(said):
        for ngram, count in _ngrams(words, n).items():
            totals[i] += count
            if ngram in column:
                shared[i, column[ngram]] = count
    return shared, totals, np.array(list(there.values()), dtype=float)


def _score(hits: int, said: int, right: int) -> Rouge:
    precision, recall = hits / max(said, 1), hits / max(right, 1)
    return Rouge(precision, recall, 2 * precision * recall / (precision + recall) if hits else 0.0)


def _of_ngrams(said: list[str], right: list[str], n: int) -> Rouge:
    one, other = _ngrams(said, n), _ngrams(right, n)
    return _score((one & other).total(), one.total(), other.total())


def _ngrams(words: list[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(words[i:] for i in range(n)), strict=False))


def _of_lines(said: list[list[str]], right: list[list[str]]) -> Rouge:
    """Words of each line of the reference that some line of the text shares with it in order (Lin 2004, section 3.2).

    A word counts no more often than it stands in either text.
    """
    left = [Counter(word for line in lines for word in line) for lines in (said, right)]
    hits = 0
    for line in right:
        places = set[int]().union(*(_common(line, other) for other in said))
        for word in (line[place] for place in sorted(places)):
            if all(counts[word] > 0 for counts in left):
                hits += 1
                for counts in left:
                    counts[word] -= 1
    return _score(hits, sum(map(len, said)), sum(map(len, right)))


def _common(right: list[str], said: list[str]) -> list[int]:
    """Places in the reference of one longest common subsequence, the last first."""
    if not right or not said:
        return []
    lengths = [[0] * (len(said) + 1)]
    for word in right:
        above, row = lengths[-1], [0]
        for j, other in enumerate(said):
            row.append(above[j] + 1 if word == other else max(above[j + 1], row[j]))
        lengths.append(row)
    places, i, j = [], len(right), len(said)
    while i and j:
        if right[i - 1] == said[j - 1]:
            i, j = i - 1, j - 1
            places.append(i)
        elif lengths[i][j - 1] > lengths[i - 1][j]:
            j -= 1
        else:
            i -= 1
    return places
