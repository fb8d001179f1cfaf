# SPDX-License-Identifier: GPL-3.0-or-later
"""The program as a process on loopback: its configuration, its end, its metrics, what it uses."""

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

HOST = "upstream.example"  # of the upstream, in the query "ns"
USER, PASSWORD = "nodes", "a-password"
SECRET = "0123456789abcdef0123456789abcdef"  # of the replicas


def hashed(*users: str, cost: int = 4, password: str = PASSWORD) -> str:
    """The text of an htpasswd file."""
    line = bcrypt.hashpw(password.encode(), bcrypt.gensalt(cost)).decode()
    return "".join(f"{user}:{line}\n" for user in users or (USER,))


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A configuration with changes; None removes a key."""
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
    """`registry cache` in a folder of its own: `config`, `htpasswd`, `store`, `log`.

    The folder must be open to all users. Changes of the configuration are merged into one that works.
    """

    folder: pathlib.Path
    upstream: str  # its URL
    changes: dict[str, Any] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        self.folder.mkdir(exist_ok=True)
        self.port, self.metrics = free_ports(2)
        self.store, self.log = self.folder / "store", self.folder / "log"
        self.htpasswd, self.file = self.folder / "htpasswd", self.folder / "config"
        self.binary = self.folder / "registry"
        if not self.binary.exists():
            shutil.copy(registry(), self.binary)  # the cache folder may be closed to others than root
        self.htpasswd.write_text(hashed())

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(self.port, USER, PASSWORD)

    @property
    def stranger(self) -> Endpoint:
        """Without a credential."""
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
        """Start it, without waiting for anything."""
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
        """Start it and wait until it is ready."""
        process = self.launch()
        try:
            wait(lambda: process.poll() is not None or self.ready(), 20, "a ready cache", every=0.02)
            assert process.poll() is None, f"it ended with {process.returncode}: {self.output()[-2000:]}"
        except BaseException:
            self.kill()
            raise
        return self

    def ready(self) -> bool:
        try:
            return ask(self.stranger, "/ready").status == 200
        except OSError:
            return False

    def output(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def kill(self) -> None:
        """End it as a crash does."""
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait(20)

    def terminate(self) -> None:
        """Tell it to end, as the kubelet does."""
        assert self.process
        self.process.send_signal(signal.SIGTERM)

    def stop(self) -> int:
        """Tell it to end and wait for that; returns its status."""
        assert self.process
        self.terminate()
        return self.process.wait(20)

    def ask(self, path: str, method: str = "GET", **headers: str) -> Answer:
        return ask(self.endpoint, path, method, **headers)

    def newcomers(self, count: int) -> list[Endpoint]:
        """Start it anew; endpoints of users that it has not seen, whose check takes its time."""
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
        """Bytes of memory of the process that no file backs."""
        assert self.process
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"RssAnon:\s+(\d+) kB", status)[1]) << 10  # type: ignore[index]

    def threads(self) -> int:
        assert self.process
        return len(os.listdir(f"/proc/{self.process.pid}/task"))

    def used(self) -> int:
        """Bytes in used blocks of the store, deleted files that are open included."""
        assert self.process
        return sum((usage.blocks([self.store]) | usage.removed([self.process.pid], [self.store])).values())


@contextlib.contextmanager
def fleet(folder: pathlib.Path, upstream: str, count: int, **changes: Any) -> Iterator[list[Program]]:
    """Replicas that serve together and are ready; their logs are shown if the test fails."""
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
