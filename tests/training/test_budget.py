"""What is measured before training leaves no trace; what cannot be is refused before anything is read."""

from __future__ import annotations

import pytest
import torch

from kit import tiny
from melete.data.batch import Batch
from melete.errors import InputError
from melete.objectives.base import Context
from melete.objectives.causal_lm import CausalLM
from melete.training import budget
from rig import run_config


class OutOfMemory(CausalLM):
    def forward(self, batch: Batch, ctx: Context) -> dict[str, torch.Tensor]:
        raise torch.OutOfMemoryError


def test_memory_that_runs_out_leaves_the_weights_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("qwen3")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    monkeypatch.setattr(budget, "CausalLM", OutOfMemory)
    with pytest.raises(torch.OutOfMemoryError):
        budget.seconds_per_token(run_config(training__precision="bfloat16"), model, 2)
    for name, p in model.named_parameters():
        assert p.dtype == torch.float32, name
        assert torch.equal(p, before[name]), name


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
        budget.check_model(config)
    with pytest.raises(InputError, match=line):
        budget.preview(config)
