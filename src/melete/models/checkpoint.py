"""Model folders in the Hugging Face layout, written and read.

    config.json  model.safetensors  generation_config.json  + the tokenizer's files

Reads what `save_pretrained` writes, sharded or not, and what older versions wrote.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from melete.errors import InputError, StorageError
from melete.models import FAMILIES, causal_families, family, random_model, skeleton
from melete.models.base import Decoder, Encoder, EncoderDecoder, Head, ModelConfig, Network
from melete.models.keymap import make_config

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
GENERATION = "generation_config.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "chat_template.jinja",
)
_SPECIALS = (
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "decoder_start_token_id",
    "forced_bos_token_id",
    "forced_eos_token_id",
)
_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.jinja"]


def save_model(
    folder: Path, model: Network, *, tokenizer: Path | None, state_dict: Mapping[str, Tensor] | None = None
) -> None:
    """Write a folder that the task's Hugging Face class opens. Each file appears whole or not at all.

    Args:
        folder: made if it does not exist.
        model: its family and config, and its weights unless `state_dict` is given.
        tokenizer: folder whose tokenizer files are copied.
        state_dict: other weights under the model's names (float32 masters, an average).

    Raises:
        StorageError: the folder cannot be written.
    """
    module = family(model.family)
    head = module.HEADS[model.task]
    state = model.state_dict() if state_dict is None else state_dict
    tensors = module.KEYS.export_tensors(state, head.trunk)
    tensors = {name: tensor.detach().cpu() for name, tensor in tensors.items()}
    dtype = str(next(iter(tensors.values())).dtype).removeprefix("torch.")
    config = module.CONFIG_KEYS.export_config(model.config) | {
        "architectures": [head.architecture],
        "dtype": dtype,
    }
    specials = {name: config[name] for name in _SPECIALS if config.get(name) is not None}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write_json(folder / CONFIG, config)
        if model.task in ("text-generation", "text2text-generation"):
            _write_json(folder / GENERATION, specials)
        if tokenizer is not None and tokenizer != folder:
            for name in TOKENIZER_FILES:
                if (tokenizer / name).is_file():
                    shutil.copyfile(tokenizer / name, folder / name)
        partial = folder / f".{WEIGHTS}.partial"
        save_file(tensors, partial, metadata={"format": "pt"})
        shutil.copymode(folder / CONFIG, partial)  # safetensors lets only the owner read
        os.replace(partial, folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise StorageError(f"the model could not be written: {reason}", where=str(folder)) from error


def load_model(
    folder: Path, *, max_position_embeddings: int | None = None, rope_scaling: str | None = None
) -> Decoder:
    """A causal model from a folder in the Hugging Face layout: float32, on the CPU, in evaluation mode.

    Args:
        folder: see `locate`.
        max_position_embeddings: another context length: learned positions are interpolated (or cut), rotary ones
            scaled.
        rope_scaling: "linear" (position interpolation) or "yarn" (the default when the context grows).

    Raises:
        InputError: no model there, or its files contradict one another; the line names the file and the key.
    """
    model = load_network(folder, max_position_embeddings=max_position_embeddings, rope_scaling=rope_scaling)
    if not isinstance(model, Decoder):
        raise InputError(
            f"a {model.family} model does not continue a text",
            where=str(folder),
            expected=" or ".join(causal_families()),
        )
    if model.task != "text-generation":
        raise InputError(f"a model for {model.task} does not continue a text", where=str(folder))
    return model


def load_encoder(
    folder: Path,
    *,
    task: str | None = None,
    max_position_embeddings: int | None = None,
    rope_scaling: str | None = None,
) -> Encoder:
    """An encoder from a folder in the Hugging Face layout; otherwise as `load_model`.

    Args:
        task: the head it shall wear; None is that of the class config.json names, else the family's first. A head
            that the folder lacks starts from random weights; one that the task does not use is left out: a line is
            printed of either.

    Raises:
        InputError: as `load_model`; a causal model, or no head for this task.
    """
    model = load_network(
        folder, task=task, max_position_embeddings=max_position_embeddings, rope_scaling=rope_scaling
    )
    if not isinstance(model, Encoder):
        raise InputError(f"a {model.family} model is no encoder", where=str(folder))
    return model


def load_encoder_decoder(folder: Path, *, max_position_embeddings: int | None = None) -> EncoderDecoder:
    """An encoder-decoder from a folder in the Hugging Face layout; otherwise as `load_model`.

    Raises:
        InputError: as `load_model`; a family without such a head.
    """
    model = load_network(folder, task="text2text-generation", max_position_embeddings=max_position_embeddings)
    assert isinstance(model, EncoderDecoder)  # no other family has this head
    return model


def load_network(
    folder: Path,
    *,
    task: str | None = None,
    changes: Mapping[str, Any] | None = None,
    seed: int = 0,
    complete: bool = False,
    max_position_embeddings: int | None = None,
    rope_scaling: str | None = None,
) -> Network:
    """A model of any family with the head of any task; otherwise as `load_encoder`.

    The last layer of a task belongs to its labels: for another task, or other labels, it starts from random weights.

    Args:
        changes: config fields to replace: labels, dropout.
        seed: of the weights that a folder lacks.
        complete: it shall lack none.

    Raises:
        InputError: as `load_encoder`; a folder that lacks weights and shall not.
    """
    values = _read_json(folder / CONFIG)
    module = _family_of(values, folder / CONFIG)
    saved, config = load_config(folder), load_config(folder, changes)
    name, named = module.Model.family, _named_task(module.HEADS, values)
    task = task or named or next(iter(module.HEADS))
    shapes = {key: tensor.shape for key, tensor in skeleton(name, config, task).state_dict().items()}
    head = module.HEADS[task]
    other = named not in (task, None) or config.labels != saved.labels
    tensors, where = _read_tensors(folder, head.architecture)
    state = module.KEYS.import_tensors(
        tensors, shapes, where, head=head, whole=named == task, anew=head.labelled if other else ""
    )
    if len(state) < len(shapes):  # a new head
        if complete:
            raise InputError(f"no weights for {task} in there", where=where, do="fine-tune the model first")
        state = random_model(name, config, task, seed=seed).state_dict() | state
    state = {key: tensor.float().contiguous() for key, tensor in state.items()}
    if max_position_embeddings is not None or rope_scaling is not None:
        longest = max_position_embeddings or config.max_position_embeddings
        config, state = module.resize_context(config, state, longest, rope_scaling)
    model = skeleton(name, config, task)
    model.load_state_dict(state, assign=True)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model.eval()


def load_config(folder: Path, changes: Mapping[str, Any] | None = None) -> ModelConfig:
    """The config of a model folder, without its weights.

    Args:
        changes: fields to replace.

    Raises:
        InputError: no config.json, not one of a family we have, or an impossible change.
    """
    values = _read_json(folder / CONFIG)
    module = _family_of(values, folder / CONFIG)
    config = module.CONFIG_KEYS.import_config(module.Config, values, where=str(folder / CONFIG))
    fields = {field: getattr(config, field) for field in config.__struct_fields__}
    return make_config(module.Config, fields | dict(changes), where=str(folder)) if changes else config


def named_head(folder: Path) -> tuple[str, str, str | None]:
    """What config.json says a folder is: its family, the class it names, and the task we have that class for, if any.

    Raises:
        InputError: no config.json, or not one of a family we have.
    """
    values = _read_json(folder / CONFIG)
    module = _family_of(values, folder / CONFIG)
    named = values.get("architectures") or [""]
    tasks = [task for task, head in module.HEADS.items() if named == [head.architecture] and not head.bare]
    return module.Model.family, str(named[0]), tasks[0] if tasks else None


def locate(source: str) -> Path:
    """The folder that holds a model's files.

    Args:
        source: a run folder (its final model, else its best, else its latest checkpoint), a checkpoint, any folder
            in the Hugging Face layout, or the name of a model on the Hub ("owner/name"). "A+B" are an encoder and a
            decoder that become one model; see `warm_start`.

    Raises:
        InputError: nothing there, or no model in it.
    """
    path = Path(source).expanduser()
    if "+" in source and not path.exists():
        from melete.models.warm_start import locate_joined

        return locate_joined(source)
    if path.is_dir():
        return path if (path / CONFIG).is_file() else _in_run(path)
    if path.exists():
        raise InputError(
            "a file, not a folder", where=source, expected="a run, a checkpoint or a model folder"
        )
    # "runs/typo" looks like a Hub name too: what stands beside an existing folder is a path
    if re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", source) and not path.parent.is_dir():
        from melete.data.hub import download

        return download(source, kind="model", patterns=_HUB_FILES)
    run = Path("runs", source)
    raise InputError(
        "no such folder",
        where=source,
        expected="a run, a checkpoint, a model folder or a Hub name",
        do=f"there is {run}" if run.is_dir() else "",
    )


def _in_run(run: Path) -> Path:
    if (run / "final" / CONFIG).is_file():
        return run / "final"
    for pointer in (run / "best.json", run / "latest.json"):
        if pointer.is_file():
            name = _read_json(pointer).get("checkpoint")
            folder = run / "checkpoints" / str(name)
            if not isinstance(name, str) or not (folder / CONFIG).is_file():
                raise InputError(f"points to {name}, which holds no model", where=str(pointer))
            return folder
    raise InputError(
        f"no model here: neither {CONFIG} nor a checkpoint of a run",
        where=str(run),
        do="give a run that has saved a checkpoint, or a model folder",
    )


def _family_of(values: Mapping[str, Any], where: Path) -> Any:
    name = values.get("model_type")
    if name not in FAMILIES:
        raise InputError(f"model_type is {name!r}", where=str(where), expected=" or ".join(FAMILIES))
    return family(str(name))


def _named_task(heads: Mapping[str, Head], values: Mapping[str, Any]) -> str | None:
    """The task of the class that config.json names; None where we have no head for that class."""
    named = values.get("architectures")
    own = (task for task, head in heads.items() if named == [head.architecture] and not head.bare)
    return next(own, None)


def _read_tensors(folder: Path, architecture: str) -> tuple[dict[str, Tensor], str]:
    """All tensors of a folder under the names in its files, and the file to name in errors."""
    if (folder / WEIGHTS).is_file():
        return _read_safetensors(folder / WEIGHTS), str(folder / WEIGHTS)
    if (folder / INDEX).is_file():
        index = _read_json(folder / INDEX).get("weight_map")
        if not isinstance(index, dict):
            raise InputError("no weight_map", where=str(folder / INDEX))
        tensors: dict[str, Tensor] = {}
        for name in sorted(set(index.values())):
            if Path(name).name != name or not (folder / name).is_file():
                raise InputError(f"the shard {name} is missing", where=str(folder / INDEX))
            tensors |= _read_safetensors(folder / name)
        return tensors, str(folder / INDEX)
    pickled = sorted(path.name for path in folder.glob("pytorch_model*.bin"))
    if pickled:
        raise InputError(
            f"{pickled[0]} is a pickle, which can run code, and there is no {WEIGHTS}",
            where=str(folder),
            do="convert it once with transformers: "
            f"{architecture}.from_pretrained(folder).save_pretrained(new_folder)",
        )
    raise InputError(f"no {WEIGHTS}", where=str(folder))


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise InputError(f"not a whole safetensors file ({error})", where=str(path)) from None


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(
            "no such file", where=str(path), expected="a model folder in the Hugging Face layout"
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(f"not valid JSON ({error})", where=str(path)) from None
    if not isinstance(values, dict):
        raise InputError("not a JSON object", where=str(path))
    return values


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(partial, path)
