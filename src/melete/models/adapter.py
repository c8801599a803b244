"""Thin matrices of LoRA in the file format of `peft`: what is trained beside a model, without the model.

adapter_config.json  adapter_model.safetensors
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from melete.errors import InputError
from melete.models import family
from melete.models.base import Network
from melete.nn.lora import A, B

FOLDER = "adapter"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_KINDS = {
    "text-classification": "SEQ_CLS",
    "token-classification": "TOKEN_CLS",
    "question-answering": "QUESTION_ANS",
}


def save_adapter(
    folder: Path,
    model: Network,
    state: Mapping[str, Tensor],
    modules: Collection[str],
    *,
    base: str,
    rank: int,
    alpha: float,
    dropout: float,
) -> None:
    """Write what is trained beside a model.

    Args:
        state: weights under the model's names.
        modules: names of the modules that have thin matrices.
        base: the model that the adapter belongs to.
    """
    keys, head = family(model.family).KEYS, family(model.family).HEADS[model.task]
    tensors: dict[str, Tensor] = {}
    for name in modules:
        theirs = keys.their_name(f"{name}.weight", head.trunk).removesuffix(".weight")
        for own, their_own in ((A, "lora_A"), (B, "lora_B")):
            tensors[f"{_PREFIX}{theirs}.{their_own}.weight"] = state[f"{name}.{own}"].contiguous()
    worn = {name: tensor for name, tensor in state.items() if name.partition(".")[0] in head.parts}
    tensors |= {_PREFIX + name: tensor for name, tensor in keys.export_tensors(worn).items()}
    config = {
        "peft_type": "LORA",
        "task_type": _KINDS.get(model.task),
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": dropout,
        "bias": "none",
        "fan_in_fan_out": bool(keys.transposed),
        "target_modules": sorted({_tail(keys.their_name(f"{name}.weight")) for name in modules}),
        "modules_to_save": sorted(
            {keys.their_name(name).removeprefix(keys.optional_prefix).partition(".")[0] for name in worn}
        ),
        "inference_mode": True,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def load_adapter(folder: Path, model: Network, modules: Collection[str]) -> dict[str, Tensor]:
    """What `save_adapter` wrote, under the model's names.

    Raises:
        InputError: it is not there, or not that of this model.
    """
    path = folder / WEIGHTS
    if not path.is_file():
        raise InputError("no adapter here", where=str(folder))
    keys, head = family(model.family).KEYS, family(model.family).HEADS[model.task]
    tensors = load_file(path)
    found: dict[str, Tensor] = {}
    try:
        for name in modules:
            theirs = _PREFIX + keys.their_name(f"{name}.weight", head.trunk).removesuffix(".weight")
            found[f"{name}.{A}"] = tensors[f"{theirs}.lora_A.weight"]
            found[f"{name}.{B}"] = tensors[f"{theirs}.lora_B.weight"]
        for name in model.state_dict():
            if name.partition(".")[0] in head.parts:
                found[name] = keys.turned(name, tensors[_PREFIX + keys.their_name(name)])
    except KeyError as error:
        raise InputError(f"{error.args[0]} is missing", where=str(path)) from None
    return found


def _tail(theirs: str) -> str:
    """A module's name inside its block: `bert.encoder.layer.3.output.dense.weight` -> `output.dense`."""
    parts = theirs.removesuffix(".weight").split(".")
    last = max(i for i, part in enumerate(parts) if part.isdecimal())
    return ".".join(parts[last + 1 :])
