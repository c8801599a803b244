"""What a run writes is JSON that anybody reads."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from melete.training.log import EventLog, TerminalProgress, read_events


def test_a_number_that_is_not_finite_is_null_wherever_it_stands(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    log.write("result", loss=math.nan, table=[{"loss": math.inf, "span": (1.0, -math.inf)}])
    assert list(read_events(tmp_path / "events.jsonl")) == [
        {"event": "result", "loss": None, "table": [{"loss": None, "span": [1.0, None]}]}
    ]


def test_the_loss_that_is_shown_is_that_of_the_latest_steps(capsys: pytest.CaptureFixture[str]) -> None:
    show = TerminalProgress(30)
    for step in range(30):
        loss, seconds = (25.0, 9.0) if step < 5 else (4.0, 1.0)
        figures = {"lr": 0.01, "tokens_per_second": 1.0, "padding": 0.0, "elapsed": 11.0 * step}
        show({"event": "step", "step": step, "loss": loss, "seconds": seconds, **figures})
    lines = capsys.readouterr().err.splitlines()
    assert "loss 25.000" in lines[0]
    assert "loss 4.000" in lines[-1]
    assert lines[9].endswith("1 min 40 s left")  # 20 steps of five seconds, as the steps so far on average


def test_a_sample_is_shown_with_what_it_goes_on_from(capsys: pytest.CaptureFixture[str]) -> None:
    show = TerminalProgress(1)
    show({"event": "sample", "step": 5, "prompt": "def f(x):", "text": "\n    return x"})
    show({"event": "sample", "step": 5, "prompt": "", "text": "Once"})
    assert capsys.readouterr().err.splitlines() == [
        "step 5: sample: def f(x): | return x",
        "step 5: sample: Once",
    ]
