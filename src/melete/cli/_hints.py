"""The next command to type, where several verbs lead to the same one."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

import click
from click.core import ParameterSource

from melete.data.streams import MAX_LINE_BYTES


def again(*more: str) -> str:
    """The running command with what it was given, and more; flags are left out."""
    context = click.get_current_context()
    words: list[str] = []
    for parameter in context.command.params:
        name = parameter.name or ""
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            value = context.params[name]
            if isinstance(parameter, click.Argument):
                words.append(str(value))
            elif not isinstance(value, bool):
                words += [parameter.opts[0], str(value)]
    return f"{context.command_path} {shlex.join([*words, *more])}"


def tokenizer_inspect(
    folder: str, data: Iterable[str], text_column: str | None = None, max_line_bytes: int = MAX_LINE_BYTES
) -> str:
    """The `melete tokenizer inspect` that tries a tokenizer on this data."""
    words = ["melete", "tokenizer", "inspect", folder, *_repeated("--data", data)]
    return shlex.join([*words, *_reading(text_column, max_line_bytes)])


def pretrain(
    data: Iterable[str],
    *,
    valid: Iterable[str] = (),
    tokenizer: str | None = None,
    text_column: str | None = None,
    max_line_bytes: int = MAX_LINE_BYTES,
    valid_fraction: float = 0.05,
    seed: int = 0,
) -> str:
    """The `melete pretrain` that reads this data in the same way; what is the default is left out."""
    words = ["melete", "pretrain", "qwen3", *_repeated("--data", data), *_repeated("--valid", valid)]
    if tokenizer is not None:
        words += ["--tokenizer", tokenizer]
    words += _reading(text_column, max_line_bytes)
    if valid_fraction != 0.05:
        words += ["--set", f"data.valid_fraction={valid_fraction}"]
    if seed:
        words += ["--seed", str(seed)]
    return shlex.join([*words, "--minutes", "10"])


def _reading(text_column: str | None, max_line_bytes: int) -> list[str]:
    """How text is read, where that is not the default."""
    words = ["--text-column", text_column] if text_column else []
    return words + (["--max-line-bytes", str(max_line_bytes)] if max_line_bytes != MAX_LINE_BYTES else [])


def _repeated(option: str, values: Iterable[str]) -> list[str]:
    """The option before each value; standard input, which is used up by now, becomes a FILE to fill in."""
    return [word for value in values for word in (option, "FILE" if value == "-" else value)]
