"""`melete compare`: two models on the same rows, as a person types it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from finetune_rig import finetune_config, write_rows
from melete.cli import main
from melete.training import run as runs

TASK = "text-classification"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of which one learnt much and one next to nothing, a tagger, and rows that none has seen."""
    folder = tmp_path_factory.mktemp("compare")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        for name, epochs in (("long", 8.0), ("short", 0.2)):
            runs.start(finetune_config(folder, TASK, name=name, finetuning__epochs=epochs))
        runs.start(finetune_config(folder, "token-classification", name="tags", finetuning__epochs=0.2))
    rows = write_rows(folder / "other", TASK, 300).read_text().splitlines()[240:]
    (folder / "dev.jsonl").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(autouse=True)
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands run beside the runs."""
    monkeypatch.chdir(place)


def compare(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    code = 0
    try:
        main(["compare", *words])
    except SystemExit as ended:
        code = int(ended.code or 0)
    return code, *capsys.readouterr()


def test_the_better_model_is_named_and_the_rows_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = compare(capsys, "short", "long", "--data", "dev.jsonl", "--show", "2")
    assert code == 0
    lines = out.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["model", "short", "long"]
    assert lines[2].split()[1] > lines[1].split()[1]
    assert lines[3].startswith("60 rows of dev.jsonl: short does better on ")
    assert len(lines) == 4 + 2 * 2
    assert lines[5].startswith("    right: ")
    assert "long is better by accuracy (paired test: p < 0.001)" in err.splitlines()
    assert err.splitlines()[-1] == "next: melete predict short --data FILE"


def test_figures_are_one_object_with_every_row_that_differs(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = compare(capsys, "long", "short", "--data", "dev.jsonl", "--json")
    assert code == 0
    found = json.loads(out)
    first, second = found["table"]
    assert first["low"] <= first["accuracy"] <= first["high"]
    value, low, high = second["difference"]
    assert value == pytest.approx(first["accuracy"] - second["accuracy"])
    assert low < value < high
    assert second["p_value"] < 0.01
    assert len(found["differing"]) == sum(found["better"].values())
    for row in found["differing"]:
        assert row["said"][row["better"]] == row["right"]
        assert len(set(row["said"].values())) == 2


def test_a_baseline_learns_what_the_run_learnt_or_what_it_is_given(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("sklearn")
    code, out, err = compare(capsys, "long", "baseline", "--data", "dev.jsonl", "--show", "0")
    assert code == 0
    assert f"TF-IDF + linear SVM: learning from 192 rows of {place}/data/{TASK}.jsonl" in err
    assert [line.split()[0] for line in out.splitlines()] == ["model", "long", "TF-IDF", "60"]
    rows = f"data/{TASK}.jsonl"
    code, _, err = compare(capsys, "baseline", "long/final", "--data", "dev.jsonl", "--train", rows)
    assert code == 0
    assert f"TF-IDF + linear SVM: learning from 240 rows of {rows}" in err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("long", "long"), "long twice; expected two different models"),
        (("long", "nothing"), "nothing: no such folder"),
        (("long", "tags"), "long is for text-classification, tags is for token-classification; expected two"),
        (("copy", "baseline"), "copy: not a run, so what it was trained on is not known; say what the base"),
        (("long", "short", "--data", "other.jsonl"), "other.jsonl:1: label 'x'; expected one that long has: neg"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_one_line(
    place: Path, words: tuple[str, ...], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "other.jsonl").write_text('{"text": "a b c", "label": "x"}\n')
    if not (place / "copy").exists():
        os.symlink(place / "long" / "final", place / "copy")
    data = () if "--data" in words else ("--data", "dev.jsonl")
    code, out, err = compare(capsys, *words, *data)
    assert (code, out) == (2, "")
    assert line in err.splitlines()[-1]
