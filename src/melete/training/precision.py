"""In which number format a model computes, and the float32 weights that the optimiser keeps beside it."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from melete.data.datasets import cache_folder
from melete.errors import InputError
from melete.nn import native
from melete.nn.functional import activate, dropout, layer_norm

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}


def choose_device(wanted: str) -> torch.device:
    """`auto` takes a GPU if there is one.

    Raises:
        InputError: the device is unknown or not there.
    """
    if wanted == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(wanted)
    except RuntimeError:
        raise InputError(f"unknown device {wanted!r}", expected="auto, cpu, cuda or mps") from None
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(device.type, False):
        raise InputError(f"this machine has no {device.type} device", do="use device=cpu")
    return device


def choose_precision(wanted: str, device: torch.device) -> tuple[str, str]:
    """The number format of the forward and backward pass, and why.

    Raises:
        InputError: the name is unknown.
    """
    if wanted != "auto":
        if wanted not in DTYPES:
            raise InputError(
                f"unknown precision {wanted!r}",
                where="training.precision",
                expected=f"auto, {', '.join(DTYPES)}",
            )
        return wanted, "as asked"
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported():
            return "bfloat16", "the GPU multiplies bfloat16 natively"
        return "float16", "the GPU has no bfloat16; float16 with loss scaling"
    if device.type == "cpu" and _cpu_multiplies_bfloat16():
        return "bfloat16", "the CPU multiplies bfloat16 in hardware (AMX or AVX512-BF16)"
    return "float32", f"the {device.type} has no fast bfloat16 product"


def _cpu_multiplies_bfloat16() -> bool:
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


def choose_kernels(wanted: str, device: str, precision: str) -> tuple[str, str]:
    """`native` or, where they cannot be had, `torch` (see `nn.native`), and why; the choice is used from now on.

    Raises:
        InputError: the name is unknown.
    """
    if wanted not in ("auto", "native", "torch"):
        where = "training.kernels"
        raise InputError(f"unknown kernels {wanted!r}", where=where, expected="auto, native or torch")
    if wanted == "torch" or device != "cpu" or precision != "bfloat16":
        return "torch", "as asked" if wanted == "torch" else native.use(None)
    why = native.use(cache_folder() / "kernels")
    if not native.in_use():
        return "torch", why
    if wanted == "native":
        return "native", "as asked"
    own, others = _trial(), 0.0
    with native.unused():
        others = _trial()
    if own > others:
        native.use(None)
        return "torch", f"the native ones take {own / others:.1f} times as long here"
    return "native", f"{why}; {others / own:.1f} times as fast as torch's in a trial"


def _trial() -> float:
    """Seconds of some element-wise work of a training step, forward and backward; the best of three."""
    x = torch.randn(1024, 1024, generator=torch.Generator().manual_seed(0)).bfloat16().requires_grad_()
    weight, best = torch.ones(1024, dtype=torch.bfloat16), float("inf")
    for _ in range(3):
        begun = time.perf_counter()
        y = layer_norm(dropout(activate(x, "gelu_tanh"), 0.1), weight, weight, 1e-5)
        torch.autograd.grad(y, x, x.detach())
        best = min(best, time.perf_counter() - begun)
    return best


@dataclass
class LossScale:
    """Dynamic loss scaling for float16 (Micikevicius et al. 2018, section 3.2); stays at 1 elsewhere."""

    active: bool
    value: float = 1.0
    good_steps: int = 0

    @classmethod
    def of(cls, dtype: torch.dtype) -> LossScale:
        """The scale with which training in a number format begins."""
        return cls(True, 2.0**16) if dtype == torch.float16 else cls(False)

    def update(self, finite: bool) -> None:
        """Halve after an overflow, double after 2,000 steps without one."""
        if not self.active:
            return
        if finite:
            self.good_steps += 1
            if self.good_steps >= 2000:
                self.value, self.good_steps = self.value * 2.0, 0
        else:
            self.value, self.good_steps = max(self.value / 2.0, 1.0), 0


class Narrow:
    """What the model computes with, by the id of its master: see `MasterWeights`.

    Attributes:
        weights: the narrow copies.
        gradients: of the only micro-batch so far, as they came out of it: where kernels read them as they are, they
            need not be copied first.
        published: ids of the masters whose copies are up to date.
    """

    def __init__(self) -> None:
        self.weights: dict[int, Tensor] = {}
        self.gradients: dict[int, Tensor] = {}
        self.published: set[int] = set()

    def widen(self, master: Tensor) -> None:
        """Give a master its gradient."""
        gradient = self.gradients.pop(id(master), None)
        if gradient is not None:
            master.grad = gradient.to(master.dtype)


class MasterWeights:
    """The weights as the optimiser sees them: float32, while the model computes in a narrower format.

    In float32 and float64 the masters are the model's own parameters. In bfloat16 and float16 the model holds
    narrow copies; `collect` adds their gradients to the masters' in float32, so that accumulating micro-batches
    loses nothing, and `publish` copies the masters back after an update.

    Attributes:
        named: master tensors by parameter name, each once (tied weights are one parameter).
        narrow: the narrow copies and their gradients.
    """

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        self._is_narrow = dtype in (torch.bfloat16, torch.float16)
        self.narrow = Narrow()
        self._working = dict(module.named_parameters())
        if not self._is_narrow:
            module.to(dtype)
            self.named: dict[str, Tensor] = dict(self._working)
            return
        self.named = {name: p.detach().clone().float().requires_grad_() for name, p in self._working.items()}
        for name, parameter in self._working.items():
            parameter.data = parameter.data.to(dtype)
            self.narrow.weights[id(self.named[name])] = parameter.detach()

    def collect(self) -> None:
        """Move the gradients of one micro-batch to the masters."""
        if not self._is_narrow:
            return
        pairs = [(self.named[name], p) for name, p in self._working.items() if p.grad is not None]
        for master, p in pairs:
            assert p.grad is not None
            self.narrow.widen(master)
            if master.grad is not None:
                master.grad.add_(p.grad)
            elif native.fits(p.grad):
                self.narrow.gradients[id(master)] = p.grad.contiguous()
            else:
                master.grad = p.grad.float()
            p.grad = None

    def gradients(self) -> list[Tensor]:
        """Those gradients that there are, in float32."""
        for master in self.named.values():
            self.narrow.widen(master)
        return [p.grad for p in self.named.values() if p.grad is not None]

    def norm(self) -> Tensor:
        """Of all gradients together."""
        kept = [self.narrow.gradients.get(id(p), p.grad) for p in self.named.values()]
        found = [gradient for gradient in kept if gradient is not None]
        if not self.narrow.gradients:
            return get_total_norm(found)
        starts = [0, *itertools.accumulate(native.parts(gradient) for gradient in found)]
        sums = torch.zeros(starts[-1], dtype=torch.float64)
        for start, gradient in zip(starts, found, strict=False):
            narrow = int(gradient.dtype == torch.bfloat16)
            native.call("squares", gradient, sums[start:], gradient.numel(), narrow)
        return sums.sum().sqrt()

    def fill_gradients(self) -> None:
        """Zeros where there is no gradient, so that all ranks add up the same tensors."""
        self.gradients()
        for p in self.named.values():
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad

    def clear(self) -> None:
        """Forget all gradients."""
        self.narrow.gradients.clear()
        for p in self.named.values():
            p.grad = None

    @torch.no_grad()
    def publish(self) -> None:
        """Give the model the masters' values, where the optimiser has not."""
        done = self.narrow.published
        late = [name for name, p in self.named.items() if id(p) not in done] if done else list(self.named)
        done.clear()
        if self._is_narrow and late:
            torch._foreach_copy_([self._working[name] for name in late], [self.named[name] for name in late])

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take values by parameter name, and publish them."""
        for name, master in self.named.items():
            master.copy_(tensors[name])
        self.publish()
