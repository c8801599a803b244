"""`melete predict`, and `melete generate` with a model that fills masks, as a person types them."""

from __future__ import annotations

import io
import json
import sys

import pytest

import encoder_models
import melete as package
from melete.cli import main


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    code = 0
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as stop:
        code = int(stop.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return encoder_models.write(tmp_path_factory.mktemp("m"), "bert")


@pytest.fixture(scope="module")
def bert(folder):
    return package.load(folder, device="cpu")


TEXTS = ["The king [MASK] in", "我[MASK]欢[MASK]", "walk[MASK]"]


def test_a_text_is_answered_in_words(capsys, folder, bert):
    code, out, err = run(capsys, "predict", folder, "--text", TEXTS[0], "--text", TEXTS[1], "--top-k", "2")
    first, second = bert.predict(TEXTS[:2], top_k=2)
    assert code == 0
    assert out.splitlines()[0] == first["filled"]
    assert out.splitlines()[1].startswith(f"  1: {first['masks'][0][0]['token']} ")
    assert out.splitlines()[2] == second["filled"]
    assert len(out.splitlines()) == 5
    assert "fill-mask: 2 texts answered" in err
    assert f"next: melete inspect {folder} --text 'The king [MASK] in'" in err


def test_a_file_becomes_json_lines_in_its_order(capsys, folder, bert, tmp_path):
    plain = tmp_path / "lines.txt"
    plain.write_text("\n".join(TEXTS * 4), encoding="utf-8")
    code, out, _ = run(capsys, "predict", folder, "--data", plain)
    answers = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [answer["text"] for answer in answers] == TEXTS * 4
    assert answers[0]["masks"][0][0]["probability"] == pytest.approx(
        bert.predict(TEXTS[0])["masks"][0][0]["probability"], abs=1e-5
    )
    table = tmp_path / "table.tsv"
    table.write_text(
        "id\tbody\n" + "".join(f"{i}\t{text}\n" for i, text in enumerate(TEXTS)), encoding="utf-8"
    )
    out_file = tmp_path / "answers.jsonl"
    code, out, err = run(capsys, "predict", folder, "--data", table, "--out", out_file)
    assert (code, out) == (0, "")
    assert "the text is column 'body' (of id, body)" in err
    assert [json.loads(line)["text"] for line in out_file.read_text("utf-8").splitlines()] == TEXTS
    code, out, _ = run(capsys, "predict", folder, "--text", TEXTS[1], "--json")
    assert json.loads(out)["text"] == TEXTS[1]


def test_standard_input_is_lines_or_with_a_column_json_lines(capsys, folder, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\n".join(TEXTS).encode())))
    _, out, _ = run(capsys, "predict", folder, "--data", "-")
    assert [json.loads(line)["text"] for line in out.splitlines()] == TEXTS
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"x": "a [MASK]"}')))
    _, out, _ = run(capsys, "predict", folder, "--data", "-", "--text-column", "x")
    assert json.loads(out)["text"] == "a [MASK]"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"x": "a [MASK]"}')))
    code, out, err = run(capsys, "predict", folder, "--data", "-")
    assert (code, out) == (2, "")
    assert "<stdin>:1: a JSON object, where lines are taken as they are; say which of its fields" in err


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("the [MASK]\nthe king\n", "lines.txt:2: no [MASK] in this text"),
        ("the [MASK]\n\n", "lines.txt:2: no [MASK] in this text"),
        (
            "the [MASK]\n" + "the " * 31 + "[MASK]",
            "lines.txt:2: a text of 32 tokens; expected at most 30; shorten",
        ),
        ("", "lines.txt: holds no rows; expected at least one row"),
    ],
)
def test_a_line_that_cannot_be_answered_is_named_and_nothing_is_written(
    capsys, folder, tmp_path, content, line
):
    data = tmp_path / "lines.txt"
    data.write_text(content)
    code, out, err = run(capsys, "predict", folder, "--data", data, "--out", tmp_path / "answers.jsonl")
    assert (code, out) == (2, "")
    assert line in err.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["lines.txt"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "give either --text, which may be repeated, or --data FILE"),
        (["--text", "a", "--data", "b"], "give either --text, which may be repeated, or --data FILE"),
        (["--text", "[MASK]", "--top-k", "0"], "top_k is 0; expected between 1 and"),
        (
            ["--text", "[MASK]", "--task", "fill-masks"],
            "unknown task 'fill-masks'; expected one of fill-mask",
        ),
        (["--data", "nowhere.txt"], "nowhere.txt: no such file"),
    ],
)
def test_what_was_typed_wrong_is_one_line(capsys, folder, arguments, line):
    code, out, err = run(capsys, "predict", folder, *arguments)
    assert (code, out) == (2, "")
    assert line in err
    assert len(err.splitlines()) == 1


def test_a_model_of_the_other_kind_is_told_what_to_type(capsys, folder, model_folder):
    code, _, err = run(capsys, "predict", model_folder, "--text", "x")
    assert code == 2
    assert f"the model is for text-generation; continue a text with it: melete generate {model_folder}" in err
    for verb in (["chat", folder], ["evaluate", folder, "--data", "x.txt"]):
        code, _, err = run(capsys, *verb)
        assert code == 2
        assert len(err.splitlines()) == 1


def test_masks_are_filled_behind_a_prompt(capsys, folder, bert):
    arguments = ["generate", folder, "--prompt", "The king [MASK]", "--length", "4", "--iterations", "3"]
    expected = bert.generate("The king [MASK]", length=4, iterations=3, num_return_sequences=2)
    code, out, err = run(capsys, *arguments, "--samples", "2")
    assert (code, out) == (0, f"{expected[0]}\n--- 2 of 2\n{expected[1]}\n")
    assert "10 tokens in" in err
    assert f"next: melete predict {folder} --text" in err
    _, out, _ = run(capsys, *arguments, "--temperature", "0", "--seed", "3", "--json")
    figures = json.loads(out)
    text = bert.generate("The king [MASK]", length=4, iterations=3, temperature=0)
    assert figures["samples"] == [{"text": text, "tokens": 5}]
    assert figures["seed"] == 3


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["--top-k", "3", "--length", "4"],
            "--top-k is for a model that continues a text, and this one fills masks",
        ),
        (["--stop", "x", "--length", "4"], "--stop is for a model that continues a text"),
        (["--truncate", "--length", "4"], "--truncate is for a model that continues a text"),
        (
            ["--prompt", "the king"],
            "there is no mask to fill; give a length (--length, length=), or a prompt with masks",
        ),
        (["--length", "40"], "0 tokens of prompt and a length of 40; expected at most 30 together"),
        (["--length", "4", "--iterations", "0"], "iterations is 0; expected 1 or more"),
    ],
)
def test_what_a_masked_model_cannot_do_is_one_line(capsys, folder, arguments, line):
    code, out, err = run(capsys, "generate", folder, *arguments)
    assert (code, out) == (2, "")
    assert line in err.splitlines()[-1]


def test_a_decoder_has_no_length_and_no_iterations(capsys, model_folder):
    for flag in ("--length", "--iterations"):
        code, _, err = run(capsys, "generate", model_folder, flag, "4")
        assert code == 2
        assert f"{flag} is for a model that fills masks, and this one continues a text; say how much" in err
