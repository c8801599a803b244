"""Whole encoder folders of a few kilobytes, with random weights far from uniform, that read any text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tokenizers as hf
import torch

import kit
from melete.data.tokenizers import Tokenizer
from melete.models.checkpoint import save_model

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = "the king queen was walk in garden of castle . , ##ing ##s ##en ##g 我 喜 欢 自 然 语 言 a b c ##a ##b ##c"


def pieces() -> Tokenizer:
    """A lower-casing wordpiece vocabulary of a few English and Chinese words."""
    table = {token: i for i, token in enumerate([*SPECIAL, *WORDS.split()])}
    tokenizer = hf.Tokenizer(hf.models.WordPiece(table, unk_token="[UNK]"))
    tokenizer.normalizer = hf.normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = hf.pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = hf.decoders.WordPiece()
    tokenizer.add_special_tokens(SPECIAL)
    return _framing(tokenizer)


def any_bytes() -> Tokenizer:
    """A vocabulary of single bytes whose mask takes in the space before it, as ModernBERT's does."""
    alphabet = sorted(hf.pre_tokenizers.ByteLevel.alphabet())
    tokenizer = hf.Tokenizer(hf.models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = hf.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = hf.decoders.ByteLevel()
    tokenizer.add_special_tokens([*SPECIAL[:-1], hf.AddedToken("[MASK]", lstrip=True, special=True)])
    return _framing(tokenizer)


def _framing(tokenizer: hf.Tokenizer) -> Tokenizer:
    ends = [(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = hf.processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=ends)
    names = {f"{token[1:-1].lower()}_token": token for token in SPECIAL}
    return Tokenizer(tokenizer.to_str(), names | {"tokenizer_class": "PreTrainedTokenizerFast"})


def write(
    folder: Path, family: str, task: str | None = None, tokenizer: Tokenizer | None = None, **sizes: Any
) -> Path:
    """A model folder; its tokenizer is `pieces` unless given."""
    tokenizer = tokenizer or pieces()
    tokenizer.save(folder)
    fields = {"vocab_size": tokenizer.vocab_size, **sizes}
    model = kit.tiny_encoder(family, task=task, seed=1, **fields)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.2 * torch.randn(weight.shape, generator=generator))
    save_model(folder, model, tokenizer=folder)
    return folder
