"""Tell which tokens a small generator replaced (ELECTRA, Clark et al. 2020, section 2).

Where the paper leaves a choice, it is the one of the original `run_pretraining.py`: 15 % of the tokens are chosen; of
those the generator sees 85 % as [MASK] and 15 % as they are, none random; all of them get a sample of its softmax, from
the same forward pass that trains it, dropout included; a sample that is the original counts as original; and the
discriminator's loss is over every token that is not padding, [CLS] and [SEP] too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from melete.data.batch import Batch, Example, ExampleKey
from melete.data.corruption import ELECTRA, Corruption, Vocabulary
from melete.models.electra import Model
from melete.nn.functional import sampled_cross_entropy
from melete.objectives.base import Context, Objective
from melete.objectives.masked_lm import check_vocabulary, chosen, hidden_batch

DISCRIMINATOR_WEIGHT = 50.0


class ReplacedToken(Objective):
    """Cross-entropy of a generator at the chosen tokens, and of a discriminator at every token.

    The two share their embeddings (`electra_pair.build_generator`). No gradient goes from one to the other.

    Args:
        model: the discriminator: what is trained for.
        generator: a masked language model over the same embeddings.
        vocabulary: of their tokenizer.
        weight: of the discriminator's loss.
        width: most tokens of a row of packed texts; None pads.

    Raises:
        InputError: the vocabulary is not the model's.
    """

    def __init__(
        self,
        model: Model,
        generator: Model,
        vocabulary: Vocabulary,
        corruption: Corruption = ELECTRA,
        *,
        weight: float = DISCRIMINATOR_WEIGHT,
        width: int | None = None,
    ) -> None:
        super().__init__()
        assert generator.mlm_weight is model.embeddings.word.weight, "the embeddings are not shared"
        check_vocabulary(model, vocabulary)
        self.model: Model = model
        self.generator = generator
        self.vocabulary, self.corruption, self.width = vocabulary, corruption, width
        self.weights = {"mlm": 1.0, "rtd": weight}
        self._seen: Tensor | None = None

    def prepare(
        self, examples: Sequence[Example], rng_for: Callable[[ExampleKey], np.random.Generator]
    ) -> Batch:
        """Samples become `[CLS] A [SEP]`, some of their tokens hidden: the generator's input."""
        return hidden_batch(examples, rng_for, self.corruption, self.vocabulary, self.width)

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Chosen tokens; tokens."""
        return {"mlm": (batch.labels["mlm"] != -100).sum(), "rtd": (batch.doc_ids > 0).sum()}

    def forward(self, batch: Batch, ctx: Context) -> dict[str, Tensor]:
        """Sums of the generator's cross-entropy and of the discriminator's binary cross-entropy, in nats."""
        originals = batch.labels["mlm"]  # (B, T)
        inputs = chosen(self.generator, self.generator.encode(batch), originals)
        generator_loss, drawn = sampled_cross_entropy(*inputs, bias=self.generator.mlm_bias, rng=ctx.rng)
        replaced = self.replaced(batch, drawn)
        logits = self.model.rtd_logits(self.model.encode(replaced)).to(generator_loss.dtype)  # (B, T)
        real, targets = batch.doc_ids > 0, replaced.labels["rtd"]  # (B, T)
        loss = F.binary_cross_entropy_with_logits(
            logits[real], targets[real].to(logits.dtype), reduction="sum"
        )
        self._note(originals, targets, logits[real], targets[real], generator_loss)
        return {"mlm": generator_loss, "rtd": loss}

    @staticmethod
    def replaced(batch: Batch, drawn: Tensor) -> Batch:
        """The discriminator's input: the text with draws at the chosen tokens, and where they are not the original.

        Args:
            batch: of `prepare`.
            drawn: int64 (M,), in the order of the chosen tokens.

        Returns:
            The batch with the label "rtd": int64 (B, T), 1 where a token was replaced by another.
        """
        originals = batch.labels["mlm"]
        ids = batch.input_ids.masked_scatter(originals != -100, drawn)
        different = (originals != -100) & (ids != originals)
        return replace(batch, input_ids=ids, labels={**batch.labels, "rtd": different.long()})

    @torch.no_grad()
    def _note(self, originals: Tensor, targets: Tensor, logits: Tensor, real: Tensor, loss: Tensor) -> None:
        flagged, wrong = logits > 0, real > 0
        parts = (
            real.numel(),
            (originals != -100).sum(),
            targets.sum(),
            flagged.sum(),
            (flagged & wrong).sum(),
            loss,
        )
        seen = torch.stack([torch.as_tensor(part, device=loss.device).double() for part in parts])
        self._seen = seen if self._seen is None else self._seen + seen

    def take_figures(self) -> Figures:
        """What this process saw since the last call. For the log only: no training depends on it."""
        seen, self._seen = self._seen, None
        return Figures(*(seen.tolist() if seen is not None else [0.0] * len(fields(Figures))))

    def save(self, folder: Path, masters: dict[str, Tensor], tokenizer: Path | None) -> None:
        """Write the discriminator's folder, and the generator's inside it; see `electra_pair.save_pair`."""
        from melete.models.electra_pair import save_pair

        first, second = (
            {name.removeprefix(part): tensor for name, tensor in masters.items() if name.startswith(part)}
            for part in ("model.", "generator.")
        )
        save_pair(folder, self.model, self.generator, tokenizer=tokenizer, states=(first, second))

    def load(self, folder: Path) -> dict[str, Tensor]:
        """The float32 values by this objective's parameter names that `save` wrote."""
        from melete.models.electra_pair import load_pair

        model, generator = load_pair(folder)
        both = nn.ModuleDict({"model": model, "generator": generator})  # names what is shared once, as we do
        return {name: p.detach() for name, p in both.named_parameters()}


@dataclass(frozen=True)
class Figures:
    """Sums over some batches.

    Attributes:
        tokens: without padding.
        chosen: tokens that the generator restored.
        replaced: those at which its draw was not the original.
        flagged: tokens that the discriminator took for replaced.
        caught: those of them that were.
        generator_loss: cross-entropy in nats.
    """

    tokens: float
    chosen: float
    replaced: float
    flagged: float
    caught: float
    generator_loss: float

    @property
    def recall(self) -> float:
        """Share of the replaced tokens that the discriminator caught."""
        return self.caught / max(self.replaced, 1.0)

    @property
    def precision(self) -> float:
        """Share of the flagged tokens that were replaced."""
        return self.caught / max(self.flagged, 1.0)

    @property
    def restored(self) -> float:
        """Share of the chosen tokens at which the generator drew the original."""
        return (self.chosen - self.replaced) / max(self.chosen, 1.0)


def alarms(figures: Figures, unigram_entropy: float) -> list[str]:
    """What is wrong with a pair, a line each; at the start of training the first two are to be expected.

    Args:
        unigram_entropy: of the tokens in nats: what a generator reaches that ignores the text.
    """
    found = []
    loss = figures.generator_loss / max(figures.chosen, 1.0)
    if figures.replaced and figures.recall < 0.01:
        found.append(
            f"the discriminator takes all tokens for original: it caught {figures.recall:.1%} of the replaced"
        )
    if figures.chosen and loss >= unigram_entropy:
        found.append(
            f"the generator is no better than token frequencies: {loss:.2f} nats against {unigram_entropy:.2f}"
        )
    if figures.restored > 0.7:
        found.append(
            f"the generator is too strong: {figures.restored:.0%} of its draws are the original tokens"
        )
    return found
