"""Text to ids and back: training, loading and saving tokenizers in the format that everybody reads.

The algorithms are those of the `tokenizers` library; a folder written here opens with `AutoTokenizer`, with equal ids.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tokenizers as hf

from melete.errors import InputError

if TYPE_CHECKING:
    from melete.data.fast_encoding import Encoder

# What an encoder needs beside the tokens of a text.
FRAME = ("[CLS]", "[SEP]", "[MASK]")
ROLES = ("bos", "eos", "pad", "unk", "mask", "cls", "sep")
KINDS = ("byte-bpe", "wordpiece", "unigram", "char", "word")

# What a special token is called where nothing else says so (a lone tokenizer.json).
_USUAL = {
    "bos": ("<s>", "<bos>", "<|endoftext|>"),
    "eos": ("</s>", "<eos>", "<|endoftext|>"),
    "pad": ("<pad>", "[PAD]", "<|endoftext|>"),
    "unk": ("<unk>", "[UNK]"),
    "mask": ("[MASK]", "<mask>"),
    "cls": ("[CLS]",),
    "sep": ("[SEP]",),
}


class Tokenizer:
    """Ids of a text, and the text of ids.

    Attributes:
        definition: the text of tokenizer.json.
        config: the values of tokenizer_config.json, which name the special tokens.
        fingerprint: SHA-256 of `definition`: equal fingerprints give equal ids.
        vocab_size: number of ids: every id is below it.
        bos_id, eos_id, pad_id, unk_id, mask_id, cls_id, sep_id: ids of the special tokens; None where there is none.
        special_ids: ids which `decode` leaves out.
    """

    bos_id: int | None
    eos_id: int | None
    pad_id: int | None
    unk_id: int | None
    mask_id: int | None
    cls_id: int | None
    sep_id: int | None

    def __init__(self, definition: str, config: dict[str, Any]) -> None:
        self.definition, self.config = definition, config
        self._tokenizer = hf.Tokenizer.from_str(definition)
        # A saved batch setting would cut or pad every text without a word.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = False
        self.fingerprint = hashlib.sha256(definition.encode()).hexdigest()
        ids = self._tokenizer.get_vocab(with_added_tokens=True).values()
        self.vocab_size = max(ids, default=-1) + 1
        special = {id_ for id_, token in self._tokenizer.get_added_tokens_decoder().items() if token.special}
        for role in ROLES:
            setattr(self, f"{role}_id", self._find(role))
        self.special_ids = frozenset(special)

    def _find(self, role: str) -> int | None:
        named = self.config.get(f"{role}_token")
        if isinstance(named, dict):
            named = named.get("content")
        if isinstance(named, str):
            return self.id_of(named)
        if role == "unk":
            named = getattr(self._tokenizer.model, "unk_token", None)
            if isinstance(named, str):
                return self.id_of(named)
        if self.config:
            return None
        return next((found for name in _USUAL[role] if (found := self.id_of(name)) is not None), None)

    @classmethod
    def load(cls, path: Path | str) -> Tokenizer:
        """The tokenizer of a folder (a run, a checkpoint, any Hugging Face folder) or of a tokenizer.json.

        Folders that hold vocab.txt (BERT) or vocab.json and merges.txt (GPT-2) instead are read too.

        Raises:
            InputError: nothing there that can be read.
        """
        from melete.data.tokenizer_files import read_folder

        definition, config = read_folder(Path(path))
        try:
            return cls(definition, config)
        except Exception as error:  # the library raises bare Exception for a definition that it cannot read
            raise InputError(f"not a tokenizer: {error}", where=str(path)) from None

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        kind: str,
        vocab_size: int,
        special_tokens: Sequence[str] = (),
        *,
        lowercase: bool = False,
    ) -> Tokenizer:
        """A tokenizer learned from texts, which are read once, in flat memory.

        Equal texts give equal tokenizers; but which of several pieces of exactly equal worth a small unigram vocabulary
        keeps, the library leaves open.

        Args:
            texts: the corpus. Above 64 MB an even sample of it is used, and that is said.
            kind: one of `KINDS`.
            vocab_size: the number of ids wanted, special tokens included.
            special_tokens: strings of the text that must stay one symbol (`<unk>` in WikiText). They are text:
                `decode` shows them.
            lowercase: lower the case and strip accents ("wordpiece" only).

        Raises:
            InputError: unknown kind, no text, or a vocabulary too small for the kind.
        """
        from melete.data.tokenizer_training import train

        return cls(*train(texts, kind, vocab_size, tuple(special_tokens), lowercase))

    def ended(self) -> Tokenizer:
        """One that gives the same ids, and tells `AutoTokenizer` to put the token that ends a text behind each.

        Raises:
            InputError: there is no such token.
        """
        end = self.eos_id
        if end is None:
            do = "use byte-bpe, unigram, char or word"
            raise InputError("the tokenizer has no token that ends a text", where="tokenizer.kind", do=do)
        name = self.token(end)
        whole = hf.Tokenizer.from_str(self.definition)
        whole.post_processor = hf.processors.TemplateProcessing(
            single=f"$A {name}", pair=f"$A {name} $B {name}", special_tokens=[(name, end)]
        )
        return Tokenizer(whole.to_str(pretty=True) + "\n", self.config)

    def with_special(self, names: Sequence[str], *, mask: str = "") -> Tokenizer:
        """One that gives the same ids, and behind them these special tokens new ones, in their order.

        Args:
            mask: which of them hides a token; "": none does.
        """
        whole = hf.Tokenizer.from_str(self.definition)
        whole.add_special_tokens([hf.AddedToken(name, special=True, normalized=False) for name in names])
        return Tokenizer(
            whole.to_str(pretty=True) + "\n", self.config | ({"mask_token": mask} if mask else {})
        )

    def framed(self) -> Tokenizer:
        """One that gives the same ids, and has an encoder's special tokens, which `AutoTokenizer` puts around texts."""
        more = self.with_special(FRAME, mask="[MASK]")
        whole = hf.Tokenizer.from_str(more.definition)
        ids = [(name, id_) for name in FRAME if (id_ := more.id_of(name)) is not None]
        whole.post_processor = hf.processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ids
        )
        names = {"cls_token": "[CLS]", "sep_token": "[SEP]"}
        return Tokenizer(whole.to_str(pretty=True) + "\n", more.config | names)

    def save(self, folder: Path | str) -> None:
        """Write tokenizer.json and tokenizer_config.json, each by rename, so that neither is ever half there."""
        from melete.data.tokenizer_files import write_folder

        write_folder(Path(folder), self.definition, self.config)

    def encode(self, text: str) -> list[int]:
        """The ids of a text; no special tokens are added, but those written out in the text are recognised."""
        return self._tokenizer.encode(_valid(text), add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids of each text, int64 arrays; the same as `encode`, on all cores."""
        ids, lengths = self.encoder.encode([_valid(text) for text in texts])
        return np.split(ids.astype(np.int64), np.cumsum(lengths)[:-1]) if len(lengths) else []

    def encode_offsets(self, texts: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        """The ids of each text as `encode` gives them, and where in the text each token begins: int64 (N,) both."""
        encoded = self._tokenizer.encode_batch([_valid(text) for text in texts], add_special_tokens=False)
        return [
            (np.array(one.ids, dtype=np.int64), np.array([at for at, _ in one.offsets], dtype=np.int64))
            for one in encoded
        ]

    def encode_spans(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """The ids of a text as `encode` gives them, int64 (N,), and the characters each covers, int64 (N, 2)."""
        encoded = self._tokenizer.encode(_valid(text), add_special_tokens=False)
        return np.array(encoded.ids, dtype=np.int64), np.array(encoded.offsets, dtype=np.int64).reshape(-1, 2)

    @property
    def continuation(self) -> str:
        """What a token begins with that goes on with the word before it (`##`); "" where spaces are in the tokens."""
        return getattr(self._tokenizer.model, "continuing_subword_prefix", None) or ""

    def frame(self, texts: int) -> tuple[list[int], list[int], list[int | None]]:
        """What this tokenizer puts around one text or two, shown on texts of a letter.

        Returns:
            Ids, the segment of each token, and the text that it belongs to; None: it is a special token.
        """
        encoded = self._tokenizer.encode("a", "a" if texts == 2 else None)
        return encoded.ids, encoded.type_ids, encoded.sequence_ids

    @cached_property
    def encoder(self) -> Encoder:
        """The quickest way to the same ids on this machine."""
        from melete.data.fast_encoding import choose_encoder

        return choose_encoder(self.definition, self._tokenizer)

    @cached_property
    def reference(self) -> Encoder:
        """The way to the ids that every other one is measured by: the `tokenizers` library."""
        from melete.data.fast_encoding import reference_encoder

        return reference_encoder(self._tokenizer, "the reference")

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """The text of ids; bytes that are not yet a whole character become U+FFFD."""
        return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=skip_special_tokens)

    def id_of(self, token: str) -> int | None:
        """The id of a token as it stands in the vocabulary, or None."""
        return self._tokenizer.token_to_id(token)

    def token(self, id_: int) -> str:
        """The vocabulary entry of an id, in the vocabulary's own spelling (`Ġthe`); "" for an id that is not used."""
        return self._tokenizer.id_to_token(int(id_)) or ""


def _valid(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"half of a surrogate pair at character {error.start}", expected="valid Unicode"
        ) from None
    return text
