"""The two errors a person may cause, and the one line each becomes.

Anything else that escapes is a bug of ours and keeps its traceback.
"""

from __future__ import annotations


class MeleteError(Exception):
    """What went wrong, where, what was expected and what to do, as one line.

    Args:
        what: the fault, in a few words ("not valid UTF-8 at byte 17").
        where: `file`, `file:line` or a config key path.
        expected: what would have been right.
        do: the next thing to type or change.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", expected: str = "", do: str = "") -> None:
        parts = [f"{where}: {what}" if where else what]
        if expected:
            parts.append(f"expected {expected}")
        if do:
            parts.append(do)
        super().__init__("; ".join(" ".join(part.split()) for part in parts))


class InputError(MeleteError):
    """A person's input is wrong: exit code 2."""

    exit_code = 2


class StorageError(MeleteError):
    """The machine refused to read or write: exit code 1."""

    exit_code = 1
