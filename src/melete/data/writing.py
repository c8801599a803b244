"""Files that are there whole, or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from melete.errors import StorageError


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
