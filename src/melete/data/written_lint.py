"""What is wrong with texts and what was written for them, beside what `lint` finds in all rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from melete.data.labelled.rows import TRANSLATION, WrittenRow
from melete.data.labelled.sets import LabelledSet
from melete.data.lint import Finding, example_of, of_all
from melete.data.tokenizers import Tokenizer

_EXAMPLES = 3
_FAR = 6.0  # usual deviations from the usual ratio of lengths
_SHORT = 10  # characters: lengths of shorter texts say little
_UNKNOWN = 0.05  # share of answers with characters that no token has, from which it is an error


def written_findings(
    found: LabelledSet, tokenizer: Tokenizer | None, max_length: int | None
) -> Iterator[Finding]:
    """Findings of rows with written answers.

    Args:
        tokenizer, max_length: of the model, where it is known how many tokens it reads and writes.
    """
    train = [row for row in found.train if isinstance(row, WrittenRow)]
    if found.task == TRANSLATION:
        yield from _lengths(train)
    if tokenizer is not None:
        yield from _unknown(train, tokenizer)
        if max_length is not None:
            yield from _too_long(train, tokenizer, max_length)


def _lengths(rows: Sequence[WrittenRow]) -> Iterator[Finding]:
    """Translations that are much longer or shorter than is usual in this set: they are seldom of that text."""
    both = np.array([(len(row.source), len((row.targets or ("",))[0])) for row in rows], dtype=float)
    ratio = np.log(np.maximum(both[:, 1], 1) / np.maximum(both[:, 0], 1))
    middle = np.median(ratio)
    # As wide as a standard deviation where lengths are normal; never so narrow that a word counts.
    spread = max(1.4826 * float(np.median(np.abs(ratio - middle))), 0.1)
    odd = np.flatnonzero((np.abs(ratio - middle) > _FAR * spread) & (both.max(1) >= _SHORT))
    if not len(odd):
        return
    worst = odd[np.argsort(-np.abs(ratio[odd] - middle), kind="stable")][:_EXAMPLES]
    some = of_all(len(odd), len(rows), "training rows")
    text = f"{some} are much longer or shorter beside their translation than is usual here"
    examples = tuple(
        f"{example_of(rows[i])} ({both[i, 0]:.0f} and {both[i, 1]:.0f} characters)" for i in worst.tolist()
    )
    yield Finding("lengths", "warning", text, len(odd), examples)


def _unknown(rows: Sequence[WrittenRow], tokenizer: Tokenizer) -> Iterator[Finding]:
    """Answers with characters that the model can never write."""
    unknown = tokenizer.unk_id
    if unknown is None or unknown == tokenizer.eos_id:  # every byte has a token
        return
    encoded = tokenizer.encode_batch([(row.targets or ("",))[0] for row in rows])
    hit = [row for row, ids in zip(rows, encoded, strict=True) if (ids == unknown).any()]
    if not hit:
        return
    counts = Counter(c for row in hit for c in (row.targets or ("",))[0] if not c.isspace())
    lost = [c for c, _ in counts.most_common(500) if unknown in tokenizer.encode(c)][:10]
    some = of_all(len(hit), len(rows), "training answers")
    text = f"{some} have characters that the tokenizer lacks: {' '.join(lost)}"
    severity = "error" if len(hit) > _UNKNOWN * len(rows) else "warning"
    yield Finding("unknown", severity, text, len(hit), tuple(map(example_of, hit[:_EXAMPLES])))


def _too_long(rows: Sequence[WrittenRow], tokenizer: Tokenizer, max_length: int) -> Iterator[Finding]:
    """Answers that the model would have to write beyond its last position; sources are counted with other texts."""
    lengths = np.array(
        [len(ids) for ids in tokenizer.encode_batch([(row.targets or ("",))[0] for row in rows])]
    )
    longer = lengths + 1 > max_length
    if longer.any():
        text = (
            f"{of_all(int(longer.sum()), len(rows), 'training answers')} are longer than the {max_length:,} tokens the "
            f"model writes, the longest has {lengths.max():,}; their ends are cut off"
        )
        yield Finding(
            "truncated", "warning", text, int(longer.sum()), (example_of(rows[int(lengths.argmax())]),)
        )
