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
from melete.nn import native
from melete.training.precision import Narrow


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised (Jordan et al. 2024, "Muon"), for matrices.

    Matrices of one shape are orthogonalised together as one batched product. The update is scaled by
    `sqrt(max(1, rows / columns))`, so that one learning rate serves all shapes.

    Args:
        compute_dtype: of the Newton-Schulz products; bfloat16 is enough where it is fast.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
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


class UncorrectedAdamW(torch.optim.Optimizer):
    """AdamW whose early averages are not corrected, as BERT and ELECTRA were trained (`optimization.py` of both).

    Its first updates are larger: about `(1 - b1) / sqrt(1 - b2)` of the rate instead of 1, 3.2 for 0.9 and 0.999.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One update of every tensor that has a gradient."""
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            gradients = [p.grad for p in params]
            means = [self.state[p].setdefault("exp_avg", torch.zeros_like(p)) for p in params]
            squares = [self.state[p].setdefault("exp_avg_sq", torch.zeros_like(p)) for p in params]
            first, second = group["betas"]
            torch._foreach_lerp_(means, gradients, 1.0 - first)
            torch._foreach_mul_(squares, second)
            torch._foreach_addcmul_(squares, gradients, gradients, 1.0 - second)
            scales = torch._foreach_sqrt(squares)
            torch._foreach_add_(scales, group["eps"])
            torch._foreach_mul_(params, 1.0 - group["lr"] * group["weight_decay"])
            torch._foreach_addcdiv_(params, means, scales, -group["lr"])


