"""The commands that the verbs suggest, made from what they were given, can be typed."""

from __future__ import annotations

import pytest

from commands import check_call, find
from melete.cli import _hints as hints


@pytest.mark.parametrize(
    "line",
    [
        hints.pretrain(["my.txt"]),
        hints.pretrain(
            ["a b.jsonl", "-"], valid=["c", "d"], text_column="the body", valid_fraction=0.2, seed=3
        ),
        hints.pretrain(["wikitext-2"], tokenizer="my tokenizer"),
        hints.pretrain(["my.txt"], max_line_bytes=99),
        hints.tokenizer_inspect("my tokenizer", ["a b.jsonl", "-"], "the body", 99),
    ],
)
def test_a_suggestion_can_be_typed(line: str) -> None:
    check_call(line, "a hint")


def test_standard_input_is_not_there_twice() -> None:
    assert hints.pretrain(["-", "a b"]) == "melete pretrain qwen3 --data FILE --data 'a b' --minutes 10"


def test_again_repeats_what_was_typed_and_nothing_else() -> None:
    words = ["runs/a b", "--data", "x.txt", "--context", "8", "--json"]
    with find(("evaluate",)).make_context("melete evaluate", words):
        line = hints.again("--baseline", "ngram")
    assert line == "melete evaluate 'runs/a b' --data x.txt --context 8 --baseline ngram"
    check_call(line, "a hint")
