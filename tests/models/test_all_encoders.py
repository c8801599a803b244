"""What holds for every encoder of the registry."""

from __future__ import annotations

import copy

import pytest
import torch

import kit
from melete.data.batch import Batch
from melete.errors import InputError
from melete.models import build, build_encoder, family, presets
from melete.models.checkpoint import load_encoder, save_model

TOLERANCE = 2e-5
WORN = [
    (name, task)
    for name in sorted(kit.ENCODER_SIZES)
    for task, head in sorted(family(name).HEADS.items())
    if not head.bare
]


@pytest.fixture(scope="module", params=sorted(kit.ENCODER_SIZES))
def model(request):
    return kit.tiny_encoder(request.param, task="fill-mask")


@torch.no_grad()
def logits(model, batch: Batch) -> torch.Tensor:
    return model.mlm_logits(model.encode(batch))


def test_every_family_is_complete() -> None:
    for name in kit.ENCODER_SIZES:
        module = family(name)
        assert module.Model.family == name
        assert {"nano", "tiny", "mini", "small"} <= set(presets(name))
        known = set(module.KEYS.heads)
        assert all(set(head.parts) <= known for head in module.HEADS.values())


def test_shapes_and_type_are_kept(model) -> None:
    batch = Batch.from_rows(kit.token_rows(7, 7))
    for dtype in (torch.float32, torch.bfloat16):
        cast = copy.deepcopy(model).to(dtype)
        hidden = cast.encode(batch)
        assert hidden.shape == (2, 7, model.config.hidden_size)
        assert hidden.dtype == dtype
        chosen = hidden[0, :3]
        assert cast.mlm_hidden(chosen).shape == (3, cast.mlm_weight.shape[1])
        assert cast.mlm_bias.shape == (kit.VOCAB,)
        cast.mlm_logits(chosen).square().sum().backward()
        assert all(p.grad is not None and p.grad.dtype == dtype for p in cast.parameters())


def test_bfloat16_stays_close(model) -> None:
    batch = Batch.from_rows(kit.token_rows(20, 9))
    wide, narrow = logits(model, batch), logits(copy.deepcopy(model).bfloat16(), batch).float()
    assert (wide - narrow).abs().max() < 0.1 * wide.abs().max()


@pytest.mark.parametrize("left", [False, True])
def test_padding_changes_nothing(model, left: bool) -> None:
    rows = kit.token_rows(21, 4, 1)
    batch = Batch.from_rows(rows, left=left)
    together = logits(model, batch)
    assert together.isfinite().all()
    for i, row in enumerate(rows):
        alone = logits(model, Batch.from_rows([row]))[0]
        assert torch.allclose(together[i][batch.doc_ids[i] > 0], alone, atol=TOLERANCE)


def test_packed_and_padded_losses_are_the_same_number(model) -> None:
    """In float64, to 1e-10: nothing of one document leaks into another."""
    wide = copy.deepcopy(model).double()
    documents = kit.token_rows(9, 1, 23, 14)
    padded, together = Batch.from_rows(documents), kit.packed(*documents)
    losses = [
        torch.nn.functional.cross_entropy(
            logits(wide, batch)[batch.doc_ids > 0], batch.input_ids[batch.doc_ids > 0]
        )
        for batch in (padded, together)
    ]
    assert abs(losses[0] - losses[1]) <= 1e-10


def test_both_sides_are_seen(model) -> None:
    (row,) = kit.token_rows(12)
    for place in (0, 11):
        changed = row.clone()
        changed[place] = (changed[place] + 1) % kit.VOCAB
        first, second = logits(model, Batch.from_rows([row, changed]))
        assert not torch.allclose(first[5], second[5], atol=1e-3)


def test_a_document_beyond_the_context_is_refused_a_longer_row_is_not(model) -> None:
    with pytest.raises(InputError, match=f"{kit.CONTEXT + 1} tokens.*at most {kit.CONTEXT}"):
        model.encode(Batch.from_rows(kit.token_rows(kit.CONTEXT + 1)))
    assert model.encode(kit.packed(*kit.token_rows(kit.CONTEXT, kit.CONTEXT))).isfinite().all()


@pytest.mark.parametrize(("name", "task"), WORN)
def test_saving_and_loading_is_the_identity(name: str, task: str, tmp_path, capsys) -> None:
    original = kit.tiny_encoder(name, task=task, attention_dropout=0.1, pad_token_id=3)
    save_model(tmp_path, original, tokenizer=None)
    again = load_encoder(tmp_path)
    assert (again.config, again.task, again.training) == (original.config, task, False)
    assert all(p.requires_grad for p in again.parameters())
    state = again.state_dict()
    assert state.keys() == original.state_dict().keys()
    assert all(torch.equal(state[key], tensor) for key, tensor in original.state_dict().items())
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors"}
    assert capsys.readouterr().err == ""


def test_the_seed_alone_decides_the_weights(model) -> None:
    torch.manual_seed(11)
    state = torch.random.get_rng_state()
    first, again, other = (kit.tiny_encoder(model.family, seed=seed).state_dict() for seed in (5, 5, 6))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (name, kind)
        for name in kit.ENCODER_SIZES
        for kind in family(name).Config.__struct_fields__
        if kind.endswith("_dropout") and kind != "classifier_dropout"  # in other heads
    ],
)
def test_dropout_acts_in_training_only(name: str, kind: str) -> None:
    dropping = kit.tiny_encoder(name, task="fill-mask", **{kind: 0.5})
    batch = Batch.from_rows(kit.token_rows(12))
    assert torch.equal(logits(dropping, batch), logits(dropping, batch))
    dropping.train()
    torch.manual_seed(0)
    first = logits(dropping, batch)
    assert not torch.allclose(first, logits(dropping, batch), atol=1e-3)
    torch.manual_seed(0)
    assert torch.equal(first, logits(dropping, batch))


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("gpt2:nano", {}, "gpt2 is no encoder; expected one of bert, modernbert, electra"),
        ("bert:bse", {}, "no preset 'bse'; expected base"),
        ("bert", {"task": "filmask"}, "bert has no head for 'filmask'; expected fill-mask"),
        ("bert", {"hidden_size": 30}, "hidden_size 30 is not a multiple of num_attention_heads 4"),
        ("modernbert", {"num_attention_heads": 256}, "a head is 1 wide, which is odd"),
        ("modernbert", {"layer_types": ["full_attention"]}, "names 1 layers, num_hidden_layers is 6"),
        ("electra", {"embeding_size": 3}, "unknown key `embeding_size`; expected `embedding_size`"),
    ],
)
def test_mistakes_are_named(name: str, fields: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_encoder(name, **fields)


def test_an_encoder_is_no_causal_model(model) -> None:
    with pytest.raises(InputError, match="does not continue a text; expected one of gpt2, qwen3"):
        build(model.family)


def test_a_head_that_is_not_worn_is_asked_for_in_vain(model) -> None:
    if "pretraining" in family(model.family).HEADS:
        other = kit.tiny_encoder(model.family, task="pretraining")
        hidden = other.encode(Batch.from_rows(kit.token_rows(3)))
        if model.family == "electra":
            with pytest.raises(InputError, match="electra model for pretraining has no `mlm` head"):
                other.mlm_hidden(hidden)
            with pytest.raises(InputError, match="has no `discriminator` head"):
                model.rtd_logits(hidden)
        else:
            with pytest.raises(InputError, match="bert model for fill-mask has no `next_sentence` head"):
                model.nsp_logits(hidden, Batch.from_rows(kit.token_rows(3)))
