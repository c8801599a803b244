"""The masked objective: hidden by key, counted from labels, equal however it is laid out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from encoder_examples import examples, real_tokens, vocabulary
from kit import tiny_encoder
from melete.data.corruption import BERT, Corruption, Vocabulary
from melete.data.sampling import rng_for
from melete.data.tokenizers import Tokenizer
from melete.errors import InputError
from melete.objectives.base import Context
from melete.objectives.masked_lm import MaskedLM


def objective(family: str = "bert", pair: str = "", **other: object) -> MaskedLM:
    torch.manual_seed(0)
    model = tiny_encoder(family, task="pretraining" if pair else None).double()
    return MaskedLM(model, vocabulary()[1], pair=pair, **other)  # pyright: ignore[reportArgumentType]


def sums(objective: MaskedLM, pair: str = "") -> tuple[dict[str, torch.Tensor], list[torch.Tensor]]:
    parts = objective(objective.prepare(examples(pair), rng_for), Context())
    used = [p for p in objective.parameters() if p.requires_grad]
    total = torch.stack(list(parts.values())).sum()
    return {name: part.detach() for name, part in parts.items()}, [
        g for g in torch.autograd.grad(total, used, allow_unused=True) if g is not None
    ]


@pytest.mark.parametrize("unit", ["token", "word", "span"])
@pytest.mark.parametrize(
    ("family", "pair"), [("bert", ""), ("bert", "nsp"), ("bert", "sop"), ("modernbert", "")]
)
def test_packed_and_padded_are_the_same_loss(family: str, pair: str, unit: str) -> None:
    corruption = Corruption(rate=0.3, unit=unit)
    padded = sums(objective(family, pair, corruption=corruption), pair)
    packed = sums(objective(family, pair, corruption=corruption, width=32), pair)
    for name, loss in padded[0].items():
        assert float(loss) > 0
        assert abs(float(loss - packed[0][name])) < 1e-10 * max(1.0, float(loss))
    for one, other in zip(padded[1], packed[1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_the_loss_is_that_of_all_logits(family: str) -> None:
    masked = objective(family)
    batch = masked.prepare(examples(), rng_for)
    model = masked.model
    logits = F.linear(model.mlm_hidden(model.encode(batch)), model.mlm_weight, model.mlm_bias)  # (B, T, V)
    expected = F.cross_entropy(logits.flatten(0, 1), batch.labels["mlm"].flatten(), reduction="sum")
    assert abs(float((masked(batch, Context())["mlm"] - expected).detach())) < 1e-10 * float(
        expected.detach()
    )


def test_texts_and_pairs_are_framed() -> None:
    tokenizer, names = vocabulary()
    single = objective().prepare(examples(), rng_for)
    for ids, example in zip(real_tokens(single), examples(), strict=True):
        assert ids[0] == names.cls_id and ids[-1] == names.sep_id
        assert len(ids) == len(example.data.ids) + 2
    pairs = objective(pair="nsp").prepare(examples("nsp"), rng_for)
    assert pairs.token_type_ids is not None
    for row, (ids, example) in enumerate(zip(real_tokens(pairs), examples("nsp"), strict=True)):
        second = example.data.second
        assert ids[0] == names.cls_id and ids[second + 1] == ids[-1] == names.sep_id
        types = pairs.token_type_ids[row, : len(ids)].tolist()
        assert types == [0] * (second + 2) + [1] * (len(ids) - second - 2)
    assert pairs.labels["nsp"].tolist() == [example.data.label for example in examples("nsp")]
    assert tokenizer.vocab_size == len(names.is_ordinary)


def test_a_mask_follows_from_the_key_in_any_company() -> None:
    masked = objective()
    together = real_tokens(masked.prepare(examples(), rng_for))
    for i in (0, 3):
        assert real_tokens(masked.prepare([examples()[i]], rng_for)) == [together[i]]
    assert real_tokens(objective(width=32).prepare(examples()[::-1], rng_for)) == together[::-1]
    other = [type(one)((0, 1, one.key[2]), one.data) for one in examples()]
    assert real_tokens(masked.prepare(other, rng_for)) != together


def test_counts_are_known_before_the_forward_pass() -> None:
    masked = objective(pair="sop")
    batch = masked.prepare(examples("sop"), rng_for)
    labels = batch.labels["mlm"]
    assert {k: int(v) for k, v in masked.counts(batch).items()} == {
        "mlm": int((labels != -100).sum()),
        "sop": len(examples("sop")),
    }
    assert set(masked.weights) == set(masked(batch, Context())) == {"mlm", "sop"}
    assert not np.isin(labels[labels != -100].numpy(), [0, 2, 3, 4]).any()


def test_a_batch_without_a_masked_token_is_no_fault() -> None:
    masked = objective()
    batch = masked.prepare(examples()[:1], rng_for)
    batch.labels["mlm"].fill_(-100)
    loss = masked(batch, Context())["mlm"]
    loss.backward()
    assert float(loss.detach()) == 0.0


def test_a_rate_of_the_sample_stands_in() -> None:
    from dataclasses import replace

    masked = objective()
    many = [type(one)(one.key, replace(one.data, rate=0.9)) for one in examples()]
    assert int(masked.counts(masked.prepare(many, rng_for))["mlm"]) > 4 * int(
        masked.counts(masked.prepare(examples(), rng_for))["mlm"]
    )


def test_what_does_not_fit_is_refused() -> None:
    plain = Tokenizer.train(["abc"], "char", 10)
    with pytest.raises(InputError, match="the vocabulary has no mask token"):
        Vocabulary.of(plain)
    with pytest.raises(InputError, match="modernbert has no head for sentence pairs"):
        MaskedLM(tiny_encoder("modernbert"), vocabulary()[1], pair="nsp")
    wide = np.ones(500, dtype=bool)
    with pytest.raises(InputError, match="the tokenizer has 500 ids and the model"):
        MaskedLM(tiny_encoder("bert"), Vocabulary(4, 2, 3, 0, wide, np.flatnonzero(wide)), BERT)


def test_a_checkpoint_holds_the_parameters(tmp_path) -> None:
    masked = objective(pair="nsp").float()
    values = {name: p.detach() + 0.5 for name, p in masked.named_parameters()}
    masked.save(tmp_path, values, None)
    loaded = masked.load(tmp_path)
    assert loaded.keys() == values.keys()
    assert all(torch.equal(loaded[name], value) for name, value in values.items())
