"""The baseline that a model is scored beside."""

from __future__ import annotations

from typing import Any

import pytest

from melete.evaluation import scorecard
from rig import TextInMemory


def test_the_baseline_of_a_long_text_learns_from_its_beginning_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scorecard, "BASELINE_TOKENS", 50)
    text: Any = TextInMemory(100)
    ngram = scorecard.train_baseline(text, vocab_size=1000)
    assert ngram.unigram_counts.sum() <= 50
    assert "the 5-gram learns from the first 50 of 100 tokens" in capsys.readouterr().err
