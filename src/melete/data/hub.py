"""Folders of the Hugging Face Hub, on this disk.

A thin layer over `huggingface_hub`, whose settings all hold: `HF_ENDPOINT` (a mirror), `HF_HUB_OFFLINE`, `HF_HOME`,
`HF_TOKEN`. What was downloaded before is found again without a network.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from melete.errors import InputError, MeleteError, StorageError

_PATTERNS = {
    "model": ("*.safetensors", "*.json", "*.txt", "README.md", "LICENSE*"),
    "dataset": (
        "*.txt",
        "*.jsonl",
        "*.json",
        "*.csv",
        "*.tsv",
        "*.parquet",
        "*.gz",
        "*.xz",
        "README.md",
        "LICENSE*",
    ),
}
# Formats that run code when they are opened; they are not fetched even when a pattern asks for them.
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle", "*.npy", "*.joblib", "*.msgpack")


def download(
    repo_id: str,
    *,
    kind: Literal["model", "dataset"] = "model",
    patterns: Sequence[str] | None = None,
    revision: str | None = None,
) -> Path:
    """The local folder of a Hub repository, downloaded where it is not there yet.

    Args:
        repo_id: `owner/name`.
        kind: what the repository holds.
        patterns: the files wanted, as globs over their paths. None: weights (safetensors only), configuration and
            vocabulary of a model; the text and tables of a data set. Pickled weights are never fetched.
        revision: branch, tag or commit; None is the main branch.

    Raises:
        InputError: no such repository or revision, no access to it, or no file of it that Melete opens.
        StorageError: the Hub cannot be reached, or the disk refuses to write.
    """
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(
            repo_id,
            repo_type=kind,
            revision=revision,
            allow_patterns=list(patterns or _PATTERNS[kind]),
            ignore_patterns=list(_PICKLES),
            endpoint=os.environ.get("HF_ENDPOINT") or None,
            local_files_only=_offline(),
        )
    except Exception as error:
        # The library's errors have no base of their own, nor do those of its HTTP client.
        raise _in_one_line(error, repo_id, kind, revision) from error
    wanted = patterns or (("*.safetensors",) if kind == "model" else _PATTERNS[kind])
    if not any(path.is_file() for pattern in wanted for path in Path(folder).rglob(pattern)):
        raise InputError(
            "the Hub has none of the files wanted here",
            where=repo_id,
            expected=" or ".join(wanted),
            do="pickled weights are not opened; look for a safetensors version" if kind == "model" else "",
        )
    return Path(folder)


def _offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def _in_one_line(error: Exception, repo_id: str, kind: str, revision: str | None) -> MeleteError:
    """What the library's errors mean to a person."""
    from huggingface_hub import errors

    mirror = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    if isinstance(error, errors.HFValidationError):
        return InputError("not a Hub name", where=repo_id, expected="owner/name")
    if isinstance(error, errors.GatedRepoError):
        return InputError(
            "access has to be granted first",
            where=repo_id,
            do=f"ask for it at {mirror}/{repo_id}, then set HF_TOKEN",
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        do = "check the name; for a private one set HF_TOKEN"
        return InputError(f"the Hub has no such {kind}", where=repo_id, do=do)
    if isinstance(error, errors.RevisionNotFoundError):
        return InputError(f"no revision {revision!r}", where=repo_id, expected="a branch, a tag or a commit")
    if isinstance(error, errors.LocalEntryNotFoundError) and _offline():
        do = "unset HF_HUB_OFFLINE, or name a folder"
        return StorageError("not downloaded before, and HF_HUB_OFFLINE is set", where=repo_id, do=do)
    if isinstance(error, OSError) and error.errno is not None:  # the disk: full, read-only, ...
        return StorageError(f"cannot be stored ({error.strerror})", where=str(error.filename or repo_id))
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    do = "check the network, set HF_ENDPOINT to a mirror, or name a folder"
    return StorageError(f"cannot be fetched from {mirror} ({first})", where=repo_id, do=do)
