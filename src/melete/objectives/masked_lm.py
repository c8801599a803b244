"""Restore hidden tokens, reading in both directions, and tell pairs of texts (Devlin et al. 2019, section 3.1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from melete.data.batch import Batch, Example, ExampleKey
from melete.data.batching import lay_out
from melete.data.corruption import BERT, Corruption, Vocabulary, mask_tokens
from melete.data.encoder_text import PAIRS, Sample
from melete.errors import InputError
from melete.models.base import Encoder
from melete.models.checkpoint import load_encoder
from melete.nn.functional import linear_cross_entropy
from melete.objectives.base import Context, Objective
from melete.objectives.figures import Sums, Unigram

_BLOCK = 1024  # rows of logits at once


class MaskedLM(Objective):
    """Cross-entropy at the chosen tokens, and of the next-sentence or sentence-order label where pairs are read.

    Masks are dynamic: drawn from the key of the example, so another epoch hides other tokens, and packed or padded,
    in whichever batch, an example is hidden alike.

    Args:
        vocabulary: of the model's tokenizer.
        pair: "", "nsp" (next sentence) or "sop" (sentence order, Lan et al. 2020); names the second term.
        width: most tokens of a row of packed texts; None pads.
        frequencies: probability of each id by the training text, (V,): what a guess without looking is worth.

    Raises:
        InputError: the vocabulary is not the model's, or the model has no head for pairs.
    """

    def __init__(
        self,
        model: Encoder,
        vocabulary: Vocabulary,
        corruption: Corruption = BERT,
        *,
        pair: str = "",
        width: int | None = None,
        frequencies: np.ndarray | None = None,
    ) -> None:
        super().__init__()
        assert pair in PAIRS
        check_vocabulary(model, vocabulary)
        self.model: Encoder = model
        self.vocabulary, self.corruption, self.pair, self.width = vocabulary, corruption, pair, width
        self.weights = {"mlm": 1.0, pair: 1.0} if pair else {"mlm": 1.0}
        self.unigram = Unigram(frequencies)
        self._seen = Sums()
        if pair and not hasattr(model, "nsp_logits"):
            raise InputError(
                f"{model.family} has no head for sentence pairs", expected="bert", do="train it without pairs"
            )

    def prepare(
        self, examples: Sequence[Example], rng_for: Callable[[ExampleKey], np.random.Generator]
    ) -> Batch:
        """Samples become `[CLS] A [SEP]` or `[CLS] A [SEP] B [SEP]`, some of their tokens hidden."""
        batch = hidden_batch(examples, rng_for, self.corruption, self.vocabulary, self.width)
        if self.pair:
            batch.labels[self.pair] = torch.tensor([example.data.label for example in examples])
        return batch

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Chosen tokens; pairs."""
        return {name: (batch.labels[name] != -100).sum() for name in self.weights}

    def forward(self, batch: Batch, ctx: Context) -> dict[str, Tensor]:
        """Sums of both cross-entropies in nats; only the chosen tokens meet the vocabulary."""
        hidden = self.model.encode(batch)  # (B, T, D)
        inputs = chosen(self.model, hidden, batch.labels["mlm"])
        loss, _ = linear_cross_entropy(*inputs, bias=self.model.mlm_bias)
        if not self.training:
            restored = hits(*inputs, self.model.mlm_bias)
            nats, commonest = self.unigram(inputs[2])
            self._seen.add(tokens=len(inputs[2]), mlm=loss, restored=restored)
            self._seen.add(unigram=nats, commonest=commonest)
        if not self.pair:
            return {"mlm": loss}
        model: Any = self.model
        pairs = model.nsp_logits(hidden, batch).to(loss.dtype)  # (N, 2)
        labels = batch.labels[self.pair]  # (N,)
        pair_loss = F.cross_entropy(pairs, labels, reduction="sum")
        if not self.training:
            right = (pairs.argmax(-1) == labels).sum()
            self._seen.add(pairs=len(labels), pair=pair_loss, right=right)
        return {"mlm": loss, self.pair: pair_loss}

    def take_figures(self) -> dict[str, float]:
        """Nats at the chosen tokens, by the model and by token frequencies, and the share restored; pairs likewise."""
        seen = self._seen.take()
        figures = {
            "mlm": seen.mean("mlm", "tokens"),
            "restored": seen.mean("restored", "tokens"),
            "unigram": seen.mean("unigram", "tokens"),
            "unigram_restored": seen.mean("commonest", "tokens"),
        }
        if self.pair:
            figures |= {
                self.pair: seen.mean("pair", "pairs"),
                f"{self.pair}_accuracy": seen.mean("right", "pairs"),
            }
        return figures

    def load(self, folder: Path) -> dict[str, Tensor]:
        """The float32 values by this objective's parameter names that `save` wrote."""
        model = load_encoder(folder, task=self.model.task)
        return {f"model.{name}": p.detach() for name, p in model.named_parameters()}


