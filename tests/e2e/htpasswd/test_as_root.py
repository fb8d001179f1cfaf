# SPDX-License-Identifier: GPL-3.0-or-later
"""Module htpasswd with files of other owners and full disks, which only root can set up."""

from __future__ import annotations

import os
import pathlib
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from typing import Any

import bcrypt
import pytest

from tests.module_runner import run

COST = 4
NODES = "nodes-password-1"


def user(name: str, password: str) -> dict[str, Any]:
    return {"name": name, "password": password}


def hashed(password: str) -> str:
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(COST)).decode()


def mode(path: pathlib.Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def lent() -> Iterator[pathlib.Path]:
    """Returns a folder that another user may write to."""
    if os.geteuid():
        pytest.skip("only root can be another user")
    with tempfile.TemporaryDirectory() as name:
        # Ansible loads parts of itself with the first module, from files that another user may not be able to read.
        first = pathlib.Path(name, "first")
        run("htpasswd", path=str(first), users=[user("nodes", NODES)], cost=COST)
        first.unlink()
        os.chmod(name, 0o777)
        yield pathlib.Path(name)


@pytest.mark.parametrize(("permissions", "expected"), [(0o644, "belongs to the user with ID 0"), (0o600, "cannot be read")])
def test_file_of_another_user(lent: pathlib.Path, permissions: int, expected: str) -> None:
    path = lent / "htpasswd"
    path.write_text(f"nodes:{hashed('old')}\n")
    path.chmod(permissions)
    before = path.stat(), path.read_text()
    os.seteuid(65534)
    try:
        message = run("htpasswd", path=str(path), users=[user("nodes", NODES)])["msg"]
    finally:
        os.seteuid(0)
    assert expected in message and str(path) in message and "root" in message
    assert (path.stat(), path.read_text()) == before
    assert [one.name for one in lent.iterdir()] == ["htpasswd"]


def test_root_keeps_the_owner_and_group_of_a_file(lent: pathlib.Path) -> None:
    path = lent / "htpasswd"
    path.write_text("")
    path.chmod(0o640)
    os.chown(path, 65534, 33)
    assert run("htpasswd", path=str(path), users=[user("nodes", NODES)], cost=COST)["changed"]
    assert (path.stat().st_uid, path.stat().st_gid, mode(path)) == (65534, 33, 0o640)
    assert not run("htpasswd", path=str(path), users=[user("nodes", NODES)], cost=COST)["changed"]
    result = run("htpasswd", path=str(path), users=[user("nodes", NODES)], cost=COST, owner="0", group="0", mode="0600")
    assert result["changed"] and (path.stat().st_uid, path.stat().st_gid, mode(path)) == (0, 0, 0o600)
    assert result["diff"]["before"] == "group: 33\nmode: 0640\nowner: 65534\nnodes\n"
    assert result["diff"]["after"] == "group: 0\nmode: 0600\nowner: 0\nnodes\n"


def test_a_group_that_the_owner_cannot_set(lent: pathlib.Path) -> None:
    path = lent / "htpasswd"
    path.write_text(f"nodes:{hashed('old')}\n")
    path.chmod(0o640)
    os.chown(path, 65534, 33)
    before = path.stat(), path.read_text()
    os.seteuid(65534)
    try:
        message = run("htpasswd", path=str(path), users=[user("nodes", NODES)], cost=COST)["msg"]
    finally:
        os.seteuid(0)
    assert "group with ID 33" in message and str(path) in message and "root" in message
    assert (path.stat(), path.read_text()) == before
    assert [one.name for one in lent.iterdir()] == ["htpasswd"]


def test_a_full_disk_leaves_the_old_file_unchanged(lent: pathlib.Path) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k,mode=0755", "tmpfs", str(lent)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        path = lent / "htpasswd"
        path.write_text(f"# {'x' * 9000}\nnodes:{hashed('old')}\n")
        before = path.read_text()
        result = run("htpasswd", path=str(path), users=[user("nodes", NODES)], cost=COST)
        assert result["failed"] and "No space left on device" in result["msg"] and str(path) in result["msg"]
        assert path.read_text() == before and [one.name for one in lent.iterdir()] == ["htpasswd"]
    finally:
        subprocess.run(["umount", str(lent)], check=True)
