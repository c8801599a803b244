"""Runs of an encoder-decoder from plain text: span corruption, T5's way, and text infilling, BART's."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from melete import config as configs
from melete.config import RunConfig
from melete.data.batching import SortedBatches
from melete.data.denoising import MASK, SENTINELS, Noise, NoiseVocabulary
from melete.data.sampling import rng_for
from melete.data.tokenizers import Tokenizer
from melete.errors import InputError
from melete.generation.generate import generate
from melete.generation.settings import GenerationSettings
from melete.models import build_encoder_decoder, encoder_decoder_families, is_spec
from melete.models.checkpoint import load_encoder_decoder, locate
from melete.objectives.base import Objective
from melete.objectives.denoising import Denoising, SpanCorruption, TextInfilling
from melete.objectives.figures import Unigram
from melete.training.building import check_model, check_vocabulary, expected_vocabulary, fields_of
from melete.training.encoders import VALID_SEED, EncoderJob
from melete.training.job import About
from melete.training.prepare import Texts, tokenizer_for

_BASELINE = "token frequencies"
_SHOWN, _SAMPLES = 40, 3
_COUNTED = 1000  # texts whose answers show how frequent tokens are


class DenoisingJob(EncoderJob):
    """Damaged text in, and out comes what is missing or the whole of it; batches of like length, padded."""

    tokenizer_kind = "unigram"
    kind: ClassVar[type[SpanCorruption | TextInfilling]]
    holes: ClassVar[tuple[str, ...]]

    @classmethod
    def check(cls, config: RunConfig) -> None:
        """See `Job.check`."""
        check_model(config)
        if config.training.context < 8:
            raise InputError(f"training.context is {config.training.context}", expected="8 or more")
        if config.training.packing == "packed":
            raise InputError("damaged texts are not packed", where="training.packing", expected="sorted")
        cls.noise(config)

    @classmethod
    def noise(cls, config: RunConfig) -> Noise:
        """How much is hidden."""
        o, usual = config.objective, cls.kind.usual
        return Noise(o.noise or usual.rate, o.mean_span, o.shuffle and usual.shuffle)

    @classmethod
    def rehearse(cls, config: RunConfig) -> Objective:
        """See `Job.rehearse`."""
        size = expected_vocabulary(config)
        is_ordinary = np.arange(size) >= len(cls.holes)
        vocabulary = NoiseVocabulary(np.arange(len(cls.holes)), is_ordinary, np.flatnonzero(is_ordinary))
        fields = {"vocab_size": size, "eos_token_id": 0, "pad_token_id": 0}
        return cls.objective(config, cls.model(config, fields), vocabulary)

    # ------------------------------------------------------------------ data

    @classmethod
    def vocabulary_of(cls, tokenizer: Tokenizer) -> NoiseVocabulary:
        """See `EncoderJob.vocabulary_of`."""
        return NoiseVocabulary.of(tokenizer, cls.holes)

    @classmethod
    def new_tokenizer(cls, config: RunConfig, texts: Texts) -> Tokenizer:
        """One trained on the text, and the tokens that stand for what is hidden."""
        room = config.tokenizer.vocab_size - len(cls.holes)
        if room < 1:
            raise InputError(
                f"tokenizer.vocab_size is {config.tokenizer.vocab_size}",
                expected=f"more than {len(cls.holes)}, the tokens for what is hidden",
            )
        learned = tokenizer_for(configs.change(config, {"tokenizer.vocab_size": room}), texts).ended()
        return learned.with_special(cls.holes, mask=cls.holes[0] if len(cls.holes) == 1 else "")

    def settle(self, config: RunConfig) -> RunConfig:
        """See `Job.settle`: nothing depends on the data."""
        return config

    def tune(self, config: RunConfig, objective: Objective) -> RunConfig:
        """See `Job.tune`: batches are padded."""
        return config

    def held_out(self, config: RunConfig, budget: int) -> SortedBatches:
        """The held-out text with fixed damage; see `EncoderJob.held_out`."""
        samples = self._samples_of("valid", config.training.context, "")
        return SortedBatches(samples, budget, seed=VALID_SEED)

    # ------------------------------------------------------------------ model

    @classmethod
    def model(cls, config: RunConfig, of_tokenizer: dict[str, Any]) -> Any:
        """See `EncoderJob.model`; a new decoder begins with padding, as T5's does."""
        section = config.model
        if not is_spec(section.source):
            return load_encoder_decoder(locate(section.source)).train()
        start = {"decoder_start_token_id": of_tokenizer["pad_token_id"]}
        fields = {"max_position_embeddings": config.training.context, **start, **section.config}
        return build_encoder_decoder(
            section.source, seed=config.seed, init=section.init or None, **fields | of_tokenizer
        )

    @classmethod
    def objective(cls, config: RunConfig, model: Any, vocabulary: Any, **other: Any) -> Objective:
        """See `EncoderJob.objective`."""
        smoothing = config.objective.label_smoothing
        return cls.kind(model, vocabulary, cls.noise(config), label_smoothing=smoothing, **other)

    def _over(self, config: RunConfig, model: Any) -> Objective:
        objective = self.objective(config, model, self.vocabulary)
        assert isinstance(objective, Denoising)
        objective.unigram = Unigram(self._of_answers(config, objective))
        return objective

    def _of_answers(self, config: RunConfig, objective: Denoising) -> np.ndarray:
        """Probability of each id in the answers to some training texts, one more than counted."""
        samples = self._samples_of("train", config.training.context, "")
        places = range(0, len(samples.runs), 1 + len(samples.runs) // _COUNTED)
        rng = rng_for((VALID_SEED, 0, 0))
        answers = [objective.damaged(samples.sample(place, rng), rng).target for place in places]
        counts = np.bincount(np.concatenate(answers), minlength=objective.model.config.vocab_size) + 1.0
        counts[objective.model.config.eos_token_id] += len(answers)
        return counts / counts.sum()

    def build(self, config: RunConfig) -> Objective:
        """See `Job.build`."""
        model = self.model(config, fields_of(self.tokenizer, "bos", "eos", "pad"))
        check_vocabulary(config, self.tokenizer, model)
        return self._over(config, model)

    def reopen(self, config: RunConfig, checkpoint: Path) -> Objective:
        """See `Job.reopen`."""
        return self._over(config, load_encoder_decoder(checkpoint))

    # ------------------------------------------------------------------ what is said of it

    def samples(self, config: RunConfig, objective: Objective) -> list[tuple[str, str]]:
        """Some held-out texts as they were damaged, and what the model writes."""
        assert isinstance(objective, Denoising)
        length = min(config.training.context, _SHOWN)
        samples = self._samples_of("valid", length, "")
        count = len(samples.runs)
        places = sorted({count * (2 * i + 1) // (2 * _SAMPLES) for i in range(_SAMPLES)})
        keys = [(VALID_SEED, 0, place) for place in places]
        pairs = [objective.damaged(samples.sample(key[2], rng_for(key)), rng_for(key)) for key in keys]
        model, end = objective.model, objective.model.config.eos_token_id
        assert isinstance(end, int)
        settings = GenerationSettings(temperature=0, max_new_tokens=2 * length, eos_ids=(end,))
        sources = [[*pair.source.tolist(), end] for pair in pairs]
        starts = [[model.config.decoder_start_token_id]] * len(sources)
        answers = generate(model, starts, settings, sources=sources)
        return [(self._text(pair.source), self._text(ids)) for pair, ids in zip(pairs, answers, strict=True)]

    def _text(self, ids: Any) -> str:
        """Tokens as text, what stands for hidden ones too, but not the end."""
        kept = [id_ for id_ in ids if id_ not in (self.tokenizer.eos_id, self.tokenizer.pad_id)]
        return self.tokenizer.decode(kept, skip_special_tokens=False)

    def table(
        self, config: RunConfig, figures: dict[str, float]
    ) -> tuple[list[dict[str, Any]], list[list[str]]]:
        """See `EncoderJob.table`."""
        model = {"name": config.model.source, "loss": figures["loss"]}
        guess = {"name": _BASELINE, "loss": figures["unigram"]}
        cells = [[row["name"], f"{row['loss']:.4f}"] for row in (model, guess)]
        return [model, guess], [["damaged held-out text", "nats a token of the answers"], *cells]

    def measured_on(self, config: RunConfig) -> str:
        """See `EncoderJob.measured_on`."""
        unit = "words" if self.kind is TextInfilling else "tokens"
        return f"{len(self.valid.ids):,} tokens, {self.noise(config).rate:.0%} of the {unit} hidden"

    def next(self, run: Path) -> str:
        """See `EncoderJob.next`."""
        return f"melete finetune summarization --data FILE --model {run}"


class SpanCorruptionJob(DenoisingJob):
    """T5's way: say what stood in the gaps."""

    reads = ("label_smoothing", "noise", "mean_span")
    kind, holes = SpanCorruption, SENTINELS

    @classmethod
    def suits(cls, family: str) -> bool:
        """See `Job.suits`."""
        return family == "t5"

    def describe(self, config: RunConfig) -> About:
        """See `Job.describe`."""
        sentence = "An encoder-decoder that says what is missing in a text: a start for fine-tuning."
        return About("text2text-generation", sentence, "nats per token of what is missing")


class TextInfillingJob(DenoisingJob):
    """BART's way: write the whole text from what is left of it."""

    reads = ("label_smoothing", "noise", "mean_span", "shuffle")
    kind, holes = TextInfilling, (MASK,)

    @classmethod
    def vocabulary_of(cls, tokenizer: Tokenizer) -> NoiseVocabulary:
        """See `EncoderJob.vocabulary_of`; a tokenizer's own mask hides words."""
        own = () if tokenizer.mask_id is None else (tokenizer.token(tokenizer.mask_id),)
        return NoiseVocabulary.of(tokenizer, own or cls.holes)

    @classmethod
    def suits(cls, family: str) -> bool:
        """See `Job.suits`."""
        return family in encoder_decoder_families()

    def describe(self, config: RunConfig) -> About:
        """See `Job.describe`."""
        sentence = "An encoder-decoder that mends damaged text: a start for fine-tuning."
        return About("text2text-generation", sentence, "nats per token of the text")
