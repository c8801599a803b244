"""Our folders as CTranslate2 reads them: weights handed over by name, as its own converter wants a tokenizer of theirs.

The tokens are the ids, as texts.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

# Not among what is checked with.
specs: Any = importlib.import_module("ctranslate2.specs")
Activation = specs.common_spec.Activation


class Folder:
    """The weights and the configuration of a model of ours."""

    def __init__(self, folder: Path, prefix: str) -> None:
        from safetensors.numpy import load_file

        weights = load_file(folder / "model.safetensors")
        self.weights = {name.removeprefix(prefix): x for name, x in weights.items()}
        self.config = json.loads((folder / "config.json").read_text("utf-8"))

    def __getitem__(self, name: str) -> np.ndarray:
        return self.weights[name]

    def fill(self, layer: str, parts: Sequence[tuple[Any, Sequence[str]]], turned: bool = False) -> None:
        """Give parts of a layer their weights.

        Args:
            layer: prefix of their names.
            parts: a matrix or a norm of theirs, and the names of those of ours that it joins.
            turned: ours stand as (in, out).
        """
        for part, names in parts:
            weight, bias = (
                np.concatenate([self[f"{layer}.{name}.{kind}"] for name in names], axis=-1 if turned else 0)
                for kind in ("weight", "bias")
            )
            if hasattr(part, "gamma"):
                part.gamma, part.beta = weight, bias
            else:
                part.weight, part.bias = np.ascontiguousarray(weight.T if turned else weight), bias


def write_gpt2(folder: Path, target: str) -> None:
    """GPT-2, as a `Generator` reads it."""
    ours = Folder(folder, "transformer.")
    config = ours.config
    spec = specs.TransformerDecoderModelSpec.from_config(
        config["n_layer"], config["n_head"], pre_norm=True, activation=Activation.GELUTanh
    )
    decoder: Any = spec.decoder
    decoder.scale_embeddings = False
    decoder.embeddings.weight = decoder.projection.weight = ours["wte.weight"]
    decoder.position_encodings.encodings = ours["wpe.weight"]
    decoder.layer_norm.gamma, decoder.layer_norm.beta = ours["ln_f.weight"], ours["ln_f.bias"]
    for i, layer in enumerate(decoder.layer):
        parts = [
            (layer.self_attention.layer_norm, ["ln_1"]),
            (layer.self_attention.linear[0], ["attn.c_attn"]),
            (layer.self_attention.linear[1], ["attn.c_proj"]),
            (layer.ffn.layer_norm, ["ln_2"]),
            (layer.ffn.linear_0, ["mlp.c_fc"]),
            (layer.ffn.linear_1, ["mlp.c_proj"]),
        ]
        ours.fill(f"h.{i}", parts, turned=True)
    spec.register_vocabulary(_tokens(config))
    spec.config.bos_token = spec.config.eos_token = spec.config.unk_token = "0"
    _save(spec, target)


def write_marian(folder: Path, target: str) -> None:
    """Marian, as a `Translator` reads it."""
    from melete.nn.positions import sinusoids

    ours = Folder(folder, "model.")
    config = ours.config
    assert config["model_type"] == "marian"
    spec = specs.TransformerSpec.from_config(
        (config["encoder_layers"], config["decoder_layers"]),
        config["encoder_attention_heads"],
        pre_norm=False,
        activation=getattr(Activation, config["activation_function"].upper()),
    )
    spec.encoder.embeddings[0].weight = spec.decoder.embeddings.weight = ours["shared.weight"]
    spec.decoder.projection.weight = ours["shared.weight"]
    spec.decoder.projection.bias = ours["final_logits_bias"][0]
    positions = sinusoids(config["max_position_embeddings"], config["d_model"]).numpy()
    for name, side in (("encoder", spec.encoder), ("decoder", spec.decoder)):
        side.scale_embeddings = config["d_model"] ** 0.5 if config["scale_embedding"] else 1.0
        side.position_encodings.encodings = positions
        for i, layer in enumerate(side.layer):
            own = layer.self_attention
            parts = [
                (own.linear[0], ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
                (own.linear[1], ["self_attn.out_proj"]),
                (own.layer_norm, ["self_attn_layer_norm"]),
                (layer.ffn.linear_0, ["fc1"]),
                (layer.ffn.linear_1, ["fc2"]),
                (layer.ffn.layer_norm, ["final_layer_norm"]),
            ]
            if name == "decoder":
                across = layer.attention
                parts += [
                    (across.linear[0], ["encoder_attn.q_proj"]),
                    (across.linear[1], ["encoder_attn.k_proj", "encoder_attn.v_proj"]),
                    (across.linear[2], ["encoder_attn.out_proj"]),
                    (across.layer_norm, ["encoder_attn_layer_norm"]),
                ]
            ours.fill(f"{name}.layers.{i}", parts)
    spec.register_source_vocabulary(_tokens(config))
    spec.register_target_vocabulary(_tokens(config))
    spec.config.bos_token = spec.config.unk_token = spec.config.eos_token = str(config["eos_token_id"])
    spec.config.decoder_start_token = str(config["decoder_start_token_id"])
    _save(spec, target)


def write_bert(folder: Path, target: str) -> None:
    """BERT without a head, as an `Encoder` reads it."""
    ours = Folder(folder, "bert.")
    config = ours.config
    encoder = specs.TransformerEncoderSpec(
        config["num_hidden_layers"],
        config["num_attention_heads"],
        pre_norm=False,
        activation=Activation.GELU,
        layernorm_embedding=True,
        num_source_embeddings=2,
        embeddings_merge=specs.common_spec.EmbeddingsMerge.ADD,
    )
    spec = specs.TransformerEncoderModelSpec(encoder)
    encoder.scale_embeddings = False
    encoder.embeddings[0].weight = ours["embeddings.word_embeddings.weight"]
    encoder.embeddings[1].weight = ours["embeddings.token_type_embeddings.weight"]
    encoder.position_encodings.encodings = ours["embeddings.position_embeddings.weight"]
    ours.fill("embeddings", [(encoder.layernorm_embedding, ["LayerNorm"])])
    joined = [f"attention.self.{name}" for name in ("query", "key", "value")]
    for i, layer in enumerate(encoder.layer):
        parts = [
            (layer.self_attention.linear[0], joined),
            (layer.self_attention.linear[1], ["attention.output.dense"]),
            (layer.self_attention.layer_norm, ["attention.output.LayerNorm"]),
            (layer.ffn.linear_0, ["intermediate.dense"]),
            (layer.ffn.linear_1, ["output.dense"]),
            (layer.ffn.layer_norm, ["output.LayerNorm"]),
        ]
        ours.fill(f"encoder.layer.{i}", parts)
    spec.register_vocabulary(_tokens(config))
    spec.config.unk_token = "0"
    spec.config.layer_norm_epsilon = config["layer_norm_eps"]
    _save(spec, target)


def _tokens(config: dict[str, Any]) -> list[str]:
    return [str(token) for token in range(config["vocab_size"])]


def _save(spec: Any, target: str) -> None:
    spec.validate()
    spec.optimize()
    spec.save(target)