class NativeAdamW(torch.optim.Optimizer):
    """torch's AdamW in one pass over memory: clipping and the narrow copies of the weights go along.

    Its state is that of `torch.optim.AdamW`: a run may change from one to the other.

    Args:
        narrow: gradients to read and copies to write, where there are any.
    """

    def __init__(
        self, params: Iterable[Any], narrow: Narrow, lr: float, betas: tuple[float, float], eps: float
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})
        self.narrow, self.factor = narrow, 1.0

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One update of every tensor that has a gradient; gradients count `factor` times."""
        for group in self.param_groups:
            for p in group["params"]:
                gradient = self.narrow.gradients.get(id(p), p.grad)
                if gradient is not None:
                    self._update(p, gradient.contiguous(), group)

    def _update(self, p: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[p]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
        state["step"] += 1
        steps, (first, second) = float(state["step"]), group["betas"]
        copy = self.narrow.weights.get(id(p))
        if copy is not None:
            self.narrow.published.add(id(p))
        native.call(
            "adamw",
            *(p, gradient, state["exp_avg"], state["exp_avg_sq"], copy, p.numel()),
            *(int(gradient.dtype == torch.bfloat16), self.factor, group["lr"], first, second, group["eps"]),
            *(group["weight_decay"], 1.0 - first**steps, 1.0 - second**steps),
        )


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
        narrow: what the model computes with, where that is not the masters.
    """

    def __init__(
        self,
        module: nn.Module,
        masters: dict[str, Tensor],
        config: OptimizerSection,
        fast_bfloat16: bool = False,
        narrow: Narrow | None = None,
    ) -> None:
        self.l1 = config.l1
        self.narrow = narrow or Narrow()
        self.names = {id(p): name for name, p in masters.items()}
        matrix_names = matrices(module)
        self.decayed = [p for name, p in masters.items() if name in matrix_names]
        decayed, others = (
            _by_rate(module, {name: p for name, p in masters.items() if (name in matrix_names) is matrix})
            for matrix in (True, False)
        )
        compute = torch.bfloat16 if fast_bfloat16 else torch.promote_types(_dtype(masters), torch.float32)
        self.parts: list[torch.optim.Optimizer] = []
        if config.name == "muon" and self.decayed:
            rate = config.matrix_learning_rate
            self.parts.append(Muon(decayed, rate, config.momentum, config.weight_decay, compute))
            self.parts.append(self._optimizer("adamw", [], others, config))
        else:
            name = "adamw" if config.name == "muon" else config.name
            self.parts.append(self._optimizer(name, decayed, others, config))
        # torch's RMSprop adds its decay to the gradient, where the running mean of squares undoes it.
        self.decay = config.weight_decay if config.name == "rmsprop" else 0.0
        for group in self._groups():
            group["peak"] = group["lr"] * group.pop("share")

    def _groups(self) -> list[dict[str, Any]]:
        return [group for part in self.parts for group in part.param_groups]

    def _optimizer(
        self,
        name: str,
        decayed: list[dict[str, Any]],
        others: list[dict[str, Any]],
        config: OptimizerSection,
    ) -> torch.optim.Optimizer:
        """One of torch's, or ours that does the same where it can."""
        theirs = _torch_optimizer(name, decayed, others, config)
        tensors = [p for group in theirs.param_groups for p in group["params"]]
        fits = all(p.dtype == torch.float32 and p.device.type == "cpu" and p.is_contiguous() for p in tensors)
        if type(theirs) is not torch.optim.AdamW or config.l1 or not native.in_use() or not fits:
            return theirs
        return NativeAdamW(theirs.param_groups, self.narrow, config.learning_rate, config.betas, config.eps)

    def step(self, ratio: float, factor: float = 1.0) -> None:
        """Update with `ratio` times the peak rates, and `factor` times the gradients."""
        for part in self.parts:
            if isinstance(part, NativeAdamW):
                part.factor = factor
            else:
                self._take(part, factor)
        for group in self._groups():
            group["lr"] = group["peak"] * ratio
        with torch.no_grad():
            if self.decay:
                for p, rate in self._decayed():
                    p.mul_(1.0 - rate * self.decay)
            for part in self.parts:
                part.step()
            if self.l1:
                for p, rate in self._decayed():
                    p.copy_(torch.nn.functional.softshrink(p, self.l1 * rate))

    def _take(self, part: torch.optim.Optimizer, factor: float) -> None:
        """The gradients as torch's optimisers want them."""
        masters = [p for group in part.param_groups for p in group["params"]]
        for master in masters:
            self.narrow.widen(master)
        gradients = [p.grad for p in masters if p.grad is not None]
        if factor != 1.0 and gradients:
            torch._foreach_mul_(gradients, factor)

    def _decayed(self) -> list[tuple[Tensor, float]]:
        """Each matrix that trains now, and its rate."""
        matrices = {id(p) for p in self.decayed}
        return [
            (p, group["lr"])
            for group in self._groups()
            for p in group["params"]
            if id(p) in matrices and p.grad is not None
        ]

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


def _by_rate(module: nn.Module, parameters: dict[str, Tensor]) -> list[dict[str, Any]]:
    """Groups of parameters that share a rate: an objective may give some a share of the peak (`rate_of`)."""
    share_of = getattr(module, "rate_of", lambda name: 1.0)
    groups: dict[float, list[Tensor]] = {}
    for name, p in parameters.items():
        groups.setdefault(share_of(name), []).append(p)
    return [{"params": tensors, "share": share} for share, tensors in groups.items()]


def _torch_optimizer(
    name: str, decayed: list[dict[str, Any]], others: list[dict[str, Any]], config: OptimizerSection
) -> torch.optim.Optimizer:
    params = [*decayed, *others]
    if name != "rmsprop":
        params = [group | {"weight_decay": config.weight_decay} for group in decayed]
        params += [group | {"weight_decay": 0.0} for group in others]
    rate = config.learning_rate
    match name:
        case "rmsprop":
            return torch.optim.RMSprop(
                params, lr=rate, alpha=config.betas[1], eps=config.eps, momentum=config.momentum
            )
        case "adafactor":
            return torch.optim.Adafactor(params, lr=rate)
        case _ if not config.bias_correction:
            return UncorrectedAdamW(params, rate, config.betas, config.eps)
        case _:
            return torch.optim.AdamW(params, lr=rate, betas=config.betas, eps=config.eps, fused=True)
