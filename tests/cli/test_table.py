"""Columns line up, also where a character takes two places."""

from __future__ import annotations

from melete.cli._table import table


def test_columns_line_up_and_nothing_trails() -> None:
    assert table([["run", "loss"], ["唐诗", "2"], ["a", ""]]) == "run   loss\n唐诗  2\na"
