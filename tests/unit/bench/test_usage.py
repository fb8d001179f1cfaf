# SPDX-License-Identifier: GPL-3.0-or-later
"""Resource usage of processes, tested with this one."""

from __future__ import annotations

import errno
import os
import pathlib
import socket
import struct
import time
from collections.abc import Iterator

import pytest

from bench import usage

ME = [os.getpid()]


@pytest.fixture
def connected() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        first = socket.create_connection(listener.getsockname())
        second, _ = listener.accept()
        with first, second:
            yield first, second


def test_processor_time() -> None:
    before, mine = usage.cpu(ME), time.process_time()
    while time.process_time() - mine < 0.05:
        pass
    assert 0.05 <= usage.cpu(ME) - before < 5


def test_an_ended_process_uses_nothing() -> None:
    gone = [2**22 + 1]  # larger than the maximum pid of Linux
    assert (usage.cpu(gone), usage.written(gone), usage.removed(gone, [pathlib.Path("/")])) == (0, 0, {})


def test_removed_files_that_are_open(tmp_path: pathlib.Path) -> None:
    inside, outside = tmp_path / "store", tmp_path / "storeroom"
    for folder in (inside, outside):
        folder.mkdir()
        with (folder / "kept").open("wb") as kept:
            kept.write(b"x" * 8192)
    with (inside / "gone").open("wb") as gone, (outside / "gone").open("wb") as other:
        for file in (gone, other):
            file.write(b"x" * 100_000)
            file.flush()
            os.fsync(file.fileno())
        before = usage.removed(ME, [inside])
        (inside / "gone").unlink()
        (outside / "gone").unlink()
        blocks = os.fstat(gone.fileno()).st_blocks * 512
        expected = {(os.fstat(gone.fileno()).st_dev, os.fstat(gone.fileno()).st_ino): blocks}
        assert (before, usage.removed(ME, [inside])) == ({}, expected)
        second = os.dup(gone.fileno())
        assert usage.removed(ME, [inside]) == expected, "two descriptors of one file"
        os.close(second)
    assert usage.removed(ME, [inside]) == {}


def test_a_replaced_file_is_not_counted_twice() -> None:
    looks = iter([{(1, 1): 5, (1, 2): 7, (1, 3): 2}, {(1, 1): 6, (1, 3): 1, (1, 4): 7}])
    assert usage.at_once(lambda: next(looks)) == 5 + 1


def test_memory_of_sockets(connected: tuple[socket.socket, socket.socket]) -> None:
    if not pathlib.Path("/proc/net/netlink").exists():
        pytest.skip("no netlink here")
    first, second = connected
    before = usage.sockets(ME)
    first.setblocking(False)
    sent = 0
    try:
        while True:
            sent += first.send(b"x" * 65536)
    except BlockingIOError:
        pass
    full = usage.sockets(ME)
    assert full - before >= sent
    left = sent
    while left:
        left -= len(second.recv(left))
    assert usage.sockets(ME) < full


def test_the_highest_memory_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = usage.Memory(ME)
    for processes, sockets in ((5, 1), (3, 9), (8, 2)):
        monkeypatch.setattr(usage.memory, "resident", lambda _pids, n=processes: n)
        monkeypatch.setattr(usage, "sockets", lambda _pids, n=sockets: n)
        assert memory.sample() == processes + sockets
    assert (memory.processes, memory.sockets) == (3, 9)


def test_an_error_of_the_kernel_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    body = struct.pack("=i", -errno.ENOENT)
    error = struct.pack("=IHHII", 16 + len(body), 2, 0, 1, 0) + body

    class Netlink:
        def __enter__(self) -> Netlink:
            return self

        def __exit__(self, *_: object) -> None: ...
        def sendall(self, _data: bytes) -> None: ...
        def recv(self, _size: int) -> bytes:
            return error

    monkeypatch.setattr(usage.socket, "socket", lambda *_: Netlink())
    with pytest.raises(OSError, match="socket diagnostics") as raised:
        usage.sockets(ME)
    assert raised.value.errno == errno.ENOENT
