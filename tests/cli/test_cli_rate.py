"""`melete rate`: what is shown, what each key does, and that nothing tells whose output is whose."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from melete.cli import main
from melete.cli._table import width
from melete.cli.rate import wrapped

ONE, OTHER = "The cat sat on the mat.", "今天天气很好，我们一起去公园散步。"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with outputs: of three rows, one is the same in both."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "60")
    Path("one.txt").write_text(f"{ONE}\nsame\n{ONE}\n", encoding="utf-8")
    Path("other.txt").write_text(f"{OTHER}\nsame\n{OTHER}\n", encoding="utf-8")


def rate(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, keys: str, *words: str
) -> tuple[int, str, str]:
    """Exit code, standard output and standard error, once these keys were typed."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{key}\n" for key in keys)))
    code = 0
    try:
        main(["rate", "one.txt", "other.txt", "--rater", "ann", *words])
    except SystemExit as ended:
        code = int(ended.code or 0)
    return code, *capsys.readouterr()


def test_a_rater_stops_and_goes_on_to_the_end(capsys, monkeypatch) -> None:
    code, out, err = rate(capsys, monkeypatch, "?l")
    assert (code, out) == (0, "")
    assert "one.txt" not in err.partition("next:")[0]  # nothing tells whose output is whose
    assert "equal in both files, so not asked: 1" in err
    assert "1 rated by ann so far, all in ratings.jsonl" in err
    assert err.splitlines()[-1] == "next: melete rate one.txt other.txt --out ratings.jsonl --rater ann"
    code, out, err = rate(capsys, monkeypatch, "r", "--json")
    assert code == 0
    assert "2 of 2" in err
    assert "1 of 2" not in err
    found = json.loads(out)
    assert (found["rows"], found["first"] + found["second"], found["raters"]) == (2, 2, ["ann"])


def test_the_side_that_was_chosen_is_the_output_that_stood_there(capsys, monkeypatch) -> None:
    _, _, err = rate(capsys, monkeypatch, "lq")
    line = next(line for line in err.splitlines() if " | " in line)
    (rating,) = map(json.loads, Path("ratings.jsonl").read_text().splitlines())
    assert rating["choice"] == rating["left"] == ("first" if line.startswith("The cat") else "second")


def test_a_rating_is_taken_back(capsys, monkeypatch) -> None:
    _, _, err = rate(capsys, monkeypatch, "utust", "--json")
    assert "nothing to take back" in err
    assert err.count("1 of 2") == 3
    assert err.count("2 of 2") == 2
    choices = [json.loads(line)["choice"] for line in Path("ratings.jsonl").read_text().splitlines()]
    assert choices == ["tie", None, "skip", "tie"]


def test_the_figures_are_told_in_words(capsys, monkeypatch) -> None:
    rate(capsys, monkeypatch, "tt")
    rate(capsys, monkeypatch, "tt", "--rater", "ben")
    _, out, _ = rate(capsys, monkeypatch, "", "--summary")
    assert (
        "other.txt is preferred in 50.0% of 2 rows, a tie counting half (95 % interval 50.0% to 50.0%)" in out
    )
    assert "these ratings do not tell which is better" in out
    assert "2 rows have several ratings, 100.0% of which agree" in out


def test_ctrl_c_loses_nothing(capsys, monkeypatch) -> None:
    class Impatient(io.StringIO):
        def readline(self, size: int = -1) -> str:
            line = super().readline()
            if not line:
                raise KeyboardInterrupt
            return line

    monkeypatch.setattr(sys, "stdin", Impatient("l\n"))
    with pytest.raises(SystemExit) as ended:
        main(["rate", "one.txt", "other.txt", "--rater", "ann"])
    assert ended.value.code == 130
    assert "1 rated by ann so far" in capsys.readouterr().err
    assert len(Path("ratings.jsonl").read_text().splitlines()) == 1


def test_files_of_other_lengths_are_one_line(capsys, monkeypatch) -> None:
    Path("other.txt").write_text("one\n")
    code, out, err = rate(capsys, monkeypatch, "l")
    assert (code, out) == (2, "")
    assert "other.txt: 1 rows; expected as many as one.txt has (3)" in err
    assert not Path("ratings.jsonl").exists()


def test_long_lines_are_broken_where_words_end_and_anywhere_in_chinese() -> None:
    assert wrapped("one two three", 7) == ["one two", "three"]
    assert wrapped("abcdefghij", 4) == ["abcd", "efgh", "ij"]
    assert wrapped(OTHER, 10)[0] == "今天天气很"
    text = " ".join([ONE, OTHER] * 5)
    lines = wrapped(f"{text}\n\n{text}", 23)
    assert max(map(width, lines)) <= 23
    assert "".join("".join(lines).split()) == "".join((text * 2).split())
    assert "" in lines
