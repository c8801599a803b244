"""Which of two models' outputs people like better, asked without telling which is which."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from melete.data.readers import choose_column, read_rows
from melete.errors import InputError, StorageError
from melete.metrics.agreement import agreement, krippendorff_alpha
from melete.metrics.intervals import bootstrap

# What may be said of a row; the first three are preferences, and count 0, a half and 1 for the second output.
CHOICES = ("first", "tie", "second", "skip")
SIDES = ("first", "second")


@dataclass(frozen=True)
class Item:
    """A row to rate.

    Attributes:
        number: of the row in both files, from 1.
        prompt: what both outputs answer; may be empty.
        outputs: of the first file and of the second.
    """

    number: int
    prompt: str
    outputs: tuple[str, str]


@dataclass(frozen=True)
class Pairing:
    """Two files of outputs, row by row.

    Attributes:
        items: the rows on which they differ, in the order in which everybody is asked: shuffled, so that those who stop
            early have rated a fair part.
        equal: rows whose outputs are the same.
        fingerprint: of all texts; ratings are for these alone.
    """

    items: tuple[Item, ...]
    equal: int
    fingerprint: str

    def first_is_left(self, item: Item, rater: str) -> bool:
        """Which side an output stands on: by chance, and always the same for one rater."""
        return _drawn(self.fingerprint, rater, item.number) % 2 == 0


def pair(first: str, second: str, prompts: str | None = None, column: str | None = None) -> Pairing:
    """Read two files of outputs: text (a line each), or rows with a column of texts.

    Args:
        prompts: a file of as many rows: what was answered. Default: the column `prompt` of the first file, if any.
        column: of the outputs; default: found by name or content.

    Raises:
        InputError: files of different length, or nothing to choose between; what `read_rows` raises.
    """
    outputs = [_texts(source, column) for source in (first, second)]
    asked = _texts(prompts, None) if prompts else [row.get("prompt") or "" for row in _values(first)]
    for source, texts in ((second, outputs[1]), (prompts or first, asked)):
        if len(texts) != len(outputs[0]):
            expected = f"as many as {first} has ({len(outputs[0]):,})"
            raise InputError(f"{len(texts):,} rows", where=source, expected=expected)
    whole = hashlib.sha256(json.dumps([asked, *outputs]).encode()).hexdigest()[:16]
    rows = zip(asked, *outputs, strict=True)
    items = [Item(i, str(prompt), (one, other)) for i, (prompt, one, other) in enumerate(rows, 1)]
    differing = [item for item in items if item.outputs[0].strip() != item.outputs[1].strip()]
    if not differing:
        raise InputError("every output is the same in both files", where=second)
    differing.sort(key=lambda item: _drawn(whole, "", item.number))
    return Pairing(tuple(differing), len(items) - len(differing), whole)


def _drawn(*parts: object) -> int:
    return int.from_bytes(hashlib.sha256(json.dumps(parts).encode()).digest()[:8])


def _values(source: str) -> Iterator[dict[str, Any]]:
    return (row.values for row in read_rows(source, plain=True))


def _texts(source: str, column: str | None) -> list[str]:
    """The texts of a file, a row each."""
    texts: list[str] = []
    name = ""
    for row in read_rows(source, plain=True):
        strings = [key for key, value in row.values.items() if isinstance(value, str)]
        name = name or choose_column(list(row.values), strings, column, row.file, row.line)
        if not isinstance(value := row.values.get(name), str):
            raise InputError(
                f"column {name!r} holds {value!r:.40}", where=f"{row.file}:{row.line}", expected="a text"
            )
        texts.append(value)
    return texts


class Ratings:
    """A file of ratings, to which each is added at once; several raters may share it, or their files be joined.

    A line is a JSON object: the pairing's `fingerprint`, `row`, `rater`, `choice` (one of `CHOICES`, or null where it
    was taken back) and `left` (which output stood there). The last line about a row by a rater is the one that counts.

    Args:
        path: may not be there yet.
        fingerprint: of the pairing.

    Raises:
        InputError: another kind of file, a line that is no rating, or one of other outputs.
    """

    def __init__(self, path: Path, fingerprint: str) -> None:
        if path.suffix != ".jsonl":
            raise InputError("not a file for ratings", where=str(path), expected="a name that ends in .jsonl")
        self.path, self.fingerprint = path, fingerprint
        self.lines: list[dict[str, Any]] = []
        if path.exists():
            for row in read_rows(str(path)) if path.stat().st_size else ():
                where = f"{path}:{row.line}"
                if (
                    row.values.get("choice") not in (*CHOICES, None)
                    or not {"row", "rater", "left"} <= row.values.keys()
                ):
                    raise InputError("no rating", where=where, expected="a file that `melete rate` wrote")
                if row.values.get("fingerprint") != fingerprint:
                    raise InputError("a rating of other outputs", where=where, do="choose another --out")
                self.lines.append(row.values)

    def of(self, rater: str) -> dict[int, str]:
        """What a rater said, by row, the latest last."""
        found: dict[int, str] = {}
        for line in self.lines:
            if line["rater"] == rater:
                found.pop(line["row"], None)
                if line["choice"] is not None:
                    found[line["row"]] = line["choice"]
        return found

    def add(self, item_number: int, rater: str, choice: str | None, left: str) -> None:
        """Write down what a rater said of a row; None: nothing any more.

        Raises:
            StorageError: it cannot be written.
        """
        line = {
            "fingerprint": self.fingerprint,
            "row": item_number,
            "rater": rater,
            "choice": choice,
            "left": left,
        }
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        except OSError as error:
            raise StorageError(f"could not write: {error.strerror}", where=str(self.path)) from None
        self.lines.append(line)

    def summary(self) -> dict[str, Any]:
        """What all raters said, for JSON.

        Returns:
            `raters`; `rows` that somebody decided; how often each of `CHOICES`; `preference` for the second file (a tie
            counts half) with `low` and `high` (95 %, bootstrap over rows); `left`, the share of the decisions for the
            left side; `rated_twice`, `agreement` and `alpha` of rows with several raters. NaN is what cannot be told.
        """
        raters = list(dict.fromkeys(line["rater"] for line in self.lines))
        said = {rater: self.of(rater) for rater in raters}
        rows = sorted({row for own in said.values() for row, choice in own.items() if choice != "skip"})
        number = {choice: i for i, choice in enumerate(CHOICES[:-1])}
        table = np.array(
            [[number.get(own.get(row, ""), -1) for own in said.values()] for row in rows], np.int64
        )
        table = table.reshape(len(rows), len(raters))
        counts = Counter(choice for own in said.values() for choice in own.values())
        found: dict[str, Any] = {"raters": raters, "rows": len(rows)}
        found |= {choice: counts[choice] for choice in CHOICES}
        found |= self._preference(table)
        sides = {(line["rater"], line["row"]): line["left"] for line in self.lines}
        chosen = [
            choice == sides[rater, row]
            for rater, own in said.items()
            for row, choice in own.items()
            if choice in SIDES
        ]
        found["left"] = float(np.mean(chosen)) if chosen else math.nan
        found["rated_twice"] = int(((table >= 0).sum(1) > 1).sum())
        return found | {"agreement": agreement(table), "alpha": krippendorff_alpha(table)}

    def _preference(self, table: np.ndarray) -> dict[str, float]:
        if not len(table):
            return dict.fromkeys(("preference", "low", "high"), math.nan)
        share = np.where(table >= 0, table / 2, np.nan)
        each = np.nanmean(share, axis=1)
        interval = bootstrap(lambda drawn: float(each[drawn].mean()), len(each))
        return {"preference": interval.value, "low": interval.low, "high": interval.high}
