"""From documents to the shards of a corpus: threads tokenise, one writes, in the order of the documents."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import msgspec
import numpy as np

from melete.console import Progress, counted, say
from melete.data.corpus import LAYOUT, Meta, Shard, other_corpus, read_meta, shard_path
from melete.data.fast_encoding import Encoder, agrees
from melete.errors import InputError, StorageError
from melete.machine import usable_cores

if TYPE_CHECKING:
    from melete.data.readers import Document
    from melete.data.tokenizers import Tokenizer

_BATCH = 1 << 19  # characters that one thread takes at a time
_PROOF = 1 << 20  # characters of the corpus that both encoders must agree on before the quick one is used
_PROOF_EACH = 1 << 16  # ... and once more in the batch that opens a shard
_PIECE = 1 << 13


def write(
    documents: Iterable[Document],
    tokenizer: Tokenizer,
    folder: Path,
    source_hash: str,
    workers: int | None,
    total_bytes: int | None,
    shard_characters: int,
) -> None:
    """Write what is missing of a corpus; see `corpus.prepare`."""
    with _refusals(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder), _claimed(folder, source_hash, tokenizer) as missing:
            if missing:
                _Writer(tokenizer, folder, source_hash, total_bytes).run(documents, workers, shard_characters)


@dataclass(frozen=True)
class _Batch:
    """Consecutive documents of one shard."""

    texts: list[str]
    opens: bool
    closes: bool


@dataclass(frozen=True)
class _Encoded:
    """A batch as it goes to disk.

    Attributes:
        ids: with the end token before each document, (N,).
        starts: where documents start in `ids`, int64 (D,).
        text: the documents' UTF-8, each followed by 0xFF, which UTF-8 never contains.
        words: words and line ends.
        closes: the shard ends here.
    """

    ids: np.ndarray
    starts: np.ndarray
    text: bytes
    words: int
    closes: bool

    @property
    def num_bytes(self) -> int:
        return len(self.text) - len(self.starts)


class _Writer:
    def __init__(self, tokenizer: Tokenizer, folder: Path, source_hash: str, total_bytes: int | None) -> None:
        self.tokenizer, self.folder = tokenizer, folder
        self.source_hash, self.total_bytes = source_hash, total_bytes
        self.dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32)
        self.eos = tokenizer.eos_id
        self.encoder = tokenizer.encoder
        self.text_hash = hashlib.sha256()
        self.shards: list[Shard] = []
        self.tokens = 0
        self.room_checked = False

    def run(self, documents: Iterable[Document], workers: int | None, shard_characters: int) -> None:
        texts = (document.text for document in documents)
        total = self.total_bytes / 1e6 if self.total_bytes else None
        with Progress("tokenising", "MB", total) as progress:
            self._keep_finished(texts, progress)
            if not (self.shards and self.shards[-1].last):
                self._write_rest(texts, workers or usable_cores(), shard_characters, progress)
        meta = Meta(
            LAYOUT, self.source_hash, self.tokenizer.fingerprint, self.eos, self.dtype.name, self.shards
        )
        _write_whole(self.folder / "meta.json", msgspec.json.format(msgspec.json.encode(meta)))

    def _keep_finished(self, texts: Iterator[str], progress: Progress) -> None:
        """Step over the documents of whole shards: they are read, to be sure that they are the same, not tokenised."""
        while (shard := _finished(self.folder, len(self.shards))) is not None:
            count = 0
            for text in islice(texts, shard.documents):
                data = text.encode()
                self.text_hash.update(data + b"\xff")
                progress.advance(len(data) / 1e6)
                count += 1
            if count != shard.documents or self.text_hash.hexdigest() != shard.text_sha256:
                raise InputError(
                    "the documents are not those of the interrupted run, whose shards are now removed",
                    where=str(self.folder),
                    do="run the command again",
                )
            self.shards.append(shard)
            self.tokens += shard.tokens
        if self.shards:
            say(f"going on behind {counted(len(self.shards), 'finished shard')} ({self.tokens:,} tokens)")

    def _write_rest(
        self, texts: Iterator[str], workers: int, shard_characters: int, progress: Progress
    ) -> None:
        batches = _batches(texts, shard_characters)
        # A library that uses every core by itself gets one batch at a time, and the next is read meanwhile.
        threads = 1 if self.encoder.parallel else workers
        proof = _Proof(self.tokenizer, self.encoder)
        shard = _ShardFile(self.folder, len(self.shards), self.dtype)
        pool = ThreadPoolExecutor(threads)
        waiting: deque[Future[_Encoded]] = deque()
        try:
            more = True
            while more or waiting:
                while more and len(waiting) < threads + 2:
                    batch = next(batches, None)
                    more = batch is not None
                    if batch is not None:
                        waiting.append(pool.submit(self._encode, proof, batch))
                if not waiting:
                    break
                encoded = waiting.popleft().result()
                self._check_room(encoded, progress)
                self._append(shard, encoded)
                progress.advance(encoded.num_bytes / 1e6)
                if encoded.closes:
                    self._finish(shard, last=False)
                    shard = _ShardFile(self.folder, len(self.shards), self.dtype)
            self._close(shard)
        finally:
            for future in waiting:
                future.cancel()
            pool.shutdown()
            shard.discard()

    def _encode(self, proof: _Proof, batch: _Batch) -> _Encoded:
        encoder = proof.check(batch)
        ids, lengths = encoder.encode(batch.texts)
        starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        if self.eos is not None:
            ids = np.insert(ids, starts, self.eos)
            starts = starts + np.arange(len(starts))
        data = [text.encode() for text in batch.texts]
        words = sum(len(text.split()) + text.count("\n") for text in batch.texts)
        return _Encoded(ids.astype(self.dtype), starts, b"\xff".join([*data, b""]), words, batch.closes)

    def _append(self, shard: _ShardFile, encoded: _Encoded) -> None:
        shard.add(encoded, first=self.tokens)
        self.text_hash.update(encoded.text)
        self.tokens += len(encoded.ids)

    def _close(self, shard: _ShardFile) -> None:
        """The closing end token, in a shard of its own where the last document filled one."""
        if not self.tokens:
            raise InputError("no documents: there is nothing to tokenise", where=str(self.folder))
        if self.eos is not None:
            shard.write(np.array([self.eos], dtype=self.dtype))
            self.tokens += 1
        self._finish(shard, last=True)

    def _finish(self, shard: _ShardFile, last: bool) -> None:
        self.shards.append(shard.finish(self.text_hash.hexdigest(), last))

    def _check_room(self, encoded: _Encoded, progress: Progress) -> None:
        """Before the first byte is written: the first batch tells how large the whole becomes."""
        if self.room_checked or self.total_bytes is None:
            return
        self.room_checked = True
        size = encoded.ids.nbytes + encoded.starts.nbytes
        left = max(self.total_bytes - progress.done * 1e6, encoded.num_bytes)
        needed = int(left * size / encoded.num_bytes * 1.05) + (1 << 20)
        free = free_bytes(self.folder)
        if free < needed:
            raise StorageError(
                f"not enough room: about {needed:,} bytes needed, {free:,} free",
                where=str(self.folder),
                do="free some disk, or choose another folder",
            )


class _Proof:
    """Lets the quick encoder be used only as long as it agrees with the library on the corpus at hand."""

    def __init__(self, tokenizer: Tokenizer, encoder: Encoder) -> None:
        self.reference, self.encoder = tokenizer.reference, encoder
        self.left = _PROOF

    def check(self, batch: _Batch) -> Encoder:
        if self.encoder.name == self.reference.name:
            return self.encoder
        room = max(self.left, _PROOF_EACH if batch.opens else 0)
        if room <= 0:
            return self.encoder
        self.left -= sum(map(len, batch.texts))
        sample: list[str] = []
        for text in batch.texts:
            # Short pieces, because the library is slow on long texts.
            sample += [text[at : at + _PIECE] for at in range(0, min(len(text), room), _PIECE)]
            room -= len(text)
            if room <= 0:
                break
        if not agrees(self.encoder, self.reference, sample):
            raise InputError(
                f"{self.encoder.name} and tokenizers give different ids for this text",
                do="run again with MELETE_FAST_BPE=0 in the environment",
            )
        return self.encoder


class _ShardFile:
    """One shard under temporary names, until it is whole."""

    def __init__(self, folder: Path, index: int, dtype: np.dtype[Any]) -> None:
        self.folder, self.index, self.dtype = folder, index, dtype
        self.files: dict[str, IO[bytes]] = {}
        self.hashes = {"ids": hashlib.sha256(), "starts": hashlib.sha256()}
        self.documents = self.tokens = self.num_bytes = self.num_words = 0
        for what in self.hashes:
            self.files[what] = open(self._temporary(what), "wb")  # noqa: SIM115 (closed in `finish` or `discard`)

    def add(self, encoded: _Encoded, first: int) -> None:
        """Append a batch whose first token stands at `first` in the stream."""
        self.write(encoded.ids)
        self._put("starts", (encoded.starts + first).astype(np.uint64))
        self.documents += len(encoded.starts)
        self.num_bytes += encoded.num_bytes
        self.num_words += encoded.words

    def write(self, ids: np.ndarray) -> None:
        self._put("ids", ids)
        self.tokens += len(ids)

    def finish(self, text_sha256: str, last: bool) -> Shard:
        shard = Shard(
            self.documents,
            self.tokens,
            self.num_bytes,
            self.num_words,
            text_sha256,
            self.hashes["ids"].hexdigest(),
            self.hashes["starts"].hexdigest(),
            last,
        )
        for what, file in self.files.items():
            file.flush()
            os.fsync(file.fileno())
            file.close()
            self._temporary(what).replace(shard_path(self.folder, self.index, what))
        _write_whole(shard_path(self.folder, self.index, "json"), msgspec.json.encode(shard))
        return shard

    def discard(self) -> None:
        for what, file in self.files.items():
            with suppress(OSError):
                file.close()
            self._temporary(what).unlink(missing_ok=True)

    def _put(self, what: str, values: np.ndarray) -> None:
        data = values.tobytes()
        self.files[what].write(data)
        self.hashes[what].update(data)

    def _temporary(self, what: str) -> Path:
        path = shard_path(self.folder, self.index, what)
        return path.with_name(f"{path.name}.tmp")


def free_bytes(folder: Path) -> int:
    """Free bytes on the disk of a folder."""
    return shutil.disk_usage(folder).free


def _batches(texts: Iterator[str], shard_characters: int) -> Iterator[_Batch]:
    """Documents in handfuls. Where a shard ends depends on the documents alone."""
    batch: list[str] = []
    size, in_shard, opens = 0, 0, True
    for text in texts:
        batch.append(text)
        size += len(text)
        in_shard += len(text)
        closes = in_shard >= shard_characters
        if closes or size >= _BATCH or len(batch) >= _BATCH // 64:
            yield _Batch(batch, opens, closes)
            batch, size, opens = [], 0, closes
            in_shard = 0 if closes else in_shard
    if batch:
        yield _Batch(batch, opens, False)


def _finished(folder: Path, index: int) -> Shard | None:
    """A whole, undamaged shard of an interrupted run, or None."""
    try:
        shard = msgspec.json.decode(shard_path(folder, index, "json").read_bytes(), type=Shard)
        for what, expected in (("ids", shard.ids_sha256), ("starts", shard.starts_sha256)):
            with open(shard_path(folder, index, what), "rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != expected:
                    return None
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    return shard


@contextmanager
def _claimed(folder: Path, source_hash: str, tokenizer: Tokenizer) -> Iterator[bool]:
    """Says in the folder whose shards these are, while they are unfinished; yields whether anything is missing.

    Shards of a broken text are removed: a mended text is another one. Shards of a killed run stay.
    """
    for path in folder.glob("*.tmp"):
        path.unlink()
    done = read_meta(folder)
    if done is not None:  # finished by another process while this one waited
        if (done.source_hash, done.tokenizer) != (source_hash, tokenizer.fingerprint):
            raise other_corpus(folder)
        yield False
        return
    mine = json.dumps({"layout": LAYOUT, "source_hash": source_hash, "tokenizer": tokenizer.fingerprint})
    claim = folder / "unfinished.json"
    if not claim.exists():
        _write_whole(claim, mine.encode())
    elif claim.read_text(encoding="utf-8") != mine:
        raise other_corpus(folder)
    try:
        yield True
    except InputError:
        for path in folder.glob("shard-*"):
            path.unlink()
        raise
    finally:
        if (folder / "meta.json").exists() or not any(folder.glob("shard-*")):
            claim.unlink(missing_ok=True)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time; a second one waits, and then finds the work done."""
    try:
        import fcntl
    except ImportError:
        # No such lock on this system: two runs at once would do the same work to the same names.
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another process that prepares {folder}")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextmanager
def _refusals(folder: Path) -> Iterator[None]:
    """What the disk refuses becomes one line; a folder that was made for nothing goes again."""
    new = not folder.exists()
    try:
        yield
    except OSError as error:
        free = ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = f" ({free_bytes(folder):,} bytes free)"
        raise StorageError(
            f"cannot write the token shards: {error.strerror}{free}",
            where=str(folder),
            do="free some disk or choose another folder; whole shards are kept and not done again",
        ) from None
    finally:
        if new:
            with suppress(OSError):  # not empty, or never made
                folder.rmdir()


def _write_whole(path: Path, data: bytes) -> None:
    """A file that is there whole or not at all."""
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
