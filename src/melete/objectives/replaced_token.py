"""Tell which tokens a small generator replaced (ELECTRA, Clark et al. 2020, section 2).

Where the paper leaves a choice, it is the one of the original `run_pretraining.py`: 15 % of the tokens are chosen; of
those the generator sees 85 % as [MASK] and 15 % as they are, none random; all of them get a sample of its softmax, from
the same forward pass that trains it, dropout included; a sample that is the original counts as original; and the
discriminator's loss is over every token that is not padding, [CLS] and [SEP] too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from melete.data.batch import Batch, Example, ExampleKey
from melete.data.corruption import ELECTRA, Corruption, Vocabulary
from melete.models.electra import Model
from melete.nn.functional import linear_cross_entropy, sampled_cross_entropy
from melete.objectives.base import Context, Objective
from melete.objectives.figures import Areas, Sums, Unigram
from melete.objectives.masked_lm import check_vocabulary, chosen, hidden_batch

DISCRIMINATOR_WEIGHT = 50.0


class ReplacedToken(Objective):
    """Cross-entropy of a generator at the chosen tokens, and of a discriminator at every token.

    The two share their embeddings (`electra_pair.build_generator`). No gradient goes from one to the other.

    A new discriminator sees nothing in its context at first, and there is little in its loss that could teach it to:
    in a short training it may never begin. `restore_first` begins with what the paper's two-stage training (section
    3.2) begins with, layers that restore hidden tokens: here the discriminator's own, through its embedding.

    Args:
        model: the discriminator: what is trained for.
        generator: a masked language model over the same embeddings.
        vocabulary: of their tokenizer.
        weight: of the discriminator's loss.
        restore_first: share of the training in which the discriminator's layers restore hidden tokens instead, and
            the generator waits.
        width: most tokens of a row of packed texts; None pads.
        frequencies: probability of each id by the training text, (V,): what the generator is held against.

    Raises:
        InputError: the vocabulary is not the model's.
    """

    # Not the loss: it rises while both learn, as a better generator replaces tokens that are harder to tell.
    deciding = "auc"

    def __init__(
        self,
        model: Model,
        generator: Model,
        vocabulary: Vocabulary,
        corruption: Corruption = ELECTRA,
        *,
        weight: float = DISCRIMINATOR_WEIGHT,
        restore_first: float = 0.0,
        width: int | None = None,
        frequencies: np.ndarray | None = None,
    ) -> None:
        super().__init__()
        assert generator.mlm_weight is model.embeddings.word.weight, "the embeddings are not shared"
        check_vocabulary(model, vocabulary)
        self.model: Model = model
        self.generator = generator
        self.vocabulary, self.corruption, self.width = vocabulary, corruption, width
        self.weights = {"mlm": 1.0, "rtd": weight}
        self.restore_first = restore_first
        if restore_first:
            self.weights["restore"] = 1.0
        self.unigram = Unigram(frequencies)
        self._seen, self._areas = Sums(), Areas()
        self._notes: list[str] = []

    def prepare(
        self, examples: Sequence[Example], rng_for: Callable[[ExampleKey], np.random.Generator]
    ) -> Batch:
        """Samples become `[CLS] A [SEP]`, some of their tokens hidden: the generator's input."""
        return hidden_batch(examples, rng_for, self.corruption, self.vocabulary, self.width)

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Chosen tokens; tokens; chosen tokens."""
        hidden = (batch.labels["mlm"] != -100).sum()
        counts = {"mlm": hidden, "rtd": (batch.doc_ids > 0).sum(), "restore": hidden}
        return {name: counts[name] for name in self.weights}

    def phase(self, progress: float) -> float:
        """See `Objective.phase`: the discriminator's layers restore hidden tokens, then the pair trains."""
        return self.restore_first if progress >= self.restore_first else 0.0

    def forward(self, batch: Batch, ctx: Context) -> dict[str, Tensor]:
        """Sums of the generator's cross-entropy and of the discriminator's binary cross-entropy, in nats."""
        if self.training and ctx.progress < self.restore_first:
            return {"restore": self._restore(batch, ctx)}
        inputs = chosen(self.generator, self.generator.encode(batch), batch.labels["mlm"])
        generator_loss, drawn = sampled_cross_entropy(*inputs, bias=self.generator.mlm_bias, rng=ctx.rng)
        replaced = self.replaced(batch, drawn)
        logits = self.model.rtd_logits(self.model.encode(replaced)).to(generator_loss.dtype)  # (B, T)
        real, targets = batch.doc_ids > 0, replaced.labels["rtd"]  # (B, T)
        loss = F.binary_cross_entropy_with_logits(
            logits[real], targets[real].to(logits.dtype), reduction="sum"
        )
        if not self.training:
            self._observe(batch, inputs[2], generator_loss, loss, logits, targets)
        return {"mlm": generator_loss, "rtd": loss}

    def _restore(self, batch: Batch, ctx: Context) -> Tensor:
        """The cross-entropy of the discriminator's layers at the chosen tokens, in nats, summed.

        Two thirds of the chosen tokens that the generator would see as they are become random ones, as BERT has it
        (Devlin et al. 2019, section 3.1): so that layers learn not to trust a token that does not fit. Hidden states
        meet the output matrix by the way they came from it: there is nothing more to learn or to save.
        """
        labels, ids = batch.labels["mlm"], batch.input_ids  # (B, T)
        chance = torch.rand(ids.shape, generator=ctx.rng, device=ids.device)
        ordinary = torch.as_tensor(self.vocabulary.ordinary, device=ids.device)
        drawn = ordinary[torch.randint(len(ordinary), ids.shape, generator=ctx.rng, device=ids.device)]
        ids = ids.where((ids != labels) | (chance > 2 / 3), drawn)
        at = (labels.flatten() != -100).nonzero().squeeze(1)  # (M,)
        hidden = self.model.encode(replace(batch, input_ids=ids)).flatten(0, 1)[at]
        found = self.model.unproject(hidden)  # (M, E)
        found = F.layer_norm(found, found.shape[-1:])
        weight, bias = self.model.mlm_weight, self.generator.mlm_bias
        return linear_cross_entropy(found, weight, labels.flatten()[at], bias=bias)[0]

    def _observe(
        self,
        batch: Batch,
        originals: Tensor,
        generator_loss: Tensor,
        loss: Tensor,
        logits: Tensor,
        targets: Tensor,
    ) -> None:
        """Note how both did on a batch of held-out text, and on its replaced tokens where it has some."""
        real = batch.doc_ids > 0
        flagged, wrong = logits[real] > 0, targets[real] > 0
        self._seen.add(
            tokens=flagged.numel(), rtd=loss, flagged=flagged.sum(), caught=(flagged & wrong).sum()
        )
        self._seen.add(chosen=len(originals), mlm=generator_loss, unigram=self.unigram(originals)[0])
        self._seen.add(replaced=wrong.sum())
        self._areas.add("auc_generator", logits[real], wrong)
        if "replaced" in batch.labels:
            ids, stood = batch.labels["replaced"], batch.labels["original"]
            probe = replace(batch, input_ids=batch.input_ids.where(~real, ids), labels={})
            scores = self.model.rtd_logits(self.model.encode(probe))  # (B, T)
            self._areas.add("auc", scores[real], (ids != stood)[real])

    def drawn(self, batch: Batch, ctx: Context) -> Tensor:
        """What the generator draws for the chosen tokens of a batch of `prepare`: int64 (M,)."""
        inputs = chosen(self.generator, self.generator.encode(batch), batch.labels["mlm"])
        return sampled_cross_entropy(*inputs, bias=self.generator.mlm_bias, rng=ctx.rng)[1]

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

    def take_figures(self) -> dict[str, float]:
        """How the pair did: `auc` on the fixed corruption, `auc_generator` on the generator's own draws; the loss of
        each; the generator's beside that of token frequencies.
        """
        seen, areas = self._seen.take(), self._areas.take()
        self._notes = alarms(seen)
        mlm, unigram = seen.mean("mlm", "chosen"), seen.mean("unigram", "chosen")
        return (
            {"auc": math.nan, "auc_generator": math.nan}
            | areas
            | {
                "rtd": seen.mean("rtd", "tokens"),
                "mlm": mlm,
                "unigram": unigram,
                "generator_ratio": mlm / unigram,
            }
        )

    def take_notes(self) -> list[str]:
        """The alarms of the last figures."""
        notes, self._notes = self._notes, []
        return notes

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


def alarms(seen: Sums) -> list[str]:
    """What is wrong with a pair, a line each; at the start of training the first two are to be expected.

    Args:
        seen: sums over held-out text: `replaced`, `flagged` and `caught` (both) of the discriminator, `chosen`, `mlm`
            and `unigram` of the generator.
    """
    found = []
    caught = seen.mean("caught", "replaced")
    restored = 1.0 - seen.mean("replaced", "chosen")
    loss, unigram = seen.mean("mlm", "chosen"), seen.mean("unigram", "chosen")
    if caught < 0.01:
        found.append(
            f"the discriminator takes all tokens for original: it caught {caught:.1%} of the replaced"
        )
    if loss >= unigram:
        found.append(
            f"the generator is no better than token frequencies: {loss:.2f} nats against {unigram:.2f}"
        )
    if restored > 0.7:
        found.append(f"the generator is too strong: {restored:.0%} of its draws are the original tokens")
    return found
