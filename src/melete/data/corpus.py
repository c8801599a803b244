"""A text as memory-mapped token ids: written once, in shards, and read at any position.

Layout: `<eos> t1 ... tn <eos> t1 ... tn ... <eos>`. Every document stands behind the end token, which is also its
beginning, and a last one closes the stream, so that each token, the end of each document included, is predicted from
what precedes it. A tokenizer without such a token (BERT) stores bare documents.

A folder holds `shard-00000.ids` (uint16, or uint32 above 65,536 ids), `shard-00000.starts` (uint64, where its documents
start in the whole stream), `shard-00000.json` (counts and checksums; written last, so that it vouches for the other
two), and at the end `meta.json`. A shard appears by rename, when it is whole, and ends at a fixed number of documents
of the stream; so a run that was killed goes on behind the last whole shard, and ends in the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from melete.errors import InputError, StorageError

if TYPE_CHECKING:
    from melete.data.readers import Document
    from melete.data.tokenizers import Tokenizer

LAYOUT = 1


class Shard(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one shard holds.

    Attributes:
        documents, tokens, num_bytes, num_words: counts of this shard alone; `tokens` includes the end tokens.
        text_sha256: of the text from the first document to the end of this shard, each document followed by 0xFF.
        ids_sha256, starts_sha256: of the two files.
        last: the stream ends here.
    """

    documents: int
    tokens: int
    num_bytes: int
    num_words: int
    text_sha256: str
    ids_sha256: str
    starts_sha256: str
    last: bool


