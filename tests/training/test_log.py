"""What a run writes is JSON that anybody reads."""

from __future__ import annotations

import math
from pathlib import Path

from melete.training.log import EventLog, read_events


def test_a_number_that_is_not_finite_is_null_wherever_it_stands(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    log.write("result", loss=math.nan, table=[{"loss": math.inf, "span": (1.0, -math.inf)}])
    assert list(read_events(tmp_path / "events.jsonl")) == [
        {"event": "result", "loss": None, "table": [{"loss": None, "span": [1.0, None]}]}
    ]
