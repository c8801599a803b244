"""Encoder folders: heads left out and begun anew with a line, and what contradicts itself refused with one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import kit
from melete.errors import InputError
from melete.models import electra_pair, family
from melete.models.checkpoint import load_config, load_encoder, load_model, save_model


def change_config(folder: Path, **values) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def change_tensors(folder: Path, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


@pytest.fixture
def bert(tmp_path) -> Path:
    save_model(tmp_path / "bert", kit.tiny_encoder("bert", task="pretraining"), tokenizer=None)
    return tmp_path / "bert"


def test_a_head_the_task_does_not_use_is_left_out_with_a_line(bert, capsys) -> None:
    change_tensors(bert, lambda t: t.update({"classifier.weight": torch.ones(3, 32)}))
    model = load_encoder(bert, task="fill-mask")
    assert "model.safetensors: left out what this task does not use: classifier, next_sentence, pooler" in (
        capsys.readouterr().err
    )
    assert not any(name.startswith("pooler") for name in model.state_dict())


def test_a_head_the_folder_lacks_is_announced(bert, capsys) -> None:
    save_model(bert, load_encoder(bert, task="fill-mask"), tokenizer=None)
    capsys.readouterr()
    first, again = load_encoder(bert, task="pretraining"), load_encoder(bert, task="pretraining")
    assert "starts from random weights: next_sentence, pooler" in capsys.readouterr().err
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert first.get_parameter("next_sentence.weight").std() > 0


def test_a_class_without_a_head_of_ours_gets_the_first_one(bert, capsys) -> None:
    change_config(bert, architectures=["BertModel"])

    def bare(tensors) -> None:
        for name in list(tensors):
            tensor = tensors.pop(name)
            if name.startswith("bert."):
                tensors[name.removeprefix("bert.")] = tensor

    change_tensors(bert, bare)
    assert load_encoder(bert).task == "fill-mask"
    assert "starts from random weights: mlm" in capsys.readouterr().err


def test_old_names_from_tensorflow_are_read(bert) -> None:
    expected = load_encoder(bert).state_dict()

    def age(tensors) -> None:
        for name in [name for name in tensors if "LayerNorm" in name]:
            old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
                "LayerNorm.bias", "LayerNorm.beta"
            )
            tensors[old] = tensors.pop(name)
        tensors["bert.embeddings.position_ids"] = torch.arange(kit.CONTEXT)[None]

    change_tensors(bert, age)
    assert all(
        torch.equal(expected[name], tensor) for name, tensor in load_encoder(bert).state_dict().items()
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.update({"bert.extra": torch.ones(1)}),
            r"1 tensors this model does not have \(bert.extra",
        ),
        (lambda t: t.pop("cls.seq_relationship.bias"), r"1 tensors are missing \(cls.seq_relationship.bias"),
        (lambda t: t.pop("bert.embeddings.LayerNorm.bias"), "1 tensors are missing"),
        (
            lambda t: t.update({"cls.predictions.decoder.bias": torch.ones(kit.VOCAB)}),
            "cls.predictions.decoder.bias differs from cls.predictions.bias",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_refused(bert, change, message: str) -> None:
    change_tensors(bert, change)
    with pytest.raises(InputError, match=message):
        load_encoder(bert)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("bert", {"hidden_act": "relu"}, "hidden_act is relu, which is not supported; expected gelu"),
        ("bert", {"is_decoder": True}, "is_decoder is True"),
        ("bert", {"position_embedding_type": "relative_key"}, "position_embedding_type is relative_key"),
        ("bert", {"tie_word_embeddings": False}, "tie_word_embeddings is False"),
        (
            "bert",
            {"type_vocab_size": 5},
            r"token_type_embeddings.weight has shape \(2, 32\); expected \(5, 32\)",
        ),
        ("bert", {"num_hidden_layers": 3}, "16 tensors are missing"),
        ("electra", {"embedding_size": 32}, r"electra.embeddings.* has shape .*; expected .*32"),
        ("electra", {"vocab_size": 90}, r"word_embeddings.weight has shape \(97, 24\)"),
        ("modernbert", {"norm_bias": True}, "norm_bias is True"),
        ("modernbert", {"layer_types": ["full_attention"]}, "names 1 layers, num_hidden_layers is 4"),
        ("modernbert", {"layer_types": ["causal"] * 4}, "Invalid enum value 'causal'"),
        (
            "modernbert",
            {"rope_parameters": {"full_attention": {"rope_type": "ntk"}}},
            "'ntk' are not supported",
        ),
    ],
)
def test_a_config_we_cannot_compute_is_refused(name: str, values, message: str, tmp_path) -> None:
    save_model(tmp_path, kit.tiny_encoder(name), tokenizer=None)
    change_config(tmp_path, **values)
    with pytest.raises(InputError, match=message) as error:
        load_encoder(tmp_path)
    assert str(error.value).startswith(str(tmp_path))


def test_an_encoder_is_no_causal_model(bert, tmp_path) -> None:
    with pytest.raises(InputError, match=r"a bert model does not continue a text.*expected gpt2 or qwen3"):
        load_model(bert)
    save_model(tmp_path / "gpt2", kit.tiny("gpt2"), tokenizer=None)
    with pytest.raises(InputError, match="a gpt2 model is no encoder"):
        load_encoder(tmp_path / "gpt2")


def test_a_pickle_is_refused_with_the_class_that_converts_it(bert) -> None:
    (bert / "model.safetensors").rename(bert / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"pickle.*BertForPreTraining\.from_pretrained"):
        load_encoder(bert)


def test_modernbert_configs_of_transformers_4_are_read(tmp_path) -> None:
    save_model(tmp_path, kit.tiny_encoder("modernbert"), tokenizer=None)
    values = json.loads((tmp_path / "config.json").read_text())
    del values["rope_parameters"], values["layer_types"]
    old = {"global_attn_every_n_layers": 2, "global_rope_theta": 5e4, "local_rope_theta": 3e3}
    (tmp_path / "config.json").write_text(json.dumps(values | old | {"reference_compile": False}))
    config = load_config(tmp_path)
    assert config.layer_types == ("full_attention", "sliding_attention") * 2  # pyright: ignore[reportAttributeAccessIssue]
    ropes = config.rope_parameters  # pyright: ignore[reportAttributeAccessIssue]
    assert (ropes.full_attention.rope_theta, ropes.sliding_attention.rope_theta) == (5e4, 3e3)


@pytest.mark.parametrize("name", sorted(kit.ENCODER_SIZES))
def test_the_key_tables_are_reversible(name: str) -> None:
    table = family(name).KEYS
    for task, head in family(name).HEADS.items():
        state = kit.tiny_encoder(name, task=task).state_dict()
        theirs = table.export_tensors(state)
        assert len(theirs) == len(state)
        shapes = {key: tensor.shape for key, tensor in state.items()}
        back = table.import_tensors(theirs, shapes, "here", head=head)
        assert all(torch.equal(back[key], tensor) for key, tensor in state.items())


@pytest.fixture
def pair(tmp_path) -> Path:
    discriminator = kit.tiny_encoder("electra")
    generator = electra_pair.build_generator(discriminator, share=1 / 3)
    masters = {name: tensor + 1 for name, tensor in discriminator.state_dict().items()}
    own = {
        name: tensor for name, tensor in generator.state_dict().items() if not name.startswith("embeddings.")
    }
    folder = tmp_path / "pair"
    electra_pair.save_pair(folder, discriminator, generator, tokenizer=None, states=(masters, own))
    return folder


def test_a_pair_comes_back_sharing_its_embeddings(pair) -> None:
    discriminator, generator = electra_pair.load_pair(pair)
    assert generator.config.hidden_size == 11 and discriminator.config.hidden_size == 32
    assert generator.mlm_weight is discriminator.embeddings.word.weight
    original = kit.tiny_encoder("electra").embeddings.word.weight
    assert torch.equal(generator.mlm_weight, original + 1)


@pytest.mark.parametrize("tensor", ["word_embeddings.weight", "LayerNorm.bias"])
def test_a_pair_that_does_not_share_is_refused(pair, tensor: str) -> None:
    name = f"electra.embeddings.{tensor}"
    change_tensors(pair / "generator", lambda t: t.update({name: t[name] + 1}))
    with pytest.raises(InputError, match=f"{name} differs from the discriminator's"):
        electra_pair.load_pair(pair)


def test_a_pair_of_two_vocabularies_is_refused(pair) -> None:
    other = kit.tiny_encoder("electra", task="fill-mask", max_position_embeddings=16)
    save_model(pair / "generator", other, tokenizer=None)
    with pytest.raises(InputError, match="max_position_embeddings is 16, but 32 in the discriminator"):
        electra_pair.load_pair(pair)


def test_a_discriminator_alone_is_no_pair(tmp_path) -> None:
    save_model(tmp_path, kit.tiny_encoder("electra"), tokenizer=None)
    with pytest.raises(InputError, match="no generator folder"):
        electra_pair.load_pair(tmp_path)
