"""Write docs/{en,zh}/cli.md from the commands themselves (`make docs`).

The Chinese page takes its texts from `cli_zh.toml`; a text that is not there yet stands in English.
"""

from __future__ import annotations

import inspect
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click

from melete.cli import VERBS, melete

ROOT = Path(__file__).parents[1]
INTRO = """# Command line

Made from the commands by `make docs`; each says the same under `--help`.

What is for you goes to standard error; what is for the next program (a text, figures) goes to standard output. With
`--json` that is one JSON object. A mistake in what you typed or in a file ends with one line and exit code 2, a machine
that cannot read or write with exit code 1, Ctrl-C with 130. Where a model is asked for, a run folder, a checkpoint, a
Hugging Face folder or a Hub id will do.
"""
WORDS = {"en": ("option", "what it does", "default"), "zh": ("选项", "作用", "默认")}


class Texts(dict[str, str]):
    """Translations by their English original; what has none is its own, and is remembered."""

    def __init__(self, language: str) -> None:
        path = ROOT / "tools" / f"cli_{language}.toml"
        super().__init__(tomllib.loads(path.read_text("utf-8")) if path.exists() else {})
        self.missing: list[str] = []

    def __missing__(self, english: str) -> str:
        self.missing.append(english)
        return english


def main() -> None:
    """Write both pages, and say which texts wait for their Chinese."""
    for language in WORDS:
        texts = Texts(language)
        target = ROOT / "docs" / language / "cli.md"
        target.write_text(render(language, texts), encoding="utf-8")
        print(target.relative_to(ROOT))
        if language != "en":
            for english in texts.missing:
                print(f"  not in tools/cli_{language}.toml yet: {english}")


def render(language: str, texts: Texts | None = None) -> str:
    """The page in one language."""
    texts = Texts(language) if texts is None else texts
    sections = [_section(path, command, texts, language) for path, command in _commands(melete, ())]
    summary = "\n".join(f"- [`melete {verb}`](#melete-{verb}): {texts[says]}" for verb, says in VERBS.items())
    return "\n".join([texts.get("intro", INTRO), summary, "", *sections])


def _commands(group: click.Group, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from _commands(command, (*path, name))


def _section(path: tuple[str, ...], command: click.Command, texts: Texts, language: str) -> str:
    paragraphs, examples = _help(command)
    first, second, default = WORDS[language]
    words = " ".join(path)
    usage = " ".join(command.collect_usage_pieces(click.Context(command)))
    lines = [f"## melete {words}", "", f"`melete {words} {usage}`", ""]
    for paragraph in paragraphs:
        rows = _rows(paragraph)
        lines += (
            _table(first, second, [(name, texts[says]) for name, says in rows])
            if rows
            else [texts[paragraph]]
        )
        lines.append("")
    if examples:
        lines += ["```bash", *examples, "```", ""]
    options = [option for option in command.params if isinstance(option, click.Option)]
    if options:
        lines += [*_table(first, second, [_option(option, texts, default) for option in options]), ""]
    return "\n".join(lines)


def _rows(paragraph: str) -> list[tuple[str, str]]:
    """Names and what they mean, where every line of a paragraph is a name, two spaces or more, and its meaning."""
    found = [re.fullmatch(r" *(\S+)  +(\S.*)", line) for line in paragraph.splitlines()]
    return [(line[1], line[2]) for line in found if line] if all(found) else []


def _table(first: str, second: str, rows: list[tuple[str, str]]) -> list[str]:
    lines = [f"| `{_cell(name)}` | {_cell(says)} |" for name, says in rows]
    return [f"| {first} | {second} |", "|---|---|", *lines]


def _help(command: click.Command) -> tuple[list[str], list[str]]:
    """Paragraphs of a command's help, and the lines of its examples; what is no list of names stands on one line."""
    text = inspect.cleandoc(command.help or "")
    before, _, after = text.partition("\b\nExample")
    parts = [part.removeprefix("\b\n") for part in re.split(r"\n\s*\n", before) if part.strip()]
    paragraphs = [part if _rows(part) else " ".join(part.split()) for part in parts]
    examples = [line.strip() for line in after.splitlines()[1:] if line.strip()]
    return paragraphs, examples


def _option(option: click.Option, texts: Texts, default_word: str) -> tuple[str, str]:
    names = ", ".join(option.opts)
    if isinstance(option.type, click.Choice):
        names += " " + "|".join(map(str, option.type.choices))
    elif not option.is_flag:
        names += " " + (option.metavar or option.type.name.upper())
    says = " ".join((option.help or "").split())
    says = texts[says] if says else ""
    if option.show_default and option.default is not None:
        says += f" [{default_word}: {option.default}]"
    return names, says


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    main()
