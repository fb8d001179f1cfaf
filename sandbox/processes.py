# SPDX-License-Identifier: GPL-3.0-or-later
"""Background processes that a sandbox owns: started once, found again by pid file, ended only by that pid."""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence


def free_ports(count: int) -> list[int]:
    """Loopback ports that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]


def _start_time(pid: int) -> str | None:
    """The kernel's start tick of a pid (proc(5), field 22): a reused pid has another one."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def _recorded(pid_file: pathlib.Path) -> int | None:
    """The recorded pid if that very process still runs."""
    try:
        pid, started = pid_file.read_text().split()
    except (OSError, ValueError):
        return None
    return int(pid) if _start_time(int(pid)) == started else None


def running(pid_file: pathlib.Path) -> bool:
    return _recorded(pid_file) is not None


def start(pid_file: pathlib.Path, argv: Sequence[str], env: Mapping[str, str] | None = None) -> None:
    """Start a process of its own session; its output goes beside the pid file."""
    pid_file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with pid_file.with_suffix(".log").open("ab") as log:
        child = subprocess.Popen(
            argv,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    pid_file.write_text(f"{child.pid} {_start_time(child.pid)}\n")


def stop(pid_file: pathlib.Path, seconds: float = 30) -> None:
    """End the recorded process (SIGTERM, then SIGKILL after `seconds`); does nothing if it is gone."""
    if (pid := _recorded(pid_file)) is not None:
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + seconds
        while running(pid_file) and time.monotonic() < deadline:
            time.sleep(0.1)
        if running(pid_file):
            os.kill(pid, signal.SIGKILL)
    pid_file.unlink(missing_ok=True)
