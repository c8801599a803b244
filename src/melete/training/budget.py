"""Choices made once by measuring: the rows of a micro-batch, and under a time budget the model's size and steps.

Each choice is written into the run's config with its reason, and read back on a resume.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import torch

from melete import config as configs
from melete.config import RunConfig, TrainingSection
from melete.console import duration, say
from melete.data.batch import Batch
from melete.errors import InputError
from melete.models import is_spec, presets
from melete.objectives.base import Context, Objective
from melete.training.job import Job, job_of, named
from melete.training.optim import Optimizer
from melete.training.precision import DTYPES, MasterWeights, choose_device, choose_precision
from melete.training.recompute import again, called, layers_of

# Tokens of one forward pass on a CPU: more gains nothing in speed and costs memory.
_CPU_MICRO_BATCH_TOKENS = 16384
# What a time budget keeps for the final evaluation, the saving and the machine's moods: a share, and seconds.
_RESERVE, _RESERVE_SECONDS = 0.12, 3.0
# How often a run with a time budget is evaluated, and the share of its time that this takes at most.
_EVALUATIONS, _EVALUATION = 8, 0.04
# Peak learning rates that train small models well; under muon it is that of embeddings, head and norms.
_LEARNING_RATES = {"muon": 0.01, "adamw": 1e-3, "rmsprop": 1e-3, "adafactor": 1e-2}


def choose(config: RunConfig, job: Job, objective: Objective, begun: float) -> tuple[RunConfig, Objective]:
    """Settle what the config leaves open.

    Args:
        objective: of the model that the config names now.
        begun: `time.monotonic()` from which `training.minutes` counts.

    Returns:
        The config with every choice and reason in it, and the objective it describes.
    """
    if config.optimizer.learning_rate == 0:
        name = config.optimizer.name
        rate = _LEARNING_RATES[name]
        config = configs.change(
            config,
            {"optimizer.learning_rate": rate},
            {"optimizer.learning_rate": f"{rate:g}, usual for {name}"},
        )
    if config.training.minutes:
        config, objective = _fit_budget(config, job, objective, begun)
    if config.training.micro_batch_rows == 0:
        try:
            rows, why = micro_batch_rows(config, objective)
        except InputError:
            if config.training.recompute != "auto":
                raise
            config = configs.change(
                config,
                {"training.recompute": "on"},
                {"training.recompute": "on: without it not even one row fits in the device's memory"},
            )
            rows, why = micro_batch_rows(config, objective)
        config = configs.change(
            config, {"training.micro_batch_rows": rows}, {"training.micro_batch_rows": why}
        )
    return config, objective


def micro_batch_rows(config: RunConfig, objective: Objective) -> tuple[int, str]:
    """The largest micro-batch that fits, as a divisor of the rows of a step; the effective batch stays."""
    t = config.training
    rows = max(1, t.batch_tokens // t.context)
    divisors = [d for d in range(rows, 0, -1) if rows % d == 0]
    if t.device == "cpu":
        limit = max(1, _CPU_MICRO_BATCH_TOKENS // t.context)
        chosen = next(d for d in divisors if d <= limit)
        return (
            chosen,
            f"{chosen} of {rows} rows at once, {chosen * t.context:,} tokens: more is not faster on a CPU",
        )
    for chosen in divisors:
        if _speed_if_it_fits(config, objective, chosen, repeats=1) is not None:
            return chosen, f"{chosen} of {rows} rows at once: the most that fits in the device's memory"
    raise InputError(
        "not even one row fits in the device's memory",
        where="training.context",
        do="use a smaller context or model",
    )


@dataclass(frozen=True)
class Speed:
    """Seconds for a token, forward and backward, and for an update of the weights."""

    token: float
    update: float


def _speed_if_it_fits(config: RunConfig, objective: Objective, rows: int, repeats: int) -> Speed | None:
    """`measure`; None where the device's memory runs out."""
    try:
        return measure(config, objective, rows, repeats)
    except torch.OutOfMemoryError:
        pass
    torch.cuda.empty_cache()  # not in the handler, where the traceback still holds the tensors
    return None


