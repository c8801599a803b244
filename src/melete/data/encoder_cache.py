"""Encoder text on disk: tokenised once, memory-mapped ever after, so that a resume starts at once.

A folder in the cache holds the arrays of `EncoderText` as they lie in memory (`ids`, `begins`, `sentences`,
`documents`) and `meta.json`. It is written under another name and renamed: it is whole or not there.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import msgspec
import numpy as np

from melete.data.datasets import cache_folder
from melete.data.encoder_text import EncoderText, tokenised_parts
from melete.data.splits import Documents
from melete.data.tokenizers import Tokenizer
from melete.data.words import Cut, han_cutter
from melete.errors import InputError, StorageError

_LAYOUT = 1  # raised when the same text and tokenizer begin to give other arrays
_DTYPES = {"ids": np.uint32, "begins": np.bool_, "sentences": np.int64, "documents": np.int64}


class Meta(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a folder holds.

    Attributes:
        text_sha256: of the documents, each followed by 0xFF.
        words: what cut the Han characters; empty where there are none.
        sizes: length of each array.
    """

    text_sha256: str
    words: str
    sizes: dict[str, int]


@dataclass
class HanWords:
    """How all texts of a run cut Han characters into words: by a dictionary, or by what the training text shows.

    Attributes:
        train: the training text; read only when the first such character is met and there is no dictionary.
    """

    train: Documents
    used: bool = False
    _cut: Cut | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """What is used, as part of a cache key."""
        return "rjieba" if find_spec("rjieba") else f"learned from {self.train.source_hash}"

    def __call__(self, run: str) -> list[str]:
        """The words of a run of Han characters."""
        if self._cut is None:
            _, self._cut = han_cutter(document.text for document in self.train)
        self.used = True
        return self._cut(run)


def encoder_text(documents: Documents, tokenizer: Tokenizer, words: HanWords) -> tuple[EncoderText, Meta]:
    """The documents as an encoder reads them, from the cache, or written to it.

    Raises:
        InputError: nothing to read.
        StorageError: no room for it.
    """
    key = f"{_LAYOUT} {documents.source_hash} {tokenizer.fingerprint} {words.name}"
    folder = cache_folder() / "encoder-texts" / hashlib.sha256(key.encode()).hexdigest()[:16]
    try:
        return _open(folder) or _write(folder, documents, tokenizer, words)
    except OSError as error:
        raise StorageError(
            f"the tokens cannot be kept: {error.strerror or error}", where=str(folder), do="free some space"
        ) from None


def _open(folder: Path) -> tuple[EncoderText, Meta] | None:
    """What stands in a folder; None where it is not there or not whole."""
    try:
        meta = msgspec.json.decode((folder / "meta.json").read_bytes(), type=Meta)
        arrays = {
            name: np.memmap(folder / name, dtype, "r", shape=(meta.sizes[name],))
            for name, dtype in _DTYPES.items()
        }
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError):
        return None
    return EncoderText(**arrays), meta


def _write(
    folder: Path, documents: Documents, tokenizer: Tokenizer, words: HanWords
) -> tuple[EncoderText, Meta]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    words.used = False
    sha = hashlib.sha256()
    sizes = dict.fromkeys(_DTYPES, 0)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        with ExitStack() as stack:
            files = {name: stack.enter_context((temporary / name).open("wb")) for name in _DTYPES}

            def write(name: str, array: np.ndarray) -> None:
                files[name].write(np.ascontiguousarray(array, dtype=_DTYPES[name]).tobytes())
                sizes[name] += len(array)

            for part in tokenised_parts(_hashed(documents, sha), tokenizer, words):
                for name, array in zip(_DTYPES, part, strict=True):
                    write(name, array)
            write("documents", np.array([sizes["ids"]]))
        meta = Meta(sha.hexdigest(), words.name.split()[0] if words.used else "", sizes)
        (temporary / "meta.json").write_bytes(msgspec.json.encode(meta))
        shutil.rmtree(folder, ignore_errors=True)  # one that is not whole
        try:
            os.rename(temporary, folder)
        except OSError:
            if _open(folder) is None:  # else another process was faster, with the same
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    found = _open(folder)
    if found is None:
        raise InputError("the tokens just written do not read back", where=str(folder))
    return found


def _hashed(documents: Iterable, sha: hashlib._Hash) -> Iterator[str]:
    for document in documents:
        sha.update(document.text.encode())
        sha.update(b"\xff")
        yield document.text
