"""How a batch is cut, and over how many processes it is spread, changes nothing."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from kit import tiny
from melete.data.batch import Batch, Example, ExampleKey
from melete.objectives.causal_lm import CausalLM
from rig import checkpoint, events, run_config, trainer


class Ragged(CausalLM):
    """Leaves out labels, so that micro-batches count very different numbers of items."""

    def prepare(
        self, examples: Sequence[Example], rng_for: Callable[[ExampleKey], np.random.Generator]
    ) -> Batch:
        batch = super().prepare(examples, rng_for)
        for row, example in enumerate(examples):
            keep = int(rng_for(example.key).integers(0, 16))  # may be none at all
            batch.labels["causal_lm"][row, keep:] = -100
        return batch


def train(
    folder: Path, micro_batch_rows: int, objective: type[CausalLM], **changes: object
) -> dict[str, Tensor]:
    config = run_config(
        training__steps=4,
        training__batch_tokens=32 * 16,
        training__micro_batch_rows=micro_batch_rows,
        training__precision="float64",
        # A key's bias has no gradient but rounding; Adam must not divide noise by noise.
        optimizer__eps=1e-6,
        **changes,
    )
    runner = trainer(folder, config, objective=objective(tiny("gpt2", seed=3), 0.1, 1e-3))
    runner.train()
    return {name: p.detach() for name, p in runner.masters.named.items()}


@pytest.mark.parametrize("objective", [CausalLM, Ragged])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_batch_of_32_is_four_of_8(objective: type[CausalLM], optimizer: str, tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", 32, objective, optimizer__name=optimizer)
    for micro_batch_rows in (8, 5):  # 5 leaves a shorter one at the end
        cut = train(
            tmp_path / f"cut-{micro_batch_rows}", micro_batch_rows, objective, optimizer__name=optimizer
        )
        # Measured: 3e-15 (adamw), 2e-15 (muon); a mean of means is off by 1e-3.
        for name, weight in whole.items():
            torch.testing.assert_close(
                cut[name], weight, rtol=0, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}"
            )
        for a, b in zip(
            events(tmp_path / "whole", "step"),
            events(tmp_path / f"cut-{micro_batch_rows}", "step"),
            strict=True,
        ):
            assert a["loss"] == pytest.approx(b["loss"], abs=1e-12)
            assert a["grad_norm"] == pytest.approx(b["grad_norm"], abs=1e-12)
            assert (a["tokens"], a["terms"].keys()) == (b["tokens"], b["terms"].keys())


def test_a_batch_without_any_label_is_not_a_division_by_zero(tmp_path: Path) -> None:
    class Unlabelled(CausalLM):
        def prepare(
            self, examples: Sequence[Example], rng_for: Callable[[ExampleKey], np.random.Generator]
        ) -> Batch:
            batch = super().prepare(examples, rng_for)
            batch.labels["causal_lm"].fill_(-100)
            return batch

    weights = train(tmp_path, 8, Unlabelled)
    assert all(bool(torch.isfinite(weight).all()) for weight in weights.values())


# -- several processes --


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def rank_main(folder: Path, rows: int) -> None:
    """One process of several: what `torchrun` would start."""
    config = run_config(
        training__steps=4,
        training__micro_batch_rows=rows,
        training__ema_decay=0.9,
        training__precision="float64",
        optimizer__eps=1e-6,
    )
    trainer(folder, config, objective=Ragged(tiny("gpt2", seed=3))).train()


@pytest.mark.parametrize("rows", [2, 8], ids=["two micro-batches each", "one for both"])
def test_two_processes_are_one(rows: int, tmp_path: Path) -> None:
    rank_main(tmp_path / "alone", rows)
    together = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    command = [sys.executable, __file__, str(tmp_path), str(rows)]
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    ranks = [
        subprocess.Popen(
            command,
            env={**os.environ, **together, "RANK": str(rank), "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": path},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in ranks:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    end = checkpoint(tmp_path / "alone", 4)
    for name in ("model.safetensors", "train_state.safetensors"):
        one, two = load_file(end / name), load_file(checkpoint(tmp_path / "rank-0", 4) / name)
        for key, tensor in one.items():
            torch.testing.assert_close(two[key], tensor, rtol=1e-6, atol=1e-6)
    assert not list((tmp_path / "rank-1" / "checkpoints").iterdir())  # the main process alone saves
    fields = ("step", "tokens", "padding")
    for a, b in zip(events(tmp_path / "alone", "step"), events(tmp_path / "rank-0", "step"), strict=True):
        assert [a[field] for field in fields] == [b[field] for field in fields]
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-6)


if __name__ == "__main__":
    rank_main(Path(sys.argv[1]) / f"rank-{os.environ['RANK']}", int(sys.argv[2]))
