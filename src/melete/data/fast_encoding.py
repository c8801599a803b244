"""Quicker ways to exactly the ids of the `tokenizers` library, used only where they are proved equal.

Byte-level BPE: `tiktoken` (extra `melete[fast-bpe]`) merges the pair whose *bytes* make the lowest token; the
`tokenizers` library merges the pair that stands first in the list of merges. Two adjacent parts that together spell a
token t hold merges made inside t only, in the same order as when t stands alone; so both rules agree wherever every
token, standing alone, becomes itself, and ids follow the order of the merges. `_tiktoken` checks both for each token.
The pre-tokens agree if both libraries know the same letters, numbers and spaces: a test goes through all code
points, and `agrees` compares a sample of the corpus itself.

Characters: one token each is a look-up in a table.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import tokenizers as hf

# The GPT-2 split in the form that does not backtrack. It is the library's own: a run of letters, of numbers, or of
# neither, each with the space before it; contractions; and white space without the last one before a word.
_SPLIT = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"


@dataclass(frozen=True)
class Encoder:
    """A way from texts to ids.

    Attributes:
        name: the library at work.
        why: the reason for it, for a person.
        encode: texts -> (all ids in a row, uint32; number of ids of each text, int64). Safe in threads.
        parallel: it uses all cores by itself.
    """

    name: str
    why: str
    encode: Callable[[Sequence[str]], tuple[np.ndarray, np.ndarray]]
    parallel: bool = False


def choose_encoder(definition: str, tokenizer: hf.Tokenizer) -> Encoder:
    """The quickest proved encoder of a tokenizer.json. `MELETE_FAST_BPE=0` in the environment keeps to the library."""
    values = json.loads(definition)
    if os.environ.get("MELETE_FAST_BPE") == "0":
        return reference_encoder(tokenizer, "MELETE_FAST_BPE=0")
    if _is_table(values):
        return _table(values)
    reason = _not_gpt2(values)
    if reason:
        return reference_encoder(tokenizer, reason)
    try:
        import tiktoken
    except ImportError:
        return reference_encoder(
            tokenizer, "tiktoken is not installed: pip install 'melete[fast-bpe]' is quicker"
        )
    return _tiktoken(values, tokenizer, tiktoken)


def agrees(encoder: Encoder, reference: Encoder, texts: Sequence[str]) -> bool:
    """Whether both give the same ids for each text."""
    ours, theirs = encoder.encode(texts), reference.encode(texts)
    return np.array_equal(ours[0], theirs[0]) and np.array_equal(ours[1], theirs[1])


def reference_encoder(tokenizer: hf.Tokenizer, why: str) -> Encoder:
    """The `tokenizers` library itself."""

    def encode(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        encoded = tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return _join([np.array(one.ids, dtype=np.uint32) for one in encoded])

    return Encoder("tokenizers", why, encode, parallel=True)


def _join(rows: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    return (np.concatenate(rows) if rows else np.empty(0, np.uint32)), lengths


def _is_table(values: dict[str, Any]) -> bool:
    """A BPE that merges nothing and cuts nothing before: one token a character."""
    model = values["model"]
    return (
        model.get("type") == "BPE"
        and not model.get("merges")
        and values.get("normalizer") is None
        and values.get("pre_tokenizer") is None
        and model.get("unk_token") in model["vocab"]
        and not any(model.get(key) for key in _UNUSUAL)
        and not model.get("fuse_unk")
        and all(_plain(token) for token in values["added_tokens"])
    )


_UNUSUAL = ("dropout", "byte_fallback", "continuing_subword_prefix", "end_of_word_suffix")


def _plain(token: dict[str, Any]) -> bool:
    return not (token["lstrip"] or token["rstrip"] or token["single_word"])


def _table(values: dict[str, Any]) -> Encoder:
    vocabulary = values["model"]["vocab"]
    table = np.full(0x110000, vocabulary[values["model"]["unk_token"]], dtype=np.uint32)
    for token, id_ in vocabulary.items():
        if len(token) == 1:
            table[ord(token)] = id_
    added = {token["content"]: np.array([token["id"]], np.uint32) for token in values["added_tokens"]}

    longest_first = sorted(added, key=len, reverse=True)
    special = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")

    def one(text: str) -> np.ndarray:
        parts, start = [], 0
        for found in special.finditer(text):
            parts += [plain(text[start : found.start()]), added[found.group()]]
            start = found.end()
        return np.concatenate([*parts, plain(text[start:])])

    def plain(text: str) -> np.ndarray:
        return table[np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)]

    return Encoder("table", "one token a character", lambda texts: _join([one(text) for text in texts]))


def _not_gpt2(values: dict[str, Any]) -> str:
    """Why a tokenizer.json is not byte-level BPE with the GPT-2 split, or "" where it is."""
    model, split = values["model"], values.get("pre_tokenizer") or {}
    if model.get("type") != "BPE" or split.get("type") != "ByteLevel":
        return "only byte-level BPE has a quicker way"
    if split.get("add_prefix_space") or not split.get("use_regex", True) or values.get("normalizer"):
        return "it changes or cuts the text in another way than GPT-2"
    if any(model.get(key) for key in _UNUSUAL):
        return "its merges have options that tiktoken does not know"
    names = [token["content"] for token in values["added_tokens"]]
    if not all(_plain(token) for token in values["added_tokens"]):
        return "a special token takes the space around it"
    if any(a != b and b.startswith(a) for a in names for b in names):
        return "one special token begins another"
    return ""


def byte_alphabet() -> dict[str, int]:
    """Character of the byte-level vocabularies -> byte: printable bytes are themselves, the others U+0100 and on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(hidden)}


