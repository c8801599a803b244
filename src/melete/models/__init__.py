"""The model families: one file each, found by name."""

from __future__ import annotations

import difflib
import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any

from melete.errors import InputError

if TYPE_CHECKING:
    from melete.models.base import Decoder, DecoderConfig

# family -> module; the module has Config, Model, PRESETS, KEYS, CONFIG_KEYS, HEADS, INITIALISATION
FAMILIES: dict[str, str] = {
    "gpt2": "melete.models.gpt2",
    "qwen3": "melete.models.qwen3",
}


def family(name: str) -> ModuleType:
    """The module of a family.

    Raises:
        InputError: no such family.
    """
    if name not in FAMILIES:
        raise InputError(f"unknown model family {name!r}", expected=_nearest(name, FAMILIES))
    return importlib.import_module(FAMILIES[name])


def is_spec(source: str) -> bool:
    """Whether this names a model to build ("qwen3", "qwen3:tiny") and not one to load."""
    return source.partition(":")[0] in FAMILIES


def presets(family_name: str) -> list[str]:
    """The presets of a family, smallest first."""
    return list(family(family_name).PRESETS)


def preset(name: str, **overrides: Any) -> DecoderConfig:
    """The config of `family:preset`, or of a family's "tiny", with fields replaced.

    Raises:
        InputError: unknown family, preset or field; a value of the wrong type.
    """
    from melete.models.keymap import make_config

    family_name, _, preset_name = name.partition(":")
    module = family(family_name)
    preset_name = preset_name or "tiny"
    if preset_name not in module.PRESETS:
        raise InputError(
            f"{family_name} has no preset {preset_name!r}", expected=_nearest(preset_name, module.PRESETS)
        )
    config = module.PRESETS[preset_name]
    values = {field: getattr(config, field) for field in config.__struct_fields__}
    return make_config(module.Config, values | overrides, where=name)


def skeleton(family_name: str, config: DecoderConfig) -> Decoder:
    """A model without memory for its weights (device "meta"): shapes and parameter counts cost nothing."""
    import torch

    with torch.device("meta"):
        return family(family_name).Model(config)


def build(
    name: str,
    *,
    vocab_size: int | None = None,
    seed: int = 0,
    init: str | None = None,
    **overrides: Any,
) -> Decoder:
    """A new model with random weights, float32 on the CPU, in training mode.

    Args:
        name: "qwen3:tiny", or a family for its "tiny".
        vocab_size: rows of the embedding; None keeps the preset's.
        seed: the same seed gives the same weights, whatever was drawn before.
        init: a scheme of `nn.init`; None is the family's own.
        overrides: config fields.

    Raises:
        InputError: unknown family, preset, field or scheme.
    """
    from melete.nn.init import initialise

    if vocab_size is not None:
        overrides["vocab_size"] = vocab_size
    config = preset(name, **overrides)
    module = family(name.partition(":")[0])
    model = skeleton(module.Model.family, config).to_empty(device="cpu")
    initialise(
        model,
        init or module.INITIALISATION,
        std=config.initializer_range,
        seed=seed,
        num_layers=config.num_hidden_layers,
        residual=model.residual,
    )
    return model


def _nearest(name: str, names: dict[str, Any]) -> str:
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"{near[0]} (one of {', '.join(names)})" if near else f"one of {', '.join(names)}"
