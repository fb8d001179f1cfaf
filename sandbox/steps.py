# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs named steps: what each waits for, how long it took, the log's last lines when it fails."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from .settings import CACHE

LOGS = CACHE / "logs"
_HEARTBEAT_SECONDS = 30


class StepFailed(Exception):
    """A step that cannot go on; the text says what to do."""


def say(text: str) -> None:
    """Progress goes to standard error: what a command prints may be evaluated by a shell."""
    print(text, file=sys.stderr, flush=True)


class Log:
    """The log of one step: every command's output goes there."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self._file = path.open("ab")

    def run(
        self,
        *argv: str | pathlib.Path,
        env: Mapping[str, str] | None = None,
        cwd: pathlib.Path | None = None,
        stdin: bytes | None = None,
        check: bool = True,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command to its end. Raises StepFailed when it fails and `check` is set."""
        self._file.write(f"$ {' '.join(map(str, argv))}\n".encode())
        self._file.flush()
        result = subprocess.run(
            [str(word) for word in argv],
            env={**os.environ, **(env or {})},
            cwd=cwd,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            stdout=self._file,
            stderr=subprocess.STDOUT,
            check=False,
        )
        if check and result.returncode:
            raise StepFailed(f"'{argv[0]}' ended with {result.returncode}")
        return result

    def pipe(self, source: Sequence[str], target: Sequence[str]) -> None:
        """`source | target`, both checked."""
        self._file.write(f"$ {' '.join(source)} | {' '.join(target)}\n".encode())
        self._file.flush()
        with subprocess.Popen(source, stdout=subprocess.PIPE, stderr=self._file) as first:
            second = subprocess.run(target, stdin=first.stdout, stdout=self._file, stderr=subprocess.STDOUT, check=False)
        if first.returncode or second.returncode:
            raise StepFailed(f"'{source[0]} | {target[0]}' failed")

    def tail(self, lines: int = 15) -> str:
        return "\n".join(self.path.read_text(errors="replace").splitlines()[-lines:])

    def close(self) -> None:
        self._file.close()


@contextlib.contextmanager
def step(title: str, waits_for: str = "") -> Iterator[Log]:
    """Show a step, its duration, a heartbeat while it runs, and its log's end if it fails."""
    LOGS.mkdir(parents=True, exist_ok=True)
    path = LOGS / ("".join(c if c.isalnum() else "-" for c in title.lower()) + ".log")
    path.write_bytes(b"")
    log, started, done = Log(path), time.monotonic(), threading.Event()
    say(f"── {title}" + (f" (waits for {waits_for})" if waits_for else ""))

    def beat() -> None:
        while not done.wait(_HEARTBEAT_SECONDS):
            last = log.tail(1).strip()[-100:]
            say(f"   … {time.monotonic() - started:.0f} s: {last}")

    threading.Thread(target=beat, daemon=True).start()
    try:
        yield log
    except (StepFailed, OSError, subprocess.SubprocessError) as error:
        done.set()
        say(f"   FAILED after {time.monotonic() - started:.0f} s: {error}\n   last lines of {path}:")
        say("\n".join("   | " + line for line in log.tail().splitlines()))
        say(f"   Mend that and run the same command again: it goes on from '{title}'.")
        sys.exit(1)
    finally:
        done.set()
        log.close()
    say(f"   ok, {time.monotonic() - started:.1f} s")


@contextlib.contextmanager
def alone(name: str) -> Iterator[None]:
    """Hold a lock that is shared by all processes that use this cache directory."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def wait(condition: Callable[[], bool], seconds: float, what: str, every: float = 0.5) -> None:
    """Wait until `condition()` holds. Raises StepFailed naming `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise StepFailed(f"{what} did not come within {seconds:.0f} s")
        time.sleep(every)
