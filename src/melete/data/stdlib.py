"""`python-stdlib`: the source text of the running Python's own standard library. On every machine, no download."""

from __future__ import annotations

import hashlib
import os
import platform
import sysconfig
from collections.abc import Iterator

from melete.data.readers import Document
from melete.data.splits import Documents, text_hash
from melete.errors import StorageError

MAX_BYTES = 16 << 20
"""More than a Python's library has today (3.11: 11.3 MB); it guards against a folder that is not what it seems."""

_LEFT_OUT = {
    "test", "tests", "idle_test",  # mostly data and repetition
    "site-packages", "dist-packages", "__pycache__",  # not the standard library
    "pydoc_data",  # generated
}  # fmt: skip


def python_stdlib(max_bytes: int = MAX_BYTES) -> tuple[Documents, str]:
    """One document a file, by sorted path, and a note with Python's version, the size and the SHA-256 of all text.

    Files that are not UTF-8 are left out. Above `max_bytes` whole files are left out too, chosen by the hash of their
    content: what remains is a fair sample and not the first letters of the alphabet.

    Raises:
        StorageError: this Python has no source files of its library.
    """
    root = sysconfig.get_path("stdlib")
    sizes = {path: content for path in _paths(root) if (content := _hash_and_size(os.path.join(root, path)))}
    if not sizes:
        raise StorageError("this Python keeps no source of its standard library", where=root)
    kept, total = [], 0
    for path in sorted(sizes, key=lambda path: (sizes[path][0], path)):
        if total + sizes[path][1] <= max_bytes:
            kept.append(path)
            total += sizes[path][1]
    kept.sort()
    digest = hashlib.sha256()
    for document in _read(root, kept):
        digest.update(document.text.encode())
    note = (
        f"python-stdlib: Python {platform.python_version()}, {len(kept)} of {len(sizes)} files, {total:,} bytes, "
        f"SHA-256 {digest.hexdigest()}"
    )
    files = tuple(os.path.join(root, path) for path in kept)
    return Documents(lambda: _read(root, kept), files, cut="python-stdlib"), note


def _paths(root: str) -> Iterator[str]:
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if name not in _LEFT_OUT]
        for name in names:
            # What distributions link or write in (sitecustomize, build settings) differs from machine to machine.
            if name.endswith(".py") and name != "sitecustomize.py" and not name.startswith("_sysconfigdata"):
                yield os.path.relpath(os.path.join(folder, name), root)


def _hash_and_size(path: str) -> tuple[int, int] | None:
    """None for a file that is empty or not UTF-8 text."""
    with open(path, "rb") as stream:
        content = stream.read()
    try:
        content.decode()
    except UnicodeDecodeError:
        return None
    return (text_hash(content, 0), len(content)) if content.strip() and b"\0" not in content else None


def _read(root: str, paths: list[str]) -> Iterator[Document]:
    for path in paths:
        with open(os.path.join(root, path), encoding="utf-8", newline="") as stream:
            yield Document(stream.read(), path, 1)