def measure(
    config: RunConfig, objective: Objective, rows: int, repeats: int = 3, batch: Batch | None = None
) -> Speed:
    """Measured time of a training step on random tokens; the weights are left as they are.

    It takes the memory of a whole training step: the optimiser's moments and the moving average too.

    Args:
        rows: of `training.context` tokens each.
        batch: stands in for them.

    Raises:
        torch.OutOfMemoryError: there is not so much.
    """
    t = config.training
    device = torch.device(t.device)
    weights = {name: p.detach().clone() for name, p in objective.named_parameters()}
    passes, updates = math.inf, math.inf
    try:
        objective.to(device).train()
        masters = MasterWeights(objective, DTYPES[t.precision])
        batch = (batch or job_of(config).measuring_batch(config, objective, rows)).to(device)
        optimizer, average = None, []
        for _ in range(repeats + 1):  # the first one warms up
            begun = time.monotonic()
            with called(layers_of(objective) if t.recompute == "on" else [], again):
                parts = objective(batch, Context(progress=1.0))  # the end is what costs most
            shares = [objective.weights[name] * part / batch.tokens for name, part in parts.items()]
            torch.stack(shares).sum().backward()
            masters.collect()
            passed = _now(device)
            passes = min(passes, passed - begun)
            if optimizer is None:
                optimizer = Optimizer(objective, masters.named, config.optimizer, narrow=masters.narrow)
                if config.training.ema_decay:
                    average = [p.detach().clone() for p in masters.named.values()]
            optimizer.step(0.0)
            updates = min(updates, _now(device) - passed)
    finally:  # also where memory ran out: else the rounded weights would be taken for the model's
        for name, p in objective.named_parameters():
            p.grad = None
            p.data = weights[name]
    del average  # was held as a run holds it
    return Speed(passes / batch.tokens, updates)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.monotonic()


# ---------------------------------------------------------------------- the time budget


@dataclass(frozen=True)
class _Plan:
    preset: str
    objective: Objective
    speed: Speed
    seconds: float
    batch: int
    loss: float

    @property
    def rate(self) -> float:
        """Tokens a second, updates included."""
        return self.batch / (self.batch * self.speed.token + self.speed.update)


def _fit_budget(
    config: RunConfig, job: Job, objective: Objective, begun: float
) -> tuple[RunConfig, Objective]:
    """Model size, batch, steps and intervals from `training.minutes`."""
    spent = time.monotonic() - begun + _RESERVE_SECONDS
    left = config.training.minutes * 60 * (1 - _RESERVE) - spent
    if left < 5:
        raise InputError(
            f"{config.training.minutes:g} minutes are over before training begins", where="training.minutes"
        )
    family, _, size = config.model.source.partition(":")
    fixed = bool(size) or not is_spec(config.model.source)
    names = [size or config.model.source] if fixed else presets(family)
    say(f"measuring what this machine does in {duration(left)} ...")
    plans: list[_Plan] = []
    for name in names:
        candidate = objective
        if not fixed:
            candidate = job.build(configs.change(config, {"model.source": f"{family}:{name}"}))
        plan = _plan(config, name, candidate, job.tokens, left)
        if plan is None:
            break  # larger ones fit even less
        plans.append(plan)
        if len(plans) > 1 and plan.loss > plans[-2].loss:
            break  # larger ones only get worse: they see too few tokens
    if not plans:
        raise InputError(
            f"not even one row of {names[0]} fits in the device's memory",
            where="training.context",
            do="use a smaller context or model",
        )
    best = min(plans, key=lambda plan: plan.loss)
    return _settle(config, family, best, fixed, plans, job.tokens), best.objective


