"""How well stretches of words are found that tags mark: entities, chunks. Pure functions on lists of tags."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from melete.metrics.classification import ClassScores, from_counts

# (type, first word, word behind the last)
Entity = tuple[str, int, int]

_MARKED = re.compile(r"[BIESMLUW](-.+)?|O")
_ALONE, _LAST, _INSIDE = "SUW", "EL", "IM"


def marks_entities(tags: Iterable[str]) -> bool:
    """Whether the tags of a set mark stretches (B-PER, I-PER, O) rather than classes of words (NOUN, VERB)."""
    known = set(tags)
    return bool(known - {"O"}) and all(_MARKED.fullmatch(tag) for tag in known)


def entities(tags: Sequence[str]) -> list[Entity]:
    """The stretches that the tags of a sentence mark, in order.

    Reads IOB1, BIO (IOB2), BIOES, BMES and BILOU, whatever is mixed, as `conlleval` does: a stretch begins at B, S, U
    or W, and wherever a tag continues nothing of its type; it ends before anything else, and after E, L, S, U or W.
    """
    found: list[Entity] = []
    kind, start = None, 0
    for i, tag in enumerate([*tags, "O"]):
        mark, _, own = tag.partition("-")
        if kind is not None and (mark not in _INSIDE + _LAST or own != kind):
            found.append((kind, start, i))
            kind = None
        if mark == "O":
            continue
        if kind is None:
            kind, start = own, i
        if mark in _ALONE + _LAST:
            found.append((kind, start, i + 1))
            kind = None
    return found


def broken(tags: Sequence[str]) -> list[int]:
    """Numbers of the tags that continue a stretch (I, M, E, L) where there is none of their type.

    All tags of IOB1 begin so; in every other scheme they are mistakes.
    """
    places: list[int] = []
    before, open_ = "", False
    for i, tag in enumerate(tags):
        mark, _, own = tag.partition("-")
        if mark in _INSIDE + _LAST and not (open_ and own == before):
            places.append(i)
        before, open_ = own, mark in "B" + _INSIDE
    return places


def entity_counts(truth: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> np.ndarray:
    """Of each sentence, how many entities were found, are there, and were said to be there: int64 (N, 3).

    Sums of any rows give F1 of these sentences by `f1_of_counts`: what intervals are computed from.
    """
    counts = np.zeros((len(truth), 3), np.int64)
    for i, (tags, said) in enumerate(zip(truth, predicted, strict=True)):
        there, found = set(entities(tags)), set(entities(said))
        counts[i] = len(there & found), len(there), len(found)
    return counts


def f1_of_counts(counts: np.ndarray) -> float:
    """Micro-averaged F1 from rows of counts, (N, 3)."""
    hits, there, said = counts.sum(0)
    return float(2 * hits / max(there + said, 1))


def entity_scores(
    truth: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]
) -> tuple[tuple[str, ...], ClassScores]:
    """The types of the entities, sorted, and how well each is found: both border and type must be right.

    `ClassScores.mean("micro")` is what the literature calls entity-F1 (CoNLL-2003).
    """
    hits, there, said = Counter[str](), Counter[str](), Counter[str]()
    for tags, own in zip(truth, predicted, strict=True):
        gold, found = set(entities(tags)), set(entities(own))
        hits.update(kind for kind, _, _ in gold & found)
        there.update(kind for kind, _, _ in gold)
        said.update(kind for kind, _, _ in found)
    types = tuple(sorted(there.keys() | said.keys()))
    columns = (np.array([counts[kind] for kind in types], np.int64) for counts in (hits, there, said))
    return types, from_counts(*columns)