def check_vocabulary(model: Encoder, vocabulary: Vocabulary) -> None:
    """Refuse a tokenizer with ids that the model has no embedding for.

    Raises:
        InputError: there are such ids.
    """
    size = len(vocabulary.is_ordinary)
    if size > model.config.vocab_size:
        raise InputError(
            f"the tokenizer has {size} ids and the model {model.config.vocab_size}",
            expected="a model of at least as many",
        )


def hidden_batch(
    examples: Sequence[Example],
    rng_for: Callable[[ExampleKey], np.random.Generator],
    corruption: Corruption,
    vocabulary: Vocabulary,
    width: int | None,
) -> Batch:
    """A batch with some tokens hidden, and the label "mlm" (B, T): what stood there, -100 elsewhere.

    Samples with some tokens replaced also give "replaced" and "original" (B, T): their ids, -100 at padding.
    """
    columns: dict[str, list[np.ndarray]] = {"input_ids": [], "token_type_ids": [], "mlm": []}
    if examples[0].data.replaced is not None:
        columns["replaced"] = [
            _framed(example.data.replaced, example.data, vocabulary)[0] for example in examples
        ]
        columns["original"] = [_framed(example.data.ids, example.data, vocabulary)[0] for example in examples]
    for example in examples:
        sample: Sample = example.data
        ids, words, types = _framed(sample.ids, sample, vocabulary)
        out = mask_tokens(ids, words, corruption, vocabulary, rng_for(example.key), sample.rate)
        columns["input_ids"].append(out.ids)
        columns["token_type_ids"].append(types)
        columns["mlm"].append(out.labels)
    return lay_out(columns, {"input_ids": vocabulary.pad_id, "token_type_ids": 0}, width)


def _framed(
    ids: np.ndarray, sample: Sample, vocabulary: Vocabulary
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids of a sample with special tokens around, the word of each token, and its segment: int64 (N,) each."""
    cuts = [sample.second] if sample.second else []
    ends = [*cuts, len(ids)]
    separators = [vocabulary.sep_id] * len(ends)
    ids = np.insert(np.insert(ids, ends, separators), 0, vocabulary.cls_id)
    begins = np.insert(np.insert(sample.begins, ends, True), 0, True)
    types = np.zeros(len(ids), dtype=np.int64)
    if sample.second:
        types[sample.second + 2 :] = 1
    return ids, np.cumsum(begins), types


def chosen(model: Encoder, hidden: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What meets the vocabulary, (M, E), the output matrix (V, E), and the labels (M,), at the chosen tokens only."""
    labels = labels.flatten()
    at = (labels != -100).nonzero().squeeze(1)  # (M,)
    return model.mlm_hidden(hidden.flatten(0, 1)[at]), model.mlm_weight, labels[at]


def hits(hidden: Tensor, weight: Tensor, labels: Tensor, bias: Tensor) -> Tensor:
    """How many of the chosen tokens are the likeliest; the arguments are those of `chosen`."""
    blocks = zip(hidden.split(_BLOCK), labels.split(_BLOCK), strict=True)
    right = [(F.linear(block, weight, bias).argmax(-1) == target).sum() for block, target in blocks]
    return torch.stack(right).sum() if right else torch.tensor(0)
