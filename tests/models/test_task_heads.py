"""Heads of tasks in folders: kept for the same labels, begun anew with a line for others, refused when wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import kit
from melete.data.batch import Batch
from melete.errors import InputError
from melete.models import family
from melete.models.base import Network
from melete.models.checkpoint import load_model, load_network, save_model

TASKS = ("text-classification", "token-classification", "question-answering")
LABELS = ["no", "yes", "maybe"]


def head_of(model: Network) -> torch.Tensor:
    part = family(model.family).HEADS[model.task].labelled
    return next(p for name, p in model.named_parameters() if name.startswith(part) and p.dim() == 2)


@pytest.fixture
def folder(tmp_path) -> Path:
    model = kit.tiny_network("bert", "text-classification", id2label=LABELS)
    save_model(tmp_path / "bert", model, tokenizer=None)
    return tmp_path / "bert"


@pytest.mark.parametrize("name", kit.LABELLED)
def test_every_family_has_every_task(name: str, tmp_path) -> None:
    module = family(name)
    assert set(TASKS) <= set(module.HEADS)
    assert all(set(head.parts) <= set(module.KEYS.heads) for head in module.HEADS.values())
    for task in TASKS:
        labels = {} if task == "question-answering" else {"id2label": LABELS}
        ours = kit.tiny_network(name, task, problem_type="single_label_classification", **labels)
        save_model(tmp_path / task, ours, tokenizer=None)
        again = load_network(tmp_path / task)
        assert (again.config, again.task) == (ours.config, task)
        state = ours.state_dict()
        assert all(torch.equal(tensor, state[key]) for key, tensor in again.state_dict().items())


@pytest.mark.parametrize("name", kit.LABELLED)
def test_a_trunk_is_kept_and_a_new_head_announced(name: str, tmp_path, capsys) -> None:
    """From pretraining to a task, from that task to another, and on to other labels."""
    first = next(iter(family(name).HEADS))
    kept = {"tie_word_embeddings": False} if name in kit.SIZES else {}
    save_model(tmp_path / "0", kit.tiny_network(name, first, **kept), tokenizer=None)
    trunk = load_network(tmp_path / "0").state_dict()
    for i, task in enumerate(TASKS):
        capsys.readouterr()
        changes = {"id2label": [] if task == "question-answering" else LABELS}
        model = load_network(tmp_path / str(i), task=task, changes=changes)
        said = capsys.readouterr().err
        assert family(name).HEADS[task].labelled in said
        assert "random weights" in said
        shared = {key for key in model.state_dict() if key in trunk} - {"classifier"}
        assert any(key.startswith("layers.1.") for key in shared)
        assert all(torch.equal(model.state_dict()[key], trunk[key]) for key in shared)
        save_model(tmp_path / str(i + 1), model, tokenizer=None)


def test_the_same_labels_keep_the_head_others_begin_anew(folder, capsys) -> None:
    expected = load_network(folder)
    assert torch.equal(head_of(load_network(folder, changes={"id2label": LABELS})), head_of(expected))
    assert capsys.readouterr().err == ""
    for labels in (["no", "maybe", "yes"], ["no", "yes"]):
        other = load_network(folder, changes={"id2label": labels}, seed=3)
        assert head_of(other).shape == (len(labels), 32)
        assert not torch.equal(head_of(other)[:2], head_of(expected)[:2])
        assert "for another task or other labels, so it starts from random weights: classifier" in (
            capsys.readouterr().err
        )
    again, different = (load_network(folder, changes={"id2label": ["a"]}, seed=seed) for seed in (3, 4))
    assert not torch.equal(head_of(again), head_of(different))


def test_a_head_of_the_same_name_is_not_taken_for_another_task(folder, capsys) -> None:
    """Hugging Face calls both `classifier`, and the shapes fit."""
    tagger = load_network(folder, task="token-classification")
    assert not torch.equal(head_of(tagger), head_of(load_network(folder)))
    assert "random weights: tagger" in capsys.readouterr().err


def test_dropout_before_the_last_layer_acts_in_training_only() -> None:
    batch = Batch.from_rows(kit.token_rows(9, 5))
    for name in kit.LABELLED:
        model = kit.tiny_network(name, "text-classification", classifier_dropout=0.5)

        def scores(model: Network = model) -> torch.Tensor:
            with torch.no_grad():
                return model.class_logits(model.encode(batch), batch)

        assert torch.equal(scores(), scores())
        model.train()
        assert not torch.equal(scores(), scores())


def test_the_head_of_another_task_is_asked_for_in_vain() -> None:
    batch = Batch.from_rows(kit.token_rows(3))
    for name in kit.LABELLED:
        model = kit.tiny_network(name, "question-answering")
        hidden = model.encode(batch)
        with pytest.raises(InputError, match=f"a {name} model for question-answering has no `classifier`"):
            model.class_logits(hidden, batch)
        with pytest.raises(InputError, match="has no `tagger` head"):
            model.tag_logits(hidden)


def test_a_classifier_does_not_continue_a_text(tmp_path) -> None:
    save_model(tmp_path, kit.tiny_network("gpt2", "text-classification"), tokenizer=None)
    assert not (tmp_path / "generation_config.json").exists()
    with pytest.raises(InputError, match="a model for text-classification does not continue a text"):
        load_model(tmp_path)


def test_qwen3_folders_of_the_bare_model_load(tmp_path) -> None:
    save_model(tmp_path, kit.tiny("qwen3"), tokenizer=None)
    expected = load_model(tmp_path).state_dict()
    tensors = load_file(tmp_path / "model.safetensors")
    bare = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    save_file(bare, tmp_path / "model.safetensors")
    state = load_model(tmp_path).state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"id2label": {"0": "a", "2": "b"}}, "id2label does not number its labels from 0 on"),
        ({"id2label": ["a", "b"]}, "id2label does not number"),
        ({"num_labels": 4}, "num_labels is 4, but id2label names 3"),
        ({"label2id": {"no": 1, "yes": 0, "maybe": 2}}, "label2id is not id2label turned round"),
        (
            {"id2label": {"0": "a", "1": "b"}, "label2id": {"a": 0, "b": 1}},
            r"classifier.bias has shape \(3,\); expected \(2,\), which is what config.json says",
        ),
        ({"problem_type": "ranking"}, "Invalid enum value 'ranking'"),
    ],
)
def test_labels_that_contradict_themselves_are_refused(folder, values, message: str) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    with pytest.raises(InputError, match=message) as error:
        load_network(folder)
    assert str(error.value).startswith(str(folder))


def test_a_missing_head_of_the_named_class_is_refused(folder) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["classifier.weight"], tensors["classifier.bias"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(InputError, match=r"2 tensors are missing \(classifier"):
        load_network(folder)
