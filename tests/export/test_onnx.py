"""ONNX graphs: ONNX Runtime gives the model's answers on batches unlike the one that was traced."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch

import kit
from melete.data.batch import Batch
from melete.errors import InputError
from melete.export import onnx_graph
from melete.export.export import export_model
from melete.models import family
from melete.models.checkpoint import load_network

WORN = [(name, task) for name in sorted({**kit.SIZES, **kit.ENCODER_SIZES}) for task in family(name).HEADS]
ALWAYS = {("qwen3", "text-generation"), ("bert", "pretraining")}
PARAMETERS = [pytest.param(*worn, marks=[] if worn in ALWAYS else [pytest.mark.slow]) for worn in WORN]
TOLERANCE = 1e-5  # measured: 2e-6 at most; promised: 1e-4


def answers(model, batch: Batch) -> list[torch.Tensor]:
    """What the model says, in the order in which the Hugging Face class of its task returns it."""
    hidden, task = model.encode(batch), model.task
    if task == "text-generation":
        return [model.logits(hidden)]
    if task == "fill-mask":
        return [model.mlm_logits(hidden)]
    if task == "text-classification":
        return [model.class_logits(hidden, batch)]
    if task == "token-classification":
        return [model.tag_logits(hidden)]
    if task == "question-answering":
        return [*model.span_logits(hidden).unbind(-1)]
    if model.family == "electra":
        return [model.rtd_logits(hidden)]
    return [model.mlm_logits(hidden), model.nsp_logits(hidden, batch)]


def session(path):
    return onnxruntime.InferenceSession(path / "model.onnx", providers=["CPUExecutionProvider"])


@torch.no_grad()
@pytest.mark.parametrize(("name", "task"), PARAMETERS)
def test_onnx_runtime_gives_the_same_answers(made, tmp_path, name: str, task: str) -> None:
    folder = made(name, task, pad_token_id=0)
    found = export_model(str(folder), "onnx", tmp_path / "out")
    assert found.difference is not None
    assert found.difference <= TOLERANCE
    model, graph = load_network(folder), session(tmp_path / "out")
    typed = name in ("bert", "electra")
    named = ["input_ids", "attention_mask", *(["token_type_ids"] if typed else [])]
    assert [value.name for value in graph.get_inputs()] == named
    assert all(value.shape == ["batch", "sequence"] for value in graph.get_inputs())
    for lengths, left in (((7, 5), False), ((64, 3, 20, 1), False), ((9, 30, 2), True), ((1,), False)):
        batch = Batch.from_rows(kit.token_rows(*lengths, vocab=300), left=left)
        if typed:
            batch = replace(batch, token_type_ids=(batch.position_ids > 4).long())
        mask = batch.doc_ids > 0
        tensors = {
            "input_ids": batch.input_ids,
            "attention_mask": mask.long(),
            "token_type_ids": batch.token_type_ids,
        }
        theirs = graph.run(None, {key: tensors[key].numpy() for key in named})
        for ours, answer in zip(answers(model, batch), theirs, strict=True):
            assert answer.shape == tuple(ours.shape)
            real = mask.numpy() if answer.shape[:2] == mask.shape else slice(None)
            assert np.abs(answer[real] - ours.numpy()[real]).max() <= TOLERANCE


def test_the_folder_is_what_the_ecosystem_looks_for(made, tmp_path, capsys) -> None:
    folder = made("gpt2")
    found = export_model(str(folder), "onnx", tmp_path / "out", precision="float16")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "config.json",
        "generation_config.json",
        "model.onnx",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    size = (tmp_path / "out" / "model.onnx").stat().st_size
    assert 2 * found.parameters < size < 3 * found.parameters + 100_000
    assert found.difference is not None
    assert 1e-5 < found.difference < 1e-2  # of float16 from float32
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.partition(" ")[0] for line in err.splitlines()] == ["reading", "writing", "tracing"]


def test_a_graph_that_says_something_else_is_not_handed_out(made, tmp_path, monkeypatch) -> None:
    folder = made("gpt2")
    monkeypatch.setattr(onnx_graph, "_trace", lambda graph, names, path: path.touch())
    nothing = [np.zeros((3, 11, load_network(folder).config.vocab_size), np.float32)]
    monkeypatch.setattr(onnx_graph, "run", lambda path, inputs: nothing)
    with pytest.raises(AssertionError, match="the graph's answers differ by"):
        export_model(str(folder), "onnx", tmp_path / "out")
    with pytest.raises(InputError, match=r"in float16 its answers differ by .*; use --precision float32"):
        export_model(str(folder), "onnx", tmp_path / "out", precision="float16")
    assert {path.name for path in tmp_path.iterdir()} == {"model"}
