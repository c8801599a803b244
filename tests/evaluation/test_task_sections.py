"""What the page of a run for a task shows: tables, confusions, calibration, errors; text of others stays text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from melete.evaluation import task_sections
from melete.evaluation.report import render_report
from pages import EVIL, Page

TABLE = [
    {"name": "bert:tiny", "accuracy": 0.9, "f1_macro": 0.89, "low": 0.85, "high": 0.95},
    {
        "name": "majority",
        "accuracy": 0.5,
        "f1_macro": 0.33,
        "low": 0.4,
        "high": 0.6,
        "difference": [0.4, 0.3, 0.5],
    },
]
ERROR = {
    "where": "/long/way/dev.tsv:7",
    "texts": ["one", "two"],
    "right": "a",
    "said": "b",
    "probability": 0.75,
}
RESULT: dict[str, Any] = {
    "metric": "accuracy",
    "rows": 1200,
    "table": TABLE,
    "labels": ["a", "b"],
    "confusion": [[30, 10], [0, 20]],
    "calibration": {"error": 0.0625, "confidence": [0.6, 0.9], "accuracy": [0.5, 0.95], "counts": [4, 16]},
    "errors": [ERROR],
}


def html_of(folder: Path, result: dict[str, Any]) -> str:
    lines = [{"event": "start", "family": "bert"}, {"event": "step", "step": 0, "loss": 1.0}]
    lines.append({"event": "result", **result})
    (folder / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return render_report(folder)


def page_of(folder: Path, result: dict[str, Any]) -> Page:
    return Page(html_of(folder, result))


def test_a_task_has_figures_confusions_calibration_and_errors(tmp_path: Path) -> None:
    page = page_of(tmp_path, RESULT)
    sections = [tag["id"] for name, tag in page.tags if name == "section"]
    assert sections[:4] == ["results", "confusion", "calibration", "errors"]
    for shown in (
        "40.0 points of accuracy above majority",
        "准确率 比 多数类 高 40.0 个百分点",
        "0.8500 … 0.9500",
        "+0.4000 (+0.3000 … +0.5000)",
        "On 1,200 held-out rows",
        "6.2%",
        "dev.tsv:7",
        "0.7500",
    ):
        assert shown in page.text
    assert "/long/way" not in page.text  # where it is on this machine is told to who points at it
    assert any(tag.get("title") == "/long/way/dev.tsv:7" for _, tag in page.tags)


def test_confusions_are_coloured_by_their_share_of_a_row() -> None:
    cells = [tag for name, tag in Page(task_sections.confusion_table(RESULT)).tags if name == "td"]
    assert [cell["class"] for cell in cells] == ["right", "wrong", "wrong", "right"]
    assert [cell["style"] for cell in cells] == [f"--share:{x}" for x in ("0.750", "0.250", "0.000", "1.000")]


def test_long_names_of_many_labels_stand_upright() -> None:
    labels = [f"a long name {i}" for i in range(6)]
    counts = [[1] * 6] * 6
    assert "upright" in task_sections.confusion_table({"labels": labels, "confusion": counts})
    assert "upright" not in task_sections.confusion_table(RESULT)


def test_calibration_points_are_as_large_as_they_have_rows() -> None:
    circles = [tag for name, tag in Page(task_sections.calibration_plot(RESULT)).tags if name == "circle"]
    assert [circle["r"] for circle in circles] == ["6.0", "9.0"]


def test_only_charts_that_the_script_draws_are_marked_so(tmp_path: Path) -> None:
    """A box that is drawn already stops the script, and with it every curve."""
    html = html_of(tmp_path, RESULT)
    assert 'class="chart"' not in html[html.index('id="calibration"') : html.index('id="errors"')]
    assert 'querySelectorAll("[data-chart]")' in html


@pytest.mark.parametrize(
    ("value", "shown"),
    [(["New York [LOC]", "Ada [PER]"], "New York [LOC]Ada [PER]"), ([], "–"), ("", "–"), (2.5, "2.5")],
)
def test_answers_of_every_kind(value: Any, shown: str) -> None:
    table = task_sections.error_table({"errors": [ERROR | {"right": value}]})
    assert shown in Page(table).text


def test_a_worse_model_is_said_to_be_worse(tmp_path: Path) -> None:
    table = [TABLE[0] | {"accuracy": 0.4}, TABLE[1] | {"difference": [-0.1, -0.2, -0.05]}]
    page = page_of(tmp_path, RESULT | {"table": table})
    assert "10.0 points of accuracy below majority" in page.text
    assert ("em", {"class": "bad"}) in page.tags


def test_figures_alone_are_a_page_too(tmp_path: Path) -> None:
    """Scores have no labels to confuse, and without a baseline there is nothing to be better than."""
    table = [{"name": "bert", "spearman": -0.1, "pearson": 0.2, "low": -0.3, "high": 0.1}]
    page = page_of(tmp_path, {"metric": "spearman", "rows": 9, "table": table, "errors": []})
    sections = [tag["id"] for name, tag in page.tags if name == "section"]
    assert not {"confusion", "calibration", "errors"} & set(sections)
    assert "-0.3000 … 0.1000" in page.text


def test_nothing_in_the_data_can_act(tmp_path: Path) -> None:
    error = {"where": EVIL, "texts": [EVIL], "right": EVIL, "said": [EVIL], "probability": 0.5}
    table = [{**row, "name": EVIL} for row in TABLE]
    page = page_of(tmp_path, RESULT | {"table": table, "labels": [EVIL, "b"], "errors": [error]})
    assert not [tag for name, tag in page.tags if name == "img"]
    assert sum(name == "script" for name, _ in page.tags) == 2
    assert page.text.count(EVIL) >= 6
