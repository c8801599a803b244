"""What all pages are: one HTML file without network, in English and Chinese, light and dark.

`page.html` is the frame; a kind of page adds `<kind>.css` and `<kind>.js`. What a run or a text says is text, never
markup: it is escaped by whoever writes the body, or goes through JSON whose `<` are escaped here.
"""

from __future__ import annotations

import json
from html import escape as esc
from importlib import resources
from pathlib import Path
from typing import Any

from melete.config import LANGUAGES
from melete.data.writing import whole_file
from melete.errors import InputError
from melete.evaluation.words import WORDS


def render(kind: str, lang: str, title: str, body: str, data: Any) -> str:
    """A page as HTML text.

    Args:
        kind: "report" or "inspection".
        lang: language the page opens in: auto (the browser's), en or zh.
        title: plain text.
        body: HTML.
        data: for the page's script; JSON can hold it.

    Raises:
        InputError: an unknown language.
    """
    if lang not in LANGUAGES:
        raise InputError(
            f"unknown language {lang!r}", where="--lang", expected=f"one of {', '.join(LANGUAGES)}"
        )
    files = resources.files("melete.evaluation")
    encoded = json.dumps(data, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    values = {
        "LANG": lang,
        "TITLE": esc(f"{title} · Melete"),
        "STYLE": files.joinpath(f"{kind}.css").read_text("utf-8"),
        "BODY": body,
        "DATA": encoded.replace("<", "\\u003c").replace("&", "\\u0026"),
        "SCRIPT": files.joinpath(f"{kind}.js").read_text("utf-8"),
    }
    # One pass from left to right, so that what is put in cannot be taken for a place to fill.
    parts = files.joinpath("page.html").read_text("utf-8").split("%%")
    return "".join(values[part] if i % 2 else part for i, part in enumerate(parts))


def write_page(target: Path, page: str) -> None:
    """Write a page, replacing an older one as a whole.

    Raises:
        StorageError: the folder cannot be written.
    """
    with whole_file(target) as file:
        file.write(page)


def t(key: str, **values: tuple[str, str] | str) -> str:
    """Words of the page in both languages. Values are put in escaped; a pair is (English, Chinese)."""
    english, chinese = WORDS[key]
    both = {name: value if isinstance(value, tuple) else (value, value) for name, value in values.items()}
    for name, (one, other) in both.items():
        english, chinese = (
            english.replace(f"{{{name}}}", esc(one)),
            chinese.replace(f"{{{name}}}", esc(other)),
        )
    return f'<span lang="en">{english}</span><span lang="zh">{chinese}</span>'


def names(key: str) -> tuple[str, str]:
    """What a figure or a baseline is called in both languages; as it is where there are no words for it."""
    plain = key.replace("_", " ")
    return WORDS.get(key, (plain, plain))


def t_pair(english: str, chinese: str) -> str:
    """A text of which each language has its own."""
    return f'<span lang="en">{esc(english)}</span><span lang="zh">{esc(chinese)}</span>'


def section(key: str, body: str) -> str:
    """A heading and what is below it; nothing where there is nothing to say."""
    return f'<section id="{key}"><h2>{t(key)}</h2>\n{body}</section>' if body else ""
