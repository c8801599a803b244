"""Melete: from a person's own text to a working Transformer, and proof of how good it is.

Public names are loaded when first used: `import melete` loads neither torch nor click.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from melete.api import load
    from melete.errors import InputError, MeleteError, StorageError

__version__ = "0.1.0"

# public name -> module that defines it
_PUBLIC = {
    "InputError": "melete.errors",
    "MeleteError": "melete.errors",
    "StorageError": "melete.errors",
    "load": "melete.api",
}

__all__ = ["InputError", "MeleteError", "StorageError", "load"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'melete' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
