"""A byte-level BPE tokenizer in the words of GGUF: only if llama.cpp cuts every text as it does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from melete.data.fast_encoding import byte_alphabet
from melete.data.tokenizers import Tokenizer
from melete.errors import InputError

# What llama.cpp calls a way to cut text into pre-tokens (`tokenizer.ggml.pre`), by the pattern in tokenizer.json.
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
_PRE = {_GPT2: "gpt-2", _QWEN2: "qwen2"}
_NFC = "llama.cpp does not normalise: text that is not in Unicode's form NFC gets other tokens there"
# GGUF's kinds of token: text, control (not seen in a text unless asked for), text that is one token, no token
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5


@dataclass(frozen=True)
class Vocabulary:
    """What GGUF says of a tokenizer.

    Attributes:
        pre: how text is cut before merging.
        tokens, types: spelling and kind of each id; ids without a token are unused ones.
        merges: pairs with a space between, first merge first.
        bos, eos, pad: ids of the special tokens.
        chat_template: Jinja.
        note: what a person should know of the difference that is left; "" where there is none.
    """

    pre: str
    tokens: list[str]
    types: list[int]
    merges: list[str]
    bos: int | None
    eos: int | None
    pad: int | None
    chat_template: str | None
    note: str


def vocabulary(folder: Path, size: int) -> Vocabulary:
    """The tokenizer of a model folder, for a model of `size` embeddings.

    Raises:
        InputError: no tokenizer, one with more tokens than that, or one that llama.cpp would not reproduce.
    """
    tokenizer = Tokenizer.load(folder)
    if tokenizer.vocab_size > size:
        raise InputError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, the model {size}", where=str(folder)
        )
    values = json.loads(tokenizer.definition)
    reason = _not_for_llama_cpp(values)
    if reason:
        raise InputError(
            f"llama.cpp would cut text in another way: {reason}",
            where=str(folder),
            expected="byte-level BPE as GPT-2 or Qwen have it, for a GGUF file",
        )
    added = {token["id"]: USER_DEFINED for token in values["added_tokens"]}
    added |= dict.fromkeys(tokenizer.special_ids, CONTROL)
    spelled = [tokenizer.token(id_) for id_ in range(size)]
    template = tokenizer.config.get("chat_template")
    return Vocabulary(
        pre=_PRE[_pattern(values)],
        tokens=[token or f"[PAD{id_}]" for id_, token in enumerate(spelled)],
        types=[added.get(id_, NORMAL if token else UNUSED) for id_, token in enumerate(spelled)],
        merges=[merge if isinstance(merge, str) else " ".join(merge) for merge in values["model"]["merges"]],
        bos=tokenizer.bos_id,
        eos=tokenizer.eos_id,
        pad=tokenizer.pad_id,
        chat_template=template if isinstance(template, str) else None,
        note=_NFC if values.get("normalizer") else "",
    )


def _not_for_llama_cpp(values: Mapping[str, Any]) -> str:
    """Why llama.cpp would give other ids than this tokenizer.json; "" where it gives the same."""
    model, normalizer = values["model"], values.get("normalizer") or {}
    if model.get("type") != "BPE":
        return f"this is a {model.get('type')} tokenizer"
    if _pattern(values) not in _PRE:
        return "this tokenizer does not split text as one it knows"
    if normalizer.get("type", "NFC") != "NFC":
        return f"this tokenizer changes the text ({normalizer['type']})"
    options = ("dropout", "byte_fallback", "ignore_merges", "continuing_subword_prefix", "end_of_word_suffix")
    unusual = [name for name in options if model.get(name)]
    if unusual:
        return f"this tokenizer has {unusual[0]}"
    if not model["merges"] or not byte_alphabet().keys() <= model["vocab"].keys():
        return "this tokenizer has no merges, or no token for some bytes"
    for token in values["added_tokens"]:
        if token["lstrip"] or token["rstrip"] or token["single_word"]:
            return f"{token['content']} takes the space around it, or stands alone only"
    return ""


def _pattern(values: Mapping[str, Any]) -> str:
    """The pattern that cuts text, if that is followed by bytes and nothing else; "" otherwise."""
    split = values.get("pre_tokenizer") or {}
    steps = split.get("pretokenizers", []) if split.get("type") == "Sequence" else [split]
    last = steps[-1] if steps else {}
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space"):
        return ""
    if len(steps) == 1:
        return _GPT2 if last.get("use_regex", True) else ""
    first = steps[0]
    alone = len(steps) == 2 and not last.get("use_regex", True)
    if (
        not alone
        or first.get("type") != "Split"
        or first.get("behavior") != "Isolated"
        or first.get("invert")
    ):
        return ""
    return first["pattern"].get("Regex", "")
