"""Files that are there whole, or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from melete.errors import StorageError


def nearest(folder: Path) -> Path:
    """The folder, or the first one above it that is there."""
    return next(path for path in (folder, *folder.parents) if path.exists())


def check_writable(folder: Path) -> None:
    """Refuse a folder that cannot be made or written to, before long work is done for it.

    Raises:
        StorageError: what the machine says.
    """
    try:
        with tempfile.TemporaryFile(dir=nearest(folder)):
            pass
    except OSError as error:
        raise refused(error, folder) from None


def refused(error: Exception, target: Path, unfinished: Path | None = None) -> StorageError:
    """The refusal to write a folder as one line, in which it has its own name.

    Args:
        unfinished: what the folder was called while it was made.
    """
    said = str(getattr(error, "strerror", None) or error)
    if unfinished is not None:
        said = said.replace(str(unfinished), str(target))
    if isinstance(error, StorageError):  # names the file
        return StorageError(said)
    return StorageError(f"cannot be written: {said}", where=str(target), do="free or unlock its folder")


@contextmanager
def whole_file(target: Path) -> Iterator[TextIO]:
    """A UTF-8 text file to write to, which takes its name when the block ends well, and is gone when it does not.

    Raises:
        StorageError: the folder is not there, is locked or is full.
    """
    try:
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}-")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                yield file
            os.chmod(temporary, 0o644)
            os.replace(temporary, target)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        do = "make its folder first" if isinstance(error, FileNotFoundError) else "free or unlock the folder"
        raise StorageError(error.strerror or str(error), where=str(target), do=do) from None
