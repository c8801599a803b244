"""From the names after `--data` to a tokenizer and two tokenised corpora."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path

from melete.config import RunConfig
from melete.console import say
from melete.data.corpus import Corpus
from melete.data.datasets import cache_folder, resolve, tokenised
from melete.data.splits import Documents, split_documents
from melete.data.tokenizers import Tokenizer
from melete.errors import InputError


@dataclass(frozen=True)
class Prepared:
    """What a run reads.

    Attributes:
        tokenizer: the given one, or one trained on the training text.
        train, valid: token streams.
        notes: what was found and decided about the data, line by line.
    """

    tokenizer: Tokenizer
    train: Corpus
    valid: Corpus
    notes: tuple[str, ...]

    def fingerprints(self) -> dict[str, str]:
        """SHA-256 of the text of each split; its tokenizer is kept in the run folder."""
        return {"train": self.train.text_sha256, "valid": self.valid.text_sha256}


def prepare_data(config: RunConfig, tokenizer: Tokenizer | None = None) -> Prepared:
    """Read, split and tokenise what a run trains on; what was tokenised before is found again, not redone.

    Args:
        tokenizer: None takes `tokenizer.source`, or trains one on the training text.

    Raises:
        InputError: no data, or something is wrong in it; the line names file and line.
        StorageError: no room for the tokens.
    """
    texts = read_texts(config)
    tokenizer = tokenizer or tokenizer_for(config, texts)
    return Prepared(
        tokenizer, tokenised(texts.train, tokenizer), tokenised(texts.valid, tokenizer), texts.notes
    )


@dataclass(frozen=True)
class Texts:
    """The text of a run, not yet tokenised.

    Attributes:
        notes: what was found and decided, line by line.
        special_tokens: strings that are one token each.
    """

    train: Documents
    valid: Documents
    notes: tuple[str, ...]
    special_tokens: tuple[str, ...]


def read_texts(config: RunConfig, *, whole: bool = True) -> Texts:
    """What the names in `data` stand for, split where nothing else says what is held out.

    Args:
        whole: see `data.datasets.resolve`.

    Raises:
        InputError: no data, or something is wrong in it; the line names file and line.
    """
    section = config.data
    if not section.train:
        raise InputError("no training text", where="data.train", expected="""data.train='["my.txt"]'""")
    read = partial(
        resolve,
        text_column=section.text_column or None,
        max_line_bytes=section.max_line_bytes,
        whole=whole,
    )
    source = read(section.train)
    train, valid, notes = source.train, source.valid, source.notes
    if section.valid:
        given = read(section.valid)
        valid, notes = given.valid or given.train, (*notes, *given.notes)
    elif valid is None:
        split = split_documents(train, section.valid_fraction, config.seed)
        train, valid, notes = split.train, split.valid, (*notes, split.note)
    for note in notes:
        say(note)
    return Texts(train, valid, notes, source.special_tokens)


def tokenizer_for(config: RunConfig, texts: Texts) -> Tokenizer:
    """The tokenizer that `tokenizer.source` names, or one trained on the training text.

    Raises:
        InputError: there is none, or it cannot be trained.
    """
    if config.tokenizer.source:
        return Tokenizer.load(Path(config.tokenizer.source))
    return _train_tokenizer(config, texts.train, texts.special_tokens)


def _train_tokenizer(config: RunConfig, documents: Documents, special_tokens: tuple[str, ...]) -> Tokenizer:
    """A tokenizer of the training text; the same text and settings find the one trained before."""
    section = config.tokenizer
    settings = f"{documents.source_hash} {section.kind} {section.vocab_size} {special_tokens}"
    settings += " lower case" * section.lowercase
    folder = cache_folder() / "tokenizers" / sha256(settings.encode()).hexdigest()[:16]
    if not (folder / "tokenizer.json").exists():
        texts: Iterator[str] = (document.text for document in documents)
        tokenizer = Tokenizer.train(
            texts, section.kind, section.vocab_size, special_tokens, lowercase=section.lowercase
        )
        tokenizer.save(folder)
    return Tokenizer.load(folder)
