"""Layers whose inside is computed again in the backward pass instead of being kept (Chen et al. 2016).

Such a layer keeps its input alone; a step costs one more forward pass of the layers. What is random is drawn again as
it was, so that loss and gradients are the same bit for bit: each micro-batch may do as memory asks.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from melete.config import RunConfig
from melete.data.batch import Batch
from melete.errors import InputError
from melete.machine import give_back_freed, main_memory
from melete.nn.attention import Mask
from melete.objectives.base import Objective

# Of what is free: whoever takes too much main memory is killed, not told, and other programs take some, too.
_SHARE = {"cpu": 0.8, "cuda": 1.0}
_GIB = 2**30


def layers_of(objective: nn.Module) -> list[nn.Module]:
    """The layers of all networks in an objective."""
    lists = (module for name, module in objective.named_modules() if name.rpartition(".")[2] == "layers")
    return [layer for module in lists if isinstance(module, nn.ModuleList) for layer in module]


@contextmanager
def called(layers: list[nn.Module], how: Callable[..., Any]) -> Iterator[None]:
    """In here `how(forward, *args)` stands for the `forward(*args)` of each layer; no name of a module changes."""
    for layer in layers:
        vars(layer)["forward"] = partial(how, layer.forward)
    try:
        yield
    finally:
        for layer in layers:
            del vars(layer)["forward"]


def again(forward: Callable[..., Any], *args: Any) -> Any:
    """A call whose inside is forgotten, and computed once more in the backward pass."""
    if not torch.is_grad_enabled():
        return forward(*args)
    # A mask makes some of its tensors at its first call: what did so has to do it again, from the mask as it was.
    first, entry = iter([args]), _copied(args)
    return checkpoint(lambda *same: forward(*next(first, _copied(same))), *entry, use_reentrant=False)


def _copied(args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(copy.copy(x) if isinstance(x, Mask) else x for x in args)


class Recompute:
    """Decides for each micro-batch of a run; `training.recompute` is auto, on or off.

    By itself it counts what the layers keep of a micro-batch that is larger, has longer rows or trains more than any
    before, while they run: as soon as those to come would keep more than there is room for, they keep nothing more.

    Args:
        grown: whether the optimiser has its state: else that is to come, too.
        tell: takes the line that says why, once.

    Raises:
        InputError: `on`, and the model has no layers.
    """

    def __init__(
        self, config: RunConfig, objective: Objective, grown: Callable[[], bool], tell: Callable[[str], None]
    ) -> None:
        self.wanted, self.device = config.training.recompute, torch.device(config.training.device)
        self.objective, self.grown, self.tell = objective, grown, tell
        self.layers = layers_of(objective)
        if self.wanted == "on" and not self.layers:
            what = f"{objective.model.family} has no layers to compute again"
            raise InputError(what, where="training.recompute", do="leave it out")
        self._fitted: list[tuple[int, ...]] = []
        self._asked: list[tuple[int, ...]] = []

    @contextmanager
    def around(self, batch: Batch) -> Iterator[None]:
        """Around the forward pass of a micro-batch."""
        longest = max(part.input_ids.shape[1] for part in (batch, batch.source or batch))
        thawed = sum(p.requires_grad for p in self.objective.parameters())  # frozen layers keep nothing
        size = batch.places, longest, thawed
        if self.wanted == "on" or any(_within(other, size) for other in self._asked):
            with called(self.layers, again):
                yield
            return
        fits = self.wanted == "off" or not self.layers or any(_within(size, other) for other in self._fitted)
        if fits or free_memory(self.device) is None:
            yield
            return
        counting = _Counting(self.objective, len(self.layers), self._want)
        with called(self.layers, counting):
            yield
        if counting.why and not self._asked:
            self.tell(
                f"training.recompute: on for {size[0]:,} tokens at once, {counting.why}; a step takes longer"
            )
        (self._asked if counting.why else self._fitted).append(size)

    def _want(self, more: int) -> str:
        """Why there is no room for so many bytes more to keep; empty where there is."""
        coming = self._coming()
        free = free_memory(self.device) or 0
        if more + coming > _SHARE[self.device.type] * free:
            give_back_freed()
            free = free_memory(self.device) or 0
        if more + coming <= _SHARE[self.device.type] * free:
            return ""
        return (
            f"as their layers would keep {more / _GIB:.2f} GiB more, gradients and optimiser take {coming / _GIB:.2f}, "
            f"and {free / _GIB:.2f} GiB are free"
        )

    def _coming(self) -> int:
        """Bytes of gradients, and of the optimiser's state before its first update, of two numbers a weight."""
        total = 0
        for p in self.objective.parameters():
            narrow, wide = p.element_size(), max(p.element_size(), 4)
            numbers = (narrow if narrow < wide else 0) + wide * (1 if self.grown() else 3)
            total += p.numel() * numbers if p.requires_grad else 0
        return total


class _Counting:
    """Calls layers and counts what they keep, until there is no room for the rest: from then on they keep nothing."""

    def __init__(self, objective: nn.Module, layers: int, want: Callable[[int], str]) -> None:
        self.layers, self.want, self.why, self.called = layers, want, "", 0
        self._sizes = {_place(p): 0 for p in objective.parameters()}  # bytes of memory by where it begins

    def __call__(self, forward: Callable[..., Any], *args: Any) -> Any:
        if self.why:
            return again(forward, *args)
        before = sum(self._sizes.values())
        with saved_tensors_hooks(self._keep, lambda kept: kept):
            found = forward(*args)
        self.called += 1
        # What is kept for all layers is counted with the first of them: the next one tells.
        if self.called > 1 or self.layers == 1:
            left = max(0, self.layers - self.called)
            self.why = self.want(left * (sum(self._sizes.values()) - before))
        return found

    def _keep(self, x: Tensor) -> Tensor:
        self._sizes.setdefault(_place(x), x.untyped_storage().nbytes())
        return x.detach()  # a result that is kept as it is would hold itself for ever


def free_memory(device: torch.device) -> int | None:
    """Bytes that this process may still take on a device; None where the system does not tell."""
    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + held
    return main_memory()[1] if device.type == "cpu" else None


def _within(size: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return all(one <= most for one, most in zip(size, other, strict=True))


def _place(x: Tensor) -> int:
    return x.untyped_storage().data_ptr()
