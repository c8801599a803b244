"""The sections of a run's page as HTML: every value is escaped, every word of the page's own is in both languages."""

from __future__ import annotations

import json
import re
import shlex
from html import escape as esc
from pathlib import Path
from typing import Any

from melete.console import duration
from melete.data.labelled.rows import LABELLED_TASKS
from melete.evaluation.page import names, t, t_pair
from melete.evaluation.runs import RunSummary, number
from melete.evaluation.task_sections import headline
from melete.evaluation.words import WORDS

Event = dict[str, Any]
MOST_SAMPLES = 12
MOST_LINES = 100
LOWER_IS_BETTER = ("bits_per_byte", "word_perplexity", "perplexity", "loss")
AREAS = ("auc", "auc_generator")  # what a discriminator is for: they stand before the loss of its generator
SHARES = ("restored", "nsp_accuracy", "sop_accuracy")
HIGHER_IS_BETTER = (*AREAS, *SHARES)
# A figure -> what others are called in a table that has it.
BESIDE = {"auc_generator": {"auc": "auc_drawn", "loss": "generator_loss"}, "restored": {"loss": "mlm"}}
# What all rows of the result table share, said once below it; and what stands in another cell.
SHARED = ("tokens", "words", "bytes", "context", "stride")
FOLDED = ("name", "bits_per_byte_interval", "seconds")


def header(
    summary: RunSummary, events: dict[str, list[Event]], config: dict[str, Any], result: dict[str, Any]
) -> str:
    start = events.get("start", [{}])[0]
    data = ", ".join(Path(source).name or source for source in config.get("data", {}).get("train", []))
    spent = duration(summary.elapsed), _duration_zh(summary.elapsed)
    parameters = f"{summary.parameters:,}" if isinstance(summary.parameters, int) else ""
    lead = ""
    if summary.family and parameters and data:
        lead = f'<p class="lead">{t("lead", family=summary.family, parameters=parameters, data=data, time=spent)}</p>'
    total = f" / {summary.steps:,}" if summary.steps else ""
    facts = {
        "time": t_pair(*spent),
        "steps": f"{summary.step:,}{total}" if summary.step else "",
        "seen": f"{summary.tokens:,}" if summary.tokens else "",
        "parameters": parameters,
        "device": esc(" · ".join(str(start[key]) for key in ("device", "precision") if start.get(key))),
        "seed": esc(str(start.get("seed", ""))),
    }
    tiles = "".join(f"<div><dt>{t(key)}</dt><dd>{value}</dd></div>" for key, value in facts.items() if value)
    return (
        f'<header><p class="state {summary.state}">{t(summary.state)}</p><h1>{esc(summary.name)}</h1>{lead}'
        f"{headline(result) if 'metric' in result else _headline(result.get('table') or [])}"
        f'<dl class="facts">{tiles}</dl></header>'
    )


def _duration_zh(seconds: float) -> str:
    text = duration(seconds)
    for english, chinese in ((" min", " 分"), (" h", " 小时"), (" s", " 秒")):
        text = text.replace(english, chinese)
    return text


def _baseline(table: list[Event]) -> dict[str, Any] | None:
    """The row that the others are held against: that of counted tokens, in a table of more than one."""
    grams = [row for row in table if re.fullmatch(r"\d+-gram|token frequencies", str(row.get("name", "")))]
    return grams[0] if grams and len(table) > 1 else None


def _headline(table: list[Event]) -> str:
    """The one figure to take home: the first model beside the baseline."""
    baseline = _baseline(table)
    models = [row for row in table if row is not baseline and number(row.get("bits_per_byte"))]
    against = number(baseline.get("bits_per_byte")) if baseline else None
    if not baseline or not models or not against:
        return ""
    change = number(models[0]["bits_per_byte"]) / against - 1.0  # type: ignore[operator]
    words = t(
        "better" if change <= 0 else "worse",
        percent=f"{abs(change):.1%}",
        baseline=names(str(baseline["name"])),
    )
    return f'<p class="headline{" bad" if change > 0 else ""}">{words}</p>'


def result_table(table: list[Event]) -> str:
    """Models in rows, with bars and differences from the baseline."""
    if not table:
        return ""
    named = dict.fromkeys(key for row in table for key in row if key not in (*SHARED, *FOLDED))
    leading = [key for key in (*AREAS, *LOWER_IS_BETTER) if key in named]
    columns = [*leading, *(key for key in named if key not in leading)]
    baseline = _baseline(table)
    called = next((others for key, others in BESIDE.items() if key in named), {})
    heads = [names(called.get(key, key)) for key in ["name", *columns]]
    head = "".join(f"<th>{t_pair(*pair)}</th>" for pair in heads)
    rows = []
    for row in table:
        cells = "".join(_cell(row, key, baseline, table) for key in columns)
        kind = ' class="baseline"' if row is baseline else ""
        rows.append(f"<tr{kind}><th>{_label(str(row.get('name', '')))}</th>{cells}</tr>")
    says = t("lower", baseline=names(str(baseline["name"]))) if baseline else t("lower_alone")
    if any(key in named for key in HIGHER_IS_BETTER):
        says += " " + t("higher")
    on = [
        f"{t(key)} {_figure(value)}" if key in ("context", "stride") else f"{_figure(value)} {t(key)}"
        for key in SHARED
        if (value := number(table[0].get(key))) is not None
    ]
    if on:
        says += "<br>" + " · ".join(on)
    body = f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return f'<div class="wide"><table>{body}</table></div><p class="small">{says}</p>'


