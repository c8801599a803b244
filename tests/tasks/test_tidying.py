"""Written texts, mended."""

from __future__ import annotations

import pytest

from melete.errors import InputError
from melete.tasks.tidying import tidied


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("the man is is is running .", "", "the man is running ."),
        ("a dog, a dog, a dog. It runs.", "en", "a dog. It runs."),
        ("He had had enough, really very very tired.", "en", "He had had enough, really very very tired."),
        ("I like it very much. I like it very much. Bye.", "en", "I like it very much. Bye."),
        ("他说他说他说了什么。", "zh", "他说了什么。"),
        ("哈哈哈，天天向上。", "zh", "哈哈哈，天天向上。"),
        ("one 1000 2000", "", "one 1000 2000"),
        ("", "zh", ""),
    ],
)
def test_what_is_said_again_and_again_is_said_once(text: str, language: str, expected: str) -> None:
    assert tidied(text, ["repetition"], language) == expected


def test_sentences_begin_with_capitals() -> None:
    assert tidied("it rains. “so it goes,” he says, e.g. now.", ["truecase"]) == (
        "It rains. “So it goes,” he says, e.g. now."
    )
    assert tidied("ärger gibt es. straße.", ["truecase"], "de") == "Ärger gibt es. Straße."


def test_spaces_of_a_tokeniser_go() -> None:
    pytest.importorskip("sacremoses")
    assert tidied("Hello , it 's me ( again ) .", ["detokenize"], "en") == "Hello, it's me (again)."
    assert tidied("我 喜欢 GPT 模型 。", ["detokenize"], "zh") == "我喜欢 GPT 模型。"
    assert tidied("well well well , yes .", ["repetition", "detokenize", "truecase"]) == "Well, yes."


def test_an_unknown_way_is_refused() -> None:
    with pytest.raises(InputError, match="'shorter'"):
        tidied("a", ["shorter"])
