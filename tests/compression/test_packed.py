"""Vectors in bfloat16 point where those in float32 do."""

from __future__ import annotations

import numpy as np
import pytest

import kit
from melete.api import load
from melete.data.tokenizers import Tokenizer
from melete.errors import InputError
from melete.models.checkpoint import save_model

TEXTS = ["a few words", "other words and more of them, in a longer text", "few"] * 5


@pytest.mark.parametrize("family", sorted(kit.ENCODER_SIZES))
def test_vectors_keep_their_directions(family: str, tmp_path) -> None:
    tokenizer = Tokenizer.train(TEXTS, "wordpiece", 90)
    tokenizer.save(tmp_path)
    model = kit.tiny_network(family, "feature-extraction", seed=4, max_position_embeddings=64)
    save_model(tmp_path, model, tokenizer=None)
    expected = load(tmp_path, task="feature-extraction").embed(TEXTS)
    found = load(tmp_path, task="feature-extraction", precision="bfloat16").embed(TEXTS)
    assert np.einsum("nd,nd->n", found, expected).min() > 0.999
    with pytest.raises(InputError, match="precision int8 for feature-extraction"):
        load(tmp_path, task="feature-extraction", precision="int8")
