# SPDX-License-Identifier: GPL-3.0-or-later
"""Memory of processes, and a cgroup that limits it. Requires root and a memory controller (cgroup v1 or v2)."""

from __future__ import annotations

import contextlib
import os
import pathlib
import time
from collections.abc import Iterable, Iterator

_ROOT = pathlib.Path("/sys/fs/cgroup")


def family(pids: Iterable[int]) -> set[int]:
    """Returns the processes and all their descendants."""
    parents: dict[int, int] = {}
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found: set[int] = set(pids)
    while new := {pid for pid, parent in parents.items() if parent in found and pid not in found}:
        found |= new
    return found


def resident(pids: Iterable[int]) -> int:
    """Returns anonymous and shared memory of the processes and their descendants in bytes, without file cache."""
    kibibytes = 0
    for pid in family(pids):
        with contextlib.suppress(OSError):
            for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith(("RssAnon:", "RssShmem:")):
                    kibibytes += int(line.split()[1])
    return kibibytes << 10


@contextlib.contextmanager
def limit(name: str, size: int) -> Iterator[pathlib.Path | None]:
    """Yields a memory cgroup limited to `size` bytes, including page cache, or None if it cannot be created."""
    unified = (_ROOT / "cgroup.controllers").exists()
    base = _ROOT if unified else _ROOT / "memory"
    folder = base / f"registry-cache-bench-{os.getpid()}-{name}"
    try:
        if not (base / ("cgroup.procs" if unified else "memory.limit_in_bytes")).exists():
            raise OSError
        folder.mkdir()
        (folder / ("memory.max" if unified else "memory.limit_in_bytes")).write_text(str(size))
    except OSError:
        with contextlib.suppress(OSError):
            folder.rmdir()
        yield None
        return
    try:
        yield folder
    finally:
        for _ in range(50):  # a terminated process leaves its cgroup with a delay
            try:
                folder.rmdir()
                break
            except OSError:
                time.sleep(0.1)
