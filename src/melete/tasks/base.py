"""Answers about texts, however many: the contract of a task, and the one loop that feeds its model.

A row comes in, an answer goes out, in the same order. In between, rows are cut into pieces (what the model reads in
one go), and the pieces of a window of rows are batched with others of like length.
"""

from __future__ import annotations

import difflib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch

from melete.data.batch import Batch
from melete.data.batching import lay_out, like_lengths
from melete.data.readers import STDIN, Row, choose_column, read_rows
from melete.data.tokenizers import Tokenizer
from melete.errors import InputError
from melete.models.base import Network
from melete.models.checkpoint import load_network

Answer = dict[str, Any]

# Tokens of a batch, padding included; a longer piece is a batch of its own.
BUDGET = 4096
# On a CPU, where each core reads batches of its own: what a layer writes of so few stays in its caches. Down to a
# quarter where that gives every core something to read.
_CPU_BUDGET = 512
# Batches that one window of rows fills: the more, the less padding, and the longer until the first answer.
WINDOW_BATCHES = 32


@dataclass(frozen=True)
class Piece:
    """What the model reads in one go: a text, a pair of texts, or one window of a long text.

    Attributes:
        ids: int64 (N,), special tokens included; at most the model's context.
        types: int64 (N,), which text of a pair a token is in; None: there is one text.
        data: whatever the task wants to find again next to the model's output (places of masks, spans of tokens).
    """

    ids: np.ndarray
    types: np.ndarray | None = None
    data: Any = None


