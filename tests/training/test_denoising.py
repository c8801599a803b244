"""Encoder-decoders learn from plain text: what a run prepares, that it can be gone on with, and that it teaches."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import kit
from melete import config as configs
from melete.data.batching import SortedBatches
from melete.data.denoising import BART, MASK, SENTINELS, T5, NoiseVocabulary
from melete.data.encoder_text import EncoderText, Samples
from melete.data.sampling import rng_for
from melete.data.tokenizers import Tokenizer
from melete.errors import InputError
from melete.models.base import EncoderDecoder
from melete.objectives.base import Context
from melete.objectives.denoising import Denoising, SpanCorruption, TextInfilling
from melete.training.denoising import SpanCorruptionJob, TextInfillingJob
from melete.training.job import job_of, named
from rig import checkpoint, digest, plain_state, run_config, trainer

LETTERS = "abcdefghijklmnopqrst"
TEXTS = [" ".join(LETTERS[i % 20] for i in range(start, start + 24)) + "." for start in range(20)]


def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS, "unigram", 26).with_special([*SENTINELS, MASK], mask=MASK)


def objective(family: str, seed: int = 0, **fields: Any) -> Denoising:
    own = tokenizer()
    ids = {"decoder_start_token_id": own.pad_id, "eos_token_id": own.eos_id, "pad_token_id": own.pad_id}
    fields = {"vocab_size": own.vocab_size, "initializer_range": 0.1, **ids, **fields}
    model = kit.tiny_network(family, "text2text-generation", seed=seed, max_position_embeddings=64, **fields)
    assert isinstance(model, EncoderDecoder)
    if family == "t5":
        return SpanCorruption(model, NoiseVocabulary.of(own, SENTINELS), T5)
    return TextInfilling(model, NoiseVocabulary.of(own, (MASK,)), BART)


def source(per_step: int = 2) -> SortedBatches:
    return SortedBatches(Samples(EncoderText.tokenise(TEXTS, tokenizer()), 50), 400, per_step)


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_ten_steps_are_five_and_five_more(family: str, tmp_path: Path) -> None:
    dropout = {"hidden_dropout": 0.1, "attention_dropout": 0.1}
    config = run_config(training__save_every=5, training__keep=10)
    whole, again = tmp_path / "whole", tmp_path / "again"
    trainer(whole, config, objective=objective(family, **dropout), train=source()).train()
    (again / "checkpoints").mkdir(parents=True)
    shutil.copytree(checkpoint(whole, 5), checkpoint(again, 5))
    shutil.copyfile(whole / "events.jsonl", again / "events.jsonl")
    second = trainer(again, config, objective=objective(family, seed=9, **dropout), train=source())
    second.resume(checkpoint(again, 5))
    second.train()
    assert digest(checkpoint(again, 10)) == digest(checkpoint(whole, 10))
    assert plain_state(checkpoint(again, 10)) == plain_state(checkpoint(whole, 10))


@pytest.mark.slow
@pytest.mark.parametrize("family", ["t5", "bart", "marian", "lstm"])
def test_what_is_missing_in_an_alphabet_is_learned(family: str, tmp_path: Path) -> None:
    config = run_config(training__steps=400, optimizer__learning_rate=3e-3, schedule__warmup_steps=50)
    runner = trainer(tmp_path, config, objective=objective(family), train=source(4))
    runner.train()
    mending = runner.objective.eval()
    batch = mending.prepare(source(1).micro_batches(10**5)[0], rng_for)
    with torch.no_grad():
        loss = mending(batch, Context())["seq2seq"] / mending.counts(batch)["seq2seq"]
    assert loss < 0.3


def test_a_run_prepares_its_tokens_and_its_baseline(tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text("\n\n".join(TEXTS * 3), encoding="utf-8")
    tree = {"data.train": [str(file)], "training.context": 48, "tokenizer.vocab_size": 130}
    for family, kind, holes in (("t5", SpanCorruptionJob, 100), ("bart", TextInfillingJob, 1)):
        config = named(configs.change(run_config(), {**tree, "model.source": f"{family}:nano"}))
        assert job_of(config) is kind
        kind.check(config)
        job = kind.prepare(config)
        assert job.tokenizer.vocab_size <= 130
        mending = job.build(config)
        assert isinstance(mending, Denoising)
        assert len(mending.vocabulary.holes) == holes
        assert mending.model.config.decoder_start_token_id == job.tokenizer.pad_id
        examples = job.sources(config).train.micro_batches(0)[0]
        batch = mending.prepare(examples, rng_for)
        assert batch.source is not None
        assert np.isin(batch.source.input_ids.numpy(), mending.vocabulary.holes).any()
        with torch.no_grad():
            mending.eval()(batch, Context())
        assert 0 < mending.take_figures()["unigram"] < 6
        one = mending.prepare(examples[-1:], rng_for)  # the same damage, whatever stands beside it
        length = one.input_ids.shape[1]
        assert torch.equal(batch.input_ids[-1, :length], one.input_ids[0])
    with pytest.raises(InputError, match="bart is not trained by span-corruption"):
        named(
            configs.change(
                run_config(), {**tree, "model.source": "bart", "objective.name": "span-corruption"}
            )
        )
