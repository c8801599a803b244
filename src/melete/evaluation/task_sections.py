"""What a run's page shows of a model for a task: figures beside a baseline, confusions, calibration, worst errors."""

from __future__ import annotations

from html import escape as esc
from typing import Any

from melete.evaluation.page import t
from melete.evaluation.runs import number

_SIZE, _EDGE = 220, 28  # of the calibration plot, in pixels


def figure_table(result: dict[str, Any]) -> str:
    """A row a model: its figures, the interval of the first, and by how much the fine-tuned model is better."""
    table, metric = result["table"], str(result["metric"])
    hidden = {"name", "low", "high", "difference", "p_value", metric}
    others = [key for key in table[0] if key not in hidden]
    several = len(table) > 1
    names = [metric, "interval", *others, *(["difference"] if several else [])]
    head = "".join(f"<th>{_word(name)}</th>" for name in ["name", *names])
    rows = []
    for i, row in enumerate(table):
        value, low, high = (number(row.get(key)) for key in (metric, "low", "high"))
        share = f"width:{min(max(value or 0.0, 0.0), 1.0):.1%}"
        cells = [f'<td><b>{_figure(value)}</b><i class="bar" style="{share}"></i></td>']
        cells += [f"<td>{_figure(low)} … {_figure(high)}</td>"]
        cells += [f"<td>{_figure(number(row.get(key)))}</td>" for key in others]
        if several:
            cells.append(_difference(row.get("difference")))
        kind = ' class="baseline"' if i else ""
        rows.append(f"<tr{kind}><th>{esc(str(row.get('name', '')))}</th>{''.join(cells)}</tr>")
    says = t("figures_say", rows=f"{result.get('rows', 0):,}")
    body = f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return f'<div class="wide"><table>{body}</table></div><p class="small">{says}</p>'


def headline(result: dict[str, Any]) -> str:
    """The one figure to take home: the model beside the strongest baseline."""
    table, metric = result.get("table") or [], str(result.get("metric"))
    others = [row for row in table[1:] if number(row.get(metric)) is not None]
    if not others or number(table[0].get(metric)) is None:
        return ""
    best = max(others, key=lambda row: number(row[metric]) or 0.0)
    change = (number(table[0][metric]) or 0.0) - (number(best[metric]) or 0.0)
    words = t(
        "ahead" if change >= 0 else "behind",
        points=f"{100 * abs(change):.1f}",
        metric=metric.replace("_", " "),
        baseline=str(best.get("name", "")),
    )
    return f'<p class="headline{" bad" if change < 0 else ""}">{words}</p>'


def _difference(bounds: Any) -> str:
    if not bounds:
        return "<td></td>"
    value, low, high = bounds
    kind = "good" if low > 0 else "bad" if high < 0 else ""
    return f'<td><em class="{kind}">{value:+.4f}</em> ({low:+.4f} … {high:+.4f})</td>'


def confusion_table(result: dict[str, Any]) -> str:
    """How many rows of each label (down) were given each label (across)."""
    labels, counts = result.get("labels") or [], result.get("confusion") or []
    if not counts:
        return ""
    head = "".join(f"<th>{esc(str(label))}</th>" for label in labels)
    rows = []
    for i, (label, row) in enumerate(zip(labels, counts, strict=False)):
        total = max(sum(row), 1)
        cells = "".join(
            f'<td class="{"right" if i == j else "wrong"}" style="--share:{count / total:.3f}">'
            f"{f'{count:,}' if count else ''}</td>"
            for j, count in enumerate(row)
        )
        rows.append(f"<tr><th>{esc(str(label))}</th>{cells}</tr>")
    table = f'<table class="confusion"><thead><tr><th></th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    return f'<div class="wide">{table}</div><p class="small">{t("confusion_says")}</p>'


def calibration_plot(result: dict[str, Any]) -> str:
    """Confidence beside accuracy, and what would be right."""
    found = result.get("calibration") or {}
    points = list(
        zip(found.get("confidence", []), found.get("accuracy", []), found.get("counts", []), strict=False)
    )
    if not points:
        return ""
    most, inner = max(count for _, _, count in points), _SIZE - 2 * _EDGE

    def place(x: float, y: float) -> tuple[float, float]:
        return _EDGE + x * inner, _SIZE - _EDGE - y * inner

    (x0, y0), (x1, y1) = place(0, 0), place(1, 1)
    marks = "".join(
        f'<circle cx="{place(x, y)[0]:.1f}" cy="{place(x, y)[1]:.1f}" r="{3 + 5 * (count / most) ** 0.5:.1f}">'
        f"<title>{x:.0%} → {y:.0%} ({count:,})</title></circle>"
        for x, y, count in points
    )
    ticks = "".join(
        f'<text x="{place(x, 0)[0]:.0f}" y="{_SIZE - 8}" text-anchor="middle">{x:.0%}</text>'
        f'<text x="{_EDGE - 4}" y="{place(0, x)[1] + 4:.0f}" text-anchor="end">{x:.0%}</text>'
        for x in (0.0, 0.5, 1.0)
    )
    line = f'<line class="grid" x1="{x0}" y1="{y0}" x2="{x1}" y2="{y1}"/>'
    plot = f'<svg class="calibration" viewBox="0 0 {_SIZE} {_SIZE}" role="img">{line}{marks}{ticks}</svg>'
    error = number(found.get("error"))
    says = t("calibration_says", error=f"{error or 0:.1%}")
    return f'<div class="chart square">{plot}</div><p class="small">{says}</p>'


def error_table(result: dict[str, Any]) -> str:
    """The rows that are most wrong, the surest first."""
    errors = result.get("errors") or []
    rows = []
    for error in errors:
        texts = error.get("texts") or []
        text = " ".join(texts) if len(texts) > 2 else "<br>".join(esc(str(one)) for one in texts)
        text = esc(text) if len(texts) > 2 else text
        right, said = (_answer(error.get(key)) for key in ("right", "said"))
        sure = number(error.get("probability"))
        where = f'<span class="small">{esc(str(error.get("where", "")))}</span>'
        cells = f"<td>{text}<br>{where}</td><td>{right}</td><td>{said}</td><td>{_figure(sure)}</td>"
        rows.append(f"<tr>{cells}</tr>")
    if not rows:
        return ""
    head = "".join(f"<th>{t(key)}</th>" for key in ("text", "right", "said", "sure"))
    body = f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return f'<div class="wide"><table class="text">{body}</table></div>'


def _answer(value: Any) -> str:
    if isinstance(value, list):
        return esc(" ".join(map(str, value)))
    return _figure(value) if isinstance(value, float) else esc(str(value))


def _word(key: str) -> str:
    known = ("name", "interval", "difference")
    return t(key) if key in known else esc(key.replace("_", " "))


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
