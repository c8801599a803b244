"""What a model that writes is for, and how it writes best: kept where Hugging Face keeps it.

`config.json` has `task_specific_params`, by the name of the task; `generation_config.json` has how to write, so that
`transformers` writes the same.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from melete.errors import InputError

CONFIG, GENERATION = "config.json", "generation_config.json"


@dataclass(frozen=True)
class Purpose:
    """What a folder is for.

    Attributes:
        task: its name on the Hub.
        language: that the model writes ("de"); "": not said.
        settings: other entries of the task: how many sentences a summary has, say.
        generation: entries of `generation_config.json`.
    """

    task: str
    language: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    generation: Mapping[str, Any] = field(default_factory=dict)


def write_purpose(folder: Path, purpose: Purpose) -> None:
    """Say it in the files of a model folder that is there already."""
    params = {**purpose.settings} | ({"language": purpose.language} if purpose.language else {})
    _change(folder / CONFIG, {"task_specific_params": {purpose.task: params}})
    if purpose.generation:
        _change(folder / GENERATION, purpose.generation)


def read_purpose(folder: Path) -> Purpose | None:
    """What a folder says it is for; None: it does not say, or several things.

    Raises:
        InputError: a file that is no JSON object.
    """
    said = read_json(folder / CONFIG).get("task_specific_params")
    if not isinstance(said, dict) or len(said) != 1:
        return None
    ((task, params),) = said.items()
    settings = dict(params) if isinstance(params, dict) else {}
    language = settings.pop("language", "")
    language = language if isinstance(language, str) else ""
    return Purpose(str(task), language, settings, generation_of(folder))


def generation_of(folder: Path) -> dict[str, Any]:
    """What `generation_config.json` says; nothing where there is none.

    Raises:
        InputError: it is no JSON object.
    """
    return read_json(folder / GENERATION) if (folder / GENERATION).is_file() else {}


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file.

    Raises:
        InputError: there is none.
    """
    try:
        values = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        values = None
    if not isinstance(values, dict):
        raise InputError("not a JSON object", where=str(path))
    return values


def _change(path: Path, entries: Mapping[str, Any]) -> None:
    values = (read_json(path) if path.is_file() else {}) | dict(entries)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(partial, path)
