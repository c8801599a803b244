"""Kernels in C for what torch does in many passes over memory: built by the machine's own compiler, where it has one.

`use` compiles `native.c` into a folder, in about a second and only once, and loads it. Without it torch computes
everything. The kernels work on bfloat16 tensors in main memory.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_SOURCE = Path(__file__).with_suffix(".c")
# Sums may be formed in any order, as vectors need; NaN and infinity stay what they are.
_FLAGS = (
    *("-O3", "-march=native", "-mprefer-vector-width=512", "-fPIC", "-fopenmp", "-std=gnu11"),
    *(
        "-fno-math-errno",
        "-fno-trapping-math",
        "-fno-signed-zeros",
        "-fassociative-math",
        "-freciprocal-math",
    ),
)
# What each kernel takes: p a tensor or None, n a whole number, i a small one, f a number, u a seed.
_KERNELS = {
    "turn_all": "pppnnn",
    "activate": "ppni",
    "activate_back": "pppni",
    "gate": "pppnnni",
    "gate_back": "pppppnnni",
    "norm": "pppppnnfi",
    "norm_back": "pppppppnnni",
    "softmax": "pppnnnnffu",
    "softmax_back": "pppnnnnffu",
    "rotate": "ppppnnnnnnnnnnnf",
    "drop": "ppnfu",
    "cross_entropy": "pppppppnnnf",
    "squares": "ppni",
    "adamw": "pppppniffffffff",
}
_TYPES = {
    "p": ctypes.c_void_p,
    "n": ctypes.c_int64,
    "i": ctypes.c_int,
    "f": ctypes.c_float,
    "u": ctypes.c_uint64,
}
_PART = 65536  # as in native.c
_library: ctypes.CDLL | None = None


def use(folder: Path | None) -> str:
    """From now on compute with the kernels, or without them where there is no folder for them.

    Returns:
        Why they are used, or are not.
    """
    global _library
    _library = None
    if folder is None:
        return "for bfloat16 on a CPU alone"
    compiler = shutil.which(os.environ.get("CC") or "cc")
    if platform.system() != "Linux" or platform.machine() != "x86_64" or compiler is None:
        return "no C compiler here" if compiler is None else "they are for Linux on x86-64"
    begun = time.monotonic()
    try:
        path = built(_SOURCE, _FLAGS, folder, compiler)
        library = ctypes.CDLL(str(path))
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", "") or str(error)
        return f"{compiler} could not build them: {said.strip().splitlines()[0] if said.strip() else error}"
    for name, takes in _KERNELS.items():
        function = getattr(library, name)
        function.argtypes, function.restype = [_TYPES[kind] for kind in takes], None
    _library = library
    return f"compiled by {Path(compiler).name} in {time.monotonic() - begun:.1f} s"


def in_use() -> bool:
    """Whether there are kernels."""
    return _library is not None


@contextmanager
def unused() -> Iterator[None]:
    """Without the kernels inside this block."""
    global _library
    kept, _library = _library, None
    try:
        yield
    finally:
        _library = kept


def fits(*tensors: Tensor | None) -> bool:
    """Whether there are kernels, and these are tensors that they can work on once they are contiguous."""
    if _library is None or torch.compiler.is_compiling() or torch.compiler.is_exporting():
        return False
    return all(x is None or (x.dtype == torch.bfloat16 and x.device.type == "cpu") for x in tensors)


def parts(x: Tensor) -> int:
    """How many sums `squares` gives."""
    return -(-x.numel() // _PART)


def call(name: str, *arguments: Any) -> None:
    """Run a kernel. Tensors must be contiguous, and of the types that `native.c` says."""
    getattr(_library, name)(*(x.data_ptr() if isinstance(x, Tensor) else x for x in arguments))


def built(source: Path, options: Sequence[str], folder: Path, compiler: str) -> Path:
    """The library compiled from a source, from the folder if it was made for this machine before.

    Raises:
        OSError, CalledProcessError: it could not be made.
    """
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
    openmp = _openmp_of_torch()
    processor = next(
        (line for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines() if line.startswith("flags")),
        "",
    )
    what = "\n".join([source.read_text("utf-8"), *options, version, processor, str(openmp)])
    target = folder / f"{source.stem}-{hashlib.sha256(what.encode()).hexdigest()[:16]}.so"
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        part, whole = Path(scratch) / "native.o", Path(scratch) / "native.so"
        flags = [flag for flag in options if openmp is not None or flag != "-fopenmp"]
        for command in (
            [compiler, *flags, "-c", str(source), "-o", str(part)],
            # The threads of torch: those of another OpenMP would fight with them for the cores.
            [compiler, "-shared", str(part), *([str(openmp)] if openmp else []), "-lm", "-o", str(whole)],
        ):
            subprocess.run(command, capture_output=True, text=True, check=True)
        os.replace(whole, target)
    return target


def _openmp_of_torch() -> Path | None:
    """The OpenMP library that torch has loaded."""
    lines = Path("/proc/self/maps").read_text("utf-8").splitlines()
    paths = (line.split(maxsplit=5)[-1] for line in lines if "libgomp" in line)
    return next((Path(path) for path in paths), None)
