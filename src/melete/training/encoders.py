"""Runs of an encoder from plain text: masked language models, and ELECTRA's pair."""

from __future__ import annotations

import re
import time
from abc import abstractmethod
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from melete import config as configs
from melete.config import RunConfig
from melete.console import say
from melete.data.batch import Batch, Example
from melete.data.batching import SortedBatches
from melete.data.corruption import BERT, ELECTRA, Corruption, Vocabulary, linear_rate, replace_tokens
from melete.data.encoder_cache import HanWords, Meta, encoder_text
from melete.data.encoder_text import EncoderText, Sample, Samples
from melete.data.sampling import Phases, rng_for
from melete.data.scripts import HAN
from melete.data.tokenizers import FRAME, Tokenizer
from melete.errors import InputError
from melete.models import build_encoder, encoder_families, family, is_spec
from melete.models.checkpoint import load_encoder, locate
from melete.models.electra import Model as Electra
from melete.models.electra_pair import GENERATOR, build_generator, load_pair
from melete.objectives.base import Objective
from melete.objectives.masked_lm import MaskedLM
from melete.objectives.replaced_token import ReplacedToken
from melete.training.budget import measure
from melete.training.building import check_model, expected_vocabulary, fields_of, tokenizer_of_model
from melete.training.job import About, Card, Job, Sources, family_of
from melete.training.prepare import Texts, read_texts, tokenizer_for

# Whole words are masked unless more than this share of the tokens lies in words of more than so many tokens: a script
# without spaces that nothing here cuts.
_LONG_WORD, _LONG_SHARE = 16, 0.05
_SHOWN = 40  # most tokens of a sentence that is shown
_OPENING = 500  # tokens of the text that show its language
# A vocabulary that does not know more than this share of so many tokens is hardly one for this text.
_UNKNOWN_SHARE, _SAMPLED = 0.02, 1_000_000
# In how many batches of how many tokens the two ways of batching are measured, and when that is enough.
_MEASURED, _MEASURED_TOKENS, _MEASURED_SECONDS = 4, 2048, 2.0
# Held-out masks, draws and pairs follow from this seed alone: runs with other seeds are measured on the same.
VALID_SEED = 0


