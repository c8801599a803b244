"""Thin matrices beside frozen ones: where they are, what is saved of them, and that the merged model is the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import kit
from melete.data.batch import Batch
from melete.errors import InputError
from melete.models import family
from melete.models.checkpoint import load_network, save_model
from melete.nn.lora import LoraLinear
from melete.objectives.classification import Classification
from melete.objectives.labelled import Craft, Lora

TARGETS = {
    "bert": ["attention.output.dense", "attention.self.query", "intermediate.dense", "output.dense"],
    "gpt2": ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"],
    "qwen3": ["mlp.down_proj", "self_attn.q_proj"],
    "modernbert": ["attn.Wo", "attn.Wqkv", "mlp.Wi", "mlp.Wo"],
    "electra": ["attention.self.value", "output.dense"],
}


def objective(name: str, folder: Path, **settings: Any) -> Classification:
    """Over a saved base, with thin matrices far from zero."""
    if not folder.exists():
        save_model(folder, kit.tiny_network(name, next(iter(family(name).HEADS))), tokenizer=None)
    changes = {"id2label": ["a", "b", "c"], "problem_type": "single_label_classification"}
    model = load_network(folder, task="text-classification", changes=changes).eval()
    task = Classification(model, Craft(), 0, Lora(folder, **{"rank": 3, "alpha": 6.0, **settings}))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in task.named_parameters():
            if name.endswith("lora_b"):
                p.normal_(0, 0.1, generator=generator)
    return task.eval()


@torch.no_grad()
def scores(model: Any) -> torch.Tensor:
    batch = Batch.from_rows(kit.token_rows(9, 5))
    return model.class_logits(model.encode(batch), batch)


@pytest.mark.parametrize("name", kit.LABELLED)
def test_the_merged_folder_and_the_adapter_are_the_model(name: str, tmp_path: Path) -> None:
    task = objective(name, tmp_path / "base")
    with torch.no_grad():
        before = scores(task.model)
        thin = [p for key, p in task.named_parameters() if key.endswith("lora_b")]
        for p in thin:
            p.neg_()
        assert not torch.allclose(scores(task.model), before, atol=1e-3)
        for p in thin:
            p.neg_()
    masters = {name: p.detach() for name, p in task.named_parameters()}
    task.save(tmp_path / "saved", masters, None)
    merged = load_network(tmp_path / "saved")
    assert not any(isinstance(module, LoraLinear) for module in merged.modules())
    assert torch.allclose(scores(merged), scores(task.model), atol=1e-5)
    again = task.load(tmp_path / "saved")
    assert again.keys() == masters.keys()
    assert all(torch.equal(again[key], masters[key]) for key in masters)
    config = json.loads((tmp_path / "saved" / "adapter" / "adapter_config.json").read_text())
    assert (config["peft_type"], config["task_type"], config["r"], config["lora_alpha"]) == (
        "LORA",
        "SEQ_CLS",
        3,
        6.0,
    )
    assert set(TARGETS[name]) <= set(config["target_modules"])
    tensors = load_file(tmp_path / "saved" / "adapter" / "adapter_model.safetensors")
    assert all(key.startswith("base_model.model.") for key in tensors)
    thin = sum(key.endswith("lora_A.weight") for key in tensors)
    assert thin == sum(key.endswith("lora_B.weight") for key in tensors) == len(task.thin)


def test_only_thin_matrices_and_the_head_are_trained(tmp_path: Path) -> None:
    task = objective("bert", tmp_path / "base", targets=("query", "value"))
    assert task.thin == [f"layers.{i}.attention.{name}" for i in (0, 1) for name in ("query", "value")]
    trained = {name for name, p in task.named_parameters() if p.requires_grad}
    assert {name.rpartition(".")[2] for name in trained if ".layers." in name} == {"lora_a", "lora_b"}
    assert any("classifier" in name for name in trained)
    assert not any("embeddings" in name for name in trained)


def test_they_start_as_the_model_and_the_seed_decides(tmp_path: Path) -> None:
    base = tmp_path / "base"
    save_model(base, kit.tiny_network("qwen3", "text-classification", id2label=["a", "b"]), tokenizer=None)
    expected = scores(load_network(base))

    def fresh(seed: int) -> Classification:
        model = load_network(base, changes={"problem_type": "single_label_classification"})
        return Classification(model, Craft(), 0, Lora(base, 2, dropout=0.5, seed=seed)).eval()

    one, same, other = fresh(1), fresh(1), fresh(2)
    assert torch.equal(scores(one.model), expected)
    names = [name for name, _ in one.named_parameters() if name.endswith("lora_a")]
    assert all(torch.equal(one.get_parameter(name), same.get_parameter(name)) for name in names)
    assert not any(torch.equal(one.get_parameter(name), other.get_parameter(name)) for name in names)


def test_a_target_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no block has q_proj; expected some of \['down', 'key', 'output'"):
        objective("bert", tmp_path / "base", targets=("q_proj",))
