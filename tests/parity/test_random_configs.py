"""Random weights of random legal configs, opened by each side from what the other has written."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

import encoder_models
import kit
import melete
from melete.data.batch import Batch
from melete.models import FAMILIES, family
from melete.models.checkpoint import load_network, save_model
from peers import OPENERS, distance, packed_distance

transformers = pytest.importorskip("transformers")
transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()

# Seen: up to 5e-6.
TOLERANCE = 1e-5
WORN = [(name, task) for name in FAMILIES for task in OPENERS if task in family(name).HEADS]


def their_config(name: str, draw: random.Random) -> dict[str, Any]:
    """A random legal config in their words."""
    heads, layers = draw.choice([1, 2, 3, 4]), draw.randint(1, 5)
    common = {
        "vocab_size": draw.randint(40, 90),
        "initializer_range": draw.choice([0.1, 0.2]),
        "pad_token_id": draw.choice([None, 0, 10]),
    }
    if name == "gpt2":
        return common | {
            "n_embd": heads * draw.choice([4, 5, 10]),
            "n_inner": draw.choice([None, draw.randint(3, 40)]),
            "n_layer": layers,
            "n_head": heads,
            "n_positions": draw.choice([8, 24, 33]),
            "layer_norm_epsilon": draw.choice([1e-5, 1e-3]),
            "tie_word_embeddings": draw.choice([True, False]),
            "attn_pdrop": draw.choice([0.0, 0.2]),
            "bos_token_id": draw.choice([None, 1]),
            "eos_token_id": draw.choice([None, 2]),
        }
    common |= {
        "hidden_size": heads * draw.choice([4, 6, 10]),
        "intermediate_size": draw.randint(3, 40),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "max_position_embeddings": draw.choice([8, 24, 33]),
    }
    if name == "qwen3":
        yarn = {"rope_type": "yarn", "factor": 3.0, "original_max_position_embeddings": 8}
        scaled = draw.choice([{"rope_type": "default"}, {"rope_type": "linear", "factor": 2.0}, yarn])
        return common | {
            "num_key_value_heads": draw.choice([n for n in range(1, heads + 1) if heads % n == 0]),
            "head_dim": draw.choice([4, 6, 10]),
            "rms_norm_eps": draw.choice([1e-6, 1e-3]),
            "rope_parameters": {"rope_theta": draw.choice([100.0, 1e6]), **scaled},
            "tie_word_embeddings": draw.choice([True, False]),
            "attention_dropout": draw.choice([0.0, 0.1]),
        }
    if name == "modernbert":
        both = ["full_attention", "sliding_attention"]
        kinds = [draw.choice(both) for _ in range(layers)]
        thetas = [draw.choice([100.0, 1e4, 16e4]) for _ in both]
        ropes = {k: {"rope_type": "default", "rope_theta": x} for k, x in zip(both, thetas, strict=True)}
        return common | {
            "local_attention": draw.choice([1, 2, 7, 16, 128]),
            "layer_types": draw.choice([None, kinds]),
            "rope_parameters": draw.choice([None, ropes]),
            "norm_eps": draw.choice([1e-5, 1e-3]),
            "attention_dropout": draw.choice([0.0, 0.1]),
            "embedding_dropout": draw.choice([0.0, 0.1]),
            "mlp_dropout": draw.choice([0.0, 0.1]),
            "bos_token_id": draw.choice([None, 1]),
        }
    if name == "electra":
        common["embedding_size"] = draw.choice([common["hidden_size"], draw.randint(2, 40)])
    return common | {
        "type_vocab_size": draw.choice([1, 2, 3]),
        "layer_norm_eps": draw.choice([1e-12, 1e-5, 1e-3]),
        "hidden_dropout_prob": draw.choice([0.0, 0.1, 0.3]),
        "attention_probs_dropout_prob": draw.choice([0.0, 0.2]),
    }


def their_model(name: str, task: str, draw: random.Random) -> Any:
    """A model of theirs with weights, biases and norms far from where they start."""
    kind = getattr(transformers, family(name).HEADS[task].architecture)
    theirs = kind(kind.config_class(**their_config(name, draw))).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return theirs


def check_both_ways(name: str, task: str, seed: int, folder: Path) -> None:
    """Their folder, loaded by us and saved again, says the same and comes back the same."""
    draw = random.Random(f"{name} {task} {seed}")
    torch.manual_seed(seed)
    theirs = their_model(name, task, draw)
    theirs.save_pretrained(folder / "theirs")
    encoder_models.pieces().save(folder / "theirs")
    config = theirs.config
    # A decoder's row is no longer than its context, whatever stands in it.
    longest = config.max_position_embeddings // (3 if task == "text-generation" else 1)
    lengths = [draw.randint(1, longest) for _ in range(3)]
    rows = kit.token_rows(*lengths, seed=seed, vocab=config.vocab_size)

    ours = load_network(folder / "theirs")
    assert ours.task == task
    assert distance(ours, theirs, Batch.from_rows(rows)) <= TOLERANCE
    assert packed_distance(ours, theirs, rows) <= TOLERANCE
    # A discriminator answers no question about a text; what it makes of one can be asked for.
    asked = "feature-extraction" if (name, task) == ("electra", "pretraining") else None
    loaded: Any = melete.load(folder / "theirs", task=asked, device="cpu")
    with torch.no_grad():
        batch = Batch.from_rows(rows)
        assert torch.equal(loaded.model.encode(batch), ours.encode(batch))

    save_model(folder / "ours", ours, tokenizer=folder / "theirs")
    assert load_network(folder / "ours").config == ours.config
    opener = getattr(transformers, OPENERS[task])
    again, report = opener.from_pretrained(folder / "ours", output_loading_info=True)
    assert not any(report.values())
    assert type(again) is type(theirs)
    before, after = theirs.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    kept = again.config.to_dict()
    changed = {key for key, value in config.to_dict().items() if kept.get(key) != value}
    assert changed <= {"_name_or_path", "architectures", "dtype", "sliding_window"}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("name", "task"), WORN)
def test_their_folder_loads_and_comes_back_the_same(name: str, task: str, seed: int, tmp_path) -> None:
    check_both_ways(name, task, seed, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3, 35))
@pytest.mark.parametrize(("name", "task"), WORN)
def test_more_of_their_folders_load_and_come_back_the_same(name: str, task: str, seed: int, tmp_path) -> None:
    check_both_ways(name, task, seed, tmp_path)
