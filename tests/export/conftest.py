"""Model folders to export: tiny, with random weights and a tokenizer that was really trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import kit
from melete.data.tokenizers import Tokenizer
from melete.models import preset, random_model
from melete.models.checkpoint import save_model

SPARE = 9  # embeddings beyond the tokenizer's tokens
TEXTS = (
    "The lobster lives on the sea floor; it's blue in life, and red when cooked. 12 of 345 were <unk>.",
    "春眠不觉晓，处处闻啼鸟。夜来风雨声，花落知多少？",
    "def read(path):\n    return path.read_text()\n\n\n",
)


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Byte-level BPE with merges, and a symbol of the text beside the special token."""
    folder = tmp_path_factory.mktemp("tokenizer")
    Tokenizer.train(TEXTS * 3, "byte-bpe", 320, ["<unk>"]).save(folder)
    return folder


@pytest.fixture
def made(tmp_path: Path, tokenizer_folder: Path) -> Callable[..., Path]:
    """Make a model folder of a family, for a task, with these config fields."""

    def make(family: str, task: str | None = None, name: str = "model", **fields: Any) -> Path:
        tokenizer = Tokenizer.load(tokenizer_folder)
        values: dict[str, Any] = {
            "vocab_size": tokenizer.vocab_size + SPARE,
            "max_position_embeddings": 64,
            "initializer_range": 0.15,
            "bos_token_id": tokenizer.bos_id,
            "eos_token_id": tokenizer.eos_id,
            **{**kit.SIZES, **kit.ENCODER_SIZES}[family],
            **fields,
        }
        model = random_model(family, preset(f"{family}:nano", **values), task, init="normal")
        save_model(tmp_path / name, model, tokenizer=tokenizer_folder)
        return tmp_path / name

    return make
