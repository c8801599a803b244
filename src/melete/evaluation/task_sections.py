"""What a run's page shows of a model for a task: figures beside a baseline, confusions, worst errors, alignments."""

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
    several, scale = len(table) > 1, number(result.get("scale")) or 1.0
    columns = [metric, "interval", *others, *(["difference"] if several else [])]
    head = "".join(f"<th>{t_pair(*names(column))}</th>" for column in ["name", *columns])
    rows = []
    for i, row in enumerate(table):
        value, low, high = (number(row.get(key)) for key in (metric, "low", "high"))
        share = f"width:{min(max((value or 0.0) / scale, 0.0), 1.0):.1%}"
        cells = [f'<td><b>{_figure(value, scale)}</b><i class="bar" style="{share}"></i></td>']
        cells += [f"<td>{_figure(low, scale)} … {_figure(high, scale)}</td>"]
        cells += [f"<td>{_figure(number(row.get(key)), scale)}</td>" for key in others]
        if several:
            cells.append(_difference(row.get("difference"), scale))
        name = str(row.get("name", ""))
        heading = f"<th>{t_pair(*names(name)) if i else esc(name)}</th>"  # a model may be called as it likes
        kind = ' class="baseline"' if i else ""
        rows.append(f"<tr{kind}>{heading}{''.join(cells)}</tr>")
    says = t("figures_say", rows=f"{result.get('rows', 0):,}")
    body = f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    how = [f"{esc(str(name))}: {esc(str(text))}" for name, text in (result.get("signatures") or {}).items()]
    notes = "".join(f'<p class="small">{one}</p>' for one in (says, *how))
    return f'<div class="wide"><table class="figures">{body}</table></div>{notes}'


def headline(result: dict[str, Any]) -> str:
    """The one figure to take home: the model beside the strongest baseline."""
    table, metric = result.get("table") or [], str(result.get("metric"))
    others = [row for row in table[1:] if number(row.get(metric)) is not None]
    if not others or number(table[0].get(metric)) is None:
        return ""
    best = max(others, key=lambda row: number(row[metric]) or 0.0)
    change = (number(table[0][metric]) or 0.0) - (number(best[metric]) or 0.0)
    change /= number(result.get("scale")) or 1.0
    words = t(
        "ahead" if change >= 0 else "behind",
        points=f"{100 * abs(change):.1f}",
        metric=names(metric),
        baseline=names(str(best.get("name", ""))),
    )
    return f'<p class="headline{" bad" if change < 0 else ""}">{words}</p>'


def _difference(bounds: Any, scale: float) -> str:
    if not bounds:
        return "<td></td>"
    value, low, high = bounds
    kind = "good" if low > 0 else "bad" if high < 0 else ""
    shown, least, most = (f"{bound:+.{4 if scale == 1 else 2}f}" for bound in (value, low, high))
    return f'<td><em class="{kind}">{shown}</em> ({least} … {most})</td>'


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
    table = _answer_table(result.get("errors") or [])
    return f'{table}<p class="small">{t("errors_say")}</p>' if table else ""


def typical_table(result: dict[str, Any]) -> str:
    """Rows that are neither good nor bad."""
    table = _answer_table(result.get("typical") or [])
    return f'{table}<p class="small">{t("typical_say")}</p>' if table else ""


def alignment_tables(result: dict[str, Any]) -> str:
    """Which tokens of a source (across) each token of an answer (down) was written from."""
    tables = []
    for picture in result.get("alignments") or []:
        head = "".join(f"<th><span>{esc(str(token))}</span></th>" for token in picture.get("source") or [])
        rows = []
        for token, shares in zip(picture.get("answer") or [], picture.get("weights") or [], strict=False):
            cells = "".join(f'<td style="--share:{number(share) or 0.0:.2f}"></td>' for share in shares)
            rows.append(f"<tr><th>{esc(str(token))}</th>{cells}</tr>")
        body = f"<thead><tr><th></th>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
        tables.append(f'<div class="wide"><table class="confusion upright alignment">{body}</table></div>')
    return f'{"".join(tables)}<p class="small">{t("alignments_say")}</p>' if tables else ""


def _answer_table(errors: list[dict[str, Any]]) -> str:
    """Rows with what would be right and what was said."""
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
    return f'<table class="text errors">{body}</table>'


def _lines(value: Any) -> str:
    """An answer; a line each where there are several, a dash where there is none."""
    if isinstance(value, list):
        return "<br>".join(esc(str(one)) for one in value) or "–"
    return _figure(value) if isinstance(value, float) else esc(str(value)) or "–"


def _figure(value: float | None, scale: float = 1.0) -> str:
    return "" if value is None else f"{value:.{4 if scale == 1 else 2}f}"
