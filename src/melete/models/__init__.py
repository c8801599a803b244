"""The model families: one file each, found by name."""

from __future__ import annotations

import difflib
import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any

from melete.errors import InputError

if TYPE_CHECKING:
    from melete.models.base import Decoder, Encoder, EncoderDecoder, ModelConfig, Network

# family -> module; the module has Config, Model, PRESETS, KEYS, CONFIG_KEYS, HEADS, INITIALISATION, resize_context
FAMILIES: dict[str, str] = {
    "gpt2": "melete.models.gpt2",
    "qwen3": "melete.models.qwen3",
    "bert": "melete.models.bert",
    "modernbert": "melete.models.modernbert",
    "electra": "melete.models.electra",
    "marian": "melete.models.marian",
    "bart": "melete.models.bart",
    "t5": "melete.models.t5",
    "pointer": "melete.models.pointer",
    "encoder-decoder": "melete.models.encoder_decoder",
    "lstm": "melete.baselines.lstm",
}
# those whose folders nobody else opens
OURS = ("pointer", "lstm")


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


def causal_families() -> list[str]:
    """The families that continue a text."""
    from melete.models.base import Decoder

    return _families(Decoder)


def encoder_families() -> list[str]:
    """The families that read a text in both directions."""
    from melete.models.base import Encoder

    return _families(Encoder)


def encoder_decoder_families() -> list[str]:
    """The families that read one text and write another."""
    from melete.models.base import EncoderDecoder

    return _families(EncoderDecoder)


def _families(kind: type[Network]) -> list[str]:
    return [name for name in FAMILIES if issubclass(family(name).Model, kind)]


def preset(name: str, /, **overrides: Any) -> ModelConfig:
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


def skeleton(family_name: str, config: ModelConfig, task: str | None = None) -> Network:
    """A model without memory for its weights (device "meta"): shapes and parameter counts cost nothing.

    Args:
        task: a key of the family's `HEADS`; None is the first of them.

    Raises:
        InputError: the family has no head for this task.
    """
    import torch

    module = family(family_name)
    task = task or next(iter(module.HEADS))
    if task not in module.HEADS:
        raise InputError(f"{family_name} has no head for {task!r}", expected=_nearest(task, module.HEADS))
    with torch.device("meta"):
        return module.Model(config, task)


def random_model(
    family_name: str, config: ModelConfig, task: str | None = None, *, seed: int = 0, init: str | None = None
) -> Network:
    """A new model of this config, float32 on the CPU, in training mode; see `build`."""
    from melete.nn.init import initialise

    model = skeleton(family_name, config, task).to_empty(device="cpu")
    initialise(
        model,
        init or family(family_name).INITIALISATION,
        std=config.initializer_range,
        seed=seed,
        num_layers=config.num_hidden_layers,
        residual=model.residual,
    )
    return model


def build(
    name: str,
    /,
    *,
    vocab_size: int | None = None,
    seed: int = 0,
    init: str | None = None,
    **overrides: Any,
) -> Decoder:
    """A new causal model with random weights, float32 on the CPU, in training mode.

    Args:
        name: "qwen3:tiny", or a family for its "tiny".
        vocab_size: rows of the embedding; None keeps the preset's.
        seed: the same seed gives the same weights, whatever was drawn before.
        init: a scheme of `nn.init`; None is the family's own.
        overrides: config fields.

    Raises:
        InputError: unknown family, preset, field or scheme; a family that is not causal.
    """
    from melete.models.base import Decoder

    _refuse_others(name, causal_families(), "does not continue a text")
    model = random_model(*_sized(name, vocab_size, overrides), seed=seed, init=init)
    assert isinstance(model, Decoder)
    return model


def build_encoder(
    name: str,
    *,
    task: str | None = None,
    vocab_size: int | None = None,
    seed: int = 0,
    init: str | None = None,
    **overrides: Any,
) -> Encoder:
    """A new encoder with random weights and the head of a task; otherwise as `build`.

    Args:
        task: a key of the family's `HEADS`; None is the first of them.

    Raises:
        InputError: as `build`; a family of another kind, or one that has no head for this task.
    """
    from melete.models.base import Encoder

    _refuse_others(name, encoder_families(), "is no encoder")
    model = random_model(*_sized(name, vocab_size, overrides), task, seed=seed, init=init)
    assert isinstance(model, Encoder)
    return model


def build_encoder_decoder(
    name: str, *, vocab_size: int | None = None, seed: int = 0, init: str | None = None, **overrides: Any
) -> EncoderDecoder:
    """A new encoder-decoder with random weights; otherwise as `build`.

    Raises:
        InputError: as `build`; a family of another kind.
    """
    from melete.models.base import EncoderDecoder

    _refuse_others(name, encoder_decoder_families(), "is no encoder-decoder")
    model = random_model(*_sized(name, vocab_size, overrides), seed=seed, init=init)
    assert isinstance(model, EncoderDecoder)
    return model


def _refuse_others(name: str, families: list[str], reason: str) -> None:
    own = name.partition(":")[0]
    family(own)
    if own not in families:
        raise InputError(f"{own} {reason}", expected=f"one of {', '.join(families)}")


def _sized(name: str, vocab_size: int | None, overrides: dict[str, Any]) -> tuple[str, ModelConfig]:
    sizes = overrides if vocab_size is None else overrides | {"vocab_size": vocab_size}
    return name.partition(":")[0], preset(name, **sizes)


def _nearest(name: str, names: dict[str, Any]) -> str:
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"{near[0]} (one of {', '.join(names)})" if near else f"one of {', '.join(names)}"
