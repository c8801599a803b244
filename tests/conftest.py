"""What tests of several rooms stand on."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher import Launcher

# The peers read folders of ours, never the network. Their library looks at this once, when it is imported.
os.environ["HF_HUB_OFFLINE"] = "1"
# Runs compute with torch alone: else each test with a cache of its own would compile the kernels for it.
os.environ["CC"] = os.environ["CXX"] = "no-compiler"


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """The C++ code that `library(folder)` compiles, for tests of it; those of others do without."""
    folder = tmp_path_factory.mktemp("native")

    def compiled(library: Callable[[Path], Any]) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("CXX")
            if (found := library(folder)) is None:
                pytest.skip("no C++ compiler, or a processor without AVX-512")
        return found

    return compiled


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole model folder of a few kilobytes: a gpt2 of 48 positions with random weights that reads bytes."""
    import tokenizers as hf
    import torch

    from melete.data.tokenizers import Tokenizer
    from melete.models import build
    from melete.models.checkpoint import save_model

    folder = tmp_path_factory.mktemp("model")
    alphabet = sorted(hf.pre_tokenizers.ByteLevel.alphabet())
    bytes_only = hf.Tokenizer(hf.models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    bytes_only.pre_tokenizer = hf.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_only.decoder = hf.decoders.ByteLevel()
    bytes_only.add_special_tokens(["<|endoftext|>"])
    names = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    Tokenizer(bytes_only.to_str(), names).save(folder)
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 48,
    }
    model = build("gpt2:nano", vocab_size=257, seed=1, bos_token_id=256, eos_token_id=256, **sizes)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for weight in model.parameters():  # far from uniform, so that greedy texts are not one token repeated
            if weight.dim() > 1:
                weight.normal_(0, 0.4, generator=generator)
    save_model(folder, model, tokenizer=folder)
    return folder


@pytest.fixture
def other_model_folder(model_folder: Path, tmp_path: Path) -> Path:
    """A copy of `model_folder` that a test may damage."""
    return shutil.copytree(model_folder, tmp_path / "copy")


@pytest.fixture(scope="session")
def launcher() -> Iterator[Launcher]:
    """Starts whole `melete` processes quickly; its own start is paid once."""
    with Launcher() as launcher:
        yield launcher
