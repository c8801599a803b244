"""Narrow products, wide weights: what is saved, accumulated and updated is float32."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from kit import tiny
from melete.config import OptimizerSection
from melete.data.batch import Batch
from melete.errors import InputError
from melete.nn import native
from melete.objectives.base import Context
from melete.objectives.causal_lm import CausalLM
from melete.training.optim import Optimizer
from melete.training.precision import (
    LossScale,
    MasterWeights,
    choose_device,
    choose_kernels,
    choose_precision,
)
from rig import checkpoint, events, run_config, trainer


def test_bfloat16_gradients_accumulate_in_float32() -> None:
    module = nn.Linear(1, 1, bias=False)
    masters = MasterWeights(module, torch.bfloat16)
    assert module.weight.dtype == torch.bfloat16
    for size in (256.0, *[1.0] * 100):  # in bfloat16, 256 + 1 is 256
        (module(torch.full((1, 1), size, dtype=torch.bfloat16))).sum().backward()
        masters.collect()
    (gradient,) = masters.gradients()
    assert gradient.dtype == torch.float32
    assert float(gradient) == 356.0


def test_small_updates_are_not_lost_between_bfloat16_steps() -> None:
    module = nn.Linear(1, 1, bias=False)
    nn.init.ones_(module.weight)
    masters = MasterWeights(module, torch.bfloat16)
    for _ in range(100):  # each far below what bfloat16 can tell from 1
        with torch.no_grad():
            masters.named["weight"] += 1e-4
        masters.publish()
    assert float(masters.named["weight"].detach()) == pytest.approx(1.01, abs=1e-5)
    assert float(module.weight.detach()) == pytest.approx(1.01, abs=4e-3)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float64"])
def test_the_checkpoint_holds_float32_masters(precision: str, tmp_path: Path) -> None:
    config = run_config(training__steps=3, training__precision=precision, training__ema_decay=0.9)
    runner = trainer(tmp_path, config)
    runner.train()
    saved = load_file(checkpoint(tmp_path, 3) / "model.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}
    master = runner.masters.named["model.token_embeddings.weight"].detach()
    torch.testing.assert_close(saved["transformer.wte.weight"], master.float(), rtol=0, atol=0)
    narrow = runner.objective.model.head_weight.detach()
    assert narrow.dtype == getattr(torch, precision)
    if precision == "bfloat16":
        assert not torch.equal(narrow.float(), master)  # the masters know more


def test_bfloat16_learns_as_float32_does(tmp_path: Path) -> None:
    losses = {}
    for precision in ("float32", "bfloat16"):
        trainer(tmp_path / precision, run_config(training__precision=precision)).train()
        losses[precision] = [event["loss"] for event in events(tmp_path / precision, "step")]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], abs=0.05)


# -- float16 and its scale --


class Overflowing(CausalLM):
    """As a GPU's float16 backward pass does: gradients of a loss scaled too far are infinite."""

    def __init__(self, limit: float, **sizes: Any) -> None:
        super().__init__(tiny("gpt2", **sizes))
        self.limit = limit

    def forward(self, batch: Batch, ctx: Context) -> dict[str, Tensor]:
        hidden = self.model.encode(batch)
        loss = nn.functional.cross_entropy(
            self.model.logits(hidden).float().flatten(0, 1),
            batch.labels["causal_lm"].flatten(),
            reduction="sum",
        )
        return {"causal_lm": _Overflow.apply(loss, self.limit)}


class _Overflow(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: Tensor, limit: float) -> Tensor:
        ctx.limit = limit
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        # The upstream gradient is scale / count: 128 tokens a step.
        too_far = float(upstream[0]) * 128 > ctx.limit
        return upstream[0] * (math.inf if too_far else 1.0), None


def test_the_scale_halves_until_gradients_are_finite(tmp_path: Path) -> None:
    config = run_config(training__precision="float16")
    runner = trainer(tmp_path, config, objective=Overflowing(2.0**13))
    runner.train()
    reasons = [event["reason"] for event in events(tmp_path, "skip")]
    assert reasons == [f"float16 overflow, loss scale now {scale}" for scale in (32768, 16384, 8192)]
    assert runner.scale.value == 2.0**13
    assert runner.scale.good_steps == 7
    assert not runner.guard.refused_in_a_row  # an overflow is no fault of the data
    steps = events(tmp_path, "step")
    assert steps[0]["grad_norm"] is None
    unscaled = trainer(tmp_path / "wide", run_config(), objective=Overflowing(math.inf))
    unscaled.train()
    first = events(tmp_path / "wide", "step")[0]
    assert steps[3]["grad_norm"] == pytest.approx(first["grad_norm"], rel=0.3)  # not 8,192 times as large


