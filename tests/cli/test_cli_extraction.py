"""`melete finetune extractive-summarization`, then `predict`, `evaluate`, `compare`: texts to their main sentences."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest

from commands import melete
from finetune_rig import FILL, NAMES, SIZES

LIST = ", ".join(f"{key} = {value}" for key, value in SIZES.items())
QUICK = [
    "--set",
    f"model.config={{{LIST}}}",
    "--set",
    "tokenizer.vocab_size=200",
    "--set",
    "training.threads=1",
]


def write_texts(path: Path, count: int) -> None:
    """Texts of four sentences; a summary is the one that names somebody."""
    draw = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for _ in range(count):
            said = [" ".join(draw.sample(FILL, 4)) + "." for _ in range(3)]
            main = f"{draw.choice(NAMES)} {' '.join(draw.sample(FILL, 3))}."
            said.insert(draw.randrange(4), main)
            file.write(
                json.dumps({"document": " ".join(s.capitalize() for s in said), "summary": main}) + "\n"
            )


def test_four_commands_from_texts_to_their_main_sentences(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    write_texts(tmp_path / "rows.jsonl", 120)
    words = ["--context", 16, "--rate", 0.005, "--precision", "float32", "--name", "picks", "--epochs", 8]
    task = ("finetune", "extractive-summarization", "--model", "bert:nano", "--data", "rows.jsonl")
    assert melete(*task, *words, *QUICK, "--json") == 0
    out, err = capsys.readouterr()
    assert "1 sentences a summary" in err
    table = json.loads(out)["table"]
    assert [row["name"] for row in table] == ["bert:nano", "longest-3", "lead-3"]
    assert table[0]["rouge1"] > 95 > 70 > table[1]["rouge1"]
    text = "The day was on. In that town music. Anna and a film. With a story."  # longer than a window
    assert melete("predict", "runs/picks", "--text", text, "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["text"] == "Anna and a film."
    assert [(one["text"], one["start"]) for one in answer["sentences"]] == [("Anna and a film.", 36)]
    assert melete("predict", "runs/picks", "--text", text, "--sentences", 2) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert melete("evaluate", "runs/picks", "--data", "rows.jsonl") == 0
    assert "rouge1" in capsys.readouterr().out.splitlines()[0]
    assert melete("compare", "runs/picks", "baseline", "--data", "rows.jsonl") == 0
    assert "runs/picks is better by rouge1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["decoding.beams=2"], "decoding: summarization has no use for it"),
        (["finetuning.r_drop=1"], "R-Drop compares distributions over labels"),
        ([], "rows.jsonl:1: no summary shares a word with its text"),
    ],
)
def test_what_cannot_be_picked_is_refused(
    changes: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [
        json.dumps({"document": f"text {i}. And so on.", "summary": "x" if not changes else "text"})
        for i in range(30)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows) + "\n")
    task = ("finetune", "extractive-summarization", "--model", "bert:nano", "--data", "rows.jsonl")
    assert melete(*task, *QUICK, *(word for change in changes for word in ("--set", change))) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
