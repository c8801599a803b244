"""The loop that every task shares: order, batching, laziness, memory, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

import kit
from encoder_examples import vocabulary
from melete.data.framing import Framing
from melete.data.readers import Row
from melete.errors import InputError
from melete.tasks import base, predictor_class
from melete.tasks.base import Piece, Predictor, read_inputs, text_of


@dataclass(frozen=True, eq=False)
class Widths(Predictor):
    """A task for tests: how long a text is, and the mean of what the model makes of it; long texts in windows."""

    task: ClassVar[str] = "widths"
    settings: ClassVar[tuple[str, ...]] = ("digits",)
    digits: int = 9

    def cut(self, row: Row) -> list[Piece]:
        tokens = np.array(self.tokenizer.encode(text_of(row, "text")))
        room = self.model.config.max_position_embeddings - 2
        windows = [tokens[i : i + room] for i in range(0, len(tokens), room)]
        framing = Framing(self.tokenizer, room + 2)
        return [Piece(framing.one(window).ids) for window in windows]

    def run(self, batch, pieces: Sequence[Piece]) -> list[float]:
        hidden = self.model.encode(batch)
        return [hidden[i, : len(piece.ids)].mean().item() for i, piece in enumerate(pieces)]

    def answer(self, row: Row, pieces: Sequence[Piece], outputs: Sequence[float]) -> dict[str, Any]:
        lengths = [len(piece.ids) for piece in pieces]
        return {
            "text": row.values["text"],
            "lengths": lengths,
            "means": [round(x, self.digits) for x in outputs],
        }

    def in_words(self, answer: dict[str, Any]) -> str:
        return str(answer["lengths"])


@pytest.fixture(scope="module")
def widths() -> Widths:
    return Widths(kit.tiny_encoder("bert"), vocabulary()[0], Path("x"))


def rows(count: int) -> list[Row]:
    letters = "the lobster lives 我喜欢自然语言处理 on the sea floor"
    lengths = np.random.default_rng(0).integers(0, 70, count)  # of none, one, or several windows
    return [Row({"text": (letters * 2)[:length]}, "some.csv", i + 2) for i, length in enumerate(lengths)]


def test_answers_are_equal_and_in_order_however_rows_are_batched(widths):
    wanted = rows(60)
    alone = [next(widths.stream([row])) for row in wanted]
    assert any(len(answer["lengths"]) > 1 for answer in alone)
    assert any(not answer["lengths"] for answer in alone)
    for budget in (1, 90, 4096):
        found = list(widths.stream(wanted, budget=budget))
        assert [answer["text"] for answer in found] == [row.values["text"] for row in wanted]
        for one, other in zip(found, alone, strict=True):
            assert one["lengths"] == other["lengths"]
            assert one["means"] == pytest.approx(other["means"], abs=1e-5)


def test_answers_are_equal_where_each_core_reads_batches_of_its_own(widths, monkeypatch):
    wanted, threads = rows(60), torch.get_num_threads()
    together = list(widths.stream(wanted, budget=4096))
    monkeypatch.setattr(base, "_CPU_BUDGET", 100)
    torch.set_num_threads(3)
    try:
        found = list(widths.stream(wanted))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)
    for one, other in zip(found, together, strict=True):
        assert one["text"] == other["text"]
        assert one["means"] == pytest.approx(other["means"], abs=1e-5)


def test_rows_are_read_a_window_at_a_time(widths, monkeypatch):
    monkeypatch.setattr(base, "WINDOW_BATCHES", 2)
    read = 0

    def source():
        nonlocal read
        for _ in range(100_000):  # would never end if all were read before the first answer
            read += 1
            yield Row({"text": "the lobster"}, "x", read)

    answers = widths.stream(source(), budget=64)
    for _ in range(30):
        next(answers)
    assert read < 60


def test_one_input_gives_an_answer_and_several_give_a_list(widths):
    one = widths.predict("the sea")
    assert one["lengths"] == [8]
    assert widths.predict(["the sea", {"text": "on"}], digits=2)[0]["means"] == [round(one["means"][0], 2)]
    assert widths.predict([]) == []


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda p: p.predict("x", digit=2), "widths has no setting 'digit'; expected one like 'digits'"),
        (lambda p: p.predict(["x", 3]), "input:2: a int; expected a text, or a dict of texts"),
        (lambda p: p.predict({"txt": "x"}), "input:1: no column 'text'; expected a text"),
        (lambda p: p.predict({"text": None}), "input:1: column 'text' holds None; expected a text"),
    ],
)
def test_what_cannot_be_answered_is_one_line(widths, call, line):
    with pytest.raises(InputError) as caught:
        call(widths)
    assert str(caught.value) == line


def test_a_line_of_plain_text_is_a_row_and_columns_are_found(tmp_path, capsys):
    plain = tmp_path / "a.txt"
    plain.write_text("one\r\n\ntwo", encoding="utf-8")
    found = list(read_inputs(str(plain), ("text",), {}))
    assert [(row.values["text"], row.line) for row in found] == [("one", 1), ("", 2), ("two", 3)]
    table = tmp_path / "b.csv"
    table.write_text("id,sentence\n1,one\n2,\n", encoding="utf-8")
    found = list(read_inputs(str(table), ("text",), {}))
    assert [row.values["text"] for row in found] == ["one", ""]
    assert "the text is column 'sentence' (of id, sentence)" in capsys.readouterr().err
    found = list(read_inputs(str(table), ("text",), {"text": "id"}))
    assert [row.values["text"] for row in found] == ["1", "2"]
    pairs = tmp_path / "c.jsonl"
    pairs.write_text(json.dumps({"text": "a", "b": "c"}), encoding="utf-8")
    assert next(read_inputs(str(pairs), ("text", "text_pair"), {"text_pair": "b"})).values["text_pair"] == "c"
    with pytest.raises(InputError, match=r"c\.jsonl:1: no column 'text_pair'; expected one of text, b"):
        next(read_inputs(str(pairs), ("text", "text_pair"), {}))
    with pytest.raises(InputError, match=r"a\.txt: not a file of rows"):
        next(read_inputs(str(plain), ("text", "text_pair"), {}))


def test_a_task_that_is_not_there_is_named():
    with pytest.raises(InputError, match="unknown task 'poetry'; expected one of fill-mask"):
        predictor_class("poetry")
