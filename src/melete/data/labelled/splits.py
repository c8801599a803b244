"""Which labelled rows are held out, where nobody has said so."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from typing import TypeVar

from melete.data.labelled.rows import LabelledRow, ScoreRow, TagRow
from melete.errors import InputError

R = TypeVar("R", bound=LabelledRow)

_BINS = 10  # of scores


def hold_out(rows: Sequence[R], fraction: float, seed: int) -> tuple[list[R], list[R]]:
    """Split rows in two: about `fraction` of every label in the second part, each in the order of `rows`.

    Rows that read the same, and questions on one context, stay together. Which go is decided by a hash of their text,
    keyed by the seed, so that the order of the rows makes no difference. "Label" is the rarest label or tag of a row,
    the tenth that its score is in, or whether its question has an answer.

    Args:
        fraction: in (0, 0.5].
        seed: another seed, another split.

    Raises:
        InputError: the fraction is out of range, or a part would be empty.
    """
    if not 0.0 < fraction <= 0.5:
        raise InputError(f"valid_fraction is {fraction}", expected="more than 0 and at most 0.5")
    held: set[int] = set()
    strata = _strata(rows, seed)
    for groups in strata:
        want, took = fraction * sum(map(len, groups)), 0
        for group in groups:
            # The nearer of stopping before this group and after it.
            if took + len(group) / 2 > want:
                break
            held.update(group)
            took += len(group)
    if not held and len(strata) and sum(map(len, strata)) > 1:
        held.update(max(strata, key=len)[0])
    train = [row for i, row in enumerate(rows) if i not in held]
    if not held or not train:
        what = f"none of {len(rows)} rows can be held out"
        if len(strata) == 1 and len(rows) > 1:
            what += ": they share one text"
        do = "give more rows, or validation rows of your own"
        do += "; a blank line ends a sentence" if isinstance(rows[0], TagRow) else ""
        raise InputError(what, where=rows[0].file, do=do)
    return train, [rows[i] for i in sorted(held)]


def folds(rows: Sequence[LabelledRow], count: int, seed: int) -> list[int]:
    """The fold, from 0, of each row for cross-validation: every label spread evenly, rows kept together as above.

    Raises:
        InputError: fewer than 2 folds, or fewer groups of rows than folds.
    """
    if count < 2:
        raise InputError(f"{count} folds", expected="at least 2")
    fold, sizes = [0] * len(rows), [0] * count
    strata = _strata(rows, seed)
    if sum(map(len, strata)) < count:
        what = f"{count} folds of {len(rows)} rows"
        raise InputError(what, expected="at least one row, unlike the others, for each fold")
    for groups in strata:
        own = [0] * count
        for group in groups:
            to = min(range(count), key=lambda i: (own[i], sizes[i]))
            own[to] += len(group)
            sizes[to] += len(group)
            for i in group:
                fold[i] = to
    return fold


def _strata(rows: Sequence[LabelledRow], seed: int) -> list[list[list[int]]]:
    """By stratum the groups of rows, as row numbers, in the order of their keyed hashes."""
    groups: dict[int, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        groups[row.group].append(i)
    names = _names(rows)
    strata: dict[Hashable, list[list[int]]] = defaultdict(list)
    key = seed.to_bytes(8, "little", signed=True)

    def order(group: int) -> bytes:
        return hashlib.blake2b(group.to_bytes(8, "little"), digest_size=8, key=key).digest()

    for group in sorted(groups, key=order):
        strata[names[groups[group][0]]].append(groups[group])
    return [strata[name] for name in sorted(strata, key=str)]


def _names(rows: Sequence[LabelledRow]) -> list[Hashable]:
    """The stratum of each row."""
    counts = Counter(name for row in rows for name in set(row.classes))
    scores = sorted(row.score or 0.0 for row in rows if isinstance(row, ScoreRow))
    edges = [scores[len(scores) * i // _BINS] for i in range(1, _BINS)] if scores else []

    def name(row: LabelledRow) -> Hashable:
        if row.classes:
            return min(row.classes, key=lambda each: (counts[each], each))
        if isinstance(row, ScoreRow):
            return sum((row.score or 0.0) >= edge for edge in edges)
        return bool(row.answer)

    return [name(row) for row in rows]
