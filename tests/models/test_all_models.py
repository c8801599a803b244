"""What holds for every model of the registry."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

import kit
from melete.data.batch import Batch
from melete.errors import InputError
from melete.models import FAMILIES, build, causal_families, family, preset, presets, skeleton
from melete.models.checkpoint import load_model, save_model

TOLERANCE = 2e-5


@pytest.fixture(scope="module", params=sorted(kit.SIZES))
def model(request):
    return kit.tiny(request.param)


def part(batch: Batch, start: int, stop: int) -> Batch:
    columns = slice(start, stop)
    return replace(
        batch,
        input_ids=batch.input_ids[:, columns],
        doc_ids=batch.doc_ids[:, columns],
        position_ids=batch.position_ids[:, columns],
    )


def test_every_family_is_in_the_kit_and_complete() -> None:
    assert {*kit.SIZES, *kit.ENCODER_SIZES, *kit.ENCODER_DECODER_SIZES} == set(FAMILIES)
    assert set(kit.SIZES) == set(causal_families())
    for name in FAMILIES:
        module = family(name)
        assert module.Model.family == name
        assert {"nano", "tiny", "mini", "small"} <= set(presets(name))
        assert ("text-generation" in module.HEADS) == (name in causal_families())


def test_presets_grow_and_have_the_published_sizes() -> None:
    def millions(name: str, vocab_size: int | None = None) -> float:
        config = preset(name) if vocab_size is None else preset(name, vocab_size=vocab_size)
        return sum(p.numel() for p in skeleton(name.partition(":")[0], config).parameters()) / 1e6

    for name in FAMILIES:
        sizes = [millions(f"{name}:{size}") for size in presets(name)]
        assert sizes == sorted(sizes)
    assert millions("gpt2:gpt2") == pytest.approx(124.4, abs=0.1)
    assert millions("gpt2:xl") == pytest.approx(1557.6, abs=0.1)
    assert millions("qwen3:0.6b") == pytest.approx(596.0, abs=0.1)
    assert millions("qwen3:1.7b") == pytest.approx(1720.6, abs=0.1)
    assert millions("bert:base") == pytest.approx(109.5, abs=0.1)  # with the head, without the pooler
    assert millions("bert:large") == pytest.approx(335.2, abs=0.1)
    assert millions("electra:small") == pytest.approx(13.6, abs=0.1)
    assert millions("electra:base") == pytest.approx(109.5, abs=0.1)
    assert millions("electra:large") == pytest.approx(335.1, abs=0.1)
    assert millions("modernbert:base") == pytest.approx(149.7, abs=0.1)
    assert millions("marian:opus") == pytest.approx(73.9, abs=0.1)
    assert millions("marian:base") == pytest.approx(63.1, abs=0.1)
    assert millions("bart:base") == pytest.approx(139.5, abs=0.1)
    assert millions("bart:large") == pytest.approx(406.3, abs=0.1)
    assert millions("t5:t5-small") == pytest.approx(60.5, abs=0.1)
    assert millions("t5:t5-base") == pytest.approx(222.9, abs=0.1)
    assert millions("t5:v1.1-small") == pytest.approx(77.0, abs=0.1)
    assert millions("t5:v1.1-large") == pytest.approx(783.2, abs=0.1)
    assert millions("modernbert:large") == pytest.approx(395.9, abs=0.1)


def test_shapes_and_type_are_kept(model) -> None:
    batch = Batch.from_rows(kit.token_rows(7, 7))
    for dtype in (torch.float32, torch.bfloat16):
        cast = copy.deepcopy(model).to(dtype)
        hidden = cast.encode(batch)
        assert hidden.shape == (2, 7, model.config.hidden_size)
        assert hidden.dtype == dtype
        assert cast.logits(hidden).shape == (2, 7, kit.VOCAB)
        hidden.sum().backward()
        assert all(p.grad is not None and p.grad.dtype == dtype for p in cast.parameters())


def test_bfloat16_stays_close(model) -> None:
    batch = Batch.from_rows(kit.token_rows(20, 9))
    wide = kit.logits(model, batch)
    narrow = kit.logits(copy.deepcopy(model).bfloat16(), batch).float()
    assert (wide - narrow).abs().max() < 0.1 * wide.abs().max()


@pytest.mark.parametrize("left", [False, True])
def test_padding_changes_nothing(model, left: bool) -> None:
    rows = kit.token_rows(11, 4, 1)
    batch = Batch.from_rows(rows, left=left)
    together = kit.logits(model, batch)
    for i, row in enumerate(rows):
        alone = kit.logits(model, Batch.from_rows([row]))[0]
        assert torch.allclose(together[i][batch.doc_ids[i] > 0], alone, atol=TOLERANCE)


def test_padding_is_never_nan(model) -> None:
    batch = Batch.from_rows(kit.token_rows(40 // 2, 3), left=True)
    for dtype in (torch.float32, torch.bfloat16):
        assert kit.logits(copy.deepcopy(model).to(dtype), batch).isfinite().all()


def test_packed_documents_do_not_see_each_other(model) -> None:
    documents = kit.token_rows(9, 1, 13)
    together = kit.logits(model, kit.packed(*documents))[0]
    alone = [kit.logits(model, Batch.from_rows([document]))[0] for document in documents]
    assert torch.allclose(together, torch.cat(alone), atol=TOLERANCE)


def test_the_future_is_not_seen(model) -> None:
    (row,) = kit.token_rows(12)
    changed = row.clone()
    changed[8:] = (changed[8:] + 1) % kit.VOCAB
    first, second = kit.logits(model, Batch.from_rows([row, changed]))
    assert torch.equal(first[:8], second[:8])
    assert not torch.allclose(first[8:], second[8:], atol=0.01)


@pytest.mark.parametrize("lengths", [(12, 12), (12, 5)], ids=["plain", "left-padded"])
@pytest.mark.parametrize("steps", [(1,) * 12, (7, 1, 4)], ids=["one by one", "in pieces"])
def test_the_cache_changes_nothing(model, lengths, steps) -> None:
    batch = Batch.from_rows(kit.token_rows(*lengths), left=True)
    whole = kit.logits(model, batch)
    cache = model.new_cache(2, 12)
    pieces, at = [], 0
    with torch.no_grad():
        for step in steps:
            pieces.append(model.logits(model.encode(part(batch, at, at + step), cache)))
            at += step
    real = batch.doc_ids > 0
    assert cache.length == 12
    assert torch.allclose(torch.cat(pieces, dim=1)[real], whole[real], atol=TOLERANCE)


def test_rows_of_a_cache_may_leave_and_move(model) -> None:
    batch = Batch.from_rows(kit.token_rows(9, 6, 9), left=True)
    whole = kit.logits(model, batch)
    cache = model.new_cache(3, 9)
    order = torch.tensor([2, 1])
    with torch.no_grad():
        model.encode(part(batch, 0, 8), cache)
        cache.select(order)
        last = part(batch, 8, 9)
        last = replace(
            last,
            input_ids=last.input_ids[order],
            doc_ids=last.doc_ids[order],
            position_ids=last.position_ids[order],
        )
        assert torch.allclose(model.logits(model.encode(last, cache))[:, 0], whole[order, 8], atol=TOLERANCE)


def test_a_context_beyond_the_models_is_refused(model) -> None:
    with pytest.raises(InputError, match=f"{kit.CONTEXT + 1} tokens.*at most {kit.CONTEXT}"):
        model.encode(Batch.from_rows(kit.token_rows(kit.CONTEXT + 1)))


def test_a_full_cache_is_refused(model) -> None:
    with pytest.raises(InputError, match="at most 3 positions"):
        model.encode(Batch.from_rows(kit.token_rows(4)), model.new_cache(1, 3))


@pytest.mark.parametrize("tied", [True, False])
def test_saving_and_loading_is_the_identity(model, tied: bool, tmp_path) -> None:
    original = kit.tiny(model.family, tie_word_embeddings=tied, weight_dropout=0.1, eos_token_id=3)
    save_model(tmp_path, original, tokenizer=None)
    again = load_model(tmp_path)
    assert again.config == original.config
    assert not again.training
    assert all(p.requires_grad for p in again.parameters())
    state = again.state_dict()
    assert state.keys() == original.state_dict().keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in original.state_dict().items())


def test_the_seed_alone_decides_the_weights(model) -> None:
    torch.manual_seed(11)
    first = kit.tiny(model.family, seed=5).state_dict()
    state = torch.random.get_rng_state()
    again, other = kit.tiny(model.family, seed=5).state_dict(), kit.tiny(model.family, seed=6).state_dict()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize(
    "kind", ["attention_dropout", "hidden_dropout", "embedding_dropout", "weight_dropout"]
)
def test_dropout_acts_in_training_only(model, kind: str) -> None:
    dropping = kit.tiny(model.family, **{kind: 0.5})
    batch = Batch.from_rows(kit.token_rows(12))
    assert torch.equal(kit.logits(dropping, batch), kit.logits(dropping, batch))
    dropping.train()
    torch.manual_seed(0)
    first = kit.logits(dropping, batch)
    assert not torch.allclose(first, kit.logits(dropping, batch), atol=1e-3)
    torch.manual_seed(0)
    assert torch.equal(first, kit.logits(dropping, batch))


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("gpt3", {}, "unknown model family 'gpt3'; expected gpt2"),
        ("qwen3:tinny", {}, "no preset 'tinny'; expected tiny"),
        ("qwen3:tiny", {"hiden_size": 3}, "unknown key `hiden_size`; expected `hidden_size`"),
        ("qwen3:tiny", {"hidden_size": "wide"}, "Expected `int`, got `str`, at `hidden_size`"),
        ("qwen3:tiny", {"hidden_size": 0}, "at `hidden_size`"),
        (
            "qwen3:tiny",
            {"num_key_value_heads": 3},
            "num_attention_heads 4 is not a multiple of num_key_value_heads",
        ),
        (
            "gpt2:tiny",
            {"num_attention_heads": 5},
            "hidden_size 256 is not a multiple of num_attention_heads 5",
        ),
        ("gpt2:tiny", {"init": "xaver"}, "unknown initialisation 'xaver'"),
    ],
)
def test_mistakes_are_named(name: str, fields: dict, message: str) -> None:
    with pytest.raises(InputError, match=message.replace("(", r"\(")):
        build(name, **fields)