def test_the_scale_survives_a_resume(tmp_path: Path) -> None:
    config = run_config(training__precision="float16", training__save_every=6, training__keep=9)
    trainer(tmp_path, config, objective=Overflowing(2.0**13)).train()
    end = load_file(checkpoint(tmp_path, 10) / "model.safetensors")
    again = trainer(tmp_path, config, objective=Overflowing(2.0**13, seed=4))
    again.resume(checkpoint(tmp_path, 6))
    assert (again.scale.value, again.scale.good_steps) == (2.0**13, 3)
    again.train()
    for name, tensor in load_file(checkpoint(tmp_path, 10) / "model.safetensors").items():
        assert torch.equal(tensor, end[name])


def test_a_nan_in_float16_is_the_guards_case_and_spares_the_scale(tmp_path: Path) -> None:
    class Broken(CausalLM):
        def forward(self, batch: Batch, ctx: Context) -> dict[str, Tensor]:
            sums = super().forward(batch, ctx)
            return {"causal_lm": sums["causal_lm"] * math.nan} if ctx.step == 4 else sums

    runner = trainer(tmp_path, run_config(training__precision="float16"), objective=Broken(tiny("gpt2")))
    runner.train()
    assert [event["reason"] for event in events(tmp_path, "skip")] == ["loss is nan"]
    assert runner.scale.value == 2.0**16


def updates(scale: LossScale, finite: Sequence[bool]) -> LossScale:
    for good in finite:
        scale.update(good)
    return scale


def test_the_scale_grows_again_and_has_a_floor() -> None:
    scale = updates(LossScale.of(torch.float16), [False])
    assert scale.value == 2.0**15
    assert updates(scale, [True] * 1999).value == 2.0**15
    assert updates(scale, [True]).value == 2.0**16
    assert updates(scale, [False] * 40).value == 1.0
    assert LossScale(**vars(scale)) == scale  # 1.0 stays 1.0 when it is read back
    assert updates(LossScale.of(torch.bfloat16), [False, True]) == LossScale(False)


# -- choices --


def test_unknown_and_absent_devices_are_refused() -> None:
    with pytest.raises(InputError, match="unknown device 'gpu'; expected auto, cpu, cuda or mps"):
        choose_device("gpu")
    assert choose_device("cpu").type == "cpu"
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="this machine has no cuda device; use device=cpu"):
            choose_device("cuda")


def test_precision_comes_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert choose_precision("float16", cpu) == ("float16", "as asked")
    with pytest.raises(InputError, match="unknown precision 'half'; expected auto, float32"):
        choose_precision("half", cpu)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)
    assert choose_precision("auto", cpu)[0] == "bfloat16"
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)
    assert choose_precision("auto", cpu)[0] == "float32"
    for has, expected in ((True, "bfloat16"), (False, "float16")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda has=has: has)
        assert choose_precision("auto", cuda)[0] == expected


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_native_updates_are_those_of_torch(
    micro_batches: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        module = nn.Linear(300, 400)
        with torch.no_grad():
            module.weight.fill_(0.1), module.bias.fill_(0.0)
        masters = MasterWeights(module, torch.bfloat16)
        section = OptimizerSection(name="adamw", learning_rate=0.01, weight_decay=0.1)
        optimizer = Optimizer(module, masters.named, section, narrow=masters.narrow)
        for step in range(4):
            masters.clear()
            for i in range(micro_batches):
                draw = torch.Generator().manual_seed(10 * step + i)
                x, y = torch.randn(2, 64, 400, generator=draw).bfloat16()
                (module(x[:, :300]) * y).sum().backward()
                masters.collect()
            optimizer.step(1.0, float((1.0 / masters.norm()).clamp(max=1.0)))
            masters.publish()
        assert torch.equal(module.weight, masters.named["weight"].bfloat16())
        return {name: p.detach() for name, p in masters.named.items()}, optimizer.tensors()

    theirs, state = trained()
    monkeypatch.setenv("CC", "cc")
    if choose_kernels("native", "cpu", "bfloat16")[0] != "native":
        pytest.skip("they cannot be had here")
    try:
        ours, same_state = trained()
    finally:
        native.use(None)
    for name, p in theirs.items():
        torch.testing.assert_close(ours[name], p, rtol=0, atol=2e-3)  # slopes near 0 may have another sign
        assert float((ours[name] - p).abs().mean()) < 2e-5
    assert state.keys() == same_state.keys()
