# SPDX-License-Identifier: GPL-3.0-or-later
"""The cache as a process on loopback: its configuration, start and stop, metrics, and use of memory and disk."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import bcrypt

from bench import usage
from bench.endpoint import Endpoint
from sandbox import unprivileged
from sandbox.from_source.programs import registry
from sandbox.metrics import total
from sandbox.processes import free_ports
from sandbox.steps import wait
from tests.e2e.registry import Answer, ask

HOST = "upstream.example"  # the upstream in the query "ns"
USER, PASSWORD = "nodes", "a-password"
SECRET = "0123456789abcdef0123456789abcdef"  # shared by the replicas


def hashed(*users: str, cost: int = 4, password: str = PASSWORD) -> str:
    """Returns the text of an htpasswd file with one user."""
    line = bcrypt.hashpw(password.encode(), bcrypt.gensalt(cost)).decode()
    return "".join(f"{user}:{line}\n" for user in users or (USER,))


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Returns a configuration with changes. None removes a key."""
    result = dict(base)
    for key, value in changes.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merged(result[key], value)
        else:
            result[key] = value
    return result


@dataclass
class Program:
    """`registry cache` with a separate folder for its configuration, htpasswd, store and log.

    All users must be able to read the folder. `changes` are merged into a valid configuration.
    """

    folder: pathlib.Path
    upstream: str  # a URL
    changes: dict[str, Any] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        self.folder.mkdir(exist_ok=True)
        self.port, self.metrics = free_ports(2)
        self.store, self.log = self.folder / "store", self.folder / "log"
        self.htpasswd, self.file = self.folder / "htpasswd", self.folder / "config"
        self.binary = self.folder / "registry"
        if not self.binary.exists():
            shutil.copy(registry(), self.binary)  # only root may be able to read the cache folder
        self.htpasswd.write_text(hashed())

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(self.port, USER, PASSWORD)

    @property
    def anonymous(self) -> Endpoint:
        """The endpoint without a credential."""
        return Endpoint(self.port)

    @property
    def config(self) -> dict[str, Any]:
        base = {
            "listen": f"127.0.0.1:{self.port}",
            "metrics": {"listen": f"127.0.0.1:{self.metrics}"},
            "auth": {"htpasswd": str(self.htpasswd)},
            "store": {"path": str(self.store), "limit": "256Mi"},
            "upstreams": [{"host": HOST, "url": self.upstream}],
            "drain": "5s",
        }
        return merged(base, self.changes)

    def launch(self) -> subprocess.Popen[bytes]:
        """Start the program without waiting until it is ready."""
        self.file.write_text(json.dumps(self.config))  # JSON is YAML
        unprivileged.lend(self.folder)
        argv = unprivileged.command(str(self.binary), "cache", str(self.file))
        environment = {"PATH": os.environ["PATH"], "HOME": "/"}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
            )
        return self.process

    def start(self) -> Program:
        """Start the program and wait until it is ready."""
        process = self.launch()
        try:
            wait(lambda: process.poll() is not None or self.ready(), 20, "a ready cache", every=0.02)
            assert process.poll() is None, f"the cache exited with code {process.returncode}: {self.output()[-2000:]}"
        except BaseException:
            self.kill()
            raise
        return self

    def ready(self) -> bool:
        try:
            return ask(self.anonymous, "/ready").status == 200
        except OSError:
            return False

    def output(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def kill(self) -> None:
        """Kill the program, like a crash."""
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait(20)

    def terminate(self) -> None:
        """Send SIGTERM, like the kubelet."""
        assert self.process
        self.process.send_signal(signal.SIGTERM)

    def stop(self) -> int:
        """Send SIGTERM and wait. Returns the exit code."""
        assert self.process
        self.terminate()
        return self.process.wait(20)

    def ask(self, path: str, method: str = "GET", **headers: str) -> Answer:
        return ask(self.endpoint, path, method, **headers)

    def new_users(self, count: int) -> list[Endpoint]:
        """Restart the program with new users, whose passwords take time to check. Returns their endpoints."""
        users = [f"team-{number}" for number in range(count)]
        self.htpasswd.write_text("".join(hashed(user, cost=10) for user in users))
        self.stop()
        self.start()
        return [Endpoint(self.port, user, PASSWORD) for user in users]

    def sample(self, name: str, **labels: str) -> float:
        """Returns the sum of a metric's samples that have these labels. The metric must exist."""
        answer = ask(Endpoint(self.metrics), "/metrics")
        assert answer.status == 200, answer
        text = answer.body.decode()
        assert re.search(rf"(?m)^{name}[{{ ]", text), f"no metric {name}"
        return total(text, name, **labels)

    def resident(self) -> int:
        """Returns the resident anonymous memory in bytes."""
        assert self.process
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"RssAnon:\s+(\d+) kB", status)[1]) << 10  # type: ignore[index]

    def threads(self) -> int:
        assert self.process
        return len(os.listdir(f"/proc/{self.process.pid}/task"))

    def used(self) -> int:
        """Returns the bytes in used blocks of the store, including open files that were deleted."""
        assert self.process
        return sum((usage.blocks([self.store]) | usage.removed([self.process.pid], [self.store])).values())


@contextlib.contextmanager
def fleet(folder: pathlib.Path, upstream: str, count: int, **changes: Any) -> Iterator[list[Program]]:
    """Start replicas that serve together. Their logs are shown if the test fails."""
    ports = free_ports(count)
    members = [{"name": f"cache-{i}", "address": f"127.0.0.1:{port}"} for i, port in enumerate(ports)]
    made: list[Program] = []
    try:
        for member in members:
            secret = folder / member["name"] / "secret"
            peers = {"name": member["name"], "listen": member["address"], "secret": str(secret), "members": members}
            made.append(Program(secret.parent, upstream, {"peers": peers, **changes}))
            secret.write_text(f"{SECRET}\n")
            made[-1].start()
        yield made
    finally:
        for program in made:
            program.kill()
            print(program.output()[-4000:])
