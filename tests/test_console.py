"""What a person sees while waiting."""

from __future__ import annotations

import pytest

from melete.console import counted, duration, printable, say


def test_a_terminal_is_shown_text_and_obeys_nothing() -> None:
    assert printable("\x1b[31mred\x07 \x9b2J\x7f\x00 back\rover\x0b") == "[31mred 2J backover"
    assert printable("a\tb\n文 é 🙂") == "a\tb\n文 é 🙂"


def test_what_is_said_is_printable(capsys: pytest.CaptureFixture[str]) -> None:
    say("step 1: sample: \x1b]0;title\x07end")
    assert capsys.readouterr() == ("", "step 1: sample: ]0;titleend\n")


@pytest.mark.parametrize(
    ("seconds", "words"), [(8.4, "8 s"), (200, "3 min 20 s"), (3599.7, "1 h 00 min"), (7500, "2 h 05 min")]
)
def test_durations_as_a_person_says_them(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_one_is_not_many() -> None:
    assert [counted(number, "document") for number in (0, 1, 1200)] == [
        "0 documents",
        "1 document",
        "1,200 documents",
    ]
