"""Mend a damaged text: what encoder-decoders learn from plain text, before anybody says what a good answer is."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from melete.data.batch import Batch, Example, ExampleKey
from melete.data.denoising import (
    BART,
    T5,
    Noise,
    NoiseVocabulary,
    corrupt_spans,
    fill_in_text,
    sentence_order,
)
from melete.data.encoder_text import Sample
from melete.models.base import EncoderDecoder
from melete.objectives.base import Context
from melete.objectives.figures import Sums, Unigram
from melete.objectives.seq2seq import Pair, SequenceToSequence


class Denoising(SequenceToSequence):
    """Cross-entropy of each token of the answer to a damaged text; damage is drawn from the key of the example.

    Args:
        vocabulary: what stands for what is hidden.
        frequencies: probability of each id in answers, none of them 0, (V,); None: they are not asked for.

    Raises:
        InputError: the model's config does not say which token ends a text.
    """

    def __init__(
        self,
        model: EncoderDecoder,
        vocabulary: NoiseVocabulary,
        noise: Noise,
        *,
        label_smoothing: float = 0.0,
        frequencies: np.ndarray | None = None,
    ) -> None:
        super().__init__(model, label_smoothing)
        self.vocabulary, self.noise = vocabulary, noise
        self.unigram = Unigram(frequencies)
        self._seen = Sums()

    @abstractmethod
    def damaged(self, sample: Sample, rng: np.random.Generator) -> Pair:
        """A text as the model reads it, and what it shall write."""

    def prepare(
        self, examples: Sequence[Example], rng_for: Callable[[ExampleKey], np.random.Generator]
    ) -> Batch:
        """Samples become damaged texts and their answers; see `SequenceToSequence.prepare`."""
        pairs = [Example(one.key, self.damaged(one.data, rng_for(one.key))) for one in examples]
        return super().prepare(pairs, rng_for)

    def forward(self, batch: Batch, ctx: Context) -> dict[str, Tensor]:
        """The sum of the cross-entropy in nats."""
        sums = super().forward(batch, ctx)
        if not self.training:
            labels = batch.labels["seq2seq"]
            labels = labels[labels != -100]
            nats, _ = self.unigram(labels)
            self._seen.add(tokens=len(labels), unigram=nats)
        return sums

    def take_figures(self) -> dict[str, float]:
        """Nats a token of the answers by token frequencies: the loss of a guess without reading."""
        return {"unigram": self._seen.take().mean("unigram", "tokens")}


class SpanCorruption(Denoising):
    """Say what stood in the gaps of a text (Raffel et al. 2020, section 3.1.4)."""

    usual = T5

    def damaged(self, sample: Sample, rng: np.random.Generator) -> Pair:
        """See `data.denoising.corrupt_spans`."""
        return Pair(*corrupt_spans(sample.ids, self.vocabulary.holes, self.noise, rng))


class TextInfilling(Denoising):
    """Write a text whose runs of words are gone and whose sentences change places (Lewis et al. 2020, section 2.2)."""

    usual = BART

    def damaged(self, sample: Sample, rng: np.random.Generator) -> Pair:
        """See `data.denoising.fill_in_text`."""
        order = np.arange(len(sample.ids))
        if self.noise.shuffle:
            order = sentence_order(sample.sentences, len(order), rng)
        begins = sample.begins.copy()
        begins[sample.sentences] = True
        words = np.cumsum(begins[order]) - 1
        hole = int(self.vocabulary.holes[0])
        return Pair(fill_in_text(sample.ids[order], words, hole, self.noise, rng), sample.ids)
