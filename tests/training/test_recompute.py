"""Layers that compute their inside again: the same run to the last bit, on less memory, when memory asks for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

import kit
from melete.errors import InputError
from melete.machine import give_back_freed, main_memory
from melete.models.base import Network
from melete.nn import native
from melete.nn.lora import add_lora
from melete.training import recompute
from melete.training.precision import choose_kernels
from melete.training.recompute import again, called, layers_of
from rig import DROPOUT, checkpoint, digest, events, run_config, trainer

DROPS = {"hidden_dropout": 0.1, "attention_dropout": 0.1}
FAMILIES = [
    family for family in (*kit.SIZES, *kit.ENCODER_SIZES, *kit.ENCODER_DECODER_SIZES) if family != "lstm"
]


def network(family: str) -> Network:
    """A tiny one that drops much, in training mode."""
    if family in kit.SIZES:
        return kit.tiny(family, **(DROPS if family == "qwen3" else DROPOUT)).train()
    if family in kit.ENCODER_SIZES:
        drops = {"attention_dropout": 0.1, "mlp_dropout": 0.1} if family == "modernbert" else DROPS
        return kit.tiny_encoder(family, **drops).train()
    return kit.tiny_encoder_decoder(family, **DROPS).train()


def passed(model: Any, family: str, how: Any, twice: bool = False) -> tuple[list[Tensor], int]:
    """Hidden states and gradients of two ragged texts, and the bytes that were kept for the backward pass."""
    rows = kit.token_rows(9, 14)
    batch = kit.Batch.from_rows(rows)
    if family in kit.ENCODER_DECODER_SIZES:
        batch = kit.answering(kit.token_rows(11, 7, seed=1), rows)
    kept: dict[int, int] = {}

    def keep(x: Tensor) -> Tensor:
        kept.setdefault(x.untyped_storage().data_ptr(), x.untyped_storage().nbytes())
        return x.detach()

    torch.manual_seed(5)
    model.zero_grad()
    with saved_tensors_hooks(keep, lambda x: x), called(layers_of(model), how) if how else nullcontext():
        hidden = model.encode(batch)
    loss = hidden.float().square().sum()
    if twice:  # as an adversarial step does
        torch.autograd.grad(loss, next(model.parameters()), retain_graph=True)
    loss.backward()
    found = [p.grad for p in model.parameters() if p.grad is not None]
    return [hidden.detach(), torch.rand(3), *found], sum(kept.values())


def assert_same(ours: list[Tensor], theirs: list[Tensor]) -> None:
    assert len(ours) == len(theirs) > 3
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_computes_the_same_and_keeps_less(family: str) -> None:
    model = network(family)
    names = list(model.state_dict())
    plain, kept = passed(model, family, None)
    for twice in (False, True):
        ours, less = passed(model, family, again, twice)
        assert_same(ours, plain)
        assert less < 0.6 * kept
    assert list(model.state_dict()) == names
    assert not any("forward" in vars(layer) for layer in layers_of(model))


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Those in C, where they can be had."""
    monkeypatch.setenv("CC", "cc")
    if choose_kernels("native", "cpu", "bfloat16")[0] != "native":
        pytest.skip("they cannot be had here")
    yield
    native.use(None)


def test_native_kernels_compute_the_same(kernels: None) -> None:
    for family in FAMILIES:
        model = network(family).bfloat16()
        assert_same(passed(model, family, again)[0], passed(model, family, None)[0])


def test_lora_computes_the_same() -> None:
    model = network("gpt2").requires_grad_(False)
    add_lora(model, [], rank=2, alpha=4.0, dropout=0.1, seed=0)
    for name, p in model.named_parameters():
        p.requires_grad_("lora" in name)
        if name.endswith("lora_b"):
            torch.nn.init.normal_(p, std=0.1)
    plain, kept = passed(model, "gpt2", None)
    ours, less = passed(model, "gpt2", again)
    assert_same(ours, plain)
    assert less < 0.6 * kept


def test_a_run_is_the_same_on_and_off_and_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    how = {"training__steps": 4, "training__save_every": 2, "training__precision": "bfloat16"}
    off, on = (run_config(**how, training__recompute=value) for value in ("off", "on"))
    calls: list[bool] = []
    monkeypatch.setattr(recompute, "again", lambda *args: calls.append(True) or again(*args))
    trainer(tmp_path / "off", off, **DROPOUT).train()
    assert not calls
    trainer(tmp_path / "on", on, **DROPOUT).train()
    assert len(calls) == 4 * 4 * 2  # steps, micro-batches, layers
    end = digest(checkpoint(tmp_path / "off", 4))
    assert digest(checkpoint(tmp_path / "on", 4)) == end
    changed = trainer(tmp_path / "on", off, seed=99, **DROPOUT)  # 2 steps with, 2 without
    changed.resume(checkpoint(tmp_path / "on", 2))
    changed.train()
    assert digest(checkpoint(tmp_path / "on", 4)) == end
    losses = [[event["loss"] for event in events(tmp_path / name, "step")] for name in ("on", "off")]
    assert losses[0] == losses[1]


def test_by_itself_only_when_memory_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer(tmp_path / "off", run_config(training__steps=3), num_hidden_layers=5, **DROPOUT).train()
    assert not events(tmp_path / "off", "note")
    monkeypatch.setattr(recompute, "free_memory", lambda device: 2**16)
    asked = trainer(tmp_path / "on", run_config(training__steps=3), num_hidden_layers=5, **DROPOUT)
    asked.train()
    (note,) = events(tmp_path / "on", "note")
    assert "training.recompute: on for 32 tokens at once" in note["text"]
    assert "0.00 GiB are free" in note["text"]
    assert digest(checkpoint(tmp_path / "on", 3)) == digest(checkpoint(tmp_path / "off", 3))


def test_only_larger_micro_batches_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    asked = trainer(tmp_path, run_config())
    again_or_not: list[bool] = []
    monkeypatch.setattr(recompute, "again", lambda *args: again_or_not.append(True) or again(*args))

    def free(device: object) -> int:
        looks.append(1)
        return 10**9 if sizes[0] < 4 else 0

    monkeypatch.setattr(recompute, "free_memory", free)
    for sizes, looked, recomputed in (
        ((2, 8), True, False),
        ((1, 8), False, False),
        ((2, 9), True, False),
        ((4, 9), True, False),  # found when both layers have kept theirs
        ((3, 9), True, False),
        ((5, 12), False, True),
    ):
        looks.clear(), again_or_not.clear()
        batch = kit.Batch.from_rows(kit.token_rows(*[sizes[1]] * sizes[0]))
        with asked.recompute.around(batch):
            asked.objective.model.encode(batch)
        assert (bool(looks), bool(again_or_not)) == (looked, recomputed), sizes


def test_what_has_no_layers_refuses(tmp_path: Path) -> None:
    objective: Any = torch.nn.Module()
    objective.model = kit.tiny_encoder_decoder("lstm")
    with pytest.raises(InputError, match="lstm has no layers"):
        recompute.Recompute(run_config(training__recompute="on"), objective, lambda: True, print)


def test_free_memory_is_some_of_all() -> None:
    give_back_freed()
    total, free = main_memory()
    if free is None:
        pytest.skip("this system does not tell")
    assert 0 < free <= total
