"""A linear chain over labels: which may follow which (Lafferty et al. 2001; over a network: Lample et al. 2016)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LinearChain(nn.Module):
    """Scores of sequences of labels: what a network says of each word, and what follows what.

    Every sequence has at least one word, and its words come before its padding.

    Args:
        labels: number of labels, C.
    """

    def __init__(self, labels: int) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.zeros(labels))
        self.last = nn.Parameter(torch.zeros(labels))
        self.transitions = nn.Parameter(torch.zeros(labels, labels))  # from, to

    def log_likelihood(self, emissions: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """Log-probability of sequences of labels.

        Args:
            emissions: scores of the labels of each word, (N, W, C).
            labels: int64 (N, W); anything at padding.
            mask: bool (N, W), True at words.

        Returns:
            (N,).
        """
        labels, each = labels.masked_fill(~mask, 0), mask.to(emissions.dtype)
        said = emissions.gather(2, labels[..., None]).squeeze(2)  # (N, W)
        steps = self.transitions[labels[:, :-1], labels[:, 1:]]  # (N, W - 1)
        ends = labels.gather(1, mask.sum(1, keepdim=True) - 1).squeeze(1)  # (N,)
        score = (said * each).sum(1) + (steps * each[:, 1:]).sum(1)
        return score + self.first[labels[:, 0]] + self.last[ends] - self.log_partition(emissions, mask)

    def log_partition(self, emissions: Tensor, mask: Tensor) -> Tensor:
        """Log of the sum over all sequences of the exponential of their scores, (N,)."""
        return (self._forward(emissions, mask)[:, -1] + self.last).logsumexp(1)

    def decode(self, emissions: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The likeliest sequences (Viterbi 1967), and how likely each of their labels is by itself.

        Returns:
            Labels, int64 (N, W), and probabilities, (N, W); anything at padding.
        """
        words = emissions.shape[1]
        best = self.first + emissions[:, 0]  # (N, C)
        back: list[Tensor] = []
        for word in range(1, words):
            value, come_from = (best[:, :, None] + self.transitions).max(1)  # (N, C) each
            going_on = mask[:, word, None]
            stay = torch.arange(value.shape[1], device=value.device).expand_as(come_from)
            best = torch.where(going_on, value + emissions[:, word], best)
            back.append(torch.where(going_on, come_from, stay))
        path = [(best + self.last).argmax(1)]  # of the last word
        for come_from in reversed(back):
            path.append(come_from.gather(1, path[-1][:, None]).squeeze(1))
        labels = torch.stack(path[::-1], dim=1)  # (N, W)
        # Padding repeats the label of the last word, so each word stands in its own place.
        forward, backward = self._forward(emissions, mask), self._backward(emissions, mask)
        shares = (forward + backward).softmax(2)  # (N, W, C)
        return labels, shares.gather(2, labels[..., None]).squeeze(2)

    def _forward(self, emissions: Tensor, mask: Tensor) -> Tensor:
        """Log-sums over all beginnings that end in a label, (N, W, C); padding repeats the last word's."""
        alphas = [self.first + emissions[:, 0]]
        for word in range(1, emissions.shape[1]):
            reached = (alphas[-1][:, :, None] + self.transitions).logsumexp(1) + emissions[:, word]
            alphas.append(torch.where(mask[:, word, None], reached, alphas[-1]))
        return torch.stack(alphas, dim=1)

    def _backward(self, emissions: Tensor, mask: Tensor) -> Tensor:
        """Log-sums over all endings that follow a label, (N, W, C)."""
        betas = [self.last.expand(len(emissions), -1)]
        for word in range(emissions.shape[1] - 1, 0, -1):
            after = (self.transitions + (emissions[:, word] + betas[-1])[:, None, :]).logsumexp(2)
            betas.append(torch.where(mask[:, word, None], after, betas[-1]))
        return torch.stack(betas[::-1], dim=1)
