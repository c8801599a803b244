"""Runs of a decoder: a token stream in, a model that continues text out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch

from melete.config import RunConfig
from melete.console import say
from melete.data.batch import Batch
from melete.data.corpus import Corpus
from melete.data.sampling import PackedRows, Phases
from melete.data.tokenizers import Tokenizer
from melete.errors import InputError
from melete.generation.generate import complete
from melete.models import build, causal_families, is_spec
from melete.models.base import Decoder
from melete.models.checkpoint import load_model, locate
from melete.nn.bigrams import bigram_factors
from melete.objectives.base import Objective
from melete.objectives.causal_lm import CausalLM
from melete.training.building import (
    check_model,
    check_vocabulary,
    expected_vocabulary,
    fields_of,
    tokenizer_of_model,
)
from melete.training.job import About, Card, Job, Sources
from melete.training.prepare import Prepared, prepare_data

# `model.init` that counts which token follows which, and how many tokens it counts at most.
_COUNTED, _MOST_COUNTED = "bigrams", 20_000_000


class CausalJob(Job):
    """Next-token prediction over packed rows; scored beside a 5-gram of the same tokens."""

    reads = ("label_smoothing", "z_loss")
    tokenizer_kind = "byte-bpe"

    def __init__(self, data: Prepared) -> None:
        self.data = data
        self.tokenizer, self.notes, self.tokens = data.tokenizer, data.notes, len(data.train)

    @classmethod
    def suits(cls, family: str) -> bool:
        """See `Job.suits`."""
        return family in causal_families()

    @classmethod
    def check(cls, config: RunConfig) -> None:
        """See `Job.check`."""
        check_model(config)

    @classmethod
    def rehearse(cls, config: RunConfig) -> Objective:
        """See `Job.rehearse`."""
        return _objective(config, _model(config, {"vocab_size": expected_vocabulary(config)}))

    @classmethod
    def prepare(cls, config: RunConfig, tokenizer: Tokenizer | None = None) -> Self:
        """See `Job.prepare`."""
        return cls(prepare_data(config, tokenizer or tokenizer_of_model(config)))

    def fingerprints(self) -> dict[str, str]:
        """See `Job.fingerprints`."""
        return self.data.fingerprints()

    def build(self, config: RunConfig) -> Objective:
        """See `Job.build`."""
        begun = time.perf_counter()
        model = _model(config, fields_of(self.tokenizer, "bos", "eos", "pad"))
        check_vocabulary(config, self.tokenizer, model)
        if config.model.init == _COUNTED and is_spec(config.model.source):
            _know_bigrams(model, self.data.train, config.seed)
        self.init_seconds = time.perf_counter() - begun
        return _objective(config, model)

    def reopen(self, config: RunConfig, checkpoint: Path) -> Objective:
        """See `Job.reopen`."""
        return _objective(config, load_model(checkpoint))

    def sources(self, config: RunConfig) -> Sources:
        """Rows of `training.context`, or of what the context schedule says; a micro-batch keeps its tokens."""
        t = config.training
        phases: list[tuple[int, PackedRows]] = []
        for progress, context in t.context_schedule or ((0.0, t.context),):
            micro_batch_rows = max(1, t.micro_batch_rows * t.context // context)
            step_rows = t.batch_tokens // context
            rows = PackedRows(self.data.train, context, step_rows, micro_batch_rows, config.seed)
            phases.append((int(progress * t.steps), rows))
        return Sources(
            Phases(phases), *_validation(self.data.valid, t.context, t.micro_batch_rows, t.eval_tokens)
        )

    @classmethod
    def measuring_batch(cls, config: RunConfig, objective: Objective, rows: int) -> Batch:
        """See `Job.measuring_batch`."""
        shape = (rows, config.training.context + 1)
        ids = torch.randint(
            objective.model.config.vocab_size, shape, generator=torch.Generator().manual_seed(0)
        )
        batch = Batch.from_rows(list(ids[:, :-1]))
        batch.labels["causal_lm"] = ids[:, 1:].contiguous()
        return batch

    def samples(self, config: RunConfig, objective: Objective) -> list[tuple[str, str]]:
        """A continuation of each prompt."""
        return _samples(objective.model, self.tokenizer, config.training.prompts)

    def describe(self, config: RunConfig) -> About:
        """See `Job.describe`."""
        sentence = "A base language model: it continues text and follows no instructions."
        return About("text-generation", sentence, "nats per token")

    def score(self, config: RunConfig, final: Path) -> Card:
        """See `Job.score`."""
        from melete.evaluation.scorecard import score_decoder

        return score_decoder(config, final, self.data.train, self.data.valid)


def _model(config: RunConfig, of_tokenizer: dict[str, Any]) -> Decoder:
    """A new model with these fields from the tokenizer, or the one that is trained on."""
    section = config.model
    if not is_spec(section.source):
        return load_model(locate(section.source)).train()
    fields = {"max_position_embeddings": config.training.context, **section.config, **of_tokenizer}
    init = "zero-residual" if section.init == _COUNTED else section.init
    return build(section.source, seed=config.seed, init=init or None, **fields)


@torch.no_grad()
def _know_bigrams(model: Decoder, corpus: Corpus, seed: int) -> None:
    """Blocks that add nothing yet stand between the embedding and the output: the logits of pairs hold from there."""
    embeddings = [module.weight for module in model.modules() if isinstance(module, torch.nn.Embedding)]
    if len(embeddings) != 1 or embeddings[0] is model.head_weight:
        raise InputError(
            "bigrams need one embedding, and an output matrix of its own",
            where="model.init",
            do="use qwen3 with model.config.tie_word_embeddings=false",
        )
    ids = corpus.read(0, min(len(corpus), _MOST_COUNTED))
    vocab_size, width = embeddings[0].shape
    for weight, value in zip(
        (embeddings[0], model.head_weight), bigram_factors(ids, vocab_size, width, seed), strict=True
    ):
        weight.copy_(value)


def _objective(config: RunConfig, model: Decoder) -> CausalLM:
    return CausalLM(model, config.objective.label_smoothing, config.objective.z_loss)


def _validation(corpus: Corpus, context: int, rows: int, tokens: int) -> tuple[PackedRows | None, int]:
    """The first `tokens` of the validation text in rows; nothing where it is shorter than one row."""
    available = min(tokens, len(corpus) - 1) // context
    if available < 1:
        what = (
            "training.eval_tokens"
            if tokens < len(corpus) - 1
            else f"the validation text ({len(corpus):,} tokens)"
        )
        say(f"{what} is shorter than one row: no evaluation while training")
        return None, 0
    return PackedRows(corpus, context, available, min(rows, available), shuffle=False), 1


def _samples(model: Decoder, tokenizer: Tokenizer, prompts: Sequence[str]) -> list[tuple[str, str]]:
    answers = complete(model, tokenizer, prompts)
    return [(prompt, tokenizer.decode(ids)) for prompt, ids in zip(prompts, answers, strict=True)]
