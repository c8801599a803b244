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
    """Starts `melete` commands in a folder, one at a time; a context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        environment = {**os.environ, "MELETE_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
        self._parent = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,
            env=environment,
        )
        self.pid = 0

    def __enter__(self) -> Launcher:
        return self

    def __exit__(self, *exc: object) -> None:
        self._parent.communicate()

    def start(self, *arguments: object) -> None:
        """Start `melete arguments`."""
        assert self._parent.stdin is not None
        print(json.dumps([str(argument) for argument in arguments]), file=self._parent.stdin, flush=True)
        self.pid = self._read()

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to the child; one that has just ended does not mind."""
        os.kill(self.pid, number)

    def wait(self) -> Done:
        """Until the child ends."""
        status = self._read()
        code = os.waitstatus_to_exitcode(status)
        return Done(code, (self.folder / "stdout").read_text(), (self.folder / "stderr").read_text())

    def run(self, *arguments: object) -> Done:
        """`melete arguments`, to its end."""
        self.start(*arguments)
        return self.wait()

    def wait_for(self, path: Path, text: str = "", seconds: float = 60) -> None:
        """Until a file is there that contains a text."""
        for _ in range(int(seconds / 0.005)):
            if path.exists() and text in path.read_text():
                return
            time.sleep(0.005)
        raise AssertionError(f"{path} never came to contain {text!r}: {(self.folder / 'stderr').read_text()}")

    def _read(self) -> int:
        assert self._parent.stdout is not None
        return int(self._parent.stdout.readline())


def child(arguments: list[str]) -> None:
    """One command, in a process of its own, with its output in files."""
    from melete.cli import main

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
    import melete.cli.resume
    import melete.cli.train
    import melete.evaluation.scorecard
    import melete.training.run  # noqa: F401

    os.fsync = lambda fd: None  # a killed process loses nothing that the kernel holds, and disks are slow
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            child(json.loads(line))
        print(pid, flush=True)
        print(os.waitpid(pid, 0)[1], flush=True)


if __name__ == "__main__":
    serve()
