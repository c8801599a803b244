"""What a run's page shows of a model for a task: figures beside a baseline, confusions, calibration, worst errors."""

from __future__ import annotations

from html import escape as esc
from pathlib import PurePath
from typing import Any

from melete.evaluation.page import names, t, t_pair
from melete.evaluation.runs import number

_SIZE, _EDGE = 270, 40  # of the calibration plot, in pixels
_LONG_LABEL = 6  # characters: longer ones stand upright above a table of many columns
_MANY_LABELS = 4


def figure_table(result: dict[str, Any]) -> str:
    """A row a model: its figures, the interval of the first, and by how much the fine-tuned model is better."""
    table, metric = result["table"], str(result["metric"])
    hidden = {"name", "low", "high", "difference", "p_value", metric}
    others = [key for key in table[0] if key not in hidden]
    several = len(table) > 1
    columns = [metric, "interval", *others, *(["difference"] if several else [])]
    head = "".join(f"<th>{t_pair(*names(column))}</th>" for column in ["name", *columns])
    rows = []
    for i, row in enumerate(table):
        value, low, high = (number(row.get(key)) for key in (metric, "low", "high"))
        share = f"width:{min(max(value or 0.0, 0.0), 1.0):.1%}"
        cells = [f'<td><b>{_figure(value)}</b><i class="bar" style="{share}"></i></td>']
        cells += [f"<td>{_figure(low)} … {_figure(high)}</td>"]
        cells += [f"<td>{_figure(number(row.get(key)))}</td>" for key in others]
        if several:
            cells.append(_difference(row.get("difference")))
        name = str(row.get("name", ""))
        heading = f"<th>{t_pair(*names(name)) if i else esc(name)}</th>"  # a model may be called as it likes
        kind = ' class="baseline"' if i else ""
        rows.append(f"<tr{kind}>{heading}{''.join(cells)}</tr>")
    says = t("figures_say", rows=f"{result.get('rows', 0):,}")
    body = f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return f'<div class="wide"><table class="figures">{body}</table></div><p class="small">{says}</p>'


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
        metric=names(metric),
        baseline=names(str(best.get("name", ""))),
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
    labels, counts = [str(label) for label in result.get("labels") or []], result.get("confusion") or []
    if not counts:
        return ""
    upright = len(labels) > _MANY_LABELS and max(map(len, labels)) > _LONG_LABEL
    head = "".join(f"<th><span>{esc(label)}</span></th>" for label in labels)
    rows = []
    for i, (label, row) in enumerate(zip(labels, counts, strict=True)):
        total = max(sum(row), 1)
        cells = "".join(
            f'<td class="{"right" if i == j else "wrong"}" style="--share:{count / total:.3f}">'
            f"{f'{count:,}' if count else ''}</td>"
            for j, count in enumerate(row)
        )
        rows.append(f"<tr><th>{esc(label)}</th>{cells}</tr>")
    head = f"<thead><tr><th>{t('confusion_axes')}</th>{head}</tr></thead>"
    kind = "confusion upright" if upright else "confusion"
    table = f'<table class="{kind}">{head}<tbody>{"".join(rows)}</tbody></table>'
    return f'<div class="wide">{table}</div><p class="small">{t("confusion_says")}</p>'


def calibration_plot(result: dict[str, Any]) -> str:
    """Confidence beside accuracy, and what would be right."""
    found = result.get("calibration") or {}
    columns = (found.get(key) or [] for key in ("confidence", "accuracy", "counts"))
    points = list(zip(*columns, strict=True))
    if not points:
        return ""
    most, inner = max(count for _, _, count in points), _SIZE - 2 * _EDGE

    def x_of(share: float) -> float:
        return round(_EDGE + share * inner, 1)

    def y_of(share: float) -> float:
        return round(_SIZE - _EDGE - share * inner, 1)

    marks = "".join(
        f'<circle cx="{x_of(sure)}" cy="{y_of(right)}" r="{3 + 6 * (count / most) ** 0.5:.1f}">'
        f"<title>{sure:.0%} → {right:.0%} ({count:,})</title></circle>"
        for sure, right, count in points
    )
    ticks = "".join(
        f'<text x="{x_of(share)}" y="{y_of(0) + 18}" text-anchor="middle">{share:.0%}</text>'
        f'<text x="{x_of(0) - 6}" y="{y_of(share) + 4}" text-anchor="end">{share:.0%}</text>'
        for share in (0.0, 0.5, 1.0)
    )
    frame = f'<rect x="{x_of(0)}" y="{y_of(1)}" width="{inner}" height="{inner}"/>'
    line = f'<line x1="{x_of(0)}" y1="{y_of(0)}" x2="{x_of(1)}" y2="{y_of(1)}"/>'
    plot = (
        f'<svg class="calibration" viewBox="0 0 {_SIZE} {_SIZE}" role="img">{frame}{line}{marks}{ticks}</svg>'
    )
    says = t("calibration_says", error=f"{number(found.get('error')) or 0:.1%}")
    return f'{plot}<p class="small">{says}</p>'


def error_table(result: dict[str, Any]) -> str:
    """The rows that are most wrong, the surest first."""
    errors = result.get("errors") or []
    columns = ["right", "said"]
    if any(number(error.get("probability")) is not None for error in errors):
        columns.append("probability")
    rows = []
    for error in errors:
        texts = "<br>".join(esc(str(text)) for text in error.get("texts") or [])
        where = str(error.get("where", ""))
        place = f'<span class="small" title="{esc(where)}">{esc(PurePath(where).name)}</span>'
        cells = "".join(
            f'<td><span class="label">{t(column)}</span>{_lines(error.get(column))}</td>'
            for column in columns
        )
        rows.append(f"<tr><td>{texts}<br>{place}</td>{cells}</tr>")
    if not rows:
        return ""
    head = "".join(f"<th>{t(column)}</th>" for column in ("text", *columns))
    body = f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return f'<table class="text errors">{body}</table><p class="small">{t("errors_say")}</p>'


def _lines(value: Any) -> str:
    """An answer; a line each where there are several, a dash where there is none."""
    if isinstance(value, list):
        return "<br>".join(esc(str(one)) for one in value) or "–"
    return _figure(value) if isinstance(value, float) else esc(str(value)) or "–"


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