def _plan(config: RunConfig, name: str, objective: Objective, unique: int, seconds: float) -> _Plan | None:
    """What a model would come to in the time; None where not one row fits in the device's memory."""
    rows = max(1, 8192 // config.training.context)
    while (speed := _speed_if_it_fits(config, objective, rows, repeats=2)) is None:
        if rows == 1:
            return None
        rows //= 2
    context, batch = config.training.context, config.training.batch_tokens
    if batch == TrainingSection().batch_tokens:
        batch = context * max(1, round(min(max(seconds / speed.token / 800, 4096), 32768) / context))
    plan = _Plan(name, objective, speed, seconds, batch, 0.0)
    parameters = sum(p.numel() for p in objective.model.parameters())
    return replace(plan, loss=expected_loss(parameters, plan.rate * seconds, unique))


def expected_loss(parameters: float, tokens: float, unique: float) -> float:
    """What a scaling law says of a model of this size after this many tokens; good for comparing sizes only.

    Hoffmann et al. 2022 ("Training Compute-Optimal Large Language Models", section D.3), with repeated tokens worth
    less and less (Muennighoff et al. 2023, section 4: their worth falls by 1/e in about 15 epochs).
    """
    repeats = max(tokens / unique - 1.0, 0.0)
    effective = min(tokens, unique) + unique * 15.4 * (1.0 - math.exp(-repeats / 15.4))
    return 1.69 + 406.4 / parameters**0.34 + 410.7 / effective**0.28


def _settle(
    config: RunConfig, family: str, best: _Plan, fixed: bool, plans: list[_Plan], unique: int
) -> RunConfig:
    context, batch, steps = config.training.context, best.batch, config.training.steps
    if steps == TrainingSection().steps:
        steps = max(20, int(best.rate * best.seconds // batch))
    epochs = steps * batch / unique
    # Reading without learning is about three times as fast.
    looks = int(3 * best.seconds * _EVALUATION / best.speed.token / _EVALUATIONS)
    changes: dict[str, Any] = {
        "training.batch_tokens": batch,
        "training.steps": steps,
        "schedule.warmup_steps": max(5, steps // 50),
        "training.eval_every": max(10, steps // _EVALUATIONS),
        "training.eval_tokens": min(TrainingSection().eval_tokens, max(looks, 8 * context)),
        "training.save_every": max(10, steps // 4),
        "training.sample_every": max(10, steps // 4),
    }
    reasons = {
        "training.batch_tokens": f"{batch:,}: small enough for some hundred steps, large enough to fill the machine",
        "training.steps": f"{steps:,}: {duration(60 * config.training.minutes)} at {best.rate:,.0f} tokens/s measured, "
        f"less {_RESERVE:.0%} for evaluation; {epochs:.1f} passes over the text",
    }
    if context > 128:
        changes["training.context_schedule"] = ((0.0, 128), (0.75, context))
        reasons["training.context_schedule"] = "128 tokens a row for three quarters: short rows learn sooner"
    # What a person set stays as it is: only keys that stand at their defaults are chosen.
    plain, untouched = (msgspec.to_builtins(one) for one in (config, RunConfig()))
    for key in list(changes):
        section, _, field = key.partition(".")
        if plain[section][field] != untouched[section][field]:
            del changes[key]
            reasons.pop(key, None)
    if not fixed:
        changes["model.source"] = f"{family}:{best.preset}"
        reasons["model.source"] = f"{best.preset}: least expected loss in the time among " + ", ".join(
            f"{plan.preset} ({plan.rate:,.0f} tokens/s)" for plan in plans
        )
    return configs.change(config, changes, reasons)


def preview(config: RunConfig) -> dict[str, Any]:
    """What a run of a settled config would be, without reading its data: sizes, arithmetic, memory and measured time.

    Memory counts weights, their float32 masters, gradients, two optimiser moments and the activations of one
    micro-batch at about 34 bytes a token, layer and unit of width (Korthikanti et al. 2022, section 4.1); 2 of a layer
    whose inside is computed again, but for one at a time.
    """
    config = named(config)
    kind, t = job_of(config), config.training
    kind.check(config)
    objective = kind.rehearse(config)
    device = choose_device(t.device)
    precision, why = choose_precision(t.precision, device)
    config = configs.change(config, {"training.device": str(device), "training.precision": precision})
    rows = t.micro_batch_rows or micro_batch_rows(config, objective)[0]
    parameters = sum(p.numel() for p in objective.parameters())
    speed = measure(config, objective, rows, repeats=1)
    rate = t.batch_tokens / (t.batch_tokens * speed.token + speed.update)
    sizes = objective.model.config
    layers = sizes.num_hidden_layers
    kept = 2 * layers + 34 if t.recompute == "on" else 34 * layers
    activations = kept * rows * t.context * sizes.hidden_size
    return {
        "parameters": parameters,
        "precision": f"{precision}, {why}",
        "tokens": t.steps * t.batch_tokens,
        "flops": 6.0 * parameters * t.steps * t.batch_tokens,
        "memory_gib": round((18 * parameters + activations) / 2**30, 2),
        "tokens_per_second": round(rate),
        "seconds": round(t.steps * t.batch_tokens / rate, 1),
    }