@dataclass(frozen=True, eq=False)
class Predictor(ABC):
    """A model with the head of one task, and how that task turns a row into an answer.

    A task is a subclass: a frozen dataclass that names its `task`, `columns` and `settings` and writes `cut`, `run`,
    `answer` and `in_words`. It never reads rows from a file, batches, sorts or moves anything between devices:
    `stream` does, and keeps these promises for every task:

    - rows are read lazily, answers come in the order of the rows, and memory is that of one window of rows, however
      many rows there are;
    - the answer to a row does not depend on which rows it was batched with, up to rounding (1e-5), provided that
      `run` treats each row of a batch by itself and never reads padding (`doc_ids == 0`);
    - `cut`, `run` and `answer` are called with nothing but their arguments to go by: no state between rows. Several
      threads call `run` at once.

    Settings (how many answers, a threshold) are fields with defaults, checked in `__post_init__`; a copy with others
    is `with_settings`. What belongs to the folder stands in the model's config (names of labels).

    Attributes:
        task: its name on the Hub, a key of `melete.tasks.TASKS` and of the families' `HEADS`.
        columns: columns of a row that it reads, the first of which is all there is to a line of plain text.
        settings: names of the fields that a person may change.
        model: in evaluation mode, on the device that it shall run on.
        tokenizer: of the same folder.
        folder: where both were read from.
    """

    task: ClassVar[str]
    columns: ClassVar[tuple[str, ...]] = ("text",)
    settings: ClassVar[tuple[str, ...]] = ()

    model: Network
    tokenizer: Tokenizer
    folder: Path

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu", **resize: Any) -> Self:
        """Read model and tokenizer from a folder.

        Args:
            resize: `max_position_embeddings`, `rope_scaling`: see `models.checkpoint.load_model`.

        Raises:
            InputError: the files cannot be read, contradict one another, or hold no weights for the head.
        """
        tokenizer = Tokenizer.load(folder)
        return cls(load_network(folder, task=cls.task, complete=True, **resize).to(device), tokenizer, folder)

    @abstractmethod
    def cut(self, row: Row) -> list[Piece]:
        """The pieces of a row: usually one; several of a long text; none where the model need not be asked.

        Raises:
            InputError: with file and line: the row lacks a column, or cannot be answered (nothing to fill in, too
                long). The rows before it in the same window are then not answered either.
        """

    @abstractmethod
    def run(self, batch: Batch, pieces: Sequence[Piece]) -> list[Any]:
        """What the model says of each piece; without gradients.

        Args:
            batch: on the model's device; its row i is `pieces[i]`, from column 0, padded on the right.

        Returns:
            One output per piece, small and on the CPU: up to a window of them is kept.
        """

    @abstractmethod
    def answer(self, row: Row, pieces: Sequence[Piece], outputs: Sequence[Any]) -> Answer:
        """What a row is answered: plain values that JSON can hold, from its pieces and what the model said of each."""

    @abstractmethod
    def in_words(self, answer: Answer) -> str:
        """An answer as a person reads it in a terminal, in a line or a few."""

    def read(self, source: str, named: Mapping[str, str | None]) -> Iterator[Row]:
        """The rows of a file, a folder or standard input; see `read_inputs`."""
        return read_inputs(source, self.columns, named)

    def with_settings(self, **values: Any) -> Self:
        """The same predictor with other settings.

        Raises:
            InputError: a name that the task does not have (the nearest is named), or an impossible value.
        """
        for name in values:
            if name not in self.settings:
                near = difflib.get_close_matches(name, self.settings, 1) or self.settings
                known = f"one like {near[0]!r}" if near else "none"
                raise InputError(f"{self.task} has no setting {name!r}", expected=known)
        return replace(self, **values)

    def predict(self, inputs: Any, **settings: Any) -> Any:
        """Answer one input or several, each by itself.

        Args:
            inputs: a text, a dict of `columns`, or several of either.
            settings: see `with_settings`.

        Returns:
            The answer, a dict; a list of answers for several inputs, in their order.

        Raises:
            InputError: see `cut` and `with_settings`; an input that is neither text nor dict.
        """
        alone = isinstance(inputs, str | Mapping)
        rows = _rows_of([inputs] if alone else inputs, self.columns[0])
        answers = list(self.with_settings(**settings).stream(rows))
        return answers[0] if alone else answers

    def stream(
        self,
        rows: Iterable[Row],
        *,
        budget: int | None = None,
        advance: Callable[[float], None] | None = None,
    ) -> Iterator[Answer]:
        """The answer to each row, in order, while rows are read; see the class for what holds.

        Args:
            budget: most tokens of a batch, padding included; None: as many as suit the device, and on a CPU each
                core reads batches of its own, where there are enough of them.
            advance: told after each batch how many rows it was worth, since the answers of a window come all at once.

        Raises:
            InputError: see `cut`; whatever `rows` raises.
        """
        rows = iter(rows)
        while window := self._window(rows, budget or BUDGET):
            pieces = [piece for _, own in window for piece in own]
            outputs: list[Any] = [None] * len(pieces)
            lengths = np.array([len(piece.ids) for piece in pieces])
            each = len(window) / max(lengths.sum(), 1)
            most, at_once = (budget, 1) if budget is not None else self._shares(lengths.sum())
            batches = like_lengths(np.arange(len(pieces)), lengths, most)
            ran = _side_by_side(self._run, [[pieces[i] for i in batch] for batch in batches], at_once)
            for batch, found in zip(batches, ran, strict=True):
                for i, output in zip(batch, found, strict=True):
                    outputs[i] = output
                if advance is not None:
                    advance(each * lengths[batch].sum())
            at = 0
            for row, own in window:
                yield self.answer(row, own, outputs[at : at + len(own)])
                at += len(own)

    def _window(self, rows: Iterator[Row], budget: int) -> list[tuple[Row, list[Piece]]]:
        """The next rows and their pieces, enough for `WINDOW_BATCHES` batches."""
        window: list[tuple[Row, list[Piece]]] = []
        left = WINDOW_BATCHES * budget
        while left > 0 and (row := next(rows, None)) is not None:
            window.append((row, self.cut(row)))
            left -= 1 + sum(len(piece.ids) for piece in window[-1][1])
        return window

    def _shares(self, tokens: int) -> tuple[int, int]:
        """Most tokens of a batch of a window, and how many batches are read side by side."""
        if next(self.model.parameters()).device.type != "cpu":
            return BUDGET, 1
        cores = torch.get_num_threads()
        share = int(tokens) // cores
        return (min(share, _CPU_BUDGET), cores) if share >= _CPU_BUDGET // 4 else (_CPU_BUDGET, 1)

    def _run(self, pieces: Sequence[Piece]) -> list[Any]:
        columns = {"input_ids": [piece.ids for piece in pieces]}
        if any(piece.types is not None for piece in pieces):
            columns["token_type_ids"] = [
                np.zeros_like(piece.ids) if piece.types is None else piece.types for piece in pieces
            ]
        batch = lay_out(columns, {"input_ids": self.tokenizer.pad_id or 0, "token_type_ids": 0})
        with torch.inference_mode():
            return self.run(batch.to(next(self.model.parameters()).device), pieces)


