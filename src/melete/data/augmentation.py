"""Texts changed a little, so that a small set looks larger: tokens dropped, swapped, replaced; sentences moved.

Source: Wei and Zou 2019, "EDA: Easy Data Augmentation Techniques for Boosting Performance on Text Classification
Tasks", with random tokens in place of synonyms.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from melete.errors import InputError


@dataclass(frozen=True)
class Augmentation:
    """Shares of the tokens, each drawn by itself.

    Attributes:
        delete: are left out.
        swap: change places with the next one.
        replace: become a random token.
        mask: become [MASK], or what stands for the unknown.
        shuffle: share of the texts whose sentences change places.
        ordinary: ids that a random token may be, int64.
        mask_id: what hides a token.
    """

    delete: float = 0.0
    swap: float = 0.0
    replace: float = 0.0
    mask: float = 0.0
    shuffle: float = 0.0
    ordinary: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64), compare=False)
    mask_id: int | None = None

    def __post_init__(self) -> None:
        if self.mask and self.mask_id is None:
            raise InputError(
                "the tokenizer has no token for what is masked",
                where="finetuning.augmentation.mask",
                do="use delete or replace",
            )

    @property
    def active(self) -> bool:
        """Whether anything is changed at all."""
        return any((self.delete, self.swap, self.replace, self.mask, self.shuffle))


def augmented(
    ids: np.ndarray, sentence: np.ndarray, augmentation: Augmentation, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A text with some of its tokens changed.

    Args:
        ids: int64 (N,).
        sentence: number of the sentence of each token, ascending, int64 (N,); 0: the token stays as it is, where it is.

    Returns:
        The new ids, and where each token comes from, int64 (M,) both. One token of the text is left at least.
    """
    free = sentence > 0
    order = np.arange(len(ids))
    if augmentation.shuffle and rng.random() < augmentation.shuffle:
        order = _shuffled(sentence, rng)
    if augmentation.swap:
        order = _swapped(order, sentence, augmentation.swap, rng)
    out = ids[order]
    if augmentation.replace:
        chosen = free & (rng.random(len(out)) < augmentation.replace)
        out[chosen] = rng.choice(augmentation.ordinary, int(chosen.sum()))
    if augmentation.mask:
        out[free & (rng.random(len(out)) < augmentation.mask)] = augmentation.mask_id
    if augmentation.delete:
        left = ~free | (rng.random(len(out)) >= augmentation.delete)
        if (left & free).any():
            out, order = out[left], order[left]
    return out, order


def _shuffled(sentence: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Places in another order of the sentences; each run of free tokens keeps its own sentences."""
    order = np.arange(len(sentence))
    free = np.flatnonzero(sentence > 0)
    for run in np.split(free, np.flatnonzero(np.diff(free) > 1) + 1):
        pieces = np.split(run, np.flatnonzero(np.diff(sentence[run])) + 1)
        order[run] = np.concatenate([pieces[i] for i in rng.permutation(len(pieces))]) if len(run) else run
    return order


def _swapped(order: np.ndarray, sentence: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    order = order.copy()
    together = (sentence[:-1] > 0) & (sentence[1:] > 0)
    for i in np.flatnonzero(together & (rng.random(len(together)) < share)):
        order[[i, i + 1]] = order[[i + 1, i]]
    return order
