"""Checkpoints: whole or absent, checked by hash, and enough to go on bit for bit.

A checkpoint is a folder in the Hugging Face layout plus `train_state.safetensors`, `train_state.json` and
`manifest.json`. It is written beside its place under a temporary name, every file synced, the manifest last, and
then renamed; only after it has been read back and verified are older ones removed. There is no pickle in it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from melete.data.writing import refused
from melete.errors import InputError, StorageError

PREFIX = "step-"


@dataclass
class Counters:
    """The plain numbers of a run's state.

    Attributes:
        step: the next optimiser step; the data position follows from it.
        tokens: real tokens that were trained on.
        best_loss: lowest validation loss so far; where a figure decides that is better when it is higher, less it.
        best_tie: the loss then, which decides where two are equal.
        worse_evaluations: evaluations since then.
        elapsed: seconds of training over all sittings.
    """

    step: int = 0
    tokens: int = 0
    best_loss: float | None = None
    best_tie: float = 0.0
    best_step: int | None = None
    worse_evaluations: int = 0
    elapsed: float = 0.0


def name_of(step: int) -> str:
    """`step-00000500`."""
    return f"{PREFIX}{step:08d}"


def write_folder(target: Path, fill: Callable[[Path], None]) -> None:
    """Make a folder that is either whole or absent.

    Args:
        target: where it will stand; replaced if it is there.
        fill: writes the files into the temporary folder it is given.

    Raises:
        StorageError: no space, or no right to write; nothing is left behind.
    """
    temporary = target.with_name(f".{target.name}.tmp-{os.getpid()}")
    try:
        for leftover in target.parent.glob(f".{target.name}.tmp-*"):  # of a save that was killed
            shutil.rmtree(leftover)
        temporary.mkdir(parents=True)
        fill(temporary)
        files = sorted(path for path in temporary.rglob("*") if path.is_file())
        hashes = {str(path.relative_to(temporary)): _sync_and_hash(path) for path in files}
        manifest = temporary / "manifest.json"
        manifest.write_text(json.dumps({"format": 1, "sha256": hashes}, indent=1))
        _sync_and_hash(manifest)
        for folder in [temporary, *(path for path in temporary.rglob("*") if path.is_dir())]:
            _sync_folder(folder)
        if target.exists():
            shutil.rmtree(target)
        os.rename(temporary, target)
        _sync_folder(target.parent)
    except (OSError, SafetensorError, StorageError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise refused(error, target, temporary) from None
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def verify(folder: Path) -> str | None:
    """None if every file of a checkpoint is what its manifest says, else what is wrong."""
    try:
        hashes = json.loads((folder / "manifest.json").read_text())["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return "manifest.json is missing or broken"
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} - {
        "manifest.json"
    }
    if there != set(hashes):
        return f"{', '.join(sorted(there ^ set(hashes)))} missing or too many"
    for name, expected in hashes.items():
        try:
            if _hash(folder / name) != expected:
                return f"{name} is not what was written"
        except OSError as error:
            return f"{name} cannot be read: {error.strerror}"
    return None


def newest(checkpoints: Path, tell: Callable[[str], None]) -> Path | None:
    """The newest checkpoint that verifies; says so of each that does not."""
    for folder in reversed(_all(checkpoints)):
        fault = verify(folder)
        if fault is None:
            return folder
        tell(f"{folder.name} is damaged ({fault}); looking at the one before")
    return None


def steps_in(checkpoints: Path) -> list[int]:
    """The steps of which there are checkpoints, in order."""
    return [int(folder.name.removeprefix(PREFIX)) for folder in _all(checkpoints)]


def rotate(checkpoints: Path, keep: Collection[int]) -> None:
    """Remove the checkpoints of all other steps, and what a kill left half-written."""
    for step in steps_in(checkpoints):
        if step not in keep:
            shutil.rmtree(checkpoints / name_of(step), ignore_errors=True)
    for leftover in checkpoints.glob(f".{PREFIX}*.tmp-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def point(pointer: Path, checkpoint: str) -> None:
    """Write a one-line pointer file (`best.json`, `latest.json`).

    Raises:
        StorageError: no space, or no right to write; the pointer stays as it was.
    """
    temporary = pointer.with_suffix(".tmp")
    try:
        temporary.write_text(json.dumps({"checkpoint": checkpoint}) + "\n")
        _sync_and_hash(temporary)
        os.replace(temporary, pointer)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise refused(error, pointer) from None


def save_state(folder: Path, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
    """Write what the Hugging Face layout has no place for."""
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
        folder / "train_state.safetensors",
    )
    (folder / "train_state.json").write_text(json.dumps(values, indent=1))


def load_state(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `save_state` wrote.

    Raises:
        InputError: the folder holds a model, but no training state.
    """
    if not (folder / "train_state.json").exists():
        raise InputError(
            "no training state",
            where=str(folder),
            do=f"train the model on in a new run: melete pretrain {folder} --data FILE",
        )
    return load_file(folder / "train_state.safetensors"), json.loads(
        (folder / "train_state.json").read_text()
    )


def average(folders: Iterable[Path], load: Callable[[Path], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of the weights of several checkpoints, in float64."""
    total: dict[str, Tensor] = {}
    count = 0
    for folder in folders:
        count += 1
        for name, tensor in load(folder).items():
            total[name] = total[name] + tensor.double() if name in total else tensor.double()
    return {name: (tensor / count).float() for name, tensor in total.items()}


def _all(checkpoints: Path) -> list[Path]:
    """In order of their steps; a copy that a person made (`step-00000500 old`) is none of ours."""
    return sorted(
        path
        for path in checkpoints.glob(f"{PREFIX}*")
        if path.is_dir() and path.name.removeprefix(PREFIX).isdecimal()
    )


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_and_hash(path: Path) -> str:
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return _hash(path)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
