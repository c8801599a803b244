"""What holds for every verb: help when nothing was asked, and one line for a slip."""

from __future__ import annotations

import pytest

from melete.cli import VERBS, main


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = 0
    try:
        main([*words])
    except SystemExit as stop:
        code = int(stop.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.parametrize("words", [(), ("data",), ("tokenizer",)], ids=" ".join)
def test_who_asks_for_nothing_gets_the_help(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    assert run(capsys, *words) == run(capsys, *words, "--help")
    code, out, err = run(capsys, *words)
    assert (code, err) == (0, "")
    assert out.startswith(f"Usage: {' '.join(('melete', *words))} ")
    assert out.count("\n") > 5


def test_the_first_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys)
    assert all(f"\n  {verb} " in out for verb in VERBS)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["trian"], "No such command 'trian'"),
        (["data", "prepare"], "Missing argument 'SOURCE...'; see `melete data prepare --help`"),
        (["pretrain", "qwen3", "--step", "3"], "--step"),
        (["generate", "\x1b[31mred"], "[31mred"),
    ],
)
def test_a_slip_is_one_clean_line(capsys: pytest.CaptureFixture[str], words: list[str], line: str) -> None:
    code, out, err = run(capsys, *words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("melete: error: ")
    assert line in err
    assert "\x1b" not in err
