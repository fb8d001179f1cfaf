# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs that read the files of module htpasswd: Apache's htpasswd and the registry."""

from __future__ import annotations

import base64
import http.client
import json
import pathlib
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sandbox import debian, processes
from sandbox.from_source import tools
from tests.module_runner import run

PASSWORDS = {"nodes": "nodes-password-1", "ci": "p ä:ss#wörd $2b$ 'quoted\"", "longest": "€" * 24, "with space": "x"}
Accepts = Callable[[str, str], bool]


def write(path: pathlib.Path, users: dict[str, str], **more: Any) -> None:
    wanted = [{"name": name, "password": password} for name, password in users.items()]
    result = run("htpasswd", path=str(path), users=wanted, cost=5, **more)
    assert result.get("changed"), result


@pytest.fixture(scope="session")
def apache() -> str:
    """Debian's apache2-utils."""
    debian.ensure({"htpasswd": "apache2-utils"})
    return shutil.which("htpasswd") or ""


@pytest.fixture(scope="session")
def registry() -> str:
    return str(tools.build("registry") / "registry")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture(params=["apache", "registry"])
def accepts(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[Accepts]:
    """Returns whether a real program that reads tmp_path/htpasswd accepts a user and password."""
    path = tmp_path / "htpasswd"
    if request.param == "apache":
        command = request.getfixturevalue("apache")

        def ask_apache(name: str, password: str) -> bool:
            argv = [command, "-v", "-i", str(path), name]
            done = subprocess.run(argv, input=password, capture_output=True, text=True, check=False)
            # 3: wrong password; 6: unknown user.
            assert done.returncode in (0, 3, 6), done.stderr
            return done.returncode == 0

        yield ask_apache
        return

    port, pid_file = _free_port(), tmp_path / "registry.pid"
    config = {
        "version": "0.1",
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(tmp_path / "store")}},
        "http": {"addr": f"127.0.0.1:{port}", "secret": "x"},
        "auth": {"htpasswd": {"realm": "x", "path": str(path)}},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))

    def ask_registry(name: str, password: str) -> bool:
        if not processes.running(pid_file):
            command = [request.getfixturevalue("registry"), "serve", str(tmp_path / "config.json")]
            processes.start(pid_file, command, {"OTEL_TRACES_EXPORTER": "none"})
        basic = base64.b64encode(f"{name}:{password}".encode()).decode()
        for _ in range(200):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            try:
                connection.request("GET", "/v2/", headers={"Authorization": f"Basic {basic}"})
                status = connection.getresponse().status
                assert status in (200, 401), status
                return status == 200
            except ConnectionRefusedError:
                time.sleep(0.1)
            finally:
                connection.close()
        raise AssertionError((tmp_path / "registry.log").read_text())

    try:
        yield ask_registry
    finally:
        processes.stop(pid_file)


def test_written_users_are_accepted_and_removed_ones_refused(accepts: Accepts, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "htpasswd"
    write(path, PASSWORDS)
    assert all(accepts(name, password) for name, password in PASSWORDS.items())
    assert not accepts("nodes", PASSWORDS["nodes"] + "x") and not accepts("nobody", "x")

    rest = {name: password for name, password in PASSWORDS.items() if name != "ci"}
    write(path, {**rest, "nodes": "another"}, exclusive=True)
    assert not accepts("ci", PASSWORDS["ci"])
    assert not accepts("nodes", PASSWORDS["nodes"]) and accepts("nodes", "another")
    assert accepts("longest", PASSWORDS["longest"]) and not accepts("longest", "€" * 23)


def test_users_that_apache_wrote_are_kept(apache: str, accepts: Accepts, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "htpasswd"
    for flags, (name, password) in zip((["-c", "-B", "-C", "5"], ["-B", "-C", "5"]), PASSWORDS.items(), strict=False):
        subprocess.run([apache, "-i", *flags, str(path), name], input=password, check=True, capture_output=True, text=True)
    path.chmod(0o600)
    before = path.read_text()
    users = [{"name": name, "password": PASSWORDS[name]} for name in ("nodes", "ci")]
    assert run("htpasswd", path=str(path), users=users, cost=5)["changed"] is False and path.read_text() == before
    assert accepts("nodes", PASSWORDS["nodes"]) and accepts("ci", PASSWORDS["ci"])


def test_an_existing_hash_is_accepted(apache: str, accepts: Accepts, tmp_path: pathlib.Path) -> None:
    argv = [apache, "-n", "-i", "-B", "-C", "5", "nodes"]
    line = subprocess.run(argv, input=PASSWORDS["nodes"], check=True, capture_output=True, text=True).stdout.strip()
    user = {"name": "nodes", "hash": line.removeprefix("nodes:"), "password": PASSWORDS["nodes"]}
    assert run("htpasswd", path=str(tmp_path / "htpasswd"), users=[user])["changed"]
    assert accepts("nodes", PASSWORDS["nodes"]) and not accepts("nodes", "x")