class Meta(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """meta.json: whose corpus it is and what it holds."""

    layout: int
    source_hash: str
    tokenizer: str
    eos_id: int | None
    dtype: str
    shards: list[Shard]


class Corpus:
    """Token ids of a whole text, on disk.

    Attributes:
        folder: where it lies.
        documents: number of documents.
        num_bytes: UTF-8 bytes of the text.
        num_words: words between white space, plus line ends: how WikiText and its literature count.
        fingerprint: of the tokenizer.
        source_hash: of the source, as it was given to `prepare`.
        text_sha256: of the text itself.
    """

    def __init__(self, folder: Path, meta: Meta) -> None:
        self.folder, self.meta = folder, meta
        self.documents = sum(shard.documents for shard in meta.shards)
        self.num_bytes = sum(shard.num_bytes for shard in meta.shards)
        self.num_words = sum(shard.num_words for shard in meta.shards)
        self.fingerprint, self.source_hash = meta.tokenizer, meta.source_hash
        self.text_sha256 = meta.shards[-1].text_sha256
        self._borders = np.cumsum([0, *(shard.tokens for shard in meta.shards)])
        self._ids = [
            _map(shard_path(folder, i, "ids"), np.dtype(meta.dtype), s.tokens)
            for i, s in enumerate(meta.shards)
        ]
        self._starts = [
            _map(shard_path(folder, i, "starts"), np.dtype(np.uint64), s.documents)
            for i, s in enumerate(meta.shards)
        ]

    @classmethod
    def load(cls, folder: Path | str) -> Corpus:
        """Open a prepared corpus; nothing is read into memory.

        Raises:
            InputError: the folder holds no corpus, an unfinished one, or one of another layout.
            StorageError: a shard is damaged.
        """
        folder = Path(folder)
        meta = read_meta(folder)
        if meta is None:
            raise InputError(
                "no prepared corpus here", where=str(folder), do="prepare it: melete data prepare"
            )
        return cls(folder, meta)

    def __len__(self) -> int:
        """Tokens of the stream, end tokens included."""
        return int(self._borders[-1])

    def read(self, start: int, stop: int) -> np.ndarray:
        """Ids at positions [start, stop), across shards: int64 (stop - start,).

        Raises:
            IndexError: outside of the corpus.
        """
        if not 0 <= start <= stop <= len(self):
            raise IndexError(f"[{start}, {stop}) of {len(self)} tokens")
        ids = np.empty(stop - start, dtype=np.int64)  # (stop - start,)
        shard = int(np.searchsorted(self._borders, start, side="right")) - 1
        at = start
        while at < stop:
            begin, end = int(self._borders[shard]), min(int(self._borders[shard + 1]), stop)
            ids[at - start : end - start] = self._ids[shard][at - begin : end - begin]
            at, shard = end, shard + 1
        return ids

    def document_starts(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Positions of the first token of each document that begins in [start, stop): int64, ascending."""
        stop = len(self) if stop is None else stop
        first = max(int(np.searchsorted(self._borders, start, side="right")) - 1, 0)
        found = []
        for shard in range(first, len(self._starts)):
            if self._borders[shard] >= stop:
                break
            starts = self._starts[shard]
            a, b = np.searchsorted(starts, np.array([max(start, 0), max(stop, 0)], dtype=np.uint64))
            found.append(starts[a:b].astype(np.int64))
        return np.concatenate(found) if found else np.empty(0, dtype=np.int64)

    def require(self, tokenizer: Tokenizer) -> None:
        """Refuse a tokenizer that did not make this corpus.

        Raises:
            InputError: its fingerprint is another.
        """
        if tokenizer.fingerprint != self.fingerprint:
            raise InputError(
                f"made with another tokenizer ({self.fingerprint[:12]}, not {tokenizer.fingerprint[:12]})",
                where=str(self.folder),
                do="prepare the text again with this tokenizer, or use the one that made it",
            )


def corpus_key(source_hash: str, tokenizer: Tokenizer) -> str:
    """The name of a corpus in a cache: equal for equal text and equal tokenizer."""
    return hashlib.sha256(f"{LAYOUT} {source_hash} {tokenizer.fingerprint}".encode()).hexdigest()[:32]


def prepare(
    documents: Iterable[Document],
    tokenizer: Tokenizer,
    folder: Path | str,
    *,
    source_hash: str,
    workers: int | None = None,
    total_bytes: int | None = None,
    shard_characters: int = 1 << 25,
) -> Corpus:
    """Tokenise a stream of documents into a folder, in flat memory; what is already there is not done again.

    The same documents must come in the same order whenever `source_hash` is the same.

    Args:
        source_hash: what identifies the text, such as `Documents.source_hash`: it is computed from the content, not
            from dates and sizes, so that a changed file is never served as it was.
        workers: threads that tokenise; default: the cores this process may use. The bytes written don't depend on it.
        total_bytes: size of the text, for the time left and to check the free disk before starting; default: what the
            documents expect of themselves (`Documents.expected_bytes`).
        shard_characters: a shard ends with the document that reaches this many characters.

    Raises:
        InputError: no documents; or the folder holds another corpus; or the documents changed since an
            interrupted run.
        StorageError: not enough room, or the folder cannot be written.
    """
    from melete.data.corpus_writer import write

    folder = Path(folder)
    done = read_meta(folder)
    if done is not None and (done.source_hash, done.tokenizer) == (source_hash, tokenizer.fingerprint):
        return Corpus(folder, done)
    if done is not None:
        raise other_corpus(folder)
    if total_bytes is None:
        total_bytes = getattr(documents, "expected_bytes", None)
    write(documents, tokenizer, folder, source_hash, workers, total_bytes, shard_characters)
    return Corpus.load(folder)


def other_corpus(folder: Path) -> InputError:
    """The refusal to mix two corpora in one folder."""
    return InputError(
        "this folder holds a corpus of another text or tokenizer",
        where=str(folder),
        do="choose another folder, or delete this one",
    )


def shard_path(folder: Path, index: int, what: str) -> Path:
    """`shard-00012.ids`, `.starts` or `.json`."""
    return folder / f"shard-{index:05d}.{what}"


def read_meta(folder: Path) -> Meta | None:
    """meta.json of a folder, or None where there is none.

    Raises:
        InputError: it is of another layout.
        StorageError: it cannot be read.
    """
    path = folder / "meta.json"
    try:
        values = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StorageError(f"cannot read: {error.strerror}", where=str(path)) from None
    except ValueError:
        raise _damaged(path) from None
    if not isinstance(values, dict) or values.get("layout") != LAYOUT:
        raise InputError(
            "a corpus of another version", where=str(path), do="delete the folder and prepare it again"
        )
    try:
        return msgspec.convert(values, Meta)
    except msgspec.ValidationError:
        raise _damaged(path) from None


def _map(path: Path, dtype: np.dtype[Any], length: int) -> np.ndarray:
    try:
        if path.stat().st_size != length * dtype.itemsize:
            raise _damaged(path)
        # An empty file cannot be mapped: the last shard may hold the closing token alone, and no document.
        return np.memmap(path, dtype=dtype, mode="r") if length else np.empty(0, dtype=dtype)
    except OSError as error:
        raise StorageError(f"cannot read: {error.strerror}", where=str(path)) from None


def _damaged(path: Path) -> StorageError:
    return StorageError("damaged", where=str(path), do="delete the folder and prepare it again")