class EncoderJob(Job):
    """What both kinds share: text that knows its words, sentences and documents, in batches of like length."""

    tokenizer_kind = "wordpiece"
    shares: ClassVar[Corruption]

    def __init__(
        self,
        tokenizer: Tokenizer,
        train: tuple[EncoderText, Meta],
        valid: tuple[EncoderText, Meta],
        notes: tuple[str, ...],
    ) -> None:
        self.tokenizer, self.notes = tokenizer, notes
        (self.train, self._train_meta), (self.valid, self._valid_meta) = train, valid
        self.tokens = len(self.train.ids)
        self.vocabulary = self.vocabulary_of(tokenizer)
        self.frequencies = _frequencies(self.train.ids, self.vocabulary)
        self._samples: dict[tuple[str, int, str], Samples] = {}

    # ------------------------------------------------------------------ before the data is read

    @classmethod
    def check(cls, config: RunConfig) -> None:
        """See `Job.check`."""
        check_model(config)
        section, kinds = config.tokenizer, dict.fromkeys((cls.tokenizer_kind, "unigram"))
        if is_spec(config.model.source) and not section.source and section.kind not in kinds:
            raise InputError(
                f"a {section.kind} tokenizer has no [MASK]",
                where="tokenizer.kind",
                expected=" or ".join(kinds),
            )
        least = 8 if config.objective.pair else 4
        if config.training.context < least:
            raise InputError(
                f"training.context is {config.training.context}",
                expected=f"at least {least}, special tokens included",
            )

    @classmethod
    def rehearse(cls, config: RunConfig) -> Objective:
        """See `Job.rehearse`."""
        size = expected_vocabulary(config)
        is_ordinary = np.arange(size) >= 5
        vocabulary = Vocabulary(4, 2, 3, 0, is_ordinary, np.flatnonzero(is_ordinary))
        return cls.objective(config, cls.model(config, {"vocab_size": size}), vocabulary)

    @classmethod
    def measuring_batch(cls, config: RunConfig, objective: Objective, rows: int) -> Batch:
        """See `Job.measuring_batch`."""
        encoder: Any = objective
        pair, room = config.objective.pair, _room(config.training.context, config.objective.pair)
        rng, every = rng_for((0, 0, 0)), np.ones(room, dtype=bool)
        second, label = (room // 2, 0) if pair else (0, -100)
        texts = rng.choice(encoder.vocabulary.ordinary, (rows, room))
        examples = [Example((0, 0, row), Sample(ids, every, second, label)) for row, ids in enumerate(texts)]
        return objective.prepare(examples, rng_for)

    # ------------------------------------------------------------------ data

    @classmethod
    def vocabulary_of(cls, tokenizer: Tokenizer) -> Any:
        """What hides tokens, and which are ordinary; a tokenizer without it is refused."""
        return Vocabulary.of(tokenizer)

    @classmethod
    def new_tokenizer(cls, config: RunConfig, texts: Texts) -> Tokenizer:
        """One trained on the training text, with an encoder's special tokens."""
        if config.tokenizer.kind == "wordpiece":
            return tokenizer_for(config, texts)
        room = config.tokenizer.vocab_size - len(FRAME)
        return tokenizer_for(configs.change(config, {"tokenizer.vocab_size": room}), texts).framed()

    @classmethod
    def prepare(cls, config: RunConfig, tokenizer: Tokenizer | None = None) -> Self:
        """See `Job.prepare`; a named set that is read as one text elsewhere is cut into its documents here."""
        tokenizer = tokenizer or tokenizer_of_model(config)
        if tokenizer is None and config.tokenizer.source:
            tokenizer = Tokenizer.load(Path(config.tokenizer.source))
        if tokenizer is not None:
            cls.vocabulary_of(tokenizer)  # refused before a long text is read
        texts = read_texts(config, whole=False)
        tokenizer = tokenizer or cls.new_tokenizer(config, texts)
        words = HanWords(texts.train)
        train, valid = (encoder_text(text, tokenizer, words) for text in (texts.train, texts.valid))
        _say_unknown(train[0].ids[:_SAMPLED], tokenizer)
        return cls(tokenizer, train, valid, texts.notes)

    def fingerprints(self) -> dict[str, str]:
        """See `Job.fingerprints`."""
        return {"train": self._train_meta.text_sha256, "valid": self._valid_meta.text_sha256}

    def settle(self, config: RunConfig) -> RunConfig:
        """Whole words or single tokens."""
        if config.objective.mask_unit:
            return config
        unit, why = _mask_unit(self.train, self._train_meta.words)
        return configs.change(config, {"objective.mask_unit": unit}, {"objective.mask_unit": why})

    def tune(self, config: RunConfig, objective: Objective) -> RunConfig:
        """Padded or packed batches: whichever reads more of this text in a second."""
        if config.training.packing == "auto":
            rates = {kind: self._rate(config, objective, kind) for kind in ("sorted", "packed")}
            best = max(rates, key=rates.__getitem__)
            why = " and ".join(f"{rate:,.0f} real tokens/s {kind}" for kind, rate in rates.items())
            config = configs.change(
                config, {"training.packing": best}, {"training.packing": f"{best}: {why}, measured"}
            )
        encoder: Any = objective
        encoder.width = _width(config)
        return config

    def _rate(self, config: RunConfig, objective: Objective, packing: str) -> float:
        """Real tokens a second in some batches of the text, laid out that way."""
        t = config.training
        rows = max(1, min(t.micro_batch_rows, _MEASURED_TOKENS // t.context))
        config = configs.change(config, {"training.packing": packing, "training.micro_batch_rows": rows})
        encoder: Any = objective
        encoder.width = _width(config)
        train = self.sources(config).train
        tokens, seconds, begun = 0, 0.0, time.monotonic()
        for step in range(_MEASURED):
            batch = objective.prepare(train.micro_batches(step)[0], rng_for)
            speed = measure(config, objective, rows, repeats=1, batch=batch)
            tokens, seconds = tokens + batch.tokens, seconds + speed.token * batch.tokens
            if time.monotonic() - begun > _MEASURED_SECONDS:
                break
        return tokens / seconds

    def sources(self, config: RunConfig) -> Sources:
        """Samples of `training.context` tokens, or of what the context schedule says, in batches of like length."""
        t, o = config.training, config.objective
        rate = linear_rate(o.mask_rate, o.last_mask_rate, t.steps) if o.last_mask_rate else None
        step_rows = max(1, t.batch_tokens // t.context)
        micro_batches, budget = max(1, step_rows // t.micro_batch_rows), t.micro_batch_rows * t.context
        mixed = t.packing == "packed"
        phases = [
            (
                int(progress * t.steps),
                SortedBatches(
                    self._samples_of("train", context, o.pair),
                    budget,
                    micro_batches,
                    config.seed,
                    rate,
                    mixed=mixed,
                ),
            )
            for progress, context in t.context_schedule or ((0.0, t.context),)
        ]
        valid = self.held_out(config, budget)
        steps = min(valid.batches, -(-t.eval_tokens // budget))
        return Sources(Phases(phases), valid if steps else None, steps)

    def held_out(self, config: RunConfig, budget: int) -> SortedBatches:
        """The held-out text with fixed masks, pairs and draws: 15 % of the tokens replaced by their frequency.

        Raises:
            InputError: no sample can be made of it.
        """
        samples = self._samples_of("valid", config.training.context, config.objective.pair)
        draw = partial(_replaced, vocabulary=self.vocabulary, frequencies=self.frequencies)
        mixed = config.training.packing == "packed"
        return SortedBatches(samples, budget, seed=VALID_SEED, mixed=mixed, replace=draw)

    def _samples_of(self, split: str, context: int, pair: str) -> Samples:
        key = split, context, pair
        if key not in self._samples:
            text = self.train if split == "train" else self.valid
            try:
                self._samples[key] = Samples(text, _room(context, pair), pair)
            except InputError as error:
                what = "training" if split == "train" else "validation"
                raise InputError(f"{what} text: {error}", where=f"data.{split}") from None
        return self._samples[key]

    # ------------------------------------------------------------------ model

    @classmethod
    @abstractmethod
    def model(cls, config: RunConfig, of_tokenizer: dict[str, Any]) -> Any:
        """A new model with these fields from the tokenizer, or the one that is trained on."""

    @classmethod
    @abstractmethod
    def objective(cls, config: RunConfig, model: Any, vocabulary: Any, **other: Any) -> Objective:
        """The objective over a model."""

    def build(self, config: RunConfig) -> Objective:
        """See `Job.build`."""
        known = family(family_of(config)).Config.__struct_fields__
        roles = [role for role in ("pad", "cls", "sep") if f"{role}_token_id" in known]
        return self._over(config, self.model(config, fields_of(self.tokenizer, *roles)))

    def _over(self, config: RunConfig, model: Any) -> Objective:
        return self.objective(config, model, self.vocabulary, frequencies=self.frequencies)

    @classmethod
    def corruption(cls, config: RunConfig) -> Corruption:
        """What is hidden; held-out text is hidden at the last rate."""
        o = config.objective
        return Corruption(
            o.last_mask_rate or o.mask_rate, o.mask_unit or "token", cls.shares.masked, cls.shares.random
        )

    # ------------------------------------------------------------------ what is said of it

    def score(self, config: RunConfig, final: Path) -> Card:
        """See `Job.score`."""
        from melete.evaluation.encoders import measure_held_out

        t = config.training
        objective = self.reopen(config, final)
        figures = measure_held_out(config, objective, self.held_out(config, t.micro_batch_rows * t.context))
        table, rows = self.table(config, figures)
        samples = [{"prompt": prompt, "text": text} for prompt, text in self.samples(config, objective)]
        below = f"{self.measured_on(config)}, the same in every run; {t.precision}"
        if table[0]["loss"] >= table[1]["loss"]:
            below += "\nno better than token frequencies yet: it needs more steps"
        result = {"table": table, "samples": samples, "precision": t.precision, "figures": figures}
        return Card(result, rows, below, self.next(final.parent))

    def measured_on(self, config: RunConfig) -> str:
        """How much text, and how much of it is hidden."""
        rate, unit = self.corruption(config).rate, config.objective.mask_unit
        return f"{len(self.valid.ids):,} tokens, {rate:.0%} of them hidden by {unit}"

    @abstractmethod
    def table(
        self, config: RunConfig, figures: dict[str, float]
    ) -> tuple[list[dict[str, Any]], list[list[str]]]:
        """The result for JSON and for a terminal."""

    @abstractmethod
    def next(self, run: Path) -> str:
        """The command to type now."""

    def _sentence(self, english: str, chinese: str) -> str:
        """An example in the language of the training text."""
        opening = self.tokenizer.decode(self.train.ids[:_OPENING].tolist())
        letters = re.findall(r"\w", opening)
        return chinese if 2 * len(re.findall(f"[{HAN}]", opening)) > len(letters) else english


class MaskedJob(EncoderJob):
    """BERT's way: restore hidden tokens, and tell pairs of texts."""

    reads = ("mask_rate", "last_mask_rate", "mask_unit", "pair")
    shares = BERT

    @classmethod
    def suits(cls, family: str) -> bool:
        """See `Job.suits`."""
        return family in encoder_families()

    @classmethod
    def check(cls, config: RunConfig) -> None:
        """See `Job.check`."""
        super().check(config)
        name, pair = family_of(config), config.objective.pair
        if pair and not hasattr(family(name).Model, "nsp_logits"):
            raise InputError(
                f"{name} has no head for sentence pairs",
                where="objective.pair",
                expected="bert",
                do="leave it out",
            )

    @classmethod
    def model(cls, config: RunConfig, of_tokenizer: dict[str, Any]) -> Any:
        """See `EncoderJob.model`."""
        section, task = config.model, "pretraining" if config.objective.pair else "fill-mask"
        if not is_spec(section.source):
            return load_encoder(locate(section.source), task=task).train()
        fields = {"max_position_embeddings": config.training.context, **section.config, **of_tokenizer}
        return build_encoder(section.source, task=task, seed=config.seed, init=section.init or None, **fields)

    @classmethod
    def objective(cls, config: RunConfig, model: Any, vocabulary: Vocabulary, **other: Any) -> Objective:
        """See `EncoderJob.objective`."""
        pair, width = config.objective.pair, _width(config)
        return MaskedLM(model, vocabulary, cls.corruption(config), pair=pair, width=width, **other)

    def reopen(self, config: RunConfig, checkpoint: Path) -> Objective:
        """See `Job.reopen`."""
        task = "pretraining" if config.objective.pair else "fill-mask"
        return self._over(config, load_encoder(checkpoint, task=task))

    def samples(self, config: RunConfig, objective: Objective) -> list[tuple[str, str]]:
        """Some held-out sentences with hidden words, and what the model fills in."""
        from melete.evaluation.encoders import fill_in

        assert isinstance(objective, MaskedLM)
        return fill_in(objective, self.valid, self.tokenizer, min(config.training.context, _SHOWN))

    def table(
        self, config: RunConfig, figures: dict[str, float]
    ) -> tuple[list[dict[str, Any]], list[list[str]]]:
        """See `EncoderJob.table`."""
        from melete.evaluation.encoders import masked_table

        return masked_table(config.model.source, figures, config.objective.pair)

    def next(self, run: Path) -> str:
        """See `EncoderJob.next`."""
        mask = self.tokenizer.token(self.vocabulary.mask_id)
        text = self._sentence(f"All that {mask} is not gold.", f"今天的天气很{mask}。")
        return f"melete predict {run} --text '{text}'"

    def describe(self, config: RunConfig) -> About:
        """See `Job.describe`."""
        sentence = "A masked language model: it fills in hidden words, and is a start for fine-tuning."
        return About(
            "fill-mask", sentence, "nats per hidden token" + " and per pair" * bool(config.objective.pair)
        )


class ReplacedJob(EncoderJob):
    """ELECTRA's way: tell which tokens a small generator replaced."""

    reads = (
        "mask_rate",
        "last_mask_rate",
        "mask_unit",
        "generator_share",
        "discriminator_weight",
        "restore_first",
    )
    shares = ELECTRA

    @classmethod
    def suits(cls, family: str) -> bool:
        """See `Job.suits`."""
        return family == "electra"

    @classmethod
    def model(cls, config: RunConfig, of_tokenizer: dict[str, Any]) -> tuple[Electra, Electra]:
        """The discriminator and its generator; a folder without a generator gets a new one, which is said."""
        section, share = config.model, config.objective.generator_share
        init = section.init or None
        if is_spec(section.source):
            fields = {"max_position_embeddings": config.training.context, **section.config, **of_tokenizer}
            model = build_encoder(section.source, task="pretraining", seed=config.seed, init=init, **fields)
        else:
            folder = locate(section.source)
            if (folder / GENERATOR).is_dir():
                first, second = load_pair(folder)
                return first.train(), second.train()
            say(f"{folder}: no generator in it; a new one, {share:g} times as wide, learns beside it")
            model = load_encoder(folder, task="pretraining").train()
        assert isinstance(model, Electra)
        return model, build_generator(model, share=share, seed=config.seed, init=init)

    @classmethod
    def objective(cls, config: RunConfig, model: Any, vocabulary: Vocabulary, **other: Any) -> Objective:
        """See `EncoderJob.objective`."""
        o, (first, second) = config.objective, model
        return ReplacedToken(
            first,
            second,
            vocabulary,
            cls.corruption(config),
            weight=o.discriminator_weight,
            restore_first=o.restore_first,
            width=_width(config),
            **other,
        )

    def reopen(self, config: RunConfig, checkpoint: Path) -> Objective:
        """See `Job.reopen`."""
        return self._over(config, load_pair(checkpoint))

    def samples(self, config: RunConfig, objective: Objective) -> list[tuple[str, str]]:
        """Some held-out sentences as the generator changed them, and what the discriminator says of the changes."""
        from melete.evaluation.encoders import tell_replaced

        assert isinstance(objective, ReplacedToken)
        return tell_replaced(objective, self.valid, self.tokenizer, min(config.training.context, _SHOWN))

    def table(
        self, config: RunConfig, figures: dict[str, float]
    ) -> tuple[list[dict[str, Any]], list[list[str]]]:
        """See `EncoderJob.table`."""
        from melete.evaluation.encoders import replaced_table

        return replaced_table(config.model.source, figures)

    def next(self, run: Path) -> str:
        """See `EncoderJob.next`."""
        text = self._sentence("The cat sat on the mat.", "今天的天气很好。")
        return f"melete inspect {run} --text '{text}'"

    def describe(self, config: RunConfig) -> About:
        """See `Job.describe`."""
        sentence = "An ELECTRA discriminator: it tells replaced words, and is a start for fine-tuning."
        weight = config.objective.discriminator_weight
        return About("feature-extraction", sentence, f"nats: generator's + {weight:g} x discriminator's")


def _say_unknown(ids: np.ndarray, tokenizer: Tokenizer) -> None:
    """Warn of a vocabulary that was made for other text."""
    share = float((ids == tokenizer.unk_id).mean()) if tokenizer.unk_id is not None else 0.0
    if share > _UNKNOWN_SHARE:
        name = tokenizer.token(tokenizer.unk_id or 0)
        say(
            f"warning: {share:.0%} of the text is {name}, which this vocabulary has for what it does not know"
        )


def _room(context: int, pair: str) -> int:
    """Tokens of a sample without special ones."""
    return context - (3 if pair else 2)


def _width(config: RunConfig) -> int | None:
    """Of packed rows; None where batches are padded."""
    return config.training.context if config.training.packing == "packed" else None


def _frequencies(ids: np.ndarray, vocabulary: Any) -> np.ndarray:
    """Probability of each ordinary id by a text, one more than counted; special ones hardly have any."""
    counts = np.bincount(ids, minlength=len(vocabulary.is_ordinary)) + 1.0
    counts[~vocabulary.is_ordinary] = 1e-9
    return counts / counts.sum()


def _replaced(
    ids: np.ndarray, rng: np.random.Generator, *, vocabulary: Vocabulary, frequencies: np.ndarray
) -> np.ndarray:
    return replace_tokens(ids, vocabulary, frequencies, 0.15, rng)


def _mask_unit(text: EncoderText, cut_by: str) -> tuple[str, str]:
    """What is masked as a whole, and why."""
    lengths = np.diff(np.flatnonzero(text.begins), append=len(text.begins))
    long = lengths[lengths > _LONG_WORD].sum() / lengths.sum()
    if long > _LONG_SHARE:
        return "token", f"single tokens: {long:.0%} of the text lies in words of over {_LONG_WORD} of them"
    han = (
        f", Chinese cut by {cut_by}"
        if cut_by == "rjieba"
        else ", Chinese cut by what the text shows" * bool(cut_by)
    )
    return "word", f"whole words, {lengths.mean():.2f} tokens each{han}"
