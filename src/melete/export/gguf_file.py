"""GGUF, the file of llama.cpp: names and shapes after its own converter, `gguf` does the writing.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from melete.console import Progress, say
from melete.errors import InputError
from melete.export.gguf_tokenizer import Vocabulary, vocabulary
from melete.export.precision import cast
from melete.models import family
from melete.models.base import Network
from melete.models.checkpoint import load_config

if TYPE_CHECKING:
    from gguf import GGUFWriter

PACKAGES = ("gguf",)


def check(folder: Path, family: str, task: str, precision: str) -> None:
    """Raises InputError: a model that does not continue a text, or a tokenizer that llama.cpp would not reproduce."""
    if family not in _ARCHITECTURES or task != "text-generation":
        raise InputError(
            f"a {family} model for {task} has no GGUF form here",
            where=str(folder),
            expected=f"a decoder for text-generation: {' or '.join(_ARCHITECTURES)}",
            do="use --format onnx or --format hf",
        )
    vocabulary(folder, load_config(folder).vocab_size)


def write(model: Network, folder: Path, target: Path, precision: str) -> None:
    """Write the file. Its matrices have the precision asked for; llama.cpp wants norms and biases in float32."""
    from gguf import GGUFWriter, LlamaFileType

    kinds = {
        "float32": LlamaFileType.ALL_F32,
        "float16": LlamaFileType.MOSTLY_F16,
        "bfloat16": LlamaFileType.MOSTLY_BF16,
    }
    config = model.config
    writer = GGUFWriter(target, model.family)
    try:
        writer.add_name(target.stem)
        writer.add_file_type(kinds[precision])
        writer.add_context_length(config.max_position_embeddings)
        writer.add_embedding_length(config.hidden_size)
        writer.add_block_count(config.num_hidden_layers)
        writer.add_head_count(config.num_attention_heads)
        _ARCHITECTURES[model.family](writer, config)
        words = vocabulary(folder, config.vocab_size)
        if words.note:
            say(words.note)
        _add_vocabulary(writer, words, config)
        _write_tensors(writer, _tensors(model, precision))
    finally:
        writer.close()


def _gpt2(writer: GGUFWriter, config: Any) -> None:
    writer.add_feed_forward_length(config.intermediate_size or 4 * config.hidden_size)
    writer.add_layer_norm_eps(config.layer_norm_eps)


def _qwen3(writer: GGUFWriter, config: Any) -> None:
    from gguf import RopeScalingType

    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    rope = config.rope_parameters
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(rope.rope_theta)
    if rope.rope_type != "default":
        writer.add_rope_scaling_type(RopeScalingType(rope.rope_type))
        writer.add_rope_scaling_factor(rope.factor)
    if rope.rope_type == "yarn":
        writer.add_rope_scaling_orig_ctx_len(rope.original_max_position_embeddings)
        writer.add_rope_scaling_yarn_beta_fast(rope.beta_fast or 32.0)
        writer.add_rope_scaling_yarn_beta_slow(rope.beta_slow or 1.0)
        if rope.attention_factor is not None:  # llama.cpp multiplies the paper's by this
            writer.add_rope_scaling_attn_factors(rope.attention_factor / (0.1 * math.log(rope.factor) + 1.0))


# family -> what llama.cpp asks of it beside what every decoder has; its name is llama.cpp's too
_ARCHITECTURES: dict[str, Callable[[GGUFWriter, Any], None]] = {"gpt2": _gpt2, "qwen3": _qwen3}


def _add_vocabulary(writer: GGUFWriter, words: Vocabulary, config: Any) -> None:
    writer.add_tokenizer_model("gpt2")  # byte-level BPE, whatever the model
    writer.add_tokenizer_pre(words.pre)
    writer.add_token_list(words.tokens)
    writer.add_token_types(words.types)
    writer.add_token_merges(words.merges)
    ends = config.eos_token_id if words.eos is None else words.eos
    for add, id_ in (
        (writer.add_bos_token_id, words.bos),
        (writer.add_eos_token_id, ends[0] if isinstance(ends, tuple) else ends),
        (writer.add_pad_token_id, words.pad),
    ):
        if id_ is not None:
            add(id_)
    writer.add_add_bos_token(False)  # a prompt is read as it is, as `melete generate` does
    if words.chat_template is not None:
        writer.add_chat_template(words.chat_template)


def _tensors(model: Network, precision: str) -> dict[str, Tensor]:
    """The weights under llama.cpp's names, each as (outputs, inputs)."""
    import gguf

    architecture = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == model.family)
    names = gguf.get_tensor_name_map(architecture, model.config.num_hidden_layers)
    keys = family(model.family).KEYS
    found: dict[str, Tensor] = {}
    for ours, weight in model.state_dict().items():
        name = names.get_name(keys.their_name(ours), try_suffixes=(".weight", ".bias"))
        assert name is not None, f"gguf has no name for {ours}"
        narrow = weight.dim() > 1 and name != "position_embd.weight"
        found[name] = cast(ours, weight, precision if narrow else "float32").contiguous()
    return found


def _write_tensors(writer: GGUFWriter, tensors: Mapping[str, Tensor]) -> None:
    from gguf import GGMLQuantizationType

    # numpy has no bfloat16: its bits pass as integers
    arrays = {
        name: (weight.view(torch.uint16) if weight.dtype == torch.bfloat16 else weight).numpy()
        for name, weight in tensors.items()
    }
    for name, array in arrays.items():
        raw = GGMLQuantizationType.BF16 if array.dtype == "uint16" else None
        writer.add_tensor_info(name, array.shape, array.dtype, array.nbytes, raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    total = sum(array.nbytes for array in arrays.values())
    with Progress("writing", "MB", total / 1e6) as progress:
        for array in arrays.values():
            writer.write_tensor_data(array)
            progress.advance(array.nbytes / 1e6)
