"""Whole `melete` processes that start in a hundredth of a second, to be killed at any moment.

Run as a script this is the parent: it has imported everything, and forks a child for each command it reads.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Done:
    """How a process ended: its exit code (minus the signal that killed it) and what it printed."""

    code: int
    out: str
    err: str


class Launcher:
    """Starts `melete` commands in folders, one at a time; a context manager."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self._parent = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.folder, self.pid = Path(), 0

    def __enter__(self) -> Launcher:
        return self

    def __exit__(self, *exc: object) -> None:
        self._parent.communicate()

    def start(self, folder: Path, *arguments: object) -> None:
        """Start `melete arguments` in a folder, with a cache of its own."""
        assert self._parent.stdin is not None
        self.folder = folder
        command = [str(folder), *map(str, arguments)]
        print(json.dumps(command), file=self._parent.stdin, flush=True)
        self.pid = self._read()

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to the child; one that has just ended does not mind."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def wait(self) -> Done:
        """Until the child ends."""
        code = os.waitstatus_to_exitcode(self._read())
        return Done(code, (self.folder / "stdout").read_text(), (self.folder / "stderr").read_text())

    def run(self, folder: Path, *arguments: object) -> Done:
        """`melete arguments`, to its end."""
        self.start(folder, *arguments)
        return self.wait()

    def wait_for(self, pattern: str, text: str = "", seconds: float = 120) -> None:
        """Until a file that matches the pattern is there, and contains a text."""
        until = time.monotonic() + seconds
        while not any(not text or text in path.read_text() for path in self.folder.glob(pattern)):
            if time.monotonic() > until:
                raise AssertionError(f"no {text!r} in {pattern}: {(self.folder / 'stderr').read_text()}")
            time.sleep(0.001)

    def _read(self) -> int:
        assert self._parent.stdout is not None
        return int(self._parent.stdout.readline())


def child(folder: str, arguments: list[str]) -> None:
    """One command, in a process of its own, with its output in files."""
    from melete.cli import main

    os.chdir(folder)
    os.environ["MELETE_CACHE"] = str(Path(folder) / "cache")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job is born deaf to it
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # not the parent's, whose lines are commands
    for name, handle in (("stdout", 1), ("stderr", 2)):
        file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, handle)
    code: Any = 0
    try:
        main(arguments)
    except SystemExit as stop:
        code = stop.code or 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 70
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def serve() -> None:
    """Fork a child for each line of arguments; print its process id, and later its status."""
    import torch._dynamo  # noqa: F401, what every optimizer of torch imports, and takes a second

    import melete.cli.resume
    import melete.cli.train
    import melete.evaluation.scorecard
    import melete.training.run
    import melete.training.writing  # noqa: F401

    os.fsync = lambda fd: None  # a killed process loses nothing that the kernel holds, and disks are slow
    for line in sys.stdin:
        folder, *arguments = json.loads(line)
        pid = os.fork()
        if pid == 0:
            child(folder, arguments)
        print(pid, flush=True)
        print(os.waitpid(pid, 0)[1], flush=True)


if __name__ == "__main__":
    serve()
