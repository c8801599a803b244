"""What is measured before training leaves no trace; what cannot be is refused before anything is read."""

from __future__ import annotations

import pytest
import torch

from kit import tiny
from melete.config import RunConfig
from melete.data.batch import Batch
from melete.errors import InputError
from melete.objectives.base import Context
from melete.objectives.causal_lm import CausalLM
from melete.training import budget, building, causal
from rig import run_config


class OutOfMemory(CausalLM):
    """Has room for so many tokens at once."""

    room = 0

    def forward(self, batch: Batch, ctx: Context) -> dict[str, torch.Tensor]:
        if batch.tokens > self.room:
            raise torch.OutOfMemoryError
        return super().forward(batch, ctx)


def test_memory_that_runs_out_leaves_the_weights_as_they_were() -> None:
    objective = OutOfMemory(tiny("qwen3"))
    before = {name: p.detach().clone() for name, p in objective.named_parameters()}
    with pytest.raises(torch.OutOfMemoryError):
        budget.measure(run_config(training__precision="bfloat16"), objective, 2)
    for name, p in objective.named_parameters():
        assert p.dtype == torch.float32, name
        assert torch.equal(p, before[name]), name


def test_a_time_budget_measures_with_what_fits() -> None:
    objective = OutOfMemory(tiny("qwen3"))
    config = run_config()
    assert budget._plan(config, "tiny", objective, unique=1000, seconds=60.0) is None
    objective.room = 2 * config.training.context
    plan = budget._plan(config, "tiny", objective, unique=1000, seconds=60.0)
    assert plan is not None and plan.rate > 0


def test_where_not_even_one_row_fits_layers_compute_their_inside_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def measure(config: RunConfig, *_: object) -> budget.Speed:
        if config.training.recompute != "on":
            raise torch.OutOfMemoryError
        return budget.Speed(1.0, 1.0)

    monkeypatch.setattr(budget, "measure", measure)
    config = run_config(training__device="cuda", training__micro_batch_rows=0)
    chosen, _ = budget.choose(config, causal.CausalJob.__new__(causal.CausalJob), CausalLM(tiny("gpt2")), 0.0)
    assert (chosen.training.recompute, chosen.training.micro_batch_rows) == ("on", 8)
    assert "not even one row fits" in chosen.choices["training.recompute"]
    with pytest.raises(InputError, match="not even one row"):
        budget.micro_batch_rows(config, CausalLM(tiny("gpt2")))


def test_a_dry_run_builds_what_a_run_would(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(causal, "build", lambda *_, init, **__: seen.append(init) or tiny("gpt2"))
    budget.preview(run_config(**{"model.source": "gpt2:nano", "model.init": "xavier"}))
    assert seen == ["xavier"]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"model.config": {"vocab_size": 99}}, "model.config.vocab_size: the tokenizer decides it"),
        ({"model.config": {"seed": 1}}, "unknown key `seed`"),
        ({"model.config": {"max_position_embeddings": 8}}, "training.context = 16 is longer"),
        ({"model.source": "gpt2:tinny"}, "no preset 'tinny'"),
    ],
)
def test_a_slip_in_the_model_is_refused_without_the_data(changes: dict, line: str) -> None:
    config = run_config(**{"model.source": "gpt2:nano", **changes})
    with pytest.raises(InputError, match=line):
        building.check_model(config)
    with pytest.raises(InputError, match=line):
        budget.preview(config)
