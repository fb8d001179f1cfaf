# SPDX-License-Identifier: GPL-3.0-or-later
"""Background processes of a sandbox: started once, found again by their pid file, stopped by that pid only."""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence

_KEY = "SANDBOX_PROCESS_KEY"  # in a process's environment, so that no file can disagree with the process


def free_ports(count: int) -> list[int]:
    """Returns loopback ports that are free now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]


def _start_time(pid: int) -> str | None:
    """Returns when a process started, in the kernel's ticks (proc(5), field 22): a reused pid has another value."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def _recorded(pid_file: pathlib.Path) -> int | None:
    """Returns the recorded pid if that process still runs."""
    try:
        pid, started = pid_file.read_text().split()
    except (OSError, ValueError):
        return None
    return int(pid) if _start_time(int(pid)) == started else None


def _environment(pid: int) -> list[bytes]:
    try:
        return pathlib.Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _has_key(pid: int, key: str) -> bool:
    name = f"{_KEY}=".encode()
    deadline = time.monotonic() + 1
    # A process that has just begun to execute its program has no environment yet.
    while (environment := _environment(pid)) == [b""] and time.monotonic() < deadline:
        time.sleep(0.01)
    return name + key.encode() in environment


def running(pid_file: pathlib.Path, key: str | None = None) -> bool:
    """Returns whether the recorded process runs; with `key`, whether it was also started with that key."""
    pid = _recorded(pid_file)
    return pid is not None and (key is None or _has_key(pid, key))


def start(pid_file: pathlib.Path, argv: Sequence[str], env: Mapping[str, str] | None = None, key: str | None = None) -> None:
    """Start a process in a separate session, with its output in a log file beside the pid file.

    :param key: identifies what the process runs, so that `running` can tell it from another version.
    """
    pid_file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with pid_file.with_suffix(".log").open("ab") as log:
        child = subprocess.Popen(
            argv,
            env={**os.environ, **(env or {}), **({} if key is None else {_KEY: key})},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    pid_file.write_text(f"{child.pid} {_start_time(child.pid)}\n")


def stop(pid_file: pathlib.Path, seconds: float = 30) -> None:
    """Stop the recorded process: SIGTERM, then SIGKILL after `seconds`. Does nothing if it has ended."""
    if (pid := _recorded(pid_file)) is not None:
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + seconds
        while running(pid_file) and time.monotonic() < deadline:
            time.sleep(0.1)
        if running(pid_file):
            os.kill(pid, signal.SIGKILL)
    pid_file.unlink(missing_ok=True)