def _side_by_side(
    run: Callable[[Sequence[Piece]], list[Any]], batches: Sequence[Sequence[Piece]], cores: int
) -> Iterator[list[Any]]:
    """What `run` makes of each batch, in their order.

    Where there are several cores each reads batches of its own: cores that share one wait for each other at every
    operation, and oneDNN divides some products badly among them (BERT-base on 2 cores: 0.6 of the time).
    """
    if cores == 1:
        yield from map(run, batches)
        return
    try:
        with ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield from pool.map(run, batches)
    finally:
        torch.set_num_threads(cores)  # threads that begin later take the number that was set last


def text_of(row: Row, column: str) -> str:
    """The text in a column.

    Raises:
        InputError: no such column, or no text in it.
    """
    value = row.values.get(column)
    if isinstance(value, str):
        return value
    what = f"no column {column!r}" if column not in row.values else f"column {column!r} holds {value!r:.40}"
    raise InputError(what, where=f"{row.file}:{row.line}", expected="a text")


def read_inputs(source: str, columns: Sequence[str], named: Mapping[str, str | None]) -> Iterator[Row]:
    """The rows of a file, a folder or standard input, with the columns that a task reads under the task's names.

    Plain text is a row a line where the task reads one column. So is standard input, unless a column is named: then,
    and for tasks that read several columns, it is JSON lines. Which column the text was found in is printed.

    Args:
        source: a path, or "-".
        columns: of the `Predictor`.
        named: where a person said that a column is called otherwise in the file; None: they did not.

    Raises:
        InputError: as `read_rows`; a column that is not there; lines on standard input that are JSON objects.
    """
    named = {column: name for column, name in named.items() if name is not None}
    plain = len(columns) == 1 and not (source == STDIN and named)
    file, found = "", dict[str, str]()
    for row in read_rows(source, plain=plain):
        if plain and source == STDIN and row.line == 1 and _is_object(row.values["text"]):
            do = "say which of its fields is the text, as in --text-column text"
            raise InputError("a JSON object, where lines are taken as they are", where=f"{row.file}:1", do=do)
        if row.file != file:
            file, found = row.file, {column: _find(row, column, named.get(column)) for column in columns}
        yield Row(
            row.values | {column: row.values.get(name) for column, name in found.items()}, row.file, row.line
        )


def _is_object(line: str) -> bool:
    """Whether a line of text is a JSON object."""
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _find(row: Row, column: str, wanted: str | None) -> str:
    strings = [name for name, value in row.values.items() if isinstance(value, str)]
    if column != "text":
        wanted = wanted or column
    return choose_column(list(row.values), strings, wanted, row.file, row.line)


def _rows_of(inputs: Iterable[Any], column: str) -> Iterator[Row]:
    for number, value in enumerate(inputs, 1):
        if isinstance(value, str):
            value = {column: value}
        if not isinstance(value, Mapping):
            raise InputError(
                f"a {type(value).__name__}", where=f"input:{number}", expected="a text, or a dict of texts"
            )
        yield Row(dict(value), "input", number)