def _label(name: str) -> str:
    """A name in both languages, or as it is: a model may be called as it likes."""
    return t(name) if name in WORDS else esc(name)


def _cell(row: dict[str, Any], key: str, baseline: dict[str, Any] | None, table: list[Event]) -> str:
    """A figure, with a bar and the difference from the baseline where lower is better."""
    value = number(row.get(key))
    if value is None:
        return f"<td>{esc(str(row.get(key) or ''))}</td>"
    if key not in LOWER_IS_BETTER:
        return f"<td>{f'{value:.1%}' if key in SHARES else _figure(value)}</td>"
    largest = max(number(other.get(key)) or 0.0 for other in table)
    bar = f'<i class="bar" style="width:{value / largest:.1%}"></i>' if largest > 0 else ""
    against = number(baseline.get(key)) if baseline and row is not baseline else None
    change = ""
    if against:
        share = value / against - 1.0
        change = f' <em class="{"good" if share < 0 else "bad"}">{share:+.1%}</em>'
    low, high = row.get(f"{key}_interval") or (None, None)
    span = ""
    if number(low) is not None and number(high) is not None:
        span = f' title="{_figure(float(low))} … {_figure(float(high))} (95 %)"'  # type: ignore[arg-type]
    return f"<td{span}><b>{_figure(value)}</b>{change}{bar}</td>"


def _figure(value: float) -> str:
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def curve_boxes(events: dict[str, list[Event]]) -> str:
    """Boxes that the page's script draws into."""
    if not events.get("step"):
        return f'<p class="small">{t("no_curve")}</p>'
    keys = "".join(
        f'<span class="key {name}">{t(name)}</span>' for name in ("train_smooth", "train_raw", "validation")
    )
    charts = [(name, name) for name in ("lr", "grad_norm", "rate")]
    charts = [*((name, f"figure-{name}") for name in figure_names(events)), *charts]
    small = "".join(
        f"<figure><figcaption>{t_pair(*names(name))}</figcaption>"
        f'<div class="chart" data-chart="{esc(chart)}"></div></figure>'
        for name, chart in charts
    )
    return (
        f'<noscript><p class="small">{t("noscript")}</p></noscript>'
        f"<figure><figcaption><b>{t('loss')}</b>{keys}"
        f'<label><input type="checkbox" id="log"> {t("log")}</label></figcaption>'
        f'<div class="chart tall" data-chart="loss"></div></figure><div class="three">{small}</div>'
    )


def figure_names(events: dict[str, list[Event]]) -> list[str]:
    """The figures that evaluations tell beside the loss, but for those that are the same each time."""
    found: dict[str, set[Any]] = {}
    for event in events.get("eval", []):
        for name, value in (event.get("metrics") or {}).items():
            if isinstance(name, str) and name != "loss":
                found.setdefault(name, set()).add(number(value))
    return [name for name, values in found.items() if len(values - {None}) > 1]


def quotation(sample: dict[str, Any], step: str = "", *, apart: bool = False) -> str:
    """A prompt and what the model wrote after it; `apart`: what it said of it, on a line of its own."""
    prompt, text = str(sample.get("prompt", "")), str(sample.get("text", ""))
    text = f"\n{text}" if apart else text.removeprefix(prompt)
    given = f"<b>{esc(prompt)}</b>" if prompt else f'<i class="small">{t("prompt_empty")}</i> '
    return f"<blockquote>{step}<pre>{given}{esc(text)}</pre></blockquote>"


def sample_list(samples: list[Event], *, apart: bool = False) -> str:
    """Samples drawn while training: some of them, if there are many; see `quotation`."""
    if not samples:
        return ""
    shown = samples
    if len(samples) > MOST_SAMPLES:  # evenly over the run, with the first and the last
        last = len(samples) - 1
        shown = [samples[round(i * last / (MOST_SAMPLES - 1))] for i in range(MOST_SAMPLES)]
    quotes = [
        quotation(sample, f'<p class="small">{t("step", n=_plain(sample.get("step", "")))}</p>', apart=apart)
        for sample in shown
    ]
    more = t("some", shown=str(len(shown)), total=str(len(samples))) if len(shown) < len(samples) else ""
    return "".join(quotes) + (f'<p class="small">{more}</p>' if more else "")


