"""The comparison of encoders: its cells, its table, and that it goes on where it was stopped."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[1] / "recipes" / "encoders" / "compare.py"
# Stands in for melete: a run that is stopped by "stop" in its folder, and otherwise ends with a result.
STUB = """
import json, pathlib, sys
pathlib.Path("said").open("a").write(" ".join(sys.argv[1:]) + "\\n")
if sys.argv[1] == "tokenizer":
    pathlib.Path(sys.argv[-1]).mkdir(parents=True)
if sys.argv[1] == "tokenizer" or sys.argv[-1] == "--dry-run":
    sys.exit()
name = sys.argv[2].removeprefix("runs/") if sys.argv[1] == "resume" else sys.argv[-1]
run = pathlib.Path("runs", name)
if sys.argv[1] != "resume":
    run.mkdir(parents=True)  # melete refuses a run that is there
events = [{"event": "step", "step": 9, "tokens": 2_000_000}, {"event": "end", "elapsed": 60.0}]
tuned = name.split("-")[-1] in ("sst2", "mrpc", "ud_english_ewt")
model = {"name": "m", **({"accuracy": len(name) / 100} if tuned else {"loss": 5.0, "restored": 0.25})}
others = [{"name": "linear", "accuracy": 0.5}] if name.startswith("scratch") else []
result = {"event": "result", "table": [model, *others], **({"metric": "accuracy"} if tuned else {})}
stopped = pathlib.Path("stop").exists() and name.endswith("mrpc")
if not stopped:
    events.append(result)
(run / "events.jsonl").write_text("".join(json.dumps(event) + "\\n" for event in events))
sys.exit(130 if stopped else 0)
"""


@pytest.fixture
def compare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, with the stub in melete's place."""
    spec = importlib.util.spec_from_file_location("compare", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "compare", module)
    spec.loader.exec_module(module)
    (tmp_path / "stub.py").write_text(STUB)
    monkeypatch.setattr(module, "MELETE", [sys.executable, str(tmp_path / "stub.py")])
    return module


def test_what_was_stopped_goes_on_and_what_is_done_is_kept(compare: Any, tmp_path: Path, capsys) -> None:
    command = ["--minutes", "5", "--folder", str(tmp_path)]
    (tmp_path / "stop").touch()
    with pytest.raises(SystemExit, match=r"scratch-mrpc: melete finetune .* ended with exit code 130"):
        compare.main(command)
    assert list(json.loads((tmp_path / "cells.json").read_text())["cells"]) == ["scratch-sst2"]
    (tmp_path / "stop").unlink()
    compare.main([*command, "--list"])
    assert "18 of 19 cells left" in capsys.readouterr().out
    compare.main(command)
    said = (tmp_path / "said").read_text().splitlines()
    assert len(said) == 2 + 19 + 1  # a tokenizer and its tokens, each cell, and one of them twice
    assert said[4] == "resume runs/scratch-mrpc"
    assert sum(line.startswith("tokenizer") for line in said) == 1
    nsp = next(line for line in said if "bert-nsp-5min-seed0" in line and line.startswith("pretrain"))
    assert "--set objective.pair=nsp" in nsp and "--minutes 5 --seed 0" in nsp
    compare.main([*command, "--list"])
    assert "0 of 19 cells left" in capsys.readouterr().out


def test_the_table_has_what_is_done_and_names_who_leads(compare: Any, tmp_path: Path) -> None:
    compare.main(["--minutes", "5", "--folder", str(tmp_path)])
    page = (tmp_path / "RESULT.md").read_text()
    assert "| 5 | BERT | 1 min 00 s | 10 | 2.00 M | 5.000 nats, 25.0% restored | 0.2000 |" in page
    assert "|  | linear |  |  |  |  | 0.5000 | 0.5000 | 0.5000 |" in page
    assert "- SST-2: ModernBERT after 5 minutes (0.2600)" in page


def test_seeds_have_a_mean_and_a_spread(compare: Any) -> None:
    done = {
        f"bert-10min-seed{seed}-sst2": {"metric": "accuracy", "figures": {"accuracy": 0.7 + seed / 10}}
        for seed in range(3)
    }
    runs = [f"bert-10min-seed{seed}" for seed in range(3)]
    assert compare._scores(done, runs, "sst2") == "0.8000 (0.7000 to 0.9000)"
    assert compare._scores(done, runs[:1], "sst2") == "0.7000"
    assert compare._scores(done, runs, "mrpc") == ""


def test_time_left_is_by_what_cells_of_the_kind_took(compare: Any) -> None:
    cells = compare.plan((5.0, 10.0), "tiny", 3.0)
    kinds = {cell.name: cell.kind for cell in cells}
    assert len(cells) == 3 + 4 * 4 * (1 + 3)
    tuned = [cell for cell in cells if cell.kind == "sst2"][:2]
    before = compare.seconds_left(tuned, {}, kinds)
    after = compare.seconds_left(tuned[1:], {tuned[0].name: {"seconds": 20.0}}, kinds)
    assert before > 300 and after < 100


def test_other_settings_are_another_table(compare: Any, tmp_path: Path) -> None:
    command = ["--minutes", "5", "--folder", str(tmp_path)]
    compare.main(command)
    with pytest.raises(SystemExit, match="give another --folder"):
        compare.main([*command, "--preset", "nano"])
