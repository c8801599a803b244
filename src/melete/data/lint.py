"""What is wrong with labelled rows, found before anything is trained on them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from melete.console import say
from melete.data.labelled.rows import (
    CLASSIFICATION,
    TAGGING,
    LabelledRow,
    QuestionRow,
    TagRow,
    TextRow,
    WrittenRow,
)
from melete.data.labelled.sets import LabelledSet
from melete.data.tokenizers import Tokenizer
from melete.errors import InputError
from melete.metrics.tagging import broken, marks_entities

SEVERITIES = ("note", "warning", "error")

_EXAMPLES, _SHOWN = 3, 80
_SKEWED = 10  # times as many rows of the most frequent label as of the rarest: worth a word
_SAMPLE = 20_000  # rows whose tokens are counted
_LOST_SPANS = 0.05  # share of training answers that may stand nowhere before it is an error
_FRAME = 3  # special tokens around a pair of texts


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
        kind: one-class, unseen-label, unused-label, imbalance, near-empty, duplicates, conflicts, leaks, truncated,
            moved-spans, lost-spans, broken-tags, lengths or unknown.
        severity: "error": it cannot be trained on; "warning": it can, and the result will suffer or mislead; "note".
        text: the finding, in a sentence.
        count: rows (or labels, answers, tags) it is about.
        examples: some of them, each with its file and line.
    """

    kind: str
    severity: str
    text: str
    count: int
    examples: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """What labelled rows are like, and what is wrong with them.

    Attributes:
        rows: how many, by part (train, valid).
        labels: by label or tag, rows (tags: words) of train and of valid; in the order of their ids.
        characters: median, 95th percentile and most of a training row's texts.
        findings: errors first.
        leaked: numbers of the validation rows that stand in train.
    """

    rows: dict[str, int]
    labels: dict[str, tuple[int, int]]
    characters: tuple[int, int, int]
    findings: tuple[Finding, ...]
    leaked: tuple[int, ...]

    def plain(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {name: value for name, value in asdict(self).items() if name != "leaked"}

    def tell(self, note: Callable[[str], None] = say) -> None:
        """Say each finding in a line, its examples below."""
        for finding in self.findings:
            note(f"{finding.severity}: {finding.text}")
            for example in finding.examples:
                note(f"    {example}")

    def stop(self, strict: bool = False) -> None:
        """Raise if there is anything that forbids training.

        Args:
            strict: a warning forbids it too.

        Raises:
            InputError: the first such finding, and how many more there are.
        """
        forbids = [f for f in self.findings if f.severity == "error" or (strict and f.severity == "warning")]
        if forbids:
            first, more = forbids[0], len(forbids) - 1
            do = f"and {more} more finding{'s' if more > 1 else ''} above" if more else ""
            where = first.examples[0].partition(": ")[0] if first.examples else ""
            raise InputError(first.text, where=where, do=do)


def lint(found: LabelledSet, *, tokenizer: Tokenizer | None = None, max_length: int | None = None) -> Report:
    """Look for what makes a model worse, or its figures better than they are.

    Args:
        found: what would be trained on.
        tokenizer, max_length: of the model, where it is known how many tokens it reads; long contexts of questions are
            no finding, since they are read in windows.
    """
    keys = [row.key for row in found.train], [row.key for row in found.valid]
    leaks, leaked = _leaks(found, *keys)
    findings = [
        *_label_findings(found),
        *_near_empty(found),
        *_repeated(found.train, keys[0]),
        *leaks,
        *_spans(found),
        *_broken_tags(found),
    ]
    if isinstance(found.train[0], WrittenRow):
        from melete.data.written_lint import written_findings

        findings += written_findings(found, tokenizer, max_length)
    if tokenizer is not None and max_length is not None and not isinstance(found.train[0], QuestionRow):
        findings += _truncated(found, tokenizer, max_length)
    findings.sort(key=lambda finding: -SEVERITIES.index(finding.severity))
    rows = {"train": len(found.train), "valid": len(found.valid)}
    lengths = np.percentile([sum(map(len, row.texts)) for row in found.train], (50, 95, 100), method="lower")
    median, most, longest = map(int, lengths)
    return Report(rows, _counts(found), (median, most, longest), tuple(findings), leaked)


def drop_leaks(found: LabelledSet, report: Report) -> LabelledSet:
    """The set without the validation rows that stand in train.

    Raises:
        InputError: none would be left.
    """
    gone = set(report.leaked)
    valid = [row for i, row in enumerate(found.valid) if i not in gone]
    if not valid:
        do = "give validation rows of your own, or none: some are then held out"
        raise InputError("every validation row stands in train", where=found.valid[0].file, do=do)
    return replace(found, valid=valid)


def _shown(rows: Iterable[LabelledRow]) -> tuple[str, ...]:
    return tuple(example_of(row) for row, _ in zip(rows, range(_EXAMPLES), strict=False))


def example_of(row: LabelledRow) -> str:
    """A row as a finding shows it."""
    text = " | ".join(" ".join(text[: 4 * _SHOWN].split()) for text in row.texts)
    return f"{row.where}: {text[:_SHOWN]}{'...' if len(text) > _SHOWN else ''}"


def of_all(count: int, total: int, what: str) -> str:
    """How many of how many, and what share that is."""
    share = count / total
    return f"{count:,} of {total:,} {what} ({f'{share:.1%}' if share >= 0.001 else '< 0.1%'})"


# -- labels --


def _counts(found: LabelledSet) -> dict[str, tuple[int, int]]:
    train, valid = (
        Counter(name for row in rows for name in row.classes) for rows in (found.train, found.valid)
    )
    names = dict.fromkeys([*found.labels, *sorted(valid)])
    return {name: (train[name], valid[name]) for name in names}


def _label_findings(found: LabelledSet) -> Iterable[Finding]:
    if found.task not in (CLASSIFICATION, TAGGING):
        return
    counts = _counts(found)
    kind = "tag" if found.task == TAGGING else "label"
    used = {name: train for name, (train, _) in counts.items() if train}
    if len(used) < 2 and not found.multi_label:
        text = f"all training rows have the {kind} {next(iter(used), '')!r}: there is nothing to tell apart"
        yield Finding("one-class", "error", text, len(found.train), _shown(found.train[:1]))
    unseen = [name for name, (train, valid) in counts.items() if valid and not train]
    if unseen:
        rows = [row for row in found.valid if set(unseen) & set(row.classes)]
        text = f"{_listed(unseen)}: no training row has this {kind}, and {len(rows):,} validation rows do"
        yield Finding("unseen-label", "error", text, len(unseen), _shown(rows))
    unused = [name for name in found.labels if name not in used]
    if unused:
        text = f"{_listed(unused)}: the label file has this {kind}, and no training row does"
        yield Finding("unused-label", "warning", text, len(unused))
    if found.task == CLASSIFICATION and len(used) > 1:
        most, least = max(used, key=used.__getitem__), min(used, key=used.__getitem__)
        if used[most] >= _SKEWED * used[least]:
            text = (
                f"label {most!r} has {used[most]:,} rows and {least!r} {used[least]:,}; look at macro-F1 too"
            )
            rows = [row for row in found.train if least in row.classes]
            yield Finding("imbalance", "warning", text, used[least], _shown(rows))


def _listed(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(map(repr, names[:most])) + (
        f" and {len(names) - most} more" if len(names) > most else ""
    )


# -- texts --


def _near_empty(found: LabelledSet) -> Iterable[Finding]:
    """Rows with a text of at most one letter or digit; a sentence of signs has tags like any other."""
    if found.task == TAGGING:
        return
    for name, rows in (("training", found.train), ("validation", found.valid)):
        bare = [row for row in rows if any(_letters(text) < 2 for text in row.texts)]
        if bare:
            text = f"{of_all(len(bare), len(rows), f'{name} rows')} hold at most one letter"
            yield Finding("near-empty", "warning", text, len(bare), _shown(bare))


def _letters(text: str) -> int:
    """Letters and digits, counted up to 2."""
    count = 0
    for character in text:
        count += character.isalnum()
        if count == 2:
            break
    return count


def _repeated(rows: Sequence[LabelledRow], keys: Sequence[int]) -> Iterable[Finding]:
    """Training rows that read alike, and those that contradict each other."""
    groups: dict[int, list[LabelledRow]] = defaultdict(list)
    for row, key in zip(rows, keys, strict=True):
        groups[key].append(row)
    several = [group for group in groups.values() if len(group) > 1]
    extra = sum(len(group) - 1 for group in several)
    if extra:
        text = f"{of_all(extra, len(rows), 'training rows')} read like an earlier one"
        examples = tuple(f"{example_of(group[1])} (as {group[0].where})" for group in several[:_EXAMPLES])
        yield Finding("duplicates", "note", text, extra, examples)
    # Answers to questions are many, and scores are never quite equal.
    if not isinstance(rows[0], TextRow | TagRow):
        return
    answers: dict[tuple[str, ...], dict[object, LabelledRow]] = defaultdict(dict)
    for row in (row for group in several for row in group):
        answers[row.texts].setdefault(row.answer, row)
    torn = [list(rows.values()) for rows in answers.values() if len(rows) > 1]
    if torn:
        text = f"{len(torn):,} {'text stands' if len(torn) == 1 else 'texts stand'} in train with different answers"
        examples = tuple(_contradiction(*group[:2]) for group in torn[:_EXAMPLES])
        yield Finding("conflicts", "warning", text, len(torn), examples)


def _contradiction(first: LabelledRow, other: LabelledRow) -> str:
    if isinstance(first, TagRow):
        return f"{example_of(first)} (other tags in {other.where})"
    said, otherwise = ("+".join(row.classes) or "none" for row in (first, other))
    return f"{example_of(first)} ({said}; {otherwise} in {other.where})"


def _leaks(
    found: LabelledSet, train: Sequence[int], valid: Sequence[int]
) -> tuple[list[Finding], tuple[int, ...]]:
    """Validation rows that read like a training row."""
    first: dict[int, LabelledRow] = {}
    for key, row in zip(train, found.train, strict=True):
        first.setdefault(key, row)
    leaked = tuple(i for i, key in enumerate(valid) if key in first)
    if not leaked:
        return [], ()
    exact = {row.texts for row in found.train}
    same = sum(found.valid[i].texts in exact for i in leaked)
    text = f"{of_all(len(leaked), len(found.valid), 'validation rows')} stand in train, {same:,} of them word for word"
    examples = tuple(f"{example_of(found.valid[i])} (as {first[valid[i]].where})" for i in leaked[:_EXAMPLES])
    return [Finding("leaks", "warning", text, len(leaked), examples)], leaked


def _truncated(found: LabelledSet, tokenizer: Tokenizer, max_length: int) -> Iterable[Finding]:
    """Training rows of more tokens than the model reads; counted in an even sample of many."""
    rows = found.train[:: max(1, len(found.train) // _SAMPLE)]
    lengths = np.zeros(len(rows), np.int64)
    for texts in zip(*(row.texts for row in rows), strict=True):
        lengths += [len(ids) for ids in tokenizer.encode_batch(list(texts))]
    longer = lengths + _FRAME > max_length
    if not longer.any():
        return
    share, longest = longer.mean(), lengths.argmax()
    kept = np.minimum(lengths, max_length).sum() / lengths.sum()
    text = (
        f"{share:.1%} of the training rows are longer than the {max_length:,} tokens the model reads, the longest has "
        f"{lengths[longest]:,}; {1 - kept:.1%} of all tokens are cut off"
    )
    count = round(share * len(found.train))
    yield Finding("truncated", "warning", text, count, (example_of(rows[longest]),))


# -- spans and tags --


def _spans(found: LabelledSet) -> Iterable[Finding]:
    """Answers that do not stand where their file says."""
    for name, rows in (("training", found.train), ("validation", found.valid)):
        asked = [row for row in rows if isinstance(row, QuestionRow)]
        pairs = [(row, span) for row in asked for span in row.answers or ()]
        moved = [
            pair for pair in pairs if pair[1].start not in (None, pair[1].given) and pair[1].given is not None
        ]
        lost = [pair for pair in pairs if pair[1].start is None]
        if moved:
            answers = of_all(len(moved), len(pairs), f"{name} answers")
            text = f"{answers} do not stand where the file says; the nearest place is taken"
            examples = tuple(
                f"{row.where}: {span.text[:_SHOWN]!r} at {span.start}, not {span.given}"
                for row, span in moved[:_EXAMPLES]
            )
            yield Finding("moved-spans", "warning", text, len(moved), examples)
        if lost:
            severe = name == "training" and len(lost) > _LOST_SPANS * len(pairs)
            text = f"{of_all(len(lost), len(pairs), f'{name} answers')} stand nowhere in their context"
            examples = tuple(f"{row.where}: {span.text[:_SHOWN]!r}" for row, span in lost[:_EXAMPLES])
            yield Finding("lost-spans", "error" if severe else "warning", text, len(lost), examples)


def _broken_tags(found: LabelledSet) -> Iterable[Finding]:
    """Tags that continue an entity where there is none; in IOB1 that is how they begin."""
    if found.task != TAGGING or not marks_entities(found.labels):
        return
    rows = [*found.train, *found.valid]
    begun = sum(name[0] in "BSUW" for row in rows for name in row.classes)
    places = [(row, place) for row in rows for place in broken(row.classes)]
    if not places or len(places) > begun:
        return
    text = f"{len(places):,} tags continue an entity where there is none, and begin one instead"
    examples = tuple(
        f"{example_of(row)} (word {at + 1}: {row.classes[at]})" for row, at in places[:_EXAMPLES]
    )
    yield Finding("broken-tags", "warning", text, len(places), examples)
