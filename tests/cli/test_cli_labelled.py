"""`melete data inspect --task`, as a person types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from melete.cli import main


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with reviews, two of which stand in both parts."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MELETE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MELETE_DATA", raising=False)
    lines = [f"The {i}th film is {'good' if i % 2 else 'bad'}.,{i % 2},{i}\n" for i in range(20)]
    Path("train.csv").write_text("review,mood,id\n" + "".join(lines), encoding="utf-8")
    held = [*lines[:2], "Quite another film.,1,90\n"]
    Path("dev.csv").write_text("review,mood,id\n" + "".join(held), encoding="utf-8")


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    capsys.readouterr()
    try:
        main(["data", "inspect", *words])
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


LOOK = ("train.csv", "--valid", "dev.csv", "--task", "text-classification", "--column", "label=mood")


def test_rows_columns_and_findings(capsys):
    code, out, err = run(capsys, *LOOK)
    assert code == 0
    assert "train.csv: text is column 'review', label is column 'mood' (of review, mood, id)" in err
    lines = [line.split() for line in out.splitlines()]
    assert ["rows", "20", "3"] in lines
    assert ["rows", "with", "1", "10", "2"] in lines
    assert "  | The 0th film is bad. -> 0" in out
    assert "warning: 2 of 3 validation rows (66.7%) stand in train, 2 of them word for word" in out
    assert "    dev.csv:2: The 0th film is bad. (as train.csv:2)" in out
    assert err.endswith(
        "next: melete finetune text-classification --model bert:tiny --data train.csv --valid dev.csv "
        "--column label=mood --drop-leaks\n"
    )


def test_leaks_are_dropped_and_strict_stops(capsys):
    code, out, err = run(capsys, *LOOK, "--drop-leaks", "--strict", "--json")
    assert code == 0
    assert json.loads(out)["rows"] == {"train": 20, "valid": 1}
    assert json.loads(out)["findings"] == []
    assert "2 of 3 validation rows dropped: they stand in train" in err
    code, out, err = run(capsys, *LOOK, "--strict")
    assert code == 2
    assert err.splitlines()[-1].startswith("melete: error: dev.csv:2: 2 of 3 validation rows")


def test_rows_are_held_out_where_there_are_none(capsys):
    code, out, err = run(capsys, "train.csv", *LOOK[3:], "--valid-fraction", "0.2", "--seed", "3", "--json")
    assert code == 0
    assert json.loads(out)["rows"] == {"train": 16, "valid": 4}
    assert "held out 4 of 20 rows, seed 3; rows that read the same are kept together" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("train.csv", "--strict"), "--strict is for labelled rows; name their task with --task"),
        (("train.csv", "--column", "label=mood"), "--column is for labelled rows"),
        (("train.csv", "--task", "text-classification", "--column", "mood"), "--column mood; expected ROLE=NAME"),
        (("train.csv", "dev.csv", "--task", "text-classification"), "2 sources; expected one, with --task"),
        (("rte", ), "rte: this set is not on this machine"),
        (("nothing.csv", "--task", "text-classification"), "nothing.csv: no such file or folder"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(capsys, words, message):
    code, out, err = run(capsys, *words)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
