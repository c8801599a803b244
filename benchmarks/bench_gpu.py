"""Training, decoding and encoding on one NVIDIA GPU in bfloat16, each beside its peers; elsewhere whether it works.

python benchmarks/bench_gpu.py                       # all, about 15 minutes
python benchmarks/bench_gpu.py decoding

Beside ours stand nanoGPT's step (as it is, and compiled), the `transformers` Trainer, `generate` of transformers (with
a growing cache, and with a fixed one, which it compiles into CUDA graphs) and its encoder. Each has a process of its
own; they take turns, and medians are printed, with FLOP/s beside the data sheet's (MFU) and the fastest product's, and
peak memory. CTranslate2, ONNX Runtime and weights of 8 and 4 bits are left out: here they are for CPUs.

Without a GPU the same code runs on the CPU with tiny models, in two or three minutes: a check, not a measurement.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
# name -> script and options on a GPU
MEASURED = {
    "training": ["training.py", "mini-gpu", "gpt2-gpu", "--steps", "300", "--turn", "20"],
    "decoding": ["decoding.py", "--device", "cuda", "--batch", "1", "8", "64"],
    "encoding": ["encoding.py", "--device", "cuda"],
}
_OURS_AND_THEIRS = ["--sides", "melete bfloat16", "transformers bfloat16"]
# The same code where there is none, but for nanoGPT's compiled step: to compile takes minutes of one core.
CHECKED = {
    "training": ["training.py", "tiny", "--steps", "4", "--turn", "2"],
    "decoding": ["decoding.py", "--tiny", "--batch", "2", *_OURS_AND_THEIRS, "transformers static bfloat16"],
    "encoding": ["encoding.py", "--tiny", *_OURS_AND_THEIRS],
}
NO_GPU = "No NVIDIA GPU here: tiny models on the CPU, to see that it works. These figures measure NOTHING."


# What is left of the peers where nothing can be compiled.
UNCOMPILED = {"training": ["--side", "nanogpt-bf16", "--side", "trainer-bf16"], "decoding": _OURS_AND_THEIRS}


def commands(names: list[str], gpu: bool, compiler: bool = True) -> dict[str, list[str]]:
    """What is run for each part."""
    found = {name: (MEASURED if gpu else CHECKED)[name] for name in names}
    if gpu and not compiler:
        found = {name: [*options, *UNCOMPILED.get(name, [])] for name, options in found.items()}
    return {
        name: [sys.executable, str(HERE / script), *options] for name, (script, *options) in found.items()
    }


def main() -> None:
    """Parse, run, say what it was."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar=f"{{{','.join(MEASURED)}}}", help="default: all")
    asked = parser.parse_args().parts or list(MEASURED)
    if unknown := set(asked) - set(MEASURED):
        parser.error(f"{unknown.pop()!r} is not one of {', '.join(MEASURED)}")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")  # the Trainer would take all that it sees
    import torch

    gpu = torch.cuda.is_available()
    if gpu and not torch.cuda.is_bf16_supported(including_emulation=False):
        sys.exit("This GPU does not multiply bfloat16: nothing to compare.")
    if not gpu:
        print(NO_GPU, flush=True)
    compiler = shutil.which(os.environ.get("CC") or "cc") is not None or shutil.which("gcc") is not None
    if gpu and not compiler:
        print("No C compiler here: without the peers that compile, nanogpt-compiled and transformers static.")
    for name, command in commands(asked, gpu, compiler).items():
        begun = time.monotonic()
        print(f"\n== {name}", flush=True)
        if code := subprocess.run(command).returncode:
            sys.exit(code)
        print(f"({name}: {time.monotonic() - begun:.0f} s)", flush=True)
    if not gpu:
        print(f"\n{NO_GPU}")


if __name__ == "__main__":
    main()
