"""From the names after `--data` to a tokenizer and two tokenised corpora."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from melete.config import RunConfig
from melete.console import say
from melete.data.corpus import Corpus
from melete.data.datasets import NamedSet, cache_folder, resolve, tokenised
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
    if not config.data.train:
        raise InputError("no training text", where="data.train", expected="""data.train='["my.txt"]'""")
    text_column = config.data.text_column or None
    source = resolve(config.data.train, text_column=text_column)
    train, valid, notes = _splits(config, source, text_column)
    for note in notes:
        say(note)
    if tokenizer is None and config.tokenizer.source:
        tokenizer = Tokenizer.load(Path(config.tokenizer.source))
    if tokenizer is None:
        tokenizer = _train_tokenizer(config, train, source.special_tokens)
    return Prepared(tokenizer, tokenised(train, tokenizer), tokenised(valid, tokenizer), tuple(notes))


def _splits(
    config: RunConfig, source: NamedSet, text_column: str | None
) -> tuple[Documents, Documents, list[str]]:
    notes = list(source.notes)
    if config.data.valid:
        given = resolve(config.data.valid, text_column=text_column)
        return source.train, given.valid or given.train, [*notes, *given.notes]
    if source.valid is not None:
        return source.train, source.valid, notes
    split = split_documents(source.train, config.data.valid_fraction, config.seed)
    return split.train, split.valid, [*notes, split.note]


def _train_tokenizer(config: RunConfig, documents: Documents, special_tokens: tuple[str, ...]) -> Tokenizer:
    """A tokenizer of the training text; the same text and settings find the one trained before."""
    section = config.tokenizer
    settings = f"{documents.source_hash} {section.kind} {section.vocab_size} {special_tokens}"
    folder = cache_folder() / "tokenizers" / sha256(settings.encode()).hexdigest()[:16]
    if not (folder / "tokenizer.json").exists():
        texts: Iterator[str] = (document.text for document in documents)
        Tokenizer.train(texts, section.kind, section.vocab_size, special_tokens).save(folder)
    return Tokenizer.load(folder)
