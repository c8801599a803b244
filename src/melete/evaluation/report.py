"""The page of a run: one HTML file without network, made from what the run folder holds.

`page.html` is the frame, `sections.py` fills it, `words.py` has what it says in both languages. Everything a run wrote
is text, never markup: it is escaped in `sections.py`, or goes through JSON whose `<` are escaped.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from html import escape as esc
from importlib import resources
from pathlib import Path
from typing import Any

from melete.errors import InputError, StorageError
from melete.evaluation import sections
from melete.evaluation.runs import events_of, number, read_config, read_environment, summarise

LANGUAGES = ("auto", "en", "zh")
# Points of a curve: more than the page is wide cannot be seen.
MOST_POINTS = 900
SERIES = {"loss": "loss", "lr": "lr", "grad_norm": "grad_norm", "rate": "tokens_per_second"}


def write_report(run: Path, lang: str = "auto") -> Path:
    """Write `report.html` into a run folder, replacing an older one as a whole.

    Args:
        lang: language the page opens in: auto (the browser's), en or zh.

    Raises:
        InputError: not a run folder, or one of its files is broken.
        StorageError: the folder cannot be written.
    """
    page = render_report(run, lang)
    target = run / "report.html"
    try:
        handle, temporary = tempfile.mkstemp(dir=run, prefix=".report-", suffix=".html")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(page)
            os.chmod(temporary, 0o644)
            os.replace(temporary, target)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise StorageError(
            error.strerror or str(error), where=str(target), do="free or unlock the folder"
        ) from None
    return target


def render_report(run: Path, lang: str = "auto") -> str:
    """The page of a run as HTML text.

    Args:
        run: a run folder; its last event may be half-written.
        lang: auto, en or zh.

    Raises:
        InputError: not a run folder, one of its files is broken, or an unknown language.
    """
    if lang not in LANGUAGES:
        raise InputError(
            f"unknown language {lang!r}", where="--lang", expected=f"one of {', '.join(LANGUAGES)}"
        )
    in_order = list(events_of(run))
    events: dict[str, list[dict[str, Any]]] = {}
    for event in in_order:
        events.setdefault(event["event"], []).append(event)
    config = read_config(run)
    summary = summarise(run, in_order)
    result = events.get("result", [{}])[-1]
    samples, completions = events.get("sample", []), result.get("samples") or []
    if not completions and samples:  # no result (yet): the last ones drawn while training
        completions = [one for one in samples if one.get("step") == samples[-1].get("step")]
        samples = samples[: -len(completions)]
    body = [
        sections.header(summary, events, config, result),
        sections.section("results", sections.result_table(result.get("table") or [])),
        sections.section("curves", sections.curve_boxes(events)),
        sections.section("completions", "".join(sections.quotation(one) for one in completions)),
        sections.section("samples", sections.sample_list(samples)),
        sections.section("diversity", sections.diversity_table(result.get("diversity") or {})),
        sections.section("choices", sections.choice_table(config)),
        sections.section("skips", sections.skip_table(events)),
        sections.section("notes", sections.note_list(events.get("note", []))),
        sections.section("next", sections.next_commands(summary.path, summary.state)),
        sections.section("details", sections.detail_blocks(config, read_environment(run))),
    ]
    page = resources.files("melete.evaluation").joinpath("page.html").read_text("utf-8")
    data = json.dumps(curve_data(events), allow_nan=False, separators=(",", ":"))
    values = {
        "LANG": lang,
        "TITLE": esc(f"{summary.name} · Melete"),
        "BODY": "\n".join(body),
        "DATA": data.replace("<", "\\u003c").replace("&", "\\u0026"),
    }
    # One pass from left to right, so that what a run wrote cannot be taken for a place to fill.
    parts = page.split("%%")
    return "".join(values[part] if i % 2 else part for i, part in enumerate(parts))


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
    return thin


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
