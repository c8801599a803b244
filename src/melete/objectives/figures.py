"""What an objective notes in evaluation mode, for the log alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from melete.metrics.classification import roc_auc


class Sums:
    """Sums over what was seen, by name."""

    def __init__(self, **sums: float) -> None:
        self.sums: dict[str, float] = sums

    def add(self, **parts: Tensor | int) -> None:
        """Add to each sum."""
        for name, part in parts.items():
            value = part.detach() if isinstance(part, Tensor) else part
            self.sums[name] = self.sums.get(name, 0.0) + float(value)

    def take(self) -> Sums:
        """What there is so far; this one starts anew."""
        taken, self.sums = Sums(**self.sums), {}
        return taken

    def mean(self, name: str, of: str) -> float:
        """A sum over the sum of its items; NaN where there are none."""
        count = self.sums.get(of, 0.0)
        return self.sums[name] / count if count else math.nan


class Areas:
    """Scores and which of them are positive, by the name of what is measured."""

    def __init__(self) -> None:
        self.parts: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}

    def add(self, name: str, scores: Tensor, positive: Tensor) -> None:
        """Keep the scores (N,) of a batch, and which are positive, bool (N,)."""
        kept = scores.detach().float().cpu().numpy(), positive.cpu().numpy()
        self.parts.setdefault(name, []).append(kept)

    def take(self) -> dict[str, float]:
        """The area under the ROC curve of each; this one starts anew."""
        taken, self.parts = self.parts, {}
        return {
            name: roc_auc(*(np.concatenate(column) for column in zip(*parts, strict=True)))
            for name, parts in taken.items()
        }


class Unigram(nn.Module):
    """A model that knows how frequent tokens are, and nothing else.

    Args:
        frequencies: probability of each id, none of them 0, (V,); None: it is not asked.
    """

    def __init__(self, frequencies: np.ndarray | None) -> None:
        super().__init__()
        logs = torch.empty(0) if frequencies is None else torch.from_numpy(np.log(frequencies))
        self.register_buffer("log_probs", logs.float(), persistent=False)

    def forward(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Of tokens (M,): their nats, summed, and how many are the commonest; NaN where frequencies are not known."""
        logs: Any = self.log_probs
        if not len(logs):
            return torch.tensor(math.nan), torch.tensor(math.nan)
        return -logs[labels].double().sum(), (labels == logs.argmax()).sum()
