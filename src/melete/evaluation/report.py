"""The page of a run: one HTML file without network, made from what the run folder holds.

`page.py` has the frame, `sections.py` fills it, `words.py` has what it says in both languages.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from melete.evaluation import sections, task_sections
from melete.evaluation.page import render, section, write_page
from melete.evaluation.runs import events_of, number, read_config, read_environment, summarise

# Points of a curve: more than the page is wide cannot be seen.
MOST_POINTS = 900
SERIES = {"loss": "loss", "lr": "lr", "grad_norm": "grad_norm", "rate": "tokens_per_second"}


def write_report(run: Path, lang: str | None = None) -> Path:
    """Write `report.html` into a run folder, replacing an older one as a whole.

    Args:
        lang: language the page opens in: auto (the browser's), en or zh; None: what the run's config says.

    Raises:
        InputError: not a run folder, or one of its files is broken.
        StorageError: the folder cannot be written.
    """
    target = run / "report.html"
    write_page(target, render_report(run, lang))
    return target


def render_report(run: Path, lang: str | None = None) -> str:
    """The page of a run as HTML text.

    Args:
        run: a run folder; its last event may be half-written.
        lang: as `write_report` takes it.

    Raises:
        InputError: not a run folder, one of its files is broken, or an unknown language.
    """
    in_order = list(events_of(run))
    events: dict[str, list[dict[str, Any]]] = {}
    for event in in_order:
        events.setdefault(event["event"], []).append(event)
    config = read_config(run)
    lang = lang or str(config.get("evaluation", {}).get("page_language", "auto"))
    summary = summarise(run, in_order)
    result = events.get("result", [{}])[-1]
    samples, completions = events.get("sample", []), result.get("samples") or []
    if not completions and samples:  # no result (yet): the last ones drawn while training
        completions = [one for one in samples if one.get("step") == samples[-1].get("step")]
        samples = samples[: -len(completions)]
    # An encoder does not go on with a text: it says something of one.
    apart = any("mlm" in (event.get("metrics") or {}) for event in events.get("eval", []))
    answers = "".join(sections.quotation(one, apart=apart) for one in completions)
    body = [
        sections.header(summary, events, config, result),
        *_results(result),
        section("curves", sections.curve_boxes(events)),
        section("answers" if apart else "completions", answers),
        section("samples", sections.sample_list(samples, apart=apart)),
        section("diversity", sections.diversity_table(result.get("diversity") or {})),
        section("choices", sections.choice_table(config)),
        section("skips", sections.skip_table(events)),
        section("notes", sections.note_list(events.get("note", []))),
        section("next", sections.next_commands(summary.path, summary.state, config)),
        section("details", sections.detail_blocks(config, read_environment(run))),
    ]
    return render("report", lang, summary.name, "\n".join(body), curve_data(events))


def _results(result: dict[str, Any]) -> list[str]:
    """What came of it: perplexities, or the figures of a task."""
    if "metric" not in result:
        return [section("results", sections.result_table(result.get("table") or []))]
    return [
        section("results", task_sections.figure_table(result)),
        section("confusion", task_sections.confusion_table(result)),
        section("calibration", task_sections.calibration_plot(result)),
        section("errors", task_sections.error_table(result)),
        section("typical", task_sections.typical_table(result)),
        section("alignments", task_sections.alignment_tables(result)),
    ]


def curve_data(events: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """What the page draws: at most `MOST_POINTS` points of each series; None where a value is not finite."""
    steps = [event for event in events.get("step", []) if number(event.get("step")) is not None]
    columns = {name: [number(event.get(key)) for event in steps] for name, key in SERIES.items()}
    columns["step"] = [event["step"] + 1 for event in steps]
    columns["smooth"] = smooth(columns["loss"], max(len(steps) / 100, 1.0))
    width = max(math.ceil(len(steps) / MOST_POINTS), 1)
    thin = {
        name: [_mean(column[i : i + width]) for i in range(0, len(steps), width)]
        for name, column in columns.items()
    }
    valid = [
        (number(event.get("step")), number((event.get("metrics") or {}).get("loss")))
        for event in events.get("eval", [])
    ]
    points = [(step, loss) for step, loss in valid if step is not None and loss is not None]
    thin["valid_step"] = [step for step, _ in points]
    thin["valid"] = [float(f"{loss:.6g}") for _, loss in points]
    return {**thin, **figure_curves(events)}


def figure_curves(events: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """The points of each figure that evaluations tell beside the loss: `figure-NAME` and the steps in `figure_step`."""
    evaluations = [event for event in events.get("eval", []) if number(event.get("step")) is not None]
    curves: dict[str, Any] = {
        f"figure-{name}": [number((event.get("metrics") or {}).get(name)) for event in evaluations]
        for name in sections.figure_names(events)
    }
    return {"figure_step": [event["step"] for event in evaluations], **curves} if curves else {}


def smooth(values: list[float | None], span: float) -> list[float | None]:
    """Exponential mean over about `span` values, corrected for its start; what is not finite is passed over."""
    keep, total, weight = 1.0 - 1.0 / span, 0.0, 0.0
    out: list[float | None] = []
    for value in values:
        if value is not None:
            total, weight = keep * total + value, keep * weight + 1.0
        out.append(total / weight if weight else None)
    return out


def _mean(values: list[float | None]) -> float | None:
    finite = [value for value in values if value is not None]
    return float(f"{sum(finite) / len(finite):.6g}") if finite else None
