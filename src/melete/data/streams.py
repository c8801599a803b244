"""Files as checked text: decompressed, free of NUL bytes, valid UTF-8, a bounded number of bytes at a time.

Nothing here holds more than `max(whole, size, max_line_bytes)` bytes of a file, whatever its size, its compression
ratio or the length of its lines.
"""

from __future__ import annotations

import codecs
import difflib
import gzip
import io
import lzma
import os
import shutil
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from melete.console import say
from melete.errors import InputError, StorageError

MAX_LINE_BYTES = 16 << 20
STDIN = "-"
_READ_BYTES = 1 << 20
_SPOOLED = "melete-stdin-"
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

_REFUSED_MAGIC = {
    b"PK\x03\x04": ("a zip archive", "unzip it"),
    b"BZh": ("bzip2-compressed", "run `bunzip2` on it"),
    b"\x28\xb5\x2f\xfd": ("zstandard-compressed", "run `zstd -d` on it"),
    b"7z\xbc\xaf": ("a 7z archive", "unpack it"),
    b"%PDF": ("a PDF", "extract its text, e.g. with `pdftotext`"),
}
_LOOK_BYTES = 4096  # from which it is told whether a file is text
_CONTROLS = bytes({*range(1, 0x20)} - set(b"\t\n\v\f\r\x1b"))  # NUL is told apart: UTF-16 is full of it
# UTF-32 first: the little-endian mark of UTF-16 is a prefix of its own.
_WIDE_MARKS = {
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}


@dataclass(frozen=True)
class Reading:
    """How files are read.

    Attributes:
        max_line_bytes: the longest line (for CSV: record) that is read; a longer one is an error.
        note: told what was decided on the reader's behalf (column found, files skipped).
        problem: told of each byte that is not text, which then reads as U+FFFD; None makes the first one an error.
    """

    max_line_bytes: int = MAX_LINE_BYTES
    note: Callable[[str], None] = say
    problem: Callable[[InputError], None] | None = None

    def bad_text(self, error: InputError) -> None:
        """Report a byte that is not text, or raise."""
        if self.problem is None:
            raise error
        self.problem(error)


def display_name(name: str) -> str:
    """The file as messages call it."""
    return "<stdin>" if name == STDIN or os.path.basename(name).startswith(_SPOOLED) else name


def spool(name: str, suffix: str) -> tempfile._TemporaryFileWrapper[bytes]:
    """Standard input or a pipe, decompressed, as a temporary file that can be read again; gone when let go of.

    Raises:
        InputError, StorageError: as `open_bytes`; also for a full disk.
    """
    kept = tempfile.NamedTemporaryFile(prefix=_SPOOLED, suffix=suffix)  # noqa: SIM115  # lives as long as its holder
    with open_bytes(name) as stream:
        shutil.copyfileobj(stream, kept)
        kept.flush()
    return kept


@contextmanager
def open_bytes(name: str) -> Iterator[io.BufferedIOBase]:
    """The decompressed bytes of a file or of standard input; gzip and xz are known by their first bytes.

    Raises:
        InputError: no such file, another compression, or damaged compressed data (also while reading).
        StorageError: the machine refuses to read.
    """
    where = display_name(name)
    try:
        with _open_raw(name) as raw:
            head = raw.peek(6)[:6]
            if head.startswith(b"\x1f\x8b"):
                with gzip.GzipFile(fileobj=raw, mode="rb") as stream:
                    yield stream
            elif head.startswith(b"\xfd7zXZ\x00"):
                with lzma.LZMAFile(raw, mode="rb") as stream:
                    yield stream
            else:
                for magic, (kind, do) in _REFUSED_MAGIC.items():
                    if head.startswith(magic):
                        raise InputError(f"is {kind}", where=where, expected="plain, gzip or xz", do=do)
                if name.lower().endswith((".gz", ".xz")):
                    what = f"is called {name[-3:]} and does not begin like one: damaged, or not compressed"
                    raise InputError(what, where=where, do="fetch the file again, or rename it")
                yield raw
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise InputError(
            f"damaged compressed data ({error})", where=where, do="fetch or compress the file again"
        ) from error
    except OSError as error:
        raise StorageError(error.strerror or str(error), where=where) from error


@contextmanager
def _open_raw(name: str) -> Iterator[io.BufferedReader]:
    if name == STDIN:
        stdin: Any = sys.stdin.buffer  # a stand-in under tests may lack `peek`
        yield stdin if hasattr(stdin, "peek") else io.BufferedReader(stdin)
        return
    try:
        stream: Any = open(name, "rb", buffering=_READ_BYTES)  # noqa: SIM115  # only its opening is guarded here
    except (FileNotFoundError, NotADirectoryError) as error:
        raise missing(name) from error
    with stream:
        yield stream


def missing(name: str) -> InputError:
    """The error for a path that is not there, with the nearest name that is."""
    path = Path(name)
    try:
        beside = os.listdir(path.parent)
    except OSError:
        beside = []
    near = difflib.get_close_matches(path.name, beside, n=1)
    do = f"did you mean {path.parent / near[0]}?" if near else "check the path"
    return InputError("no such file or folder", where=name, do=do)


