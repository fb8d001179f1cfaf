# SPDX-License-Identifier: GPL-3.0-or-later
"""The cache as a process on loopback: its users, configuration and metrics."""

from __future__ import annotations

import json
import os
import pathlib
import secrets
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sandbox import direct, processes
from sandbox.metrics import total
from sandbox.settings import ROOT
from sandbox.steps import Log, StepFailed, wait

from . import ending
from .errors import Refused
from .reference import Reference

USER = "nodes"
_READY_SECONDS = 20


def ports(wanted: str = "") -> tuple[int, int]:
    """Returns the port for clients and the one for metrics.

    :param wanted: the port for clients; a free one if empty.
    :raises Refused: it is not a port, or in use.
    """
    first, second = processes.free_ports(2)
    if not wanted:
        return first, second
    if not wanted.isdecimal() or not 0 < int(wanted) < 1 << 16:
        raise Refused(f"PORT={wanted} must be a number from 1 to 65535, for example PORT=5000")
    try:
        socket.create_server(("127.0.0.1", int(wanted))).close()
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise Refused(f"PORT={wanted} cannot be used ({reason}): choose another port, or omit PORT to get a free one") from None
    return int(wanted), second if second != int(wanted) else first


def config(folder: pathlib.Path, image: Reference, port: int, metrics: int, helper: pathlib.Path | None) -> dict[str, Any]:
    """Returns the program's configuration, see docker/registry/internal/config."""
    credential = {"credential": {"helper": str(helper), "lifetime": "9m"}} if helper else {}
    return {
        "listen": f"127.0.0.1:{port}",
        "metrics": {"listen": f"127.0.0.1:{metrics}"},
        "auth": {"htpasswd": str(folder / "htpasswd")},
        "store": {"path": str(folder / "store"), "limit": "4Gi"},
        "upstreams": [{"host": image.host, "url": image.url, **credential}],
        "drain": "1s",
    }


@dataclass(frozen=True)
class Counts:
    """Bytes that the cache counted: from the upstream, from its blobs alone, and to clients."""

    fetched: float
    fetched_blobs: float
    served: float

    def __sub__(self, other: Counts) -> Counts:
        return Counts(self.fetched - other.fetched, self.fetched_blobs - other.fetched_blobs, self.served - other.served)


def counts(text: str) -> Counts:
    """Returns the cache's counters in a text of Prometheus's format."""
    received = "registry_cache_upstream_received_bytes_total"
    return Counts(
        total(text, received), total(text, received, kind="blob"), total(text, "registry_cache_sent_bytes_total")
    )


class Cache:
    """The program and its folder, which has `password`, `htpasswd`, `store` and `cache.log`."""

    def __init__(self, folder: pathlib.Path, image: Reference, port: int, metrics: int) -> None:
        self.folder, self.image, self.port, self.metrics = folder, image, port, metrics
        self.password, self.log = folder / "password", folder / "cache.log"
        descriptor = os.open(self.password, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(16))

    def prepare(self, log: Log, python: pathlib.Path, variables: Mapping[str, Any]) -> None:
        """Run `prepare.yml`, with which the collection writes the users and the configuration for Google.

        :raises StepFailed: it fails.
        """
        given = {"trial_folder": str(self.folder), "trial_user": USER, "ansible_python_interpreter": str(python), **variables}
        playbook = [str(python.parent / "ansible-playbook"), "--inventory", "localhost,", "--extra-vars", json.dumps(given)]
        env = {
            "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "playbooks" / "collections"),
            "ANSIBLE_HOME": str(self.folder / "ansible"),
            "LC_ALL": "C.UTF-8",
        }
        log.run(*playbook, pathlib.Path(__file__).with_name("prepare.yml"), env=env, cwd=ROOT)

    def start(self, binary: str, helper: pathlib.Path | None, environment: Mapping[str, str]) -> None:
        """Start the program and wait until it is ready. Raises StepFailed if it exits or is not ready in time."""
        file = self.folder / "config.yaml"
        file.write_text(json.dumps(config(self.folder, self.image, self.port, self.metrics, helper), indent=2))  # JSON is YAML
        with ending.held():
            processes.start(self._pid_file, [binary, "cache", str(file)], environment)
        wait(self._ready, _READY_SECONDS, f"the cache on port {self.port}", every=0.05)

    @property
    def _pid_file(self) -> pathlib.Path:
        return self.log.with_suffix(".pid")

    def _ready(self) -> bool:
        if not self.running():
            raise StepFailed("the cache exited")
        return self.status("/ready") == 200

    def running(self) -> bool:
        return processes.running(self._pid_file)

    def stop(self) -> None:
        processes.stop(self._pid_file, 3)

    def status(self, path: str) -> int:
        """Returns the status of a GET without a credential, or 0 without an answer."""
        return direct.status(f"http://127.0.0.1:{self.port}{path}")

    def counts(self) -> Counts:
        with direct.opener().open(f"http://127.0.0.1:{self.metrics}/metrics", timeout=5) as answer:
            return counts(answer.read().decode())

    def reference(self, path: str) -> str:
        """Returns the reference with which clients pull an image from the cache."""
        return f"localhost:{self.port}/{path}"


def pull(crane: pathlib.Path, cache: Cache) -> subprocess.CompletedProcess[str]:
    """Pull the image with crane, which checks every digest, and delete it."""
    login = cache.folder / "client"
    login.mkdir(exist_ok=True)
    host = f"localhost:{cache.port}"
    auths = {host: {"username": USER, "password": cache.password.read_text()}}
    (login / "config.json").write_text(json.dumps({"auths": auths}))
    file = cache.folder / "pulled.tar"
    argv = [str(crane), "pull", cache.reference(cache.image.path), str(file)]
    result = subprocess.run(argv, env={**os.environ, "DOCKER_CONFIG": str(login)}, capture_output=True, text=True, check=False)
    file.unlink(missing_ok=True)
    return result
