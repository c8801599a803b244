"""`melete embed`: vectors of texts, compared or written."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

import kit
from commands import melete
from finetune_rig import write_rows
from melete.models.checkpoint import save_model
from task_examples import SENTENCES, tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A masked language model: any model makes vectors."""
    folder = tmp_path_factory.mktemp("model")
    own = tokenizer("wordpiece")
    own.save(folder)
    model = kit.tiny_network("bert", "fill-mask", vocab_size=own.vocab_size)
    save_model(folder, model, tokenizer=folder)
    return folder


def test_texts_are_compared(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = [word for text in SENTENCES[:3] for word in ("--text", text)]
    assert melete("embed", folder, *texts) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert [line.split()[-3 + i] for i, line in enumerate(lines[1:])] == ["1.000"] * 3


def test_vectors_are_written_in_order(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lines.txt").write_text("\n".join(SENTENCES) + "\n")
    assert melete("embed", folder, "--data", "lines.txt", "--out", "v.npy") == 0
    array = np.load("v.npy")
    assert array.shape == (len(SENTENCES), 32)
    assert np.allclose(np.linalg.norm(array, axis=1), 1, atol=1e-5)
    assert melete("embed", folder, "--data", "lines.txt", "--out", "v.jsonl") == 0
    lines = [json.loads(line)["embedding"] for line in Path("v.jsonl").read_text().splitlines()]
    assert np.allclose(array, lines, atol=1e-5)
    assert melete("embed", folder, "--text", SENTENCES[2], "--json") == 0
    assert np.allclose(json.loads(capsys.readouterr().out)["embedding"], array[2], atol=1e-5)


def test_a_bi_encoder_is_trained_then_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    write_rows(tmp_path, "sentence-similarity")
    sizes = "model.config={hidden_size = 32, num_hidden_layers = 2, num_attention_heads = 2, intermediate_size = 48}"
    command = ["finetune", "sentence-similarity", "--bi-encoder", "--model", "bert:nano", "--no-baseline"]
    command += ["--data", "sentence-similarity.jsonl", "--name", "bi", "--epochs", "10", "--rate", "0.003"]
    more = ["tokenizer.vocab_size=400", "training.threads=1", sizes]
    command += ["--batch-size", "16", "--context", "32", "--precision", "float32"]
    assert melete(*command, *(word for one in more for word in ("--set", one)), "--json") == 0
    assert json.loads(capsys.readouterr().out)["table"][0]["spearman"] > 0.8
    texts = ["a wonderful film", "superb music", "a dull town"]
    assert melete("embed", "runs/bi", *(word for text in texts for word in ("--text", text))) == 0
    table = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert float(table[0][-2]) > 0.5 > float(table[0][-1])
    assert melete("predict", "runs/bi", "--data", "sentence-similarity.jsonl") == 0
    assert "score" in json.loads(capsys.readouterr().out.splitlines()[0])
    assert melete("evaluate", "runs/bi", "--data", "sentence-similarity.jsonl") == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--text", "x", "--data", "y"], "give either --text"),
        (["--text", "x", "--out", "v.csv"], r"--out v\.csv; expected a file that ends in \.npy or \.jsonl"),
        (["--text", "x", "--pooling", "max"], "pooling is 'max'"),
    ],
)
def test_mistakes_are_one_line(
    folder: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    import re

    assert melete("embed", folder, *arguments) == 2
    assert re.search(message, capsys.readouterr().err)
