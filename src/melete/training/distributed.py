"""Several processes as one: sums over ranks. One process is the case of a world of size 1."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class World:
    """This process's place among those that train together (`torchrun` sets the environment)."""

    rank: int = 0
    size: int = 1

    @classmethod
    def join(cls) -> World:
        """Join the world that the environment describes."""
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return cls()
        if not dist.is_initialized():
            dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def is_main(self) -> bool:
        """Rank 0 alone writes files and talks."""
        return self.rank == 0

    def sum(self, tensors: list[Tensor]) -> None:
        """Add tensors of equal shape over all ranks, in place."""
        if self.size > 1 and tensors:
            flat = torch.cat([tensor.flatten() for tensor in tensors])
            dist.all_reduce(flat)
            for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether the flag is up on any rank, so that all act alike."""
        if self.size == 1:
            return flag
        seen = torch.tensor([float(flag)], device=device)
        dist.all_reduce(seen)
        return bool(seen.item())

    def wait(self) -> None:
        """Until all ranks are here."""
        if self.size > 1:
            dist.barrier()
