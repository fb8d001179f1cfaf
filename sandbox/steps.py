# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs named steps. Shows what each waits for, how long it takes, and the end of its log if it fails."""

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
_WIDTH = 100  # characters of a log line in a heartbeat
_WORTH_SAYING = 10.0  # seconds: shorter steps end before anyone reads an estimate
_ENOUGH = 100  # items: fewer do not show how long one takes


class StepFailed(Exception):
    """A step failed. The text says what to do."""


def say(text: str) -> None:
    """Print progress to standard error, since a shell may evaluate what a command prints."""
    print(text, file=sys.stderr, flush=True)


class Log:
    """The log of one step, with the output of its commands.

    :param name: the key of the step's recorded duration.
    """

    def __init__(self, path: pathlib.Path, name: str = "") -> None:
        self.path = path
        self.name = name
        # False if another process did the work meanwhile; then the duration is not recorded.
        self.worked = True
        self._file = path.open("ab")
        self._started = time.monotonic()
        self._expected = durations.known(name)
        self._whose = "last time" if durations.last(name) is not None else "on a machine of two cores"
        self._items, self._counted_at, self._at_most = 0, 0.0, False
        self._progress: Callable[[], str] | None = None

    def elapsed(self) -> float:
        """Returns the seconds since the step began."""
        return time.monotonic() - self._started

    def note(self, text: str) -> None:
        """Write a line into the log, and so into the heartbeats, for work that is not a command."""
        self._file.write(f"{text}\n".encode())
        self._file.flush()

    def count(self, items: int, progress: Callable[[], str], at_most: bool = False) -> None:
        """Estimate the rest of the step from the number of items, such as packages to compile.

        :param items: the number left to do, without those that a cache already has.
        :param progress: describes the progress; if it returns an empty text, the log's last line is shown.
        :param at_most: whether `items` is an upper bound.
        """
        self._counted_at, self._progress = self.elapsed(), progress
        each = durations.known(self._each)
        if items < _ENOUGH:
            self._expected = None
        elif each is not None:
            self._expected, self._whose, self._at_most = self._counted_at + each * items, "expected", at_most

    def uncount(self, done: int) -> None:
        """End the counting after this many items. Heartbeats show the log's last line again; the estimate stays."""
        self._items, self._progress = done, None

    @property
    def _each(self) -> str:
        return f"{self.name}: each item"

    def keep_duration(self) -> None:
        """Record how long the step and each item took."""
        if self.worked:
            durations.record(self.name, self.elapsed())
            if self._items >= _ENOUGH:
                durations.record(self._each, (self.elapsed() - self._counted_at) / self._items)

    def estimate(self) -> str:
        """Returns how long the step will take, or nothing if that is unknown or short."""
        if self._expected is None or self._expected < _WORTH_SAYING:
            return ""
        return f"about {durations.rounded(self._expected)} {self._whose}"

    def heartbeat(self) -> str:
        """Returns a line with the time so far, the estimate and what the step is doing."""
        elapsed, expected, progress = self.elapsed(), self._expected, self._progress
        time_so_far = durations.spoken(elapsed)
        if expected is not None and elapsed <= expected:
            time_so_far += f" of {'at most' if self._at_most else 'about'} {durations.rounded(expected)}"
        elif expected is not None:
            time_so_far += f", longer than {self._whose}, {durations.spoken(expected)}"
        return f"{time_so_far}: {(progress and progress()) or self.last_line()}"

    def last_line(self) -> str:
        """Returns the beginning of the last line of the log that is not empty."""
        try:
            lines = self.path.read_text(errors="replace").splitlines()
        except OSError:  # the log of a process that has not written anything yet
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
        """Run a command and wait for it. Raises StepFailed if it fails and `check` is set."""
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
            raise StepFailed(f"'{argv[0]}' failed with exit code {result.returncode}")
        return result

    def pipe(self, source: Sequence[str], target: Sequence[str]) -> None:
        """Run `source | target`. Raises StepFailed if either fails."""
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
    """Returns the time between two heartbeats: longer in a CI log, which nobody watches."""
    return 10 if sys.stderr.isatty() else 30


@contextlib.contextmanager
def step(title: str, waits_for: str = "", name: str = "") -> Iterator[Log]:
    """Show a step: its title, a heartbeat while it runs, its duration, and the end of its log if it fails.

    :param title: the text that is shown.
    :param waits_for: the step may wait for this, such as a download.
    :param name: the key of its recorded duration. Default: the title. Give a name without the version for a title that has one.
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
        say(f"   Fix the cause and run the same command again. It resumes at '{title}'.")
        sys.exit(1)
    finally:
        done.set()
        log.close()
    log.keep_duration()
    say(f"   ok, {durations.spoken(log.elapsed()) if log.elapsed() >= 60 else f'{log.elapsed():.1f} s'}")


@contextlib.contextmanager
def alone(name: str) -> Iterator[None]:
    """Hold a lock that all processes share which use this cache directory."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def wait(condition: Callable[[], bool], seconds: float, what: str, every: float = 0.5) -> None:
    """Wait until `condition()` is true. Raises StepFailed with the name `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise StepFailed(f"timed out after {seconds:.0f} s waiting for {what}")
        time.sleep(every)
