"""Optimisers: AdamW, RMSprop and Adafactor from torch, Muon here, behind one small class.

Which parameters decay and which are matrices is decided by what they are (two or more dimensions, and neither an
embedding nor the output head), so that no model needs a list of names.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from melete.config import OptimizerSection


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised (Jordan et al. 2024, "Muon"), for matrices.

    Matrices of one shape are orthogonalised together as one batched product. The update is scaled by
    `sqrt(max(1, rows / columns))`, so that one learning rate serves all shapes.

    Args:
        compute_dtype: of the Newton-Schulz products; bfloat16 is enough where it is fast.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        momentum: float,
        weight_decay: float,
        compute_dtype: torch.dtype,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.compute_dtype = compute_dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One update of every matrix that has a gradient."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    shapes.setdefault(p.shape, []).append(p)
            for same in shapes.values():
                self._update(same, group)

    def _update(self, params: list[Tensor], group: dict[str, Any]) -> None:
        gradients = [p.grad for p in params if p.grad is not None]
        buffers = [self.state[p].setdefault("momentum_buffer", torch.zeros_like(p)) for p in params]
        torch._foreach_lerp_(buffers, gradients, 1.0 - group["momentum"])
        nesterov = torch._foreach_lerp(gradients, buffers, group["momentum"])
        updates = orthogonalize(torch.stack(nesterov).flatten(2), self.compute_dtype)  # (N, rows, columns)
        rows, columns = updates.shape[-2:]
        scale = max(1.0, rows / columns) ** 0.5
        torch._foreach_mul_(params, 1.0 - group["lr"] * group["weight_decay"])
        views = [update.view_as(p) for update, p in zip(updates.to(params[0].dtype), params, strict=True)]
        torch._foreach_add_(params, views, alpha=-group["lr"] * scale)


# Five Newton-Schulz steps whose coefficients are tuned step by step (Amsel et al. 2025, "The Polar Express", table 1
# of the appendix, with the safety factor applied); singular values end in about [0.9, 1.1] from as low as 1e-3.
_POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)


def orthogonalize(matrices: Tensor, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """The nearest matrices whose singular values are all about 1.

    Args:
        matrices: (N, rows, columns).
        dtype: of the products.
    """
    x = matrices.to(dtype)
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT  # the products below are as small as the shorter side
    x = x / (torch.linalg.matrix_norm(x.float(), keepdim=True) * 1.02 + 1e-7).to(dtype)
    for a, b, c in _POLAR_EXPRESS:
        gram = x @ x.mT  # (N, short, short)
        poly = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)  # b G + c G^2
        x = torch.baddbmm(x, poly, x, beta=a)
    return x.mT if tall else x


class Optimizer:
    """One or two torch optimisers over named master weights, with peaks that the schedule scales.

    Args:
        module: tells embeddings and heads from matrices.
        masters: float32 tensors by parameter name.
        config: name (one of `config.OPTIMIZERS`), rates and decay.
        fast_bfloat16: whether bfloat16 products are fast here.
    """

    def __init__(
        self,
        module: nn.Module,
        masters: dict[str, Tensor],
        config: OptimizerSection,
        fast_bfloat16: bool = False,
    ) -> None:
        self.l1 = config.l1
        self.names = {id(p): name for name, p in masters.items()}
        matrix_names = matrices(module)
        self.decayed = [p for name, p in masters.items() if name in matrix_names]
        others = [p for name, p in masters.items() if name not in matrix_names]
        assert len(self.decayed) + len(others) == len(masters)
        compute = torch.bfloat16 if fast_bfloat16 else torch.promote_types(_dtype(masters), torch.float32)
        self.parts: list[torch.optim.Optimizer] = []
        if config.name == "muon" and self.decayed:
            rate = config.matrix_learning_rate
            self.parts.append(Muon(self.decayed, rate, config.momentum, config.weight_decay, compute))
            self.parts.append(_torch_optimizer("adamw", [(others, 0.0)], config))
        else:
            name = "adamw" if config.name == "muon" else config.name
            self.parts.append(
                _torch_optimizer(name, [(self.decayed, config.weight_decay), (others, 0.0)], config)
            )
        # torch's RMSprop adds its decay to the gradient, where the running mean of squares undoes it.
        self.decay = config.weight_decay if config.name == "rmsprop" else 0.0
        for group in self._groups():
            group["peak"] = group["lr"]

    def _groups(self) -> list[dict[str, Any]]:
        return [group for part in self.parts for group in part.param_groups]

    def step(self, ratio: float) -> None:
        """Update with `ratio` times the peak rates."""
        for group in self._groups():
            group["lr"] = group["peak"] * ratio
        rate = self.parts[0].param_groups[0]["lr"]
        with torch.no_grad():
            if self.decay:
                torch._foreach_mul_(self.decayed, 1.0 - rate * self.decay)
            for part in self.parts:
                part.step()
            if self.l1:
                for p in self.decayed:
                    p.copy_(torch.nn.functional.softshrink(p, self.l1 * rate))

    def tensors(self) -> dict[str, Tensor]:
        """The state as `parameter name/state name` -> tensor."""
        return {
            f"{self.names[id(p)]}/{key}": torch.as_tensor(value)
            for part in self.parts
            for p, state in part.state.items()
            for key, value in state.items()
        }

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take up what `tensors` gave."""
        by_parameter: dict[str, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            name, _, field = key.rpartition("/")
            by_parameter.setdefault(name, {})[field] = value
        for part in self.parts:
            part.state.clear()
            for group in part.param_groups:
                for p in group["params"]:
                    if (state := by_parameter.get(self.names[id(p)])) is not None:
                        part.state[p] = {field: value.clone() for field, value in state.items()}


def matrices(module: nn.Module) -> set[str]:
    """Names of the parameters with two or more dimensions that are neither embeddings nor the output head."""
    left_out = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
    network = getattr(module, "model", module)
    if getattr(network, "task", "") == "text-generation":
        left_out.add(id(network.head_weight))
    return {name for name, p in module.named_parameters() if p.ndim >= 2 and id(p) not in left_out}


def _dtype(masters: dict[str, Tensor]) -> torch.dtype:
    return next(iter(masters.values())).dtype


def _torch_optimizer(
    name: str, groups: list[tuple[list[Tensor], float]], config: OptimizerSection
) -> torch.optim.Optimizer:
    params = [{"params": tensors, "weight_decay": decay} for tensors, decay in groups if tensors]
    if name == "rmsprop":
        params = [{"params": tensors} for tensors, _ in groups if tensors]
    rate = config.learning_rate
    match name:
        case "rmsprop":
            return torch.optim.RMSprop(
                params, lr=rate, alpha=config.betas[1], eps=config.eps, momentum=config.momentum
            )
        case "adafactor":
            return torch.optim.Adafactor(params, lr=rate)
        case _:
            return torch.optim.AdamW(params, lr=rate, betas=config.betas, eps=config.eps, fused=True)
