"""Attention weights are those that the reference shows when it is asked not to fuse."""

from __future__ import annotations

import pytest
import torch

import kit
from melete.data.batch import Batch
from melete.evaluation.inspection_attention import read_with_attention
from melete.models.checkpoint import save_model


@pytest.mark.parametrize("family", [*kit.ENCODER_SIZES, *kit.SIZES])
def test_weights_are_those_of_the_reference(family: str, tmp_path) -> None:
    transformers = pytest.importorskip("transformers")
    transformers.utils.logging.disable_progress_bar()
    model = kit.tiny_encoder(family) if family in kit.ENCODER_SIZES else kit.tiny(family)
    save_model(tmp_path, model, tokenizer=None)
    theirs = transformers.AutoModel.from_pretrained(tmp_path, attn_implementation="eager").eval()
    batch = Batch.from_rows(kit.token_rows(24, 24))
    hidden, weights = read_with_attention(model, batch)
    assert torch.equal(hidden, model.encode(batch))
    with torch.no_grad():
        expected = theirs(batch.input_ids, output_attentions=True).attentions
    assert weights.shape == (len(expected), *expected[0].shape)
    for ours, other in zip(weights, expected, strict=True):
        assert (ours - other).abs().max() <= 1e-5
    assert (weights.sum(-1) - 1).abs().max() <= 1e-5
    if family in kit.SIZES:
        assert weights.triu(1).abs().max() == 0
