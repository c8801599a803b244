"""Folders: found, read, refused with one clear line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import kit
from melete.data.batch import Batch
from melete.errors import InputError, StorageError
from melete.models import family
from melete.models.checkpoint import load_config, load_model, locate, save_model


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> dict[str, Path]:
    folders = {}
    for name in kit.SIZES:
        folders[name] = tmp_path_factory.mktemp(name)
        save_model(folders[name], kit.tiny(name), tokenizer=None)
    return folders


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    """A qwen3 folder to spoil."""
    return Path(shutil.copytree(saved["qwen3"], tmp_path / "model"))


def change_config(folder: Path, **values) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def change_tensors(folder: Path, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_weights_given_apart_are_what_is_saved(tmp_path) -> None:
    model = kit.tiny("gpt2").bfloat16()
    masters = {name: tensor.float() + 1e-4 for name, tensor in model.state_dict().items()}
    save_model(tmp_path, model, tokenizer=None, state_dict=masters)
    again = load_model(tmp_path).state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in masters.items())
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "float32"


def test_bfloat16_folders_load_as_float32(tmp_path) -> None:
    model = kit.tiny("qwen3").bfloat16()
    save_model(tmp_path, model, tokenizer=None)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    assert all(p.dtype == torch.float32 for p in load_model(tmp_path).parameters())


def test_tokenizer_and_special_tokens_travel_along(tmp_path) -> None:
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "tokenizer.json").write_text("{}")
    (tmp_path / "tokenizer" / "notes.md").write_text("")
    model = kit.tiny("gpt2", eos_token_id=7, pad_token_id=7)
    save_model(tmp_path / "model", model, tokenizer=tmp_path / "tokenizer")
    names = {path.name for path in (tmp_path / "model").iterdir()}
    assert names == {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"}
    specials = json.loads((tmp_path / "model" / "generation_config.json").read_text())
    assert specials == {"eos_token_id": 7, "pad_token_id": 7}


def test_the_config_reads_without_weights(folder) -> None:
    (folder / "model.safetensors").unlink()
    assert load_config(folder) == kit.tiny("qwen3").config


def test_old_gpt2_folders_from_the_bare_model_load(saved, tmp_path) -> None:
    folder = Path(shutil.copytree(saved["gpt2"], tmp_path / "old"))

    def age(tensors):
        for name in list(tensors):
            tensors[name.removeprefix("transformer.")] = tensors.pop(name)
        tensors["h.0.attn.bias"] = torch.ones(1, 1, 4, 4)
        tensors["lm_head.weight"] = tensors["wte.weight"].clone()

    change_tensors(folder, age)
    state, expected = load_model(folder).state_dict(), load_model(saved["gpt2"]).state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("old", [None, {"type": "linear", "factor": 2.0}])
def test_rotary_keys_of_older_versions_are_read(folder, old) -> None:
    values = json.loads((folder / "config.json").read_text())
    del values["rope_parameters"]
    values |= {"rope_theta": 5e5, "rope_scaling": old}
    (folder / "config.json").write_text(json.dumps(values))
    rope = load_config(folder).rope_parameters  # pyright: ignore[reportAttributeAccessIssue]
    assert (rope.rope_theta, rope.rope_type) == (5e5, "linear" if old else "default")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "llama"}, "model_type is 'llama'; expected gpt2 or qwen3"),
        ({"hidden_act": "relu"}, "hidden_act is relu, which is not supported; expected silu"),
        ({"attention_bias": True}, "attention_bias is True, which is not supported"),
        ({"use_sliding_window": True}, "use_sliding_window is True"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types is sliding_attention"),
        (
            {"rope_parameters": {"rope_type": "llama3"}},
            "'llama3' are not supported; expected default, linear or yarn",
        ),
        ({"rope_parameters": {"rope_type": "linear"}}, "factor is None, not a number >= 1"),
        ({"quantization_config": {"bits": 4}}, "unknown keys quantization_config"),
        ({"hidden_size": "32"}, "Expected `int`, got `str`"),
        ({"hidden_size": 48}, r"has shape .* which is what config.json says"),
        ({"num_hidden_layers": 3}, r"12? tensors are missing \(model.layers.2"),
        ({"num_hidden_layers": 1}, r"tensors this model does not have \(model.layers.1"),
        ({"tie_word_embeddings": False}, r"1 tensors are missing \(lm_head.weight"),
        ({"vocab_size": 96}, r"model.embed_tokens.weight has shape \(97, 32\); expected \(96, 32\)"),
    ],
)
def test_a_config_we_cannot_compute_is_refused(folder, values, message) -> None:
    change_config(folder, **values)
    with pytest.raises(InputError, match=message) as error:
        load_model(folder)
    assert str(error.value).startswith(str(folder))


def test_missing_keys_of_the_config_are_named(folder) -> None:
    values = json.loads((folder / "config.json").read_text())
    del values["num_key_value_heads"]
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match=r"config.json: no num_key_value_heads"):
        load_model(folder)


def test_untied_weights_in_a_tied_model_are_refused(folder) -> None:
    change_tensors(folder, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"] + 1}))
    with pytest.raises(InputError, match=r"lm_head.weight differs from model.embed_tokens.weight"):
        load_model(folder)


def test_broken_files_are_refused(folder) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(InputError, match="not a whole safetensors file"):
        load_model(folder)
    (folder / "config.json").write_text('{"model_type": ')
    with pytest.raises(InputError, match=r"config.json: not valid JSON"):
        load_model(folder)


def test_a_pickle_is_refused_with_the_way_out(folder) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"pickle.*save_pretrained"):
        load_model(folder)


def test_a_missing_shard_is_named(folder) -> None:
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=r"the shard model-00001-of-00002\.safetensors is missing"):
        load_model(folder)


def test_a_folder_that_cannot_be_written_is_a_storage_error(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="could not be written"):
        save_model(tmp_path / "file" / "model", kit.tiny("gpt2"), tokenizer=None)


def test_a_longer_context_keeps_what_was_learned(saved) -> None:
    batch = Batch.from_rows(kit.token_rows(10))
    for name, folder in saved.items():
        longer = load_model(folder, max_position_embeddings=64)
        assert longer.config.max_position_embeddings == 64
        assert kit.logits(longer, Batch.from_rows(kit.token_rows(64))).isfinite().all()
        shorter = load_model(folder, max_position_embeddings=16)
        assert torch.allclose(kit.logits(shorter, batch), kit.logits(kit.tiny(name), batch), atol=1e-5)
    rope = load_model(saved["qwen3"], max_position_embeddings=64, rope_scaling="linear").config
    assert rope.rope_parameters.factor == 2.0  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(InputError, match="no rotary positions"):
        load_model(saved["gpt2"], max_position_embeddings=64, rope_scaling="yarn")
    with pytest.raises(InputError, match="unknown rotary scaling 'ntk'"):
        load_model(saved["qwen3"], max_position_embeddings=64, rope_scaling="ntk")


def test_a_run_gives_its_final_then_best_then_latest_model(saved, tmp_path) -> None:
    run = tmp_path / "run"
    for step in ("step-00000100", "step-00000200"):
        shutil.copytree(saved["gpt2"], run / "checkpoints" / step)
    with pytest.raises(InputError, match="no model here"):
        locate(str(run))
    (run / "latest.json").write_text('{"checkpoint": "step-00000200"}')
    assert locate(str(run)) == run / "checkpoints" / "step-00000200"
    (run / "best.json").write_text('{"checkpoint": "step-00000100"}')
    assert locate(str(run)) == run / "checkpoints" / "step-00000100"
    shutil.copytree(saved["gpt2"], run / "final")
    assert locate(str(run)) == run / "final"
    assert locate(str(run / "checkpoints" / "step-00000200")).name == "step-00000200"


def test_what_is_not_a_model_is_said_so(saved, tmp_path, monkeypatch) -> None:
    with pytest.raises(
        InputError, match="no such folder; expected a run, a checkpoint, a model folder or a Hub name"
    ):
        locate(str(tmp_path / "nothing"))
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    with pytest.raises(InputError, match="runs/typo: no such folder"):  # not taken for a Hub name
        locate("runs/typo")
    with pytest.raises(InputError, match="a file, not a folder"):
        locate(str(saved["gpt2"] / "config.json"))
    (tmp_path / "latest.json").write_text('{"checkpoint": "step-00000900"}')
    with pytest.raises(InputError, match="points to step-00000900, which holds no model"):
        locate(str(tmp_path))


def test_a_hub_name_is_downloaded(saved, monkeypatch) -> None:
    asked = []

    def download(repo_id: str, *, kind: str = "model", patterns=None) -> Path:
        asked.append((repo_id, kind, patterns))
        return saved["gpt2"]

    hub = pytest.importorskip("melete.data.hub")
    monkeypatch.setattr(hub, "download", download)
    assert locate("someone/a-model") == saved["gpt2"]
    ((name, kind, patterns),) = asked
    assert (name, kind) == ("someone/a-model", "model")
    assert not any(pattern.endswith((".bin", ".pt", ".py")) for pattern in patterns)


@pytest.mark.parametrize("name", sorted(kit.SIZES))
def test_the_key_tables_are_reversible(name: str) -> None:
    table, model = family(name).KEYS, kit.tiny(name, tie_word_embeddings=False)
    state = model.state_dict()
    theirs = table.export_tensors(state)
    assert len(theirs) == len(state)
    assert all(tensor.is_contiguous() for tensor in theirs.values())
    shapes = {key: tensor.shape for key, tensor in state.items()}
    back = table.import_tensors(theirs, shapes, "here", head=family(name).HEADS[model.task])
    assert all(torch.equal(back[key], tensor) for key, tensor in state.items())
