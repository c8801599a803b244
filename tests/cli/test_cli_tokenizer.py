"""`melete tokenizer`: what a person sees."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from melete.cli import main
from melete.data.tokenizer_quality import script_of, segments
from melete.data.tokenizers import Tokenizer

TEXT = "The quick brown fox jumps over the lazy dog again and again.\n" * 30
CHINESE = "床前明月光，疑是地上霜。舉頭望明月，低頭思故鄉。\n" * 30


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("en.txt").write_text(TEXT, encoding="utf-8")
    Path("zh.txt").write_text(CHINESE, encoding="utf-8")
    return tmp_path


def test_train_then_inspect(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["tokenizer", "train", "en.txt", "zh.txt", "--vocab-size", "320", "--out", "tok", "--json"])
    out, err = capsys.readouterr()
    trained = json.loads(out)
    assert trained["vocab_size"] == 320
    assert trained["fingerprint"] == Tokenizer.load("tok").fingerprint
    assert "next: melete tokenizer inspect tok --data en.txt --data zh.txt\n" in err

    main(["tokenizer", "inspect", "tok", "--data", "en.txt", "--data", "zh.txt", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert report["characters"] == len(TEXT + CHINESE)
    assert report["bytes"] == len((TEXT + CHINESE).encode())
    assert report["unknown_rate"] == 0
    assert report["lossless"] == 1
    assert 0 < report["vocabulary_used"] <= 1
    assert report["by_script"].keys() == {"Latin", "CJK"}
    assert sum(part["tokens"] for part in report["by_script"].values()) == report["tokens"]
    assert report["characters_per_token"] == pytest.approx(report["characters"] / report["tokens"])

    main(["tokenizer", "inspect", "tok", "--data", "en.txt"])
    out, err = capsys.readouterr()
    assert "Latin" in out
    assert "longest tokens:" in out
    assert "next: melete pretrain qwen3 --data en.txt --tokenizer tok --minutes 10" in err


def test_unknown_characters_show_in_the_report(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["tokenizer", "train", "en.txt", "--kind", "char", "--out", "letters"])
    main(["tokenizer", "inspect", "letters", "--data", "zh.txt", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert report["unknown_rate"] > 0.9
    assert report["lossless"] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "nothing.txt", "--out", "new"], "nothing.txt"),
        (["train", "en.txt", "--out", "new", "--kind", "bpe"], "--kind"),
        (["train", "en.txt", "--out", "new", "--vocab-size", "100"], "at least 257"),
        (["train", "en.txt", "--out", "new", "--lowercase"], "wordpiece"),
        (["inspect", "en.txt", "--data", "en.txt"], "en.txt:1: broken JSON"),
        (["inspect", "nowhere", "--data", "en.txt"], "nowhere"),
    ],
)
def test_mistakes_cost_one_line_and_leave_nothing(
    arguments: list[str], message: str, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["tokenizer", *arguments])
    assert caught.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("melete: error:")
    assert message in last
    assert not Path("new").exists()


def test_a_tokenizer_is_never_overwritten(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["tokenizer", "train", "en.txt", "--kind", "char", "--out", "tok"])
    before = Path("tok/tokenizer.json").read_bytes()
    with pytest.raises(SystemExit) as caught:
        main(["tokenizer", "train", "zh.txt", "--kind", "char", "--out", "tok"])
    assert caught.value.code == 2
    assert Path("tok/tokenizer.json").read_bytes() == before


def test_what_can_be_known_before_is_refused_before_the_text_is_read(
    data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("melete.data.readers.read_documents", lambda *_, **__: pytest.fail("read"))
    for changes, code in ((["--out", "new", "--vocab-size", "10"], 2), (["--out", "en.txt/below"], 1)):
        with pytest.raises(SystemExit) as caught:
            main(["tokenizer", "train", "en.txt", *changes])
        assert caught.value.code == code
    assert "en.txt/below: cannot be written: Not a directory" in capsys.readouterr().err


def test_what_a_tokenizer_drops_is_said(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["tokenizer", "train", "en.txt", "--kind", "wordpiece", "--lowercase", "--out", "tok"])
    main(["tokenizer", "inspect", "tok", "--data", "en.txt"])
    said = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("not kept"))
    assert said.endswith("does not come back: line ends, runs of spaces, capitals, accents")
    main(["tokenizer", "train", "zh.txt", "--out", "bytes"])
    main(["tokenizer", "inspect", "bytes", "--data", "zh.txt", "--json"])
    assert json.loads(capsys.readouterr().out)["dropped"] == []


def test_the_script_of_a_text() -> None:
    assert script_of("Hello world, 世界") == "Latin"
    assert script_of("你好 ok") == "CJK"
    assert script_of("Привет, мир") == script_of("123 !") == "other"


def test_segments_keep_characters_whole() -> None:
    tokenizer = Tokenizer.train([TEXT], "byte-bpe", 300)
    shown = segments(tokenizer, "The 霜")
    assert shown[-1] == "霜[3]"
    assert "\ufffd" not in "".join(shown)