def chunks(
    name: str, reading: Reading, *, size: int, whole: int = 0, paragraphs: bool = False
) -> Iterator[tuple[int, bytearray]]:
    """Runs of whole lines of a file, each with the number of its first line (from 1); the byte-order mark is gone.

    Args:
        name: a file, or "-".
        reading: limits and reports.
        size: a run ends at the last line end before this many bytes; a single line that is longer stays whole.
        whole: a file of at most this many bytes is one run.
        paragraphs: end runs at the last blank line, where there is one.

    Raises:
        InputError: a line longer than the limit, UTF-16 or UTF-32, and what `open_bytes` raises.
    """
    where, limit = display_name(name), reading.max_line_bytes
    buffer, line, threshold, opening = bytearray(), 1, max(whole, size), True
    with open_bytes(name) as stream:
        while block := stream.read(_READ_BYTES):
            if opening:
                block, opening = _opened(block, where), False
            buffer += block
            start = 0
            while len(buffer) - start > threshold:
                stop = _line_end(buffer, start, start + size, paragraphs)
                if stop < 0:  # the line goes on in the next block
                    break
                threshold = size
                run = buffer[start:stop]
                _check_lines(run, limit, where, line)
                yield line, run
                line += run.count(b"\n")
                start = stop
            del buffer[:start]
            if len(buffer) > limit:
                _check_lines(buffer, limit, where, line)
        if buffer:
            _check_lines(buffer, limit, where, line)
            yield line, buffer


def _opened(block: bytes, where: str) -> bytes:
    """What a file opens with, without its byte-order mark; what is no UTF-8 text at all is refused."""
    for mark, encoding in _WIDE_MARKS.items():
        if block.startswith(mark):
            raise _wide(encoding, where)
    if _is_binary(block[:_LOOK_BYTES]):
        raise InputError(
            "is not text", where=where, expected="text in UTF-8", do="name the files of text alone"
        )
    return block.removeprefix(b"\xef\xbb\xbf")


def _is_binary(head: bytes) -> bool:
    """Whether more of it are control characters than in a text of any encoding, and it is not UTF-8 either."""
    controls = len(head) - len(head.translate(None, _CONTROLS))
    if controls * 50 < len(head):
        return False
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)  # its last character may be cut
    except UnicodeDecodeError:
        return True
    return False


def _wide(encoding: str, where: str) -> InputError:
    do = f"convert it: `iconv -f {encoding} -t UTF-8 {where} > utf8.txt`"
    return InputError(f"the text is {encoding}", where=where, expected="UTF-8", do=do)


def _line_end(buffer: bytearray, start: int, stop: int, paragraphs: bool) -> int:
    """Where to end a run that should not pass `stop`: after a blank line, after a line, or -1 if there is no end."""
    if paragraphs:
        unix, dos = buffer.rfind(b"\n\n", start, stop), buffer.rfind(b"\n\r\n", start, stop)
        if unix >= 0 or dos >= 0:
            return max(unix + 2, dos + 3)
    last = buffer.rfind(b"\n", start, stop)
    if last < 0:
        last = buffer.find(b"\n", stop)
    return last + 1 if last >= 0 else -1


def _check_lines(run: bytearray, limit: int, where: str, line: int) -> None:
    """Raise at the first line of more than `limit` bytes. Leaps from line end to line end, one look per `limit`."""
    start = 0
    while len(run) - start > limit:
        last = run.rfind(b"\n", start, start + limit + 1)
        if last < 0:
            at = line + run.count(b"\n", 0, start)
            raise too_long(f"{where}:{at}", limit)
        start = last + 1


def too_long(where: str, limit: int) -> InputError:
    """The error for a line or record beyond the limit."""
    do = "break it up, or raise the limit (--max-line-bytes, data.max_line_bytes in a recipe)"
    return InputError("line too long", where=where, expected=f"at most {limit:,} bytes", do=do)


def decode(run: bytearray, name: str, line: int, reading: Reading) -> str:
    """A run of lines as text; what is not text is reported with its line and its byte in the line.

    Raises:
        InputError: invalid UTF-8 or a NUL byte, unless `reading.problem` takes the report.
    """
    where = display_name(name)
    try:
        text = run.decode()
    except UnicodeDecodeError:
        text = _decode_around(run, where, line, reading)
    at = text.find("\0")
    if at < 0:
        return text
    if run[:1000].count(0) * 3 > len(run[:1000]):
        raise _wide("UTF-16", where)
    number, seen = line, 0
    while at >= 0:
        number, seen = number + text.count("\n", seen, at), at
        do = "is this a text file? remove the byte with `tr -d '\\000'`"
        reading.bad_text(InputError("NUL byte", where=f"{where}:{number}", expected="text", do=do))
        at = text.find("\0", at + 1)
    return text.replace("\0", _REPLACEMENT)


def _decode_around(run: bytearray, where: str, line: int, reading: Reading) -> str:
    """Report every undecodable sequence; decoding starts again after each, so that the whole stays linear."""
    view, parts, position, seen = memoryview(run), [], 0, 0
    while position < len(run):
        try:
            parts.append(str(view[position:], "utf-8"))
            break
        except UnicodeDecodeError as error:
            bad, after = position + error.start, position + error.end
        line, seen = line + run.count(b"\n", seen, bad), bad
        column = bad - run.rfind(b"\n", 0, bad)
        reading.bad_text(
            InputError(
                f"not valid UTF-8 (byte 0x{run[bad]:02X}, number {column} in its line)",
                where=f"{where}:{line}",
                expected="UTF-8",
                do="fix the byte, or convert the file with `iconv -f THE_ENCODING -t UTF-8`",
            )
        )
        parts += [str(view[position:bad], "utf-8"), _REPLACEMENT]
        position = after
    view.release()
    return "".join(parts)
