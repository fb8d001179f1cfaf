# SPDX-License-Identifier: GPL-3.0-or-later
"""Resources of processes and their descendants: CPU time, memory including sockets, writes, disk space. Requires root."""

from __future__ import annotations

import contextlib
import os
import pathlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from . import memory

# linux/netlink.h, linux/sock_diag.h and linux/inet_diag.h
_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY = 4, 20
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_REQUEST, _NLM_F_DUMP = 0x1, 0x300
_INET_DIAG_SKMEMINFO = 7
_STATES = 0xFFFFFFFF & ~(1 << 6)  # all states except TIME_WAIT, whose sockets belong to no process
_HEADER, _ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("=HH")
_REQUEST = struct.Struct("=BBBBI48s")
_ID_BYTES, _MESSAGE_BYTES = 48, 72  # sizes of struct inet_diag_sockid and struct inet_diag_msg
# Memory of a socket: received but not read, sent but not acknowledged, reserved, options.
_RMEM, _FORWARD, _WMEM_QUEUED, _OPTIONS = 0, 4, 5, 6


def cpu(pids: Iterable[int]) -> float:
    """Returns the CPU time so far, in seconds. Descendants that have exited are not included."""
    total = 0.0
    for pid in memory.family(pids):
        with contextlib.suppress(OSError):
            total += time.clock_gettime((~pid << 3) | 2)  # CPU clock of the process, see clock_getcpuclockid(3)
    return total


def written(pids: Iterable[int]) -> int:
    """Returns the bytes that were, or will be, written to disk."""
    total = 0
    for pid in memory.family(pids):
        with contextlib.suppress(OSError):
            fields = dict(line.split(": ") for line in pathlib.Path(f"/proc/{pid}/io").read_text().splitlines())
            total += int(fields["write_bytes"])
    return total


def _descriptors(pids: Iterable[int]) -> Iterator[tuple[str, os.stat_result]]:
    """Yields the targets of the processes' open file descriptors."""
    for pid in memory.family(pids):
        with contextlib.suppress(OSError):
            for entry in os.scandir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):  # it may have been closed
                    yield os.readlink(entry.path), os.stat(entry.path)


def blocks(folders: Iterable[pathlib.Path]) -> dict[tuple[int, int], int]:
    """Returns the bytes in allocated blocks of folders and their content, by device and inode, so that moved files count once."""
    sizes = {}
    for folder, _, names in (entry for top in folders for entry in os.walk(top)):
        for path in (folder, *(f"{folder}/{name}" for name in names)):
            with contextlib.suppress(OSError):  # it may have been removed
                status = os.lstat(path)
                sizes[status.st_dev, status.st_ino] = status.st_blocks * 512
    return sizes


def removed(pids: Iterable[int], stores: Sequence[pathlib.Path]) -> dict[tuple[int, int], int]:
    """Returns the bytes in allocated blocks of removed files below the stores that are still open, by device and inode."""
    sizes = {}
    for name, status in _descriptors(pids):
        if status.st_nlink == 0 and any(name.startswith(f"{store}/") for store in stores):
            sizes[status.st_dev, status.st_ino] = status.st_blocks * 512
    return sizes


def at_once(look: Callable[[], Mapping[tuple[int, int], int]]) -> int:
    """Returns a lower bound of the bytes in use at one moment, although files change while they are measured.

    A file that is seen by two passes existed between them, and was at least as large as the smaller of the two sizes.
    """
    before, after = look(), look()
    return sum(min(size, after[key]) for key, size in before.items() if key in after)


def messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yields type and body of each message received from a netlink socket."""
    while len(data) >= _HEADER.size:
        size, kind, *_ = _HEADER.unpack_from(data)
        yield kind, data[_HEADER.size : size]
        data = data[(size + 3) & ~3 :]


def held(message: bytes) -> tuple[int, int]:
    """Returns the inode of a socket and its memory in bytes, from a struct inet_diag_msg with attributes."""
    inode = struct.unpack_from("=I", message, _MESSAGE_BYTES - 4)[0]
    attributes = message[_MESSAGE_BYTES:]
    while len(attributes) >= _ATTRIBUTE.size:
        size, kind = _ATTRIBUTE.unpack_from(attributes)
        if kind == _INET_DIAG_SKMEMINFO:
            values = struct.unpack_from("=9I", attributes, _ATTRIBUTE.size)
            return inode, values[_RMEM] + values[_FORWARD] + values[_WMEM_QUEUED] + values[_OPTIONS]
        attributes = attributes[max((size + 3) & ~3, _ATTRIBUTE.size) :]
    return inode, 0


def _dump(family: int) -> Iterator[tuple[int, int]]:
    """Yields inode and memory of every TCP socket of an address family."""
    body = _REQUEST.pack(family, socket.IPPROTO_TCP, 1 << (_INET_DIAG_SKMEMINFO - 1), 0, _STATES, bytes(_ID_BYTES))
    header = _HEADER.pack(_HEADER.size + len(body), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST | _NLM_F_DUMP, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _SOCK_DIAG) as netlink:
        netlink.sendall(header + body)
        while True:
            for kind, message in messages(netlink.recv(1 << 20)):
                if kind == _NLMSG_DONE:
                    return
                if kind == _NLMSG_ERROR:
                    raise OSError(-struct.unpack_from("=i", message)[0], "socket diagnostics")
                yield held(message)


def sockets(pids: Iterable[int]) -> int:
    """Returns the kernel memory of the processes' TCP sockets, in bytes."""
    inodes = {name for name, _ in _descriptors(pids) if name.startswith("socket:[")}
    return sum(
        size
        for family in (socket.AF_INET, socket.AF_INET6)
        for inode, size in _dump(family)
        if f"socket:[{inode}]" in inodes
    )


@dataclass
class Memory:
    """Maximum memory of processes, without file cache."""

    pids: Iterable[int]
    processes: int = field(default=0, init=False)  # anonymous and shared memory in bytes
    sockets: int = field(default=0, init=False)

    def sample(self) -> int:
        """Returns the bytes in use now."""
        now, held_by_sockets = memory.resident(self.pids), sockets(self.pids)
        if now + held_by_sockets > self.processes + self.sockets:
            self.processes, self.sockets = now, held_by_sockets
        return now + held_by_sockets


@contextlib.contextmanager
def peak(value: Callable[[], float], every: float = 0.2) -> Iterator[list[float]]:
    """Yields a list with one element: the maximum value while the block runs."""
    highest, done = [value()], threading.Event()

    def watch() -> None:
        while not done.wait(every):
            highest[0] = max(highest[0], value())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield highest
    finally:
        done.set()
        thread.join()
        highest[0] = max(highest[0], value())
