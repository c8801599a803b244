"""Text from a model that fills masks: fill all, hide again what it was least sure of, fill those (mask-predict).

Source: Ghazvininejad et al. 2019, "Mask-Predict", section 3; there the tokens are always the likeliest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from melete.data.batch import Batch
from melete.data.corruption import Vocabulary
from melete.errors import InputError
from melete.generation.sampling import GREEDY_BELOW, generator_of, sample
from melete.generation.settings import MaskPredictSettings
from melete.models.base import Encoder


@torch.no_grad()
def mask_predict(
    model: Encoder,
    ids: Sequence[int],
    vocabulary: Vocabulary,
    settings: MaskPredictSettings,
    on_iteration: Callable[[], None] | None = None,
) -> list[list[int]]:
    """Fill the masks of a text, together: after iteration t of T, (T - t) / T of them are hidden again.

    Each answer is what it would be alone. Special tokens are never put in.

    Args:
        model: in evaluation mode, with a masked-language-model head.
        ids: the text with its special tokens and masks.
        on_iteration: called after each.

    Returns:
        The whole text of each answer, special tokens included.

    Raises:
        InputError: no masks, or a text longer than the model's context.
    """
    device = model.mlm_weight.device
    rows = torch.tensor([ids] * settings.num_return_sequences)  # (B, T)
    places = (rows[0] == vocabulary.mask_id).nonzero()[:, 0]  # (M,)
    if not len(places):
        raise InputError(
            "there is no mask to fill", do="give a length (--length, length=), or a prompt with masks"
        )
    special = torch.ones(model.config.vocab_size, dtype=torch.bool, device=device)  # (V,)
    special[torch.from_numpy(vocabulary.ordinary).to(device)] = False
    generators = [generator_of(settings.seed, answer) for answer in range(len(rows))]
    sure = torch.zeros(len(rows), len(places))  # (B, M)
    hidden = torch.ones_like(sure, dtype=torch.bool)  # (B, M)
    for iteration in range(1, settings.iterations + 1):
        states = model.encode(Batch.from_rows(list(rows)).to(device))[:, places.to(device)]  # (B, M, D)
        for row, generator in enumerate(generators):
            here = hidden[row]
            logits = model.mlm_logits(states[row, here.to(device)]).float()  # (hidden, V)
            logits = logits.masked_fill(special, -torch.inf)
            tokens = _choose(logits, settings.temperature, generator)
            rows[row, places[here]] = tokens.cpu()
            sure[row, here] = logits.softmax(-1).gather(-1, tokens[:, None])[:, 0].cpu()
        left = len(places) * (settings.iterations - iteration) // settings.iterations
        hidden = torch.zeros_like(hidden).scatter_(1, sure.argsort(dim=1, stable=True)[:, :left], True)
        if on_iteration is not None:
            on_iteration()
        if not left:
            break
        rows[:, places] = rows[:, places].masked_fill(hidden, vocabulary.mask_id)
    return rows.tolist()


def _choose(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """A token for each mask: (M,) from (M, V)."""
    if temperature < GREEDY_BELOW:
        return logits.argmax(-1)
    return sample(logits / temperature, [generator] * len(logits))
