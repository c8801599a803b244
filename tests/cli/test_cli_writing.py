"""`melete finetune translation`, then `predict`, `evaluate`, `compare`: two files to figures; what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from commands import melete
from finetune_rig import DICTIONARY

SIZES = "hidden_size = 32, num_attention_heads = 2, intermediate_size = 48"
QUICK = [
    *("--set", f"model.config={{{SIZES}, num_hidden_layers = 1, num_decoder_layers = 1}}"),
    *("--set", "tokenizer.vocab_size=300"),
    *("--set", "training.threads=1"),
    *("--set", "training.batch_tokens=200"),
    *("--precision", "float32"),
    *("--context", "24"),
    *("--rate", "0.01"),
]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MELETE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    return tmp_path


def write_pairs(folder: Path, times: int = 10) -> str:
    words = [*DICTIONARY, *(f"{one} {other}" for one in DICTIONARY for other in list(DICTIONARY)[:2])] * times
    (folder / "t.en").write_text("\n".join(words) + "\n", encoding="utf-8")
    translated = [" ".join(DICTIONARY[word] for word in text.split()) for text in words]
    (folder / "t.de").write_text("\n".join(translated) + "\n", encoding="utf-8")
    return f"{folder / 't.en'},{folder / 't.de'}"


def tune(data: str, *more: object) -> int:
    return melete("finetune", "translation", "--model", "marian:nano", "--data", data, *QUICK, *more)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A finished run, and its pairs."""
    folder = tmp_path_factory.mktemp("tuned")
    data = write_pairs(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(os, "fsync", lambda handle: None)
        code = tune(data, "--valid", data, "--epochs", 12, "--name", "words", "--set", "finetuning.dropout=0")
    assert code == 0
    return folder / "runs" / "words", data


def test_three_commands_from_two_files_to_translations(
    tuned: tuple[Path, str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, data = tuned
    page = (run / "report.html").read_text(encoding="utf-8")
    assert 'id="alignments"' in page
    assert 'id="typical"' in page
    assert "tok:13a" in page
    (here / "new.txt").write_text("red\nblue\n\ndog\n")
    assert melete("predict", run, "--data", "new.txt", "--out", "new.jsonl", "--beams", 2, "--n-best", 2) == 0
    answers = [json.loads(line) for line in (here / "new.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [answer["text"] for answer in answers] == ["rot", "blau", "", "Hund"]
    assert [len(answer.get("others", [])) for answer in answers] == [1, 1, 0, 1]
    assert melete("evaluate", run, "--data", data) == 0
    shown = capsys.readouterr().out
    assert "tokenised_bleu" in shown.splitlines()[0]
    assert "sacremoses" in shown  # the signatures
    assert ":de" in shown  # the language that the second file is called after
    assert melete("compare", run, "baseline", "--data", data, "--json") == 0
    compared = json.loads(capsys.readouterr().out)
    assert compared["metric"] == "bleu"
    assert [row["name"] for row in compared["table"]] == [str(run), "copy of the source"]


def test_how_answers_are_written_can_be_asked_for(
    tuned: tuple[Path, str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, data = tuned
    ask = ["predict", run, "--text", "dog", "--json"]
    assert melete(*ask, "--beams", 6, "--require", "Haus", "--require", "grün") == 0
    assert {"Haus", "grün"} <= set(json.loads(capsys.readouterr().out)["text"].split())
    groups = ["--beams", 3, "--beam-groups", 3, "--diversity-penalty", 9]
    assert melete(*ask, *groups, "--n-best", 3) == 0
    best = json.loads(capsys.readouterr().out)
    assert best["text"] == "Hund"
    assert len({best["text"], *(other["text"] for other in best["others"])}) == 3
    (here / "long.txt").write_text("red dog. " * 20 + "\nblue\n")
    assert melete("predict", run, "--data", "long.txt", "--long", "split", "--beams", 1) == 0
    out, err = capsys.readouterr()
    long, short = map(json.loads, out.splitlines())
    assert (long["parts"] > 1, "parts" in short) == (True, False)
    assert "1 of them longer than the model reads: answered in parts, joined" in err
    assert melete("evaluate", run, "--data", data, "--beams", 2, "--coverage-penalty", 0.2) == 0
    assert "chrf" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["--data", "long.txt"], "long.txt:2: a text of "),
        (["--data", "latin.txt"], "latin.txt:2: not valid UTF-8"),
        (["--data", "long.txt", "--long", "cut", "--beams", "0"], "num_beams is 0; expected 1 (off) or more"),
        (["--text", "red", "--beam-groups", "2"], "num_beam_groups is 2; expected a divisor of num_beams, 5"),
        (["--text", "red", "--top-k", "3"], "translation has no setting 'top_k'"),
    ],
)
def test_what_predict_refuses(
    settings: list[str],
    message: str,
    tuned: tuple[Path, str],
    here: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (here / "long.txt").write_text("red\n" + "red dog " * 30 + "\n")
    (here / "latin.txt").write_bytes(b"red\ngr\xfcn\n")
    assert melete("predict", tuned[0], *settings, "--out", "out.jsonl") == 2
    assert message in capsys.readouterr().err
    assert not list(here.glob("*out*"))


BROKEN = {  # what becomes of the second file, and what is said of it
    "longer": (lambda lines: [*lines, b"noch eine Zeile"], "t.en:18: "),
    "shorter": (lambda lines: lines[:-3], "t.de:15: "),
    "empty": (lambda lines: [lines[0], b" ", *lines[2:]], "t.de:2: an empty line; expected a text, as in "),
    "encoding": (lambda lines: [*lines[:6], b"gr\xfcn", *lines[7:]], "t.de:7: not valid UTF-8"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_pairs_that_do_not_match_leave_nothing_behind(
    kind: str, tuned: tuple[Path, str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_pairs(here, 1)
    spoil, message = BROKEN[kind]
    (here / "t.de").write_bytes(b"\n".join([*spoil((here / "t.de").read_bytes().splitlines()), b""]))
    before = sorted(here.iterdir())
    learn = ["finetune", "translation", "--model", "marian:nano", *QUICK, "--data"]
    for command in (
        [*learn, data],
        [*learn, tuned[1], "--valid", data],
        ["data", "inspect", data, "--task", "translation"],
        ["evaluate", tuned[0], "--data", data],
        ["compare", tuned[0], "baseline", "--data", data],
    ):
        assert melete(*command) == 2
        out, err = capsys.readouterr()
        assert (out, message in err.splitlines()[-1]) == ("", True), err
    assert sorted(here.iterdir()) == before


def test_a_tokenizer_that_cannot_write_the_answers_is_refused(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_pairs(here, 2)
    (here / "english.txt").write_text((here / "t.en").read_text())
    words = ["--kind", "char", "--vocab-size", 40, "--out", "letters"]
    assert melete("tokenizer", "train", "english.txt", *words) == 0
    assert tune(data, "--valid", data, "--tokenizer", "letters") == 2
    said = capsys.readouterr().err
    assert "have characters that the tokenizer lacks: " in said
    assert "t.en:" in said.splitlines()[-1]
    assert not (here / "runs").exists()


@pytest.mark.parametrize(
    ("source", "target", "does"),
    [("a dog and a red house", "ein Hund und " * 40, "writes"), ("a red dog and " * 40, "ein Hund", "reads")],
)
def test_odd_lengths_and_long_texts_are_told(
    source: str, target: str, does: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_pairs(here, 2)
    for name, text in (("t.en", source), ("t.de", target)):
        with (here / name).open("a") as file:
            file.write(f"{text}\n")
    assert melete("data", "inspect", data, "--task", "translation") == 0
    assert "are much longer or shorter" in capsys.readouterr().out
    assert tune(data, "--valid", data, "--strict") == 2
    said = capsys.readouterr().err
    assert f"longer than the 24 tokens the model {does}" in said
    assert "t.en:37: " in said
    assert not (here / "runs").exists()
