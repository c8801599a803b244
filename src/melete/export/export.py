"""A model of ours, as a file or a folder that another program opens."""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from melete.console import say
from melete.data.writing import refused
from melete.errors import InputError, StorageError
from melete.export import FORMATS, PRECISIONS
from melete.models.checkpoint import load_network, locate, named_head


@dataclass(frozen=True)
class Export:
    """What was written.

    Attributes:
        path: the file (gguf) or the folder (hf, onnx).
        format, precision: as asked for.
        family, task: of the model.
        architecture: its Hugging Face class.
        parameters: how many weights.
        bytes: of all files.
        difference: of the answers, the largest, from those of the model in float32; None where it is not measured.
    """

    path: str
    format: str
    precision: str
    family: str
    task: str
    architecture: str
    parameters: int
    bytes: int
    difference: float | None


def export_model(source: str, format: str, out: Path, *, precision: str = "float32") -> Export:
    """Write a model for another program. The target is whole or absent.

    Args:
        source: a run, a checkpoint, a Hugging Face folder or a Hub id.
        format: a key of `FORMATS`.
        out: the file (gguf) or the folder (hf, onnx) to make.
        precision: number format of the weights, one of `PRECISIONS`.

    Raises:
        InputError: no such model, one the format cannot hold, or `out` is there already.
        StorageError: no space, or no right to write.
    """
    for name, value, known in (("format", format, FORMATS), ("precision", precision, PRECISIONS)):
        if value not in known:
            raise InputError(f"unknown {name} {value!r}", expected=" or ".join(known))
    if out.exists() or out.is_symlink():
        raise InputError("already there", where=str(out), do="choose another --out, or delete it")
    folder = locate(source)
    family, architecture, task = named_head(folder)
    if task is None:
        raise InputError(
            f"config.json names {architecture or 'no class'}, and Melete has no head for it",
            where=str(folder),
        )
    writer = importlib.import_module(FORMATS[format])
    for package in writer.PACKAGES:
        if importlib.util.find_spec(package) is None:
            raise InputError(
                f"--format {format} needs the package {package}",
                do="install it with `pip install 'melete[export]'`",
            )
    writer.check(folder, family, task, precision)
    with _beside(out) as temporary:
        say(f"reading {folder}")
        model = load_network(folder)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        _check_space(out, parameters * getattr(torch, precision).itemsize)
        say(f"writing {family} for {task}: {parameters:,} parameters, {precision}")
        try:
            with torch.no_grad():
                difference = writer.write(model, folder, temporary, precision)
        except (OSError, StorageError) as error:
            raise refused(error, out, temporary) from None
        size = sum(path.stat().st_size for path in (temporary, *temporary.rglob("*")) if path.is_file())
    return Export(str(out), format, precision, family, task, architecture, parameters, size, difference)


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """A place beside the target, which becomes the target when all went well, and else vanishes."""
    work = target.with_name(f".{target.name}.tmp-{os.getpid()}")
    try:
        work.mkdir(parents=True)
    except OSError as error:
        raise refused(error, target) from None
    try:
        yield work / target.name
        try:
            os.rename(work / target.name, target)
        except OSError as error:
            raise refused(error, target) from None
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _check_space(out: Path, needed: int) -> None:
    free = shutil.disk_usage(out.parent).free
    if free < needed:
        raise StorageError(
            f"not enough space: {needed / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free",
            where=str(out.parent),
            do="free some, or give --out on another disk",
        )
