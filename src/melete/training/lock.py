"""The lock of a run folder: two trainings never share one, and others can tell whether one is at work."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from melete.errors import InputError

_NAME = ".lock"  # holds the name of the machine whose processes know the lock


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run folder.

    Raises:
        InputError: another process does.
    """
    with (folder / _NAME).open("a") as handle:
        try:
            _lock(handle.fileno())
        except OSError:
            raise InputError("another process is training here", where=str(folder)) from None
        handle.truncate(0)
        handle.write(platform.node())
        handle.flush()
        yield


def at_work(folder: Path) -> bool | None:
    """Whether a process holds this run folder; None if that cannot be told, as for a run of another machine."""
    try:
        with (folder / _NAME).open() as handle:
            if handle.read() != platform.node():
                return None
            try:
                _lock(handle.fileno())
            except OSError:
                return True
            return False
    except OSError:
        return None


def _lock(handle: int) -> None:
    """Hold a file until it is closed.

    Raises:
        OSError: somebody else does.
    """
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
