"""What this machine has, how fast it multiplies, and what will be slow for that reason."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from melete import __version__
from melete.console import duration
from melete.machine import main_memory, usable_cores
from melete.training.ceilings import product_speed
from melete.training.precision import choose_device

GIB = 2**30
# extra -> (modules that come with it, what is missing without them)
EXTRAS = {
    "parquet": (("pyarrow",), "Parquet files cannot be read"),
    "fast-bpe": (("tiktoken",), "byte-level BPE is tokenised at about half the speed"),
    "zh": (("rjieba",), "Chinese words, for whole-word masking, are learned from the text"),
    "baselines": (("sklearn",), "fine-tuned models have no linear model beside them"),
    "translation": (("sacrebleu",), "translations have no BLEU, chrF or TER"),
    "export": (("gguf", "onnxruntime", "onnxscript"), "models cannot be written as GGUF or ONNX"),
}
# Share of the measured matrix-product speed that training a small model reaches.
TYPICAL_SHARE = 0.4


@dataclass(frozen=True)
class Advice:
    """One thing that will be slow or fail: what, why, and what to do."""

    what: str
    why: str
    do: str


@dataclass
class Examination:
    """Facts of the machine.

    Attributes:
        gflops: measured matrix-product speed by number format, 10^9 floating-point operations a second.
        load: processes that wait for a core or run on one, mean of a minute; 0 where the system does not tell.
        memory_gib, memory_free_gib, disk_free_gib: in GiB; 0 where the system does not tell.
    """

    melete: str
    python: str
    platform: str
    torch: str
    cpu: str
    cores: int
    threads: int
    load: float
    cpu_features: list[str]
    gpus: list[str]
    memory_gib: float
    memory_free_gib: float
    disk_free_gib: float
    extras: dict[str, bool]
    gflops: dict[str, float]
    advice: list[Advice] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """The same as a dict for JSON."""
        return asdict(self)


def examine(folder: Path = Path()) -> Examination:
    """Look at the machine, and measure it for about a second.

    Args:
        folder: where runs will be written; its disk is looked at.
    """
    total, free = main_memory()
    device = choose_device("auto")
    facts = Examination(
        melete=__version__,
        python=f"{platform.python_version()} ({sys.executable})",
        platform=platform.platform(),
        torch=torch.__version__,
        cpu=cpu_name(),
        cores=usable_cores(),
        threads=torch.get_num_threads(),
        load=round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else 0.0,
        cpu_features=_cpu_features(),
        gpus=gpu_names(),
        memory_gib=round(total / GIB, 1),
        memory_free_gib=round((free or 0) / GIB, 1),
        disk_free_gib=round(shutil.disk_usage(folder).free / GIB, 1),
        extras={extra: all(map(find_spec, modules)) for extra, (modules, _) in EXTRAS.items()},
        gflops={
            str(dtype).removeprefix("torch."): round(product_speed(dtype, device, seconds=0.4) / 1e9, 1)
            for dtype in (torch.float32, torch.bfloat16)
        },
    )
    facts.advice = advise(facts, cpu_build=torch.version.cuda is None and torch.version.hip is None)
    return facts


def advise(facts: Examination, cpu_build: bool) -> list[Advice]:
    """What will be slow or fail on such a machine, why, and what to do.

    Args:
        facts: of the machine.
        cpu_build: this PyTorch was built without GPU support.
    """
    found = []
    if not facts.gpus:
        fastest = max(facts.gflops.values()) * 1e9 * TYPICAL_SHARE
        # 6 operations a parameter and token (Kaplan et al. 2020, section 2.1)
        seconds = 6 * 10e6 * 200e6 / fastest
        do = "keep to models of up to some 10 million parameters; `melete pretrain --minutes 10` chooses one that fits"
        why = f"10 million parameters on 200 million tokens take about {duration(seconds)} here"
        if cpu_build and shutil.which("nvidia-smi"):
            do = "there is an NVIDIA driver, but this PyTorch has no CUDA: install a CUDA build from pytorch.org"
        found.append(Advice("no GPU is used", why, do))
    narrow, plain = facts.gflops["bfloat16"], facts.gflops["float32"]
    if narrow < plain:
        why = f"bfloat16 reaches {narrow:,.0f} GFLOP/s, float32 {plain:,.0f}"
        found.append(Advice("bfloat16 does not help", why, "train with --precision float32"))
    if facts.threads < facts.cores:
        said = os.environ.get("OMP_NUM_THREADS")
        why = f"{facts.threads} of {facts.cores} cores are used" + (
            f" (OMP_NUM_THREADS={said})" if said else ""
        )
        found.append(Advice("cores stand idle", why, f"train with --set training.threads={facts.cores}"))
    if facts.load > facts.cores / 2:
        why = f"{facts.load} of its {facts.cores} cores were busy in the last minute"
        do = "wait for other programs, or close them: what is measured here and by --minutes is too slow until then"
        found.append(Advice("the machine is at work already", why, do))
    if 0 < facts.memory_free_gib < 2:
        why = f"{facts.memory_free_gib} GiB of memory are free; PyTorch itself and a small model need about 1"
        found.append(
            Advice(
                "memory is short",
                why,
                "close other programs, or train with --set training.micro_batch_rows=1",
            )
        )
    if facts.disk_free_gib < 2:
        why = f"{facts.disk_free_gib} GiB of disk are free; a checkpoint takes 12 bytes a parameter or more"
        found.append(Advice("disk is short", why, "free some, or train with --set folder=/other/disk"))
    for extra, (_, missing) in EXTRAS.items():
        if not facts.extras[extra]:
            why = f"the extra {extra!r} is not installed"
            found.append(Advice(missing, why, f"pip install 'melete[{extra}]'"))
    return found


def gpu_names() -> list[str]:
    """The GPUs that are there, and their memory."""
    names = []
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(number)
        names.append(f"{properties.name}, {properties.total_memory / GIB:.0f} GiB")
    if torch.backends.mps.is_available():
        names.append("Apple GPU (mps)")
    return names


def cpu_name() -> str:
    """What the processor calls itself."""
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:  # not Linux
        pass
    return platform.processor() or platform.machine()


def _cpu_features() -> list[str]:
    """Those of the CPU's vector units that matter here."""
    known = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return [
        name for name in ("avx2", "avx512_f", "avx512_bf16", "amx_bf16", "neon", "sve") if known.get(name)
    ]
