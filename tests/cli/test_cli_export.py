"""`melete export`, as a person types it."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys

import pytest

from melete.cli import main
from melete.data.tokenizers import Tokenizer
from melete.models import build
from melete.models.checkpoint import save_model


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    code = 0
    try:
        main(["export", *(str(argument) for argument in arguments)])
    except SystemExit as stop:
        code = int(stop.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


def test_a_folder_for_transformers(capsys, model_folder, tmp_path) -> None:
    code, out, err = run(capsys, model_folder, "--format", "hf", "--out", tmp_path / "a b", "--json")
    assert code == 0
    found = json.loads(out)
    assert (found["format"], found["precision"], found["architecture"]) == (
        "hf",
        "float32",
        "GPT2LMHeadModel",
    )
    assert found["path"] == str(tmp_path / "a b")
    assert re.search(r"a b: [\d.]+ MB, float32\n", err)
    assert err.splitlines()[-1].startswith("next: python -c ")


def test_a_run_is_found_and_the_next_command_opens_the_file(
    capsys, model_folder, tmp_path, monkeypatch
) -> None:
    final = tmp_path / "runs" / "mine" / "final"
    Tokenizer.train(["a text of some words, and some more words"] * 9, "byte-bpe", 270).save(final)
    model = build("gpt2:nano", vocab_size=270, hidden_size=32, num_hidden_layers=1)
    save_model(final, model, tokenizer=None)
    monkeypatch.chdir(tmp_path)
    code, out, err = run(
        capsys, "runs/mine", "--format", "gguf", "--out", "mine.gguf", "--precision", "bfloat16"
    )
    assert (code, out) == (0, "")
    assert "next: llama-completion -m mine.gguf -p 'Once upon a time' -n 50" in err
    assert (tmp_path / "mine.gguf").read_bytes()[:4] == b"GGUF"


@pytest.mark.slow
@pytest.mark.parametrize("format", ["hf", "onnx"])
def test_the_next_command_runs(capsys, model_folder, tmp_path, format: str) -> None:
    _, _, err = run(capsys, model_folder, "--format", format, "--out", tmp_path / "it's" / "a b")
    program, *words = shlex.split(err.splitlines()[-1].removeprefix("next: "))
    assert program == "python"
    done = subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert ("GPT2LMHeadModel" if format == "hf" else "input_ids") in done.stdout


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--format", "ggml", "--out", "x"], "'ggml' is not one of 'hf', 'gguf', 'onnx'"),
        (["--format", "hf"], "Missing option '--out'"),
        (
            ["--format", "onnx", "--out", "x", "--precision", "bfloat16"],
            "ONNX Runtime does not compute in bfloat16",
        ),
        (["--format", "gguf", "--out", "x"], "llama.cpp would cut text in another way"),
        (["--format", "hf", "--out", "."], ".: already there"),
    ],
)
def test_a_slip_is_one_line_and_code_2(capsys, model_folder, tmp_path, monkeypatch, arguments, line) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, model_folder, *arguments)
    assert (code, out) == (2, "")
    assert line in err
    assert len(err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_what_is_no_model_is_one_line_and_code_2(capsys, tmp_path) -> None:
    for source in ("no-such-folder", tmp_path):
        code, out, err = run(capsys, source, "--format", "hf", "--out", tmp_path / "x")
        assert (code, out, len(err.splitlines())) == (2, "", 1)
        assert str(source) in err


def test_a_place_that_cannot_be_written_is_one_line_and_code_1(capsys, model_folder, tmp_path) -> None:
    (tmp_path / "file").touch()
    code, out, err = run(capsys, model_folder, "--format", "hf", "--out", tmp_path / "file" / "x")
    assert (code, out, len(err.splitlines())) == (1, "", 1)
    assert "cannot be written: Not a directory" in err
