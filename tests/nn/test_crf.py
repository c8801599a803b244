"""The linear chain against all sequences, one by one."""

from __future__ import annotations

from itertools import pairwise, product

import pytest
import torch
from torch import Tensor

from melete.nn.crf import LinearChain

LABELS = 3


@pytest.fixture
def chain() -> LinearChain:
    chain = LinearChain(LABELS).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in chain.parameters():
            p.normal_(0, 1, generator=generator)
    return chain


def sentences(*lengths: int) -> tuple[Tensor, Tensor]:
    """Emissions and mask of sentences of these lengths."""
    generator = torch.Generator().manual_seed(1)
    emissions = torch.randn(len(lengths), max(lengths), LABELS, generator=generator, dtype=torch.float64)
    return emissions, torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def score(chain: LinearChain, emissions: Tensor, labels: tuple[int, ...]) -> float:
    """As the definition reads."""
    total = chain.first[labels[0]] + chain.last[labels[-1]]
    total = total + sum(emissions[i, label] for i, label in enumerate(labels))
    return float(total + sum(chain.transitions[a, b] for a, b in pairwise(labels)))


@torch.no_grad()
def test_it_is_the_sum_over_all_sequences(chain) -> None:
    lengths = (4, 1, 3, 2)
    emissions, mask = sentences(*lengths)
    partition = chain.log_partition(emissions, mask)
    decoded, shares = chain.decode(emissions, mask)
    for i, length in enumerate(lengths):
        every = list(product(range(LABELS), repeat=length))
        scores = torch.tensor([score(chain, emissions[i], labels) for labels in every])
        assert partition[i].item() == pytest.approx(scores.logsumexp(0).item())
        best = every[int(scores.argmax())]
        assert tuple(decoded[i, :length].tolist()) == best
        probabilities = scores.softmax(0)
        for word, label in enumerate(best):
            with_it = torch.tensor([labels[word] == label for labels in every])
            assert shares[i, word].item() == pytest.approx(probabilities[with_it].sum().item())
        for labels in every[:: max(1, len(every) // 7)]:
            padded = torch.full((1, 4), -100)
            padded[0, :length] = torch.tensor(labels)
            found = chain.log_likelihood(emissions[i : i + 1], padded, mask[i : i + 1])
            assert found.item() == pytest.approx(score(chain, emissions[i], labels) - partition[i].item())


def test_gradients_are_right(chain) -> None:
    emissions, mask = sentences(3, 1, 2)
    labels = torch.tensor([[0, 2, 1], [1, -100, -100], [2, 2, -100]])
    inputs = (emissions.requires_grad_(), *chain.parameters())

    def loss(emissions: Tensor, *_: Tensor) -> Tensor:
        return chain.log_likelihood(emissions, labels, mask).sum()

    assert torch.autograd.gradcheck(loss, inputs)


def test_a_forbidden_step_is_never_taken(chain) -> None:
    with torch.no_grad():
        chain.transitions[0, 1] = -1e4
    emissions, mask = sentences(20, 13)
    labels, _ = chain.decode(emissions, mask)
    for row, length in zip(labels.tolist(), (20, 13), strict=True):
        assert (0, 1) not in set(pairwise(row[:length]))
