"""An encoder and a decoder from two folders, joined in one (Rothe et al. 2020)."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from melete.console import say
from melete.data.datasets import cache_folder
from melete.data.tokenizers import Tokenizer
from melete.errors import InputError
from melete.models import random_model
from melete.models.checkpoint import load_network, locate, named_head, save_model
from melete.models.encoder_decoder import FAMILY, Model, joined

_TASKS = {"bert": "fill-mask", "gpt2": "text-generation"}


def join(encoder: Path, decoder: Path, *, seed: int = 0) -> Model:
    """A model that reads with the one and writes with the other; what lies between them starts anew.

    Raises:
        InputError: no BERT to read, no BERT or GPT-2 to write, or not one vocabulary.
    """
    reader, writer = named_head(encoder)[0], named_head(decoder)[0]
    if reader != "bert":
        raise InputError(f"a {reader} model cannot be the encoder", where=str(encoder), expected="bert")
    if writer not in _TASKS:
        raise InputError(
            f"a {writer} model cannot be the decoder", where=str(decoder), expected="bert or gpt2"
        )
    tokenizer = Tokenizer.load(encoder)
    if Tokenizer.load(decoder).fingerprint != tokenizer.fingerprint:
        raise InputError(
            f"not the tokenizer of {encoder}",
            where=str(decoder),
            do="train the one with the tokenizer of the other: melete pretrain FAMILY --tokenizer FOLDER",
        )
    reading = load_network(encoder, task="feature-extraction")
    writing = load_network(decoder, task=_TASKS[writer])
    start = _first(tokenizer.bos_id, tokenizer.cls_id, tokenizer.eos_id)
    end = _first(tokenizer.eos_id, tokenizer.sep_id)
    ids = {
        "decoder_start_token_id": start,
        "eos_token_id": end,
        "pad_token_id": _first(tokenizer.pad_id, end),
    }
    config = joined(reading.config, writer, writing.config, **ids)
    model = random_model(FAMILY, config, seed=seed)
    assert isinstance(model, Model)
    state = {f"encoder.{name}": tensor for name, tensor in reading.state_dict().items()}
    state |= {f"{writer}_decoder.{name}": tensor for name, tensor in writing.state_dict().items()}
    _, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    return model.eval()


def locate_joined(source: str, *, seed: int = 0) -> Path:
    """The folder of an encoder and a decoder that are named together, "ENCODER+DECODER"; made once, and kept.

    Raises:
        InputError: see `join` and `checkpoint.locate`.
    """
    encoder, decoder = (locate(name) for name in source.split("+", 1))
    sha = hashlib.sha256(f"{seed}".encode())
    for folder in (encoder, decoder):
        for path in sorted((*folder.glob("*.safetensors"), *folder.glob("*.json"))):
            with path.open("rb") as file:
                sha.update(hashlib.file_digest(file, "sha256").digest())
    folder = cache_folder() / "joined" / sha.hexdigest()[:16]
    if (folder / "config.json").is_file():
        return folder
    model = join(encoder, decoder, seed=seed)
    new = sum(p.numel() for name, p in model.named_parameters() if "cross_attention" in name)
    say(f"{encoder} reads, {decoder} writes; {new:,} weights of the attention between them are new")
    tokenizer = Tokenizer.load(encoder)
    ends = {"bos_token": model.config.decoder_start_token_id, "eos_token": model.config.eos_token_id}
    names = {role: tokenizer.token(id_) for role, id_ in ends.items() if id_ is not None}
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        Tokenizer(tokenizer.definition, tokenizer.config | names).save(temporary)
        save_model(temporary, model, tokenizer=None)
        shutil.rmtree(folder, ignore_errors=True)
        os.rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _first(*ids: int | None) -> int | None:
    """The first that there is."""
    return next((id_ for id_ in ids if id_ is not None), None)
