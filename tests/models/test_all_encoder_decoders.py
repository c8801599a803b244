"""What holds for every encoder-decoder of the registry."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

import kit
from melete.data.batch import Batch
from melete.errors import InputError
from melete.models import build_encoder_decoder, encoder_decoder_families, family, presets
from melete.models.checkpoint import load_encoder_decoder, load_model, save_model

TOLERANCE = 2e-5
SOURCES = kit.token_rows(9, 5, 12, seed=1)
ROWS = kit.token_rows(7, 11, 4, seed=2)


@pytest.fixture(scope="module", params=sorted(kit.ENCODER_DECODER_SIZES))
def model(request):
    return kit.tiny_encoder_decoder(request.param)


@torch.no_grad()
def logits(model, batch: Batch, cache=None) -> torch.Tensor:
    return model.logits(model.encode(batch, cache))


def columns(batch: Batch, start: int, stop: int) -> Batch:
    """A part of what the decoder reads; the source comes with the first."""
    here = slice(start, stop)
    return replace(
        batch,
        input_ids=batch.input_ids[:, here],
        doc_ids=batch.doc_ids[:, here],
        position_ids=batch.position_ids[:, here],
        source=None if start else batch.source,
    )


def test_every_family_is_complete() -> None:
    assert set(kit.ENCODER_DECODER_SIZES) == set(encoder_decoder_families())
    for name in kit.ENCODER_DECODER_SIZES:
        assert next(iter(family(name).HEADS)) == "text2text-generation"
        assert {"nano", "tiny", "mini", "small"} <= set(presets(name))


def test_shapes_and_type_are_kept(model) -> None:
    batch = kit.answering(SOURCES, ROWS)
    for dtype in (torch.float32, torch.bfloat16):
        cast = copy.deepcopy(model).to(dtype)
        hidden = cast.encode(batch)
        more = 1 + model.config.vocab_size if model.mixes else 0
        assert hidden.shape == (3, 11, model.config.hidden_size + more)
        assert hidden.dtype == dtype
        cast.logits(hidden).square().sum().backward()
        assert all(p.grad is not None and p.grad.dtype == dtype for p in cast.parameters())


def test_bfloat16_stays_close(model) -> None:
    batch = kit.answering(SOURCES, ROWS)
    wide, narrow = logits(model, batch), logits(copy.deepcopy(model).bfloat16(), batch).float()
    assert narrow.isfinite().all()
    assert (wide - narrow)[batch.doc_ids > 0].abs().max() < 0.1 * wide.abs().max()


@pytest.mark.parametrize("left", [False, True])
def test_padding_changes_nothing_on_either_side(model, left: bool) -> None:
    batch = kit.answering(SOURCES, ROWS, left=left)
    together = logits(model, batch)
    assert together.isfinite().all()
    for i, (source, row) in enumerate(zip(SOURCES, ROWS, strict=True)):
        alone = logits(model, kit.answering([source], [row]))[0]
        assert torch.allclose(together[i][batch.doc_ids[i] > 0], alone, atol=TOLERANCE)


def test_packed_pairs_do_not_see_each_other(model) -> None:
    together = logits(model, replace(kit.packed(*ROWS), source=kit.packed(*SOURCES)))[0]
    alone = [
        logits(model, kit.answering([source], [row]))[0] for source, row in zip(SOURCES, ROWS, strict=True)
    ]
    assert torch.allclose(together, torch.cat(alone), atol=TOLERANCE)


def test_the_source_is_seen_and_the_future_is_not(model) -> None:
    (source,), (row,) = kit.token_rows(9), kit.token_rows(12, seed=3)
    other = row.clone()
    other[8:] = (other[8:] + 1) % kit.VOCAB
    first, second = logits(model, kit.answering([source, source], [row, other]))
    assert torch.equal(first[:8], second[:8])
    assert not torch.allclose(first[8:], second[8:], atol=0.01)
    (turned,) = logits(model, kit.answering([source.flip(0)], [row]))
    assert not torch.allclose(first[0], turned[0], atol=0.01)


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("steps", [(1,) * 11, (6, 1, 4)], ids=["one by one", "in pieces"])
def test_the_cache_changes_nothing_and_the_source_is_read_once(model, left: bool, steps, monkeypatch) -> None:
    batch = kit.answering(SOURCES, ROWS, left=left)
    whole = logits(model, batch)
    cache, pieces, at, reads = model.new_cache(3, 11), [], 0, []
    read = model.read
    monkeypatch.setattr(model, "read", lambda source: reads.append(source) or read(source))
    for step in steps:
        pieces.append(logits(model, columns(batch, at, at + step), cache))
        at += step
    assert len(reads) == 1
    real = batch.doc_ids > 0
    assert torch.allclose(torch.cat(pieces, dim=1)[real], whole[real], atol=TOLERANCE)


def test_rows_of_a_cache_may_leave_move_and_share_a_source(model) -> None:
    batch = kit.answering(SOURCES, ROWS, left=True)
    whole = logits(model, batch)[:, -1]

    def last(order: list[int], rows: torch.Tensor, sources: torch.Tensor | None) -> torch.Tensor:
        cache = model.new_cache(3, 11)
        logits(model, columns(batch, 0, 10), cache)
        cache.select(rows, sources)
        end = columns(batch, 10, 11)
        parts = {name: getattr(end, name)[order] for name in ("input_ids", "doc_ids", "position_ids")}
        return logits(model, replace(end, **parts), cache)[:, 0]

    moved = last([2, 1, 1], torch.tensor([2, 1, 1]), None)
    assert torch.allclose(moved, whole[[2, 1, 1]], atol=TOLERANCE)
    shared = last([2, 2, 0, 0], torch.tensor([2, 2, 0, 0]), torch.tensor([2, 0]))
    assert torch.allclose(shared, whole[[2, 2, 0, 0]], atol=TOLERANCE)


def test_a_context_beyond_the_models_is_refused(model) -> None:
    long, short = kit.token_rows(kit.CONTEXT + 1), kit.token_rows(3)
    for sources, rows in ((long, short), (short, long)):
        with pytest.raises(InputError, match=f"{kit.CONTEXT + 1} tokens.*at most {kit.CONTEXT}"):
            model.encode(kit.answering(sources, rows))


def test_saving_and_loading_is_the_identity(model, tmp_path) -> None:
    original = kit.tiny_encoder_decoder(
        model.family, eos_token_id=3, hidden_dropout=0.2, forced_bos_token_id=5
    )
    save_model(tmp_path, original, tokenizer=None)
    again = load_encoder_decoder(tmp_path)
    assert again.config == original.config
    state = again.state_dict()
    assert state.keys() == original.state_dict().keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in original.state_dict().items())
    longer = load_encoder_decoder(tmp_path, max_position_embeddings=2 * kit.CONTEXT)
    assert logits(longer, kit.answering(kit.token_rows(50), kit.token_rows(60))).isfinite().all()
    with pytest.raises(InputError, match=f"a {model.family} model does not continue a text"):
        load_model(tmp_path)


@pytest.mark.parametrize("kind", ["attention_dropout", "hidden_dropout"])
def test_dropout_acts_in_training_only(model, kind: str) -> None:
    dropping = kit.tiny_encoder_decoder(model.family, **{kind: 0.5})
    batch = kit.answering(SOURCES, ROWS)
    assert torch.equal(logits(dropping, batch), logits(dropping, batch))
    dropping.train()
    assert not torch.allclose(logits(dropping, batch), logits(dropping, batch), atol=1e-3)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        (
            "bert:nano",
            {},
            "bert is no encoder-decoder; expected one of marian, bart, t5, pointer, encoder-decoder, lstm",
        ),
        ("t5:t5-smal", {}, "t5 has no preset 't5-smal'; expected t5-small"),
        ("marian", {"hidden_size": 30}, "hidden_size 30 is not a multiple of num_attention_heads 4"),
        ("bart", {"decoder_layers": 3}, "unknown key `decoder_layers`; expected `num_decoder_layers`"),
    ],
)
def test_mistakes_are_named(name: str, fields: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_encoder_decoder(name, **fields)


def test_no_head_for_labels_is_worn(model) -> None:
    batch = kit.answering(SOURCES, ROWS)
    with pytest.raises(InputError, match="has no `classifier` head"):
        model.class_logits(model.encode(batch), batch)


def test_parameters_lie_as_deep_as_their_blocks(model) -> None:
    depths = {name: model.depth(name) for name, _ in model.named_parameters()}
    below, blocks = model.config.num_hidden_layers, model.num_blocks
    assert 0 in depths.values()
    assert set(depths.values()) <= set(range(blocks + 2))
    for name, depth in depths.items():
        stack, part, *rest = name.split(".")
        if part == "layers":
            assert depth == 1 + int(rest[0]) + (below if stack.endswith("decoder") else 0)
        elif part == "norm":
            assert depth == (below if stack == "encoder" else blocks)
        elif "output" in (stack, part) or {"lm_head", "mlm"} & {stack, part}:
            assert depth == blocks + 1