def _plain(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def diversity_table(shares: dict[str, Any]) -> str:
    """Shares between 0 and 1 with bars."""
    rows = []
    for name, value in shares.items():
        share = number(value)
        if share is None:
            continue
        if name.startswith("distinct_") and name != "distinct_1":
            label = t("distinct", n=name.removeprefix("distinct_"))
        else:
            label = _label(name)
        bar = f'<i class="bar" style="width:{min(max(share, 0.0), 1.0):.1%}"></i>'
        rows.append(f"<tr><th>{label}</th><td><b>{share:.1%}</b>{bar}</td></tr>")
    return (
        f'<table class="narrow">{"".join(rows)}</table><p class="small">{t("diversity_says")}</p>'
        if rows
        else ""
    )


def choice_table(config: dict[str, Any]) -> str:
    """Config keys that were chosen, their values, and why."""
    rows = []
    for path, reason in (config.get("choices") or {}).items():
        value: Any = config
        for key in path.split("."):
            value = value.get(key, "") if isinstance(value, dict) else ""
        rows.append(
            f"<tr><th><code>{esc(path)}</code></th><td><code>{esc(_plain(value))}</code></td><td>{esc(str(reason))}</td></tr>"
        )
    table = f'<div class="wide"><table class="text">{"".join(rows)}</table></div>'
    return f'<p class="small">{t("recorded")}</p>{table}' if rows else ""


def skip_table(events: dict[str, list[Event]]) -> str:
    """Steps that never reached the weights."""
    if not events.get("step"):
        return ""
    lines = sorted(
        [*events.get("skip", []), *events.get("rollback", [])], key=lambda one: number(one.get("step")) or 0
    )
    if not lines:
        return f'<p class="small">{t("none_skipped")}</p>'
    rows = []
    for one in lines[:MOST_LINES]:
        said = esc(str(one["reason"])) if "reason" in one else t("rolled_back", to=str(one.get("to", "")))
        rows.append(f"<tr><th>{t('step', n=_plain(one.get('step', '')))}</th><td>{said}</td></tr>")
    more = ""
    if len(lines) > MOST_LINES:
        more = f'<p class="small">{t("some", shown=str(MOST_LINES), total=f"{len(lines):,}")}</p>'
    table = f'<div class="wide"><table class="text">{"".join(rows)}</table></div>'
    return f'<p class="small">{t("skips_says")}</p>{table}{more}'


def note_list(notes: list[Event]) -> str:
    """What the run noted."""
    items = "".join(f"<li>{esc(str(note.get('text', '')))}</li>" for note in notes[:MOST_LINES])
    return f'<p class="small">{t("recorded")}</p><ul>{items}</ul>' if items else ""


def next_commands(path: str, state: str, config: dict[str, Any]) -> str:
    """Commands that make sense now, each with a button that copies it."""
    run = shlex.quote(path)
    uses = {
        "causal-lm": [
            ("next_chat", f"melete chat {run}"),
            ("next_generate", f'melete generate {run} --prompt "..."'),
            ("next_evaluate", f"melete evaluate {run} --data my-text.txt"),
        ],
        "masked-lm": [
            ("next_fill", f'melete predict {run} --text "... [MASK] ..."'),
            ("next_inspect", f'melete inspect {run} --text "..."'),
        ],
        "replaced-token": [("next_inspect", f'melete inspect {run} --text "..."')],
        "sentence-embedding": [("next_embed", f"melete embed {run} --data FILE --out vectors.npy")],
    }
    answers = [
        ("next_answers", f"melete predict {run} --data FILE"),
        ("next_measure", f"melete evaluate {run} --data FILE"),
    ]
    uses |= {task: [*uses.get(task, []), *answers] for task in (*LABELLED_TASKS, "sentence-embedding")}
    objective = str(config.get("objective", {}).get("name") or "causal-lm")
    commands = [
        *uses.get(objective, []),
        ("next_own", "melete pretrain qwen3 --data my-text.txt --minutes 10"),
        ("next_compare", "melete runs"),
    ]
    if state in ("interrupted", "stopped"):
        commands.insert(0, ("next_resume", f"melete resume {run}"))
    copy = f'<button type="button">{t("copy")}</button>'
    return "".join(
        f'<div class="type"><span>{t(key)}</span><code>{esc(command)}</code>{copy}</div>'
        for key, command in commands
    )


def detail_blocks(config: dict[str, Any], environment: dict[str, Any]) -> str:
    """The config and the machine, folded."""
    import tomli_w

    blocks = []
    if config:
        plain = {key: value for key, value in config.items() if key != "choices"}
        blocks.append(
            f"<details><summary>config.toml</summary><pre>{esc(tomli_w.dumps(plain))}</pre></details>"
        )
    if environment:
        text = json.dumps(environment, indent=2, ensure_ascii=False)
        blocks.append(f"<details><summary>environment.json</summary><pre>{esc(text)}</pre></details>")
    return "".join(blocks)