def _tiktoken(values: dict[str, Any], tokenizer: hf.Tokenizer, tiktoken: Any) -> Encoder:
    added = {token["content"]: token["id"] for token in values["added_tokens"]}
    ranks, reason = _ranks(values["model"], added, tokenizer)
    if reason:
        return reference_encoder(tokenizer, reason)
    encoding = tiktoken.Encoding("melete", pat_str=_SPLIT, mergeable_ranks=ranks, special_tokens=added)
    allowed = set(added)
    # Short texts cost a call each: they are joined by a special token, which no merge and no pre-token crosses.
    joint = next(iter(added), None)

    def encode(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        together = joint.join(texts) if joint is not None else ""
        if joint is None or together.count(joint) != len(texts) - 1:
            return _join([encoding.encode_to_numpy(text, allowed_special=allowed) for text in texts])
        ids = encoding.encode_to_numpy(together, allowed_special=allowed)
        inside = ids != added[joint]
        lengths = np.diff(np.flatnonzero(~inside), prepend=-1, append=len(ids)) - 1
        return ids[inside], lengths

    return Encoder("tiktoken", "the same ids from the same merges, without a pass over offsets", encode)


def _ranks(
    model: dict[str, Any], added: dict[str, int], tokenizer: hf.Tokenizer
) -> tuple[dict[bytes, int], str]:
    """Bytes of each token -> its id, and why the two libraries might differ ("" where they cannot)."""
    byte_of = byte_alphabet()
    vocabulary: dict[str, int] = {token: id_ for token, id_ in model["vocab"].items() if token not in added}
    merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
    order = [vocabulary.get(left + right, -1) for left, right in merges]
    if any(a >= b for a, b in pairwise(order)):
        return {}, "its ids do not follow the order of its merges"
    if not byte_of.keys() <= vocabulary.keys() or len(vocabulary) != len(merges) + 256:
        return {}, "its vocabulary is not 256 bytes and one token for each merge"
    if max((vocabulary[character] for character in byte_of), default=0) >= min(order, default=1 << 32):
        return {}, "its ids do not follow the order of its merges"
    if any(character not in byte_of for token in vocabulary for character in token):
        return {}, "its vocabulary is not made of bytes"
    if any(len(tokenizer.model.tokenize(token)) != 1 for token in vocabulary):
        return {}, "a token of its vocabulary cannot be reached"
    return {bytes(byte_of[character] for character in token): id_ for token, id_ in vocabulary.items()}, ""
