"""`melete inspect`, as a person types it."""

from __future__ import annotations

import json

import pytest

import encoder_models
from melete.cli import main
from melete.errors import MeleteError
from pages import Page


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


def test_a_page_is_written_and_the_next_step_is_said(capsys, folder, tmp_path):
    page = tmp_path / "page.html"
    code, out, err = run(
        capsys, "inspect", folder, "--text", "the king 我喜欢", "--out", page, "--lang", "en"
    )
    assert (code, out) == (0, "")
    assert err.splitlines() == [
        f"wrote {page}: open it in a browser",
        f"next: melete predict {folder} --text '... [MASK] ...'",
    ]
    assert "the king 我喜欢" in Page(page.read_text("utf-8")).text
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_figures_are_one_json_object(capsys, model_folder, tmp_path):
    page = tmp_path / "page.html"
    code, out, err = run(capsys, "inspect", model_folder, "--text", "abc " * 40, "--out", page, "--json")
    figures = json.loads(out)
    assert code == 0
    assert figures["kind"] == "next"
    assert figures["perplexity"] > 1
    assert "".join(token["token"] for token in figures["tokens"]) == ("abc " * 12)[:46]
    assert all(0 <= token["probability"] <= 1 for token in figures["tokens"])
    assert len(figures["after"]) == 5
    assert "the text is 160 tokens long; the first 46 are shown" in err


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "Missing option '--text'"),
        (["--text", " \n"], "--text is empty; expected a text of a few words"),
        (["--text", "x", "--lang", "fr"], "--lang: unknown language 'fr'; expected one of auto, en, zh"),
        (["--text", "x", "--device", "abacus"], "unknown device 'abacus'"),
    ],
)
def test_what_was_typed_wrong_is_one_line(capsys, folder, tmp_path, monkeypatch, arguments, line):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, "inspect", folder, *arguments)
    assert (code, out) == (2, "")
    assert line in err
    assert len(err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_page_that_cannot_be_written_is_one_line(capsys, folder, tmp_path):
    code, _, err = run(
        capsys, "inspect", folder, "--text", "the king", "--out", tmp_path / "no" / "page.html"
    )
    assert code == MeleteError.exit_code
    assert "page.html: No such file or directory" in err


def test_what_is_no_model_is_one_line(capsys, tmp_path):
    code, _, err = run(capsys, "inspect", tmp_path, "--text", "the king")
    assert code == 2
    assert "no model here" in err
