"""The race to nanoGPT's loss: what is run next, what stands on the page, and both sides once, tiny."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest

from melete import config as configs

ROOT = Path(__file__).parents[1]


@pytest.fixture
def race(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("race", ROOT / "recipes" / "speedrun" / "race.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "race", module)
    spec.loader.exec_module(module)
    return module


def trained(cell: Any, *_: Any) -> dict[str, Any]:
    """A cell as if it had been run: more steps help, and everything helps the recipe."""
    factor = 1.0 if cell.kind == "the recipe" else 1.2
    loss = 3.9 if not cell.ours else factor * 4.0 * (100 / cell.steps) ** 0.3
    figures = {
        "parameters": 13_000_000,
        "steps": cell.steps,
        "tokens": 2048 * cell.steps,
        "seconds": float(cell.steps),
        "init_seconds": 0.0,
    }
    return {"kind": cell.kind, "seed": cell.seed, **figures, "loss": loss + 0.01 * cell.seed}


def test_cells_follow_until_the_loss_lies_between_two_of_each_kind(
    race: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(race, "fill", trained)
    command = ["--steps", "100", "--reference-steps", "300", "--folder", str(tmp_path)]
    (tmp_path / "RESULT.md").write_text(f"# By hand\n\n{race._BEGIN}\nold\n{race._END}\n\nKept.\n")
    race.main(command)
    cells = json.loads((tmp_path / "cells.json").read_text())["cells"]
    assert [name for name in cells if name.startswith("the-recipe-1")] == [
        "the-recipe-100-steps-seed-0",
        "the-recipe-150-steps-seed-0",
        "the-recipe-100-steps-seed-1",
        "the-recipe-100-steps-seed-2",
    ]
    assert sum(name.startswith("nanogpt") for name in cells) == len(race.RATES) + 2
    page = (tmp_path / "RESULT.md").read_text()
    assert page.startswith("# By hand\n") and page.endswith("\n\nKept.\n") and "old" not in page
    assert "| the recipe | 13.00 M | 100 | 0.20 M |  | 4.0100 (4.0000 to 4.0200) |" in page
    assert "| the recipe | 109 | 0.22 M |  |  |" in page
    race.main([*command, "--list"])
    assert "nothing is left" in capsys.readouterr().out
    race.main([*command, "--pace"])
    page = (tmp_path / "RESULT.md").read_text()
    assert "| the recipe | 109 | 0.22 M | 109 | 1.00x |" in page
    assert page.count("1.84x") == len(race.WITHOUT)  # 1.2 ** (1 / 0.3)
    with pytest.raises(SystemExit, match="give another --folder"):
        race.main(["--steps", "99", "--folder", str(tmp_path)])


def test_steps_to_a_loss_lie_on_a_line_between_the_runs_around_it(race: Any) -> None:
    assert race.steps_to({100: 4.0, 400: 3.0}, 3.5) == pytest.approx(200)
    assert race.steps_to({100: 4.0}, 3.5) is None
    assert race.next_steps({}, 3.5, 100) == 100
    assert race.next_steps({100: 4.0}, 3.5, 100) == 150
    assert race.next_steps({100: 3.4}, 3.5, 100) == 67
    assert race.next_steps({100: 4.0, 150: 3.4}, 3.5, 100) is None


@pytest.mark.slow
def test_both_sides_train_and_are_measured_on_the_same_tokens(race: Any, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat, and the dog on the log. " * 400)
    config = configs.change(
        configs.load(race.RECIPE),
        {
            "data.train": [str(text)],
            "tokenizer.vocab_size": 270,
            "model.source": "qwen3:nano",
            "model.config": {"tie_word_embeddings": False},
        },
    )
    race.RECIPE = tmp_path / "train.toml"
    race.RECIPE.write_text(configs.dump(config))
    race.NANOGPT[-1] = str(race.RECIPE)
    ours = race.fill(race.Cell(race.OURS, 3, 0, ()), tmp_path, 1.0)
    theirs = race.fill(race.reference(1e-3, 3, 0), tmp_path, 1.0)
    assert ours["steps"] == theirs["steps"] == 3
    assert theirs["tokens"] == 3 * 16 * config.training.context
    for found in (ours, theirs):
        assert math.isfinite(found["loss"]) and found["seconds"] > 0
    assert not (tmp_path / "runs" / race.Cell(race.OURS, 3, 0, ()).name / "final").exists()
