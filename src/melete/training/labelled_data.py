"""From the names in `data` to labelled rows, and from rows to what a model reads."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from melete.config import RunConfig
from melete.console import Progress, say
from melete.data.labelled.rows import LabelledRow
from melete.data.labelled.sets import LabelledSet, load_labelled
from melete.data.labelled.splits import folds
from melete.data.lint import drop_leaks, lint
from melete.data.sentences import split_sentences
from melete.data.tokenizers import Tokenizer
from melete.errors import InputError
from melete.objectives.labelled import LabelledPiece
from melete.tasks.base import Piece
from melete.tasks.labelled import RowPredictor


def read_rows(config: RunConfig, task: str, note: Callable[[str], None] = say) -> LabelledSet:
    """The rows of a run.

    Raises:
        InputError: no data, or something is wrong in it; the line names file and line.
    """
    section, tuning = config.data, config.finetuning
    if not section.train:
        raise InputError("no labelled rows", where="data.train", expected="""data.train='["rows.tsv"]'""")
    if len(section.train) > 1 or len(section.valid) > 1:
        raise InputError("several sets", where="data.train", expected="one file, folder or named set")
    rows = load_labelled(
        section.train[0],
        task,
        valid=section.valid[0] if section.valid else None,
        columns=tuning.columns,
        label_file=tuning.label_file or None,
        valid_fraction=section.valid_fraction,
        seed=tuning.split_seed,
        note=note,
    )
    if tuning.folds:
        rows = _fold(rows, tuning.folds, tuning.fold, tuning.split_seed, note)
    return rows


def _fold(rows: LabelledSet, count: int, fold: int, seed: int, note: Callable[[str], None]) -> LabelledSet:
    """Everything that learns and is measured on, cut anew: one part is held out, whatever the set says."""
    every = [*rows.train, *rows.valid]
    # The same parts for every seed, so that all folds together are every row once.
    part = folds(every, count, 0)
    train = [row for row, own in zip(every, part, strict=True) if own != fold]
    valid = [row for row, own in zip(every, part, strict=True) if own == fold]
    note(f"fold {fold} of {count}: {len(train):,} rows to learn from, {len(valid):,} to measure on")
    return replace(rows, train=train, valid=valid)


def checked(
    config: RunConfig, rows: LabelledSet, tokenizer: Tokenizer | None, note: Callable[[str], None] = say
) -> LabelledSet:
    """The rows once what is wrong with them has been told; without leaks, where they are not wanted.

    Args:
        tokenizer: of a model that cuts long texts; None: they are read in windows.

    Raises:
        InputError: nothing can be learnt from them, or whoever asked is strict.
    """
    report = lint(rows, tokenizer=tokenizer, max_length=config.training.context)
    report.tell(note)
    if report.leaked and config.finetuning.drop_leaks:
        rows = drop_leaks(rows, report)
        note(f"the {len(report.leaked):,} validation rows that stand in train are left out")
        report = lint(rows)
    elif report.leaked:
        note("    leave these out of validation with --drop-leaks (finetuning.drop_leaks=true)")
    report.stop(config.finetuning.strict)
    return rows


def fingerprints(rows: LabelledSet) -> dict[str, str]:
    """SHA-256 of the texts and answers of each split, in their order."""

    def digest(split: Sequence[LabelledRow]) -> str:
        found = hashlib.sha256()
        for row in split:
            found.update(repr((row.texts, row.answer)).encode("utf-8", "surrogatepass"))
        return found.hexdigest()

    return {"train": digest(rows.train), "valid": digest(rows.valid)}


@dataclass(frozen=True)
class Pieces:
    """Rows as the model reads them.

    Attributes:
        pieces: of all rows, in their order.
        owners: the row of each piece, int64 (pieces,).
        lengths: tokens of each, int64 (pieces,).
    """

    pieces: list[Piece]
    owners: np.ndarray
    lengths: np.ndarray

    def of(self, row: int) -> slice:
        """The pieces of a row."""
        start, stop = np.searchsorted(self.owners, [row, row + 1])
        return slice(int(start), int(stop))


def encode(predictor: RowPredictor, rows: Sequence[LabelledRow], label: str) -> Pieces:
    """Rows as the model is given them when it predicts.

    Args:
        label: of the progress line.

    Raises:
        InputError: as `Predictor.cut`.
    """
    pieces: list[Piece] = []
    owners: list[int] = []
    with Progress(label, "rows", len(rows)) as progress:
        for i, row in enumerate(rows):
            own = predictor.cut(row.inputs)
            pieces += own
            owners += [i] * len(own)
            progress.advance(1)
    lengths = np.array([len(piece.ids) for piece in pieces], dtype=np.int64)
    return Pieces(pieces, np.array(owners, dtype=np.int64), lengths)


def labelled(
    encoded: Pieces, labels: Iterable[Any], sentences: Iterable[np.ndarray] | None = None
) -> list[LabelledPiece]:
    """Pieces with what should be said of each.

    Args:
        sentences: where augmentation may change them; None: nowhere.
    """
    free = sentences if sentences is not None else [None] * len(encoded.pieces)
    return [
        LabelledPiece(piece.ids, piece.types, label, own)
        for piece, label, own in zip(encoded.pieces, labels, free, strict=True)
    ]


def sentence_numbers(piece: Piece, texts: Sequence[str], tokenizer: Tokenizer) -> np.ndarray:
    """The sentence of each token of a piece that frames these texts, from 1 on; 0 for special tokens: int64 (N,)."""
    numbers, next_number = np.zeros(len(piece.ids), dtype=np.int64), 1
    for text, start, kept in zip(texts, piece.data.starts, piece.data.kept, strict=True):
        _, spans = tokenizer.encode_spans(text)
        stops = np.array([stop for _, stop in split_sentences(text)][:-1], dtype=np.int64)
        found = np.searchsorted(stops, spans[:kept, 0], side="right")
        numbers[start : start + kept] = next_number + found
        next_number += len(stops) + 1
    return numbers
