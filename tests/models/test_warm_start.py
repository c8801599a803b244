"""An encoder-decoder from two folders: what it keeps, what is new, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import encoder_models
import kit
from melete.data.tokenizers import Tokenizer
from melete.errors import InputError
from melete.generation.generate import generate
from melete.generation.settings import GenerationSettings
from melete.models.checkpoint import load_encoder_decoder, locate, named_head, save_model


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    monkeypatch.setenv("MELETE_CACHE", str(tmp_path / "cache"))
    encoder_models.write(tmp_path / "bert", "bert")
    model = kit.tiny("gpt2", vocab_size=Tokenizer.load(tmp_path / "bert").vocab_size)
    save_model(tmp_path / "gpt2", model, tokenizer=tmp_path / "bert")
    return {name: tmp_path / name for name in ("bert", "gpt2")}


@pytest.mark.parametrize("writer", ["bert", "gpt2"])
def test_two_folders_are_one_model(folders: dict[str, Path], writer: str, capsys) -> None:
    source = f"{folders['bert']}+{folders[writer]}"
    folder = locate(source)
    assert "of the attention between them are new" in capsys.readouterr().err
    assert locate(source) == folder, "made once"
    assert named_head(folder) == ("encoder-decoder", "EncoderDecoderModel", "text2text-generation")
    model, tokenizer = load_encoder_decoder(folder), Tokenizer.load(folder)
    assert model.config.eos_token_id == tokenizer.eos_id == tokenizer.sep_id
    kept = model.state_dict()
    for half, name in (("encoder", "bert"), (f"{writer}_decoder", writer)):
        from melete.models.checkpoint import load_network

        state = load_network(folders[name]).state_dict()
        here = {key.removeprefix(f"{half}."): value for key, value in kept.items() if key.startswith(half)}
        both = state.keys() & here.keys()
        assert len(both) > 20
        assert all(torch.equal(state[key], here[key]) for key in both)
    settings = GenerationSettings(temperature=0, num_beams=2, max_new_tokens=4)
    start = model.config.decoder_start_token_id
    ((first, *_),) = (generate(model, [[start]], settings, sources=[[7, 8, 9]]),)
    assert len(first) == 4


def test_other_kinds_and_vocabularies_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a gpt2 model cannot be the encoder"):
        locate(f"{folders['gpt2']}+{folders['bert']}")
    Tokenizer.train(["abc " * 20], "char", 40).save(folders["gpt2"])
    with pytest.raises(InputError, match="not the tokenizer of"):
        locate(f"{folders['bert']}+{folders['gpt2']}")
