"""Vectors of tokens, positions and segments."""

from __future__ import annotations

from torch import nn


class Embedding(nn.Embedding):
    """`nn.Embedding` that draws no weights: `init.initialise` does, or a folder has them.

    On the device "meta", where models are first laid out, torch would import its compiler for it: a second or more.
    """

    def reset_parameters(self) -> None:
        """Nothing yet."""
