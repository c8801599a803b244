"""The commands of the command line: what one comes to, and whether a line that shows one could be typed."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import click

from melete import cli


def melete(*arguments: object) -> int:
    """The exit code of a command."""
    try:
        cli.main([str(argument) for argument in arguments])
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def commands(path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """A verb and the commands below it, each with the words that call it."""
    command = find(path)
    yield path, command
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            yield from commands((*path, name))


def find(path: tuple[str, ...]) -> click.Command:
    command: click.Command = cli.melete
    for name in path:
        assert isinstance(command, click.Group), path
        found = command.get_command(click.Context(command), name)
        assert found is not None, f"there is no `melete {' '.join(path)}`"
        command = found
    return command


def check_call(line: str, where: str, whole: bool = True) -> None:
    """A line `melete ...` must be one that the command line takes; a verb alone is a mention, not a call.

    Args:
        whole: nothing that the command requires is missing.
    """
    name, *words = shlex.split(line)
    assert name == "melete", where
    if not words or words[0].startswith("-"):
        assert words in ([], ["--help"], ["--version"]), where
        return
    path: tuple[str, ...] = (words.pop(0),)
    if isinstance(find(path), click.Group) and words and not words[0].startswith("-"):
        path = (*path, words.pop(0))
    command = find(path)
    if words in ([], ["--help"]):
        return
    try:
        command.make_context(" ".join(path), words)
    except click.UsageError as error:
        if isinstance(error, click.MissingParameter) and not whole:
            return
        raise AssertionError(f"{where}: `{line}`: {error.format_message()}") from None
