# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs named steps: what each waits for and does, how long it takes, the log's last lines when it fails."""

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

from . import durations
from .settings import CACHE

LOGS = CACHE / "logs"
_WIDTH = 100  # of what a heartbeat shows of a line
_WORTH_SAYING = 10.0  # seconds: a shorter step is over before its estimate is read
_ENOUGH = 100  # items: the time of fewer says nothing about that of each


class StepFailed(Exception):
    """A step that cannot go on; the text says what to do."""


def say(text: str) -> None:
    """Progress goes to standard error: what a command prints may be evaluated by a shell."""
    print(text, file=sys.stderr, flush=True)


class Log:
    """The log of one step: every command's output goes there.

    :param name: by which the step's duration is known.
    """

    def __init__(self, path: pathlib.Path, name: str = "") -> None:
        self.path = path
        self.name = name
        # Whether this was the real work, whose duration is worth keeping: not where another process did it.
        self.worked = True
        self._file = path.open("ab")
        self._started = time.monotonic()
        self._expected = durations.known(name)
        self._whose = "last time" if durations.last(name) is not None else "on a machine of two cores"
        self._items, self._counted_at, self._at_most = 0, 0.0, False
        self._progress: Callable[[], str] | None = None

    def elapsed(self) -> float:
        """The seconds since the step began."""
        return time.monotonic() - self._started

    def note(self, text: str) -> None:
        """Say in the log, and so in the heartbeats, what is done where no command says it."""
        self._file.write(f"{text}\n".encode())
        self._file.flush()

    def count(self, items: int, progress: Callable[[], str], at_most: bool = False) -> None:
        """From now on the step is as long as the items that it has left, of which caches may have spared it many.

        :param items: that are left, for instance packages to compile.
        :param progress: says how far it is; the empty text shows the log's last line.
        :param at_most: whether the number is a bound, and so the estimate.
        """
        self._counted_at, self._progress = self.elapsed(), progress
        each = durations.known(self._each)
        if items < _ENOUGH:
            self._expected = None
        elif each is not None:
            self._expected, self._whose, self._at_most = self._counted_at + each * items, "expected", at_most

    def uncount(self, done: int) -> None:
        """So many items were done: heartbeats show the log's last line again, against the same estimate."""
        self._items, self._progress = done, None

    @property
    def _each(self) -> str:
        return f"{self.name}: each item"

    def keep_duration(self) -> None:
        """Record how long the step took, and how long for each item."""
        if self.worked:
            durations.record(self.name, self.elapsed())
            if self._items >= _ENOUGH:
                durations.record(self._each, (self.elapsed() - self._counted_at) / self._items)

    def estimate(self) -> str:
        """How long the step takes by what is known at its start; empty when that is nothing or not worth saying."""
        if self._expected is None or self._expected < _WORTH_SAYING:
            return ""
        return f"about {durations.rounded(self._expected)} {self._whose}"

    def heartbeat(self) -> str:
        """How far the step is: time, estimate, and what it does."""
        elapsed, expected, progress = self.elapsed(), self._expected, self._progress
        time_so_far = durations.spoken(elapsed)
        if expected is not None and elapsed <= expected:
            time_so_far += f" of {'at most' if self._at_most else 'about'} {durations.rounded(expected)}"
        elif expected is not None:
            time_so_far += f", longer than {self._whose}, {durations.spoken(expected)}"
        return f"{time_so_far}: {(progress and progress()) or self.last_line()}"

    def last_line(self) -> str:
        """The beginning of the log's last line that is not empty."""
        try:
            lines = self.path.read_text(errors="replace").splitlines()
        except OSError:  # `path` may name the log of a process that has not written yet
            lines = []
        line = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return line if len(line) <= _WIDTH else f"{line[: _WIDTH - 1]}…"

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


def _heartbeat_seconds() -> float:
    """The time between two heartbeats: a log of CI is read afterwards, where each is one line more."""
    return 10 if sys.stderr.isatty() else 30


@contextlib.contextmanager
def step(title: str, waits_for: str = "", name: str = "") -> Iterator[Log]:
    """Show a step, its duration, a heartbeat while it runs, and its log's end if it fails.

    :param title: what is shown.
    :param waits_for: what the step may hang on.
    :param name: by which its duration is known; the title unless that has a version, with which the estimate would go.
    """
    LOGS.mkdir(parents=True, exist_ok=True)
    path = LOGS / ("".join(c if c.isalnum() else "-" for c in title.lower()) + ".log")
    path.write_bytes(b"")
    log, done = Log(path, name or title), threading.Event()
    notes = "; ".join(filter(None, (waits_for and f"waits for {waits_for}", log.estimate())))
    say(f"── {title}" + (f" ({notes})" if notes else ""))

    def beat() -> None:
        while not done.wait(_heartbeat_seconds()):
            say(f"   … {log.heartbeat()}")

    threading.Thread(target=beat, daemon=True).start()
    try:
        yield log
    except (StepFailed, OSError, subprocess.SubprocessError) as error:
        done.set()
        say(f"   FAILED after {durations.spoken(log.elapsed())}: {error}\n   last lines of {path}:")
        say("\n".join("   | " + line for line in log.tail().splitlines()))
        say(f"   Mend that and run the same command again: it goes on from '{title}'.")
        sys.exit(1)
    finally:
        done.set()
        log.close()
    log.keep_duration()
    say(f"   ok, {durations.spoken(log.elapsed()) if log.elapsed() >= 60 else f'{log.elapsed():.1f} s'}")


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
