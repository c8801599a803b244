"""What every format shares: the target is whole or absent, and what cannot be done is one line. And the plainest."""

from __future__ import annotations

import errno
import importlib.util
import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from melete.errors import InputError, StorageError
from melete.export.export import export_model
from melete.models.checkpoint import load_network


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16"])
def test_a_hugging_face_folder_holds_the_model_and_nothing_of_its_training(
    made, tmp_path, tokenizer_folder, precision: str
) -> None:
    folder = made("qwen3")
    (folder / "generation_config.json").write_text('{"temperature": 0.6}')
    (folder / "train_state.json").write_text("{}")
    found = export_model(str(folder), "hf", tmp_path / "new" / "out", precision=precision)
    out = tmp_path / "new" / "out"
    assert {path.name for path in out.iterdir()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert json.loads((out / "config.json").read_text())["dtype"] == precision
    assert json.loads((out / "generation_config.json").read_text()) == {"temperature": 0.6}
    assert (out / "tokenizer.json").read_bytes() == (tokenizer_folder / "tokenizer.json").read_bytes()
    weights, before = load_file(out / "model.safetensors"), load_network(folder).state_dict()
    assert {tensor.dtype for tensor in weights.values()} == {getattr(torch, precision)}
    after = load_network(out).state_dict()
    for name, tensor in before.items():
        assert torch.equal(after[name], tensor.to(getattr(torch, precision)).float())
    assert len({path.stat().st_mode for path in out.iterdir()}) == 1, "who may read one file may read all"
    assert (found.family, found.task, found.path) == ("qwen3", "text-generation", str(out))
    assert found.parameters == sum(tensor.numel() for tensor in before.values())
    assert found.bytes == sum(path.stat().st_size for path in out.iterdir())


@pytest.mark.parametrize(
    ("family", "task"), [("gpt2", None), ("bert", "fill-mask"), ("electra", None), ("modernbert", None)]
)
def test_every_family_opens_in_transformers_with_the_same_weights(made, tmp_path, family: str, task) -> None:
    import transformers

    folder = made(family, task)
    found = export_model(str(folder), "hf", tmp_path / "out", precision="bfloat16")
    theirs = getattr(transformers, found.architecture).from_pretrained(tmp_path / "out")
    assert {parameter.dtype for parameter in theirs.parameters()} == {torch.bfloat16}
    ours = load_file(tmp_path / "out" / "model.safetensors")
    state = theirs.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in ours.items())


@pytest.mark.parametrize(
    ("family", "arguments", "message"),
    [
        ("qwen3", {"format": "ggml"}, "unknown format 'ggml'; expected hf or gguf or onnx"),
        ("qwen3", {"precision": "int4"}, "unknown precision 'int4'; expected float32 or"),
        ("bert", {"format": "gguf"}, "a bert model for fill-mask has no GGUF form here; expected a decoder"),
        (
            "bert",
            {"format": "onnx", "precision": "bfloat16"},
            "does not compute in bfloat16; expected float32 or",
        ),
    ],
)
def test_what_a_format_cannot_hold_is_refused(made, tmp_path, family: str, arguments, message: str) -> None:
    folder, before = made(family), sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match=message):
        export_model(str(folder), **{"format": "hf", "out": tmp_path / "out", **arguments})
    assert sorted(tmp_path.iterdir()) == before


def test_a_class_without_a_head_of_ours_is_refused(made, tmp_path) -> None:
    folder = made("bert")
    config = json.loads((folder / "config.json").read_text())
    for named, shown in ((["BertForMultipleChoice"], "BertForMultipleChoice"), (None, "no class")):
        (folder / "config.json").write_text(json.dumps(config | {"architectures": named}))
        with pytest.raises(InputError, match=f"names {shown}, and Melete has no head for it"):
            export_model(str(folder), "hf", tmp_path / "out")


def test_a_folder_without_the_head_it_names_is_refused(made, tmp_path) -> None:
    folder = made("bert")
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = ["BertForTokenClassification"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="tensors are missing"):
        export_model(str(folder), "hf", tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"model"}


def test_a_target_that_is_there_stays_as_it_is(made, tmp_path) -> None:
    folder, out = made("gpt2"), tmp_path / "mine"
    out.mkdir()
    with pytest.raises(InputError, match="mine: already there; choose another --out"):
        export_model(str(folder), "hf", out)
    assert not list(out.iterdir())


def test_a_place_that_cannot_be_written_is_one_line(made, tmp_path) -> None:
    folder = made("gpt2")
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="file/out: cannot be written"):
        export_model(str(folder), "hf", tmp_path / "file" / "out")


def test_a_full_disk_is_seen_before_the_work(made, tmp_path, monkeypatch) -> None:
    folder = made("gpt2")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(StorageError, match=r"not enough space: .* GB needed, 0.0 GB free"):
        export_model(str(folder), "gguf", tmp_path / "out.gguf")
    assert {path.name for path in tmp_path.iterdir()} == {"model"}


@pytest.mark.parametrize("format", ["hf", "gguf"])
def test_a_write_that_fails_leaves_nothing(made, tmp_path, monkeypatch, format: str) -> None:
    import gguf

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    folder = made("gpt2")
    monkeypatch.setattr("melete.models.checkpoint.save_file", full)
    monkeypatch.setattr(gguf.GGUFWriter, "write_tensor_data", full)
    with pytest.raises(StorageError, match="No space left on device"):
        export_model(str(folder), format, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"model"}


def test_a_missing_package_is_named_with_the_extra(made, tmp_path, monkeypatch) -> None:
    folder = made("gpt2")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for format, package in (("gguf", "gguf"), ("onnx", "onnxscript")):
        with pytest.raises(
            InputError, match=rf"needs the package {package}; .*pip install 'melete\[export\]'"
        ):
            export_model(str(folder), format, tmp_path / "out")


@pytest.mark.parametrize("format", ["hf", "gguf", "onnx"])
def test_a_number_too_large_for_float16_is_refused(made, tmp_path, format: str) -> None:
    from safetensors.torch import save_file

    folder = made("gpt2")
    weights = load_file(folder / "model.safetensors")
    weights["transformer.wte.weight"][0, 0] = 70000
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"token_embeddings\.weight holds 70000, more than float16 can"):
        export_model(str(folder), format, tmp_path / "out", precision="float16")
    assert {path.name for path in tmp_path.iterdir()} == {"model"}
