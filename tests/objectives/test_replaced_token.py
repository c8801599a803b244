"""Replaced-token detection: the details that decide whether it works at all."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from encoder_examples import examples, likeliest, real_tokens, vocabulary
from kit import tiny_encoder
from melete.data.batch import Example
from melete.data.corruption import ELECTRA, replace_tokens
from melete.data.sampling import rng_for
from melete.models.electra_pair import build_generator
from melete.objectives import replaced_token
from melete.objectives.base import Context
from melete.objectives.figures import Sums
from melete.objectives.replaced_token import ReplacedToken, alarms


def objective(**other: object) -> ReplacedToken:
    model = tiny_encoder("electra", task="pretraining")
    generator = build_generator(model, share=0.5, seed=3).eval()
    return ReplacedToken(model, generator, vocabulary()[1], **other).double()  # pyright: ignore[reportArgumentType]


def context(seed: int = 0) -> Context:
    return Context(rng=torch.Generator().manual_seed(seed))


def test_a_sample_that_is_the_original_counts_as_original() -> None:
    batch = objective().prepare(examples(), rng_for)
    chosen = batch.labels["mlm"] != -100
    originals = batch.labels["mlm"][chosen]
    drawn = originals.clone()
    drawn[::2] = originals[::2] % 50 + 5  # another token
    replaced = ReplacedToken.replaced(batch, drawn)
    assert torch.equal(replaced.labels["rtd"][chosen].bool(), drawn != originals)
    assert not replaced.labels["rtd"][~chosen].any()
    assert torch.equal(replaced.input_ids[chosen], drawn)
    assert torch.equal(replaced.input_ids[~chosen], batch.input_ids[~chosen])
    assert not (replaced.input_ids == vocabulary()[1].mask_id).any()
    untouched = ReplacedToken.replaced(batch, originals)
    assert not untouched.labels["rtd"].any()


def test_the_generator_sees_masks_and_originals_never_random_tokens() -> None:
    assert (ELECTRA.rate, ELECTRA.masked, ELECTRA.random) == (0.15, 0.85, 0.0)
    batch = objective().prepare(examples(), rng_for)
    at = batch.labels["mlm"] != -100
    hidden = batch.input_ids == vocabulary()[1].mask_id
    assert torch.equal(batch.input_ids[at & ~hidden], batch.labels["mlm"][at & ~hidden])
    assert hidden.any() and not (hidden & ~at).any()


def test_sums_counts_and_weights() -> None:
    pair = objective()
    batch = pair.prepare(examples(), rng_for)
    assert pair.weights == {"mlm": 1.0, "rtd": 50.0}
    counts = {name: int(count) for name, count in pair.counts(batch).items()}
    assert counts == {"mlm": int((batch.labels["mlm"] != -100).sum()), "rtd": batch.tokens}
    parts = pair(batch, context())
    model, generator = pair.model, pair.generator
    logits = F.linear(generator.mlm_hidden(generator.encode(batch)), generator.mlm_weight, generator.mlm_bias)
    expected = F.cross_entropy(logits.flatten(0, 1), batch.labels["mlm"].flatten(), reduction="sum")
    torch.testing.assert_close(parts["mlm"], expected, rtol=1e-10, atol=1e-10)
    at = batch.labels["mlm"] != -100
    inputs = generator.mlm_hidden(generator.encode(batch)[at]), generator.mlm_weight, batch.labels["mlm"][at]
    drawn = replaced_token.sampled_cross_entropy(*inputs, bias=generator.mlm_bias, rng=context().rng)[1]
    replaced = ReplacedToken.replaced(batch, drawn)
    scores = model.rtd_logits(model.encode(replaced))
    terms = F.binary_cross_entropy_with_logits(scores, replaced.labels["rtd"].double(), reduction="none")
    torch.testing.assert_close(parts["rtd"], terms[batch.doc_ids > 0].sum(), rtol=1e-10, atol=1e-10)


def test_before_it_judges_a_discriminator_restores_what_is_hidden_or_random() -> None:
    pair = objective(restore_first=0.5)
    batch = pair.prepare(examples(), rng_for)
    seen: list[torch.Tensor] = []
    encode = pair.model.encode
    pair.model.encode = lambda batch: (seen.append(batch.input_ids), encode(batch))[1]  # pyright: ignore
    parts = pair(batch, replace(context(), progress=0.49))
    assert set(parts) == {"restore"} and pair.phase(0.49) == 0.0
    labels, (ids,) = batch.labels["mlm"], seen
    at, kept = labels != -100, batch.input_ids == labels
    assert torch.equal(ids[~kept], batch.input_ids[~kept])
    changed = (ids != batch.input_ids)[kept]
    assert 0.3 < changed.float().mean() < 0.9 and pair.vocabulary.is_ordinary[ids[kept]].all()
    found = encode(replace(batch, input_ids=ids))[at] @ pair.model.embeddings_project.weight
    logits = F.linear(F.layer_norm(found, found.shape[-1:]), pair.model.mlm_weight, pair.generator.mlm_bias)
    expected = F.cross_entropy(logits, labels[at], reduction="sum")
    torch.testing.assert_close(parts["restore"], expected, rtol=1e-10, atol=1e-10)
    assert set(pair(batch, replace(context(), progress=0.5))) == {"mlm", "rtd"} and pair.phase(0.5) == 0.5


def test_no_gradient_goes_through_the_sample() -> None:
    pair = objective()
    batch = pair.prepare(examples(), rng_for)
    pair(batch, context())["rtd"].backward()
    own = [p for name, p in pair.generator.named_parameters() if not name.startswith("embeddings.")]
    assert own and all(p.grad is None or not p.grad.any() for p in own)
    pair.zero_grad()
    pair(batch, context())["mlm"].backward()
    theirs = [p for name, p in pair.model.named_parameters() if not name.startswith("embeddings.")]
    assert theirs and all(p.grad is None or not p.grad.any() for p in theirs)
    shared = pair.model.embeddings.word.weight.grad
    assert shared is not None and shared.any()  # and the generator trains the embeddings of both


def test_the_samples_follow_from_the_generator_of_the_context() -> None:
    pair = objective()
    batch = pair.prepare(examples(), rng_for)
    one, two, other = (float(pair(batch, context(seed))["rtd"].detach()) for seed in (1, 1, 2))
    assert one == two != other
    assert real_tokens(pair.prepare(examples(), rng_for)) == real_tokens(batch)


def test_packed_and_padded_are_the_same_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    # Draws come in the order of the rows; without chance the layout must change nothing.
    monkeypatch.setattr(replaced_token, "sampled_cross_entropy", likeliest)
    results = []
    for width in (None, 32):
        pair = objective(width=width)
        results.append(pair(pair.prepare(examples(), rng_for), context()))
    for name, loss in results[0].items():
        assert abs(float((loss - results[1][name]).detach())) < 1e-10 * float(loss.detach())


def probed(rate: float = 0.3) -> list[Example]:
    """Examples with some tokens replaced."""
    shares = np.full(vocabulary()[0].vocab_size, 0.01)
    return [
        Example(
            one.key,
            replace(
                one.data,
                replaced=replace_tokens(one.data.ids, vocabulary()[1], shares, rate, rng_for(one.key)),
            ),
        )
        for one in examples()
    ]


def test_figures_are_of_held_out_text_alone() -> None:
    shares = np.full(97, 1 / 97)
    pair = objective(frequencies=shares).train()
    pair(pair.prepare(examples(), rng_for), context())
    assert all(math.isnan(value) for value in pair.take_figures().values())
    pair.eval()
    batch = pair.prepare(probed(), rng_for)
    parts = [pair(batch, context(seed)) for seed in (0, 1)]
    figures = pair.take_figures()
    counts = pair.counts(batch)
    for name in ("mlm", "rtd"):
        total = sum(float(part[name].detach()) for part in parts)
        assert figures[name] == pytest.approx(total / 2 / float(counts[name]))
    assert figures["unigram"] == pytest.approx(math.log(97))
    assert figures["generator_ratio"] == pytest.approx(figures["mlm"] / math.log(97))
    assert 0 < figures["auc"] < 1 and 0 < figures["auc_generator"] < 1
    assert math.isnan(pair.take_figures()["mlm"])


def test_the_fixed_corruption_is_scored_where_a_token_differs() -> None:
    pair = objective().eval()
    batch = pair.prepare(probed(), rng_for)
    seen: list[torch.Tensor] = []
    pair.model.rtd_logits = lambda hidden: seen.pop() if seen else torch.zeros(hidden.shape[:2])  # pyright: ignore[reportAttributeAccessIssue]
    differs = (batch.labels["replaced"] != batch.labels["original"]).double()
    assert 0.1 < differs[batch.doc_ids > 0].mean() < 0.35
    seen += [differs, torch.zeros_like(differs)]  # the second is for the generator's own draws, asked first
    pair(batch, context())
    assert pair.take_figures()["auc"] == 1.0


def test_alarms() -> None:
    sound = Sums(chosen=150, replaced=90, flagged=80, caught=50, mlm=150 * 2.0, unigram=150 * 4.0)
    assert alarms(sound) == []
    idle = Sums(chosen=150, replaced=120, flagged=0, caught=0, mlm=150 * 4.5, unigram=150 * 4.0)
    assert [line.split(":")[0] for line in alarms(idle)] == [
        "the discriminator takes all tokens for original",
        "the generator is no better than token frequencies",
    ]
    strong = Sums(chosen=150, replaced=20, flagged=20, caught=18, mlm=75, unigram=600)
    assert "too strong: 87% of its draws" in alarms(strong)[0]
    assert alarms(Sums()) == []


def test_a_checkpoint_holds_both(tmp_path) -> None:
    pair = objective().float()
    values = {name: p.detach() + 0.5 for name, p in pair.named_parameters()}
    pair.save(tmp_path, values, None)
    loaded = pair.load(tmp_path)
    assert loaded.keys() == values.keys()
    assert all(torch.equal(loaded[name], value) for name, value in values.items())
