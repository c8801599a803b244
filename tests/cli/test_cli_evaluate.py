"""`melete evaluate` from the command line: figures, the baseline beside them, and mistakes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from melete.cli import main
from melete.data.tokenizers import Tokenizer
from melete.models import build
from melete.models.checkpoint import save_model

SENTENCES = [
    f"the {a} {b} the {c}.\n"
    for a in ("cat", "dog", "old man")
    for b in ("saw", "ate")
    for c in ("egg", "sea")
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model with its tokenizer, and texts."""
    folder = tmp_path_factory.mktemp("evaluate")
    tokenizer = Tokenizer.train(SENTENCES, "byte-bpe", 300)
    tokenizer.save(folder / "tokenizer")
    model = build(
        "qwen3:nano",
        vocab_size=tokenizer.vocab_size,
        init="normal",
        max_position_embeddings=32,
        num_hidden_layers=1,
    )
    save_model(folder / "model", model, tokenizer=folder / "tokenizer")
    documents = [{"text": "".join(SENTENCES[i:] + SENTENCES[:i])} for i in range(12)]
    (folder / "many.jsonl").write_text("\n".join(map(json.dumps, documents)), encoding="utf-8")
    (folder / "one.txt").write_text("".join(SENTENCES), encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MELETE_CACHE", str(folder / "cache"))
    monkeypatch.chdir(folder)


def figures(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    main(["evaluate", "model", *arguments, "--json"])
    return json.loads(capsys.readouterr().out)


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", *arguments])
    said = capsys.readouterr()
    assert stopped.value.code == 2
    assert not said.out
    return said.err.splitlines()[-1]


def test_figures_of_a_whole_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = figures(capsys, "--data", "one.txt")
    assert found["split"] == "all"
    scores = found["scores"]["model"]
    assert list(found["scores"]) == ["model"]
    assert (scores["context"], scores["stride"]) == (32, 16)
    text = (folder / "one.txt").read_text()
    assert scores["bytes"] == len(text.encode())
    assert scores["words"] == len(text.split()) + text.count("\n")
    nats = scores["loss"] * scores["tokens"]
    assert scores["bits_per_byte"] == pytest.approx(nats / math.log(2) / scores["bytes"])
    assert scores["word_perplexity"] == pytest.approx(math.exp(nats / scores["words"]))
    assert scores["loss"] == pytest.approx(math.log(300), abs=0.5)


def test_table_and_what_to_type_next(capsys: pytest.CaptureFixture[str]) -> None:
    options = "--data many.jsonl --split valid --valid-fraction 0.3 --context 8"
    main(["evaluate", "model", *options.split()])
    said = capsys.readouterr()
    assert "bits/byte" in said.out
    assert "context 8, stride 4" in said.out
    assert said.err.splitlines()[-1] == f"next: melete evaluate model {options} --baseline ngram"
    main(["evaluate", "model", *options.split(), "--baseline", "ngram"])


def test_baseline_and_mixture_stand_beside_the_model(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--data", "many.jsonl", "--split", "valid", "--valid-fraction", "0.3", "--baseline", "ngram"]
    scores = figures(capsys, *arguments)["scores"]
    assert list(scores) == ["model", "ngram", "mixture"]
    assert len({score["tokens"] for score in scores.values()}) == 1
    assert scores["ngram"]["bits_per_byte"] < 0.2 * scores["model"]["bits_per_byte"]
    assert scores["mixture"]["bits_per_byte"] < scores["model"]["bits_per_byte"]
    main(["evaluate", "model", *arguments])
    said = capsys.readouterr()
    assert [line.split()[0] for line in said.out.splitlines()[1:4]] == ["model", "5-gram", "mixture"]
    assert said.err.splitlines()[-1] == "next: melete chat model"


def test_baseline_learns_from_another_file(capsys: pytest.CaptureFixture[str]) -> None:
    scores = figures(capsys, "--data", "one.txt", "--baseline", "ngram", "--baseline-data", "many.jsonl")[
        "scores"
    ]
    assert scores["ngram"]["loss"] < 1


def test_mistakes_end_in_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "a context of 33 tokens; expected 1 to 32" in refusal(
        capsys, "model", "--data", "one.txt", "--context", "33"
    )
    assert "a context of 0 tokens" in refusal(capsys, "model", "--data", "one.txt", "--context", "0")
    assert "a stride of 9 tokens; expected 1 to 8" in refusal(
        capsys, "model", "--data", "one.txt", "--context", "8", "--stride", "9"
    )
    line = refusal(capsys, "model", "--data", "one.txt", "--baseline", "ngram")
    assert "nothing to learn from: all of --data is scored" in line
    line = refusal(capsys, "model", "--data", "one.txt", "--split", "train", "--baseline", "ngram")
    assert "nothing to learn from: the train part of --data is scored" in line
    assert "missing.txt" in refusal(capsys, "model", "--data", "missing.txt")
    assert "nowhere" in refusal(capsys, "nowhere", "--data", "one.txt")
    assert "--beams is for models that write" in refusal(capsys, "model", "--data", "one.txt", "--beams", "3")
    (folder / "empty.txt").touch()
    assert "empty.txt" in refusal(capsys, "model", "--data", "empty.txt")
