# SPDX-License-Identifier: GPL-3.0-or-later
"""Candidates: sets of processes on loopback, each with a separate folder. This file has those to compare the cache with."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import secrets
import shutil
import signal
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import bcrypt

from sandbox import processes
from sandbox.from_source import tools
from sandbox.processes import free_ports
from sandbox.steps import StepFailed, wait

from . import load_client, memory, packages
from .endpoint import Endpoint
from .paced_upstream.process import Upstream
from .paced_upstream.state import USER as UPSTREAM_USER

# Names of the candidates in rows.
OURS = "ours"
V3, BARE, V2 = "distribution 3", "distribution 3 without credentials", "distribution 2.8"
NGINX, RAW, GO = "nginx proxy_cache", "raw nginx", "bare net/http"
USER = "nodes"
_STOP_SECONDS = 2


def listens(port: int, host: str = "127.0.0.1") -> bool:
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


def wait_with_log(condition: Callable[[], bool], seconds: float, what: str, log: pathlib.Path) -> None:
    """Waits until `condition()` holds. Raises StepFailed with the end of a log."""
    try:
        wait(condition, seconds, what, every=0.05)
    except StepFailed as error:
        raise StepFailed(f"{error}; its log ends: {log.read_text(errors='replace')[-600:]}") from None


@dataclass
class Candidate:
    """Running processes and their state on disk. `endpoints`: one per replica."""

    name: str
    folder: pathlib.Path
    password: str = field(default_factory=lambda: secrets.token_hex(16))
    cgroup: pathlib.Path | None = None
    endpoints: list[Endpoint] = field(default_factory=list)
    stores: list[pathlib.Path] = field(default_factory=list)  # folders that count as used disk
    _pid_files: list[pathlib.Path] = field(default_factory=list)
    _commands: list[tuple[Sequence[str], Mapping[str, str] | None]] = field(default_factory=list)

    @property
    def endpoint(self) -> Endpoint:
        return self.endpoints[0]

    def serve(self, port: int, user: str = USER, host: str = "127.0.0.1") -> None:
        """Adds the endpoint of a replica."""
        self.endpoints.append(Endpoint(port, user, self.password if user else "", host))

    def start(self, name: str, argv: Sequence[str], env: Mapping[str, str] | None = None) -> pathlib.Path:
        """Starts a process, in the candidate's cgroup if there is one. Returns the path of its log."""
        if self.cgroup:
            argv = ["sh", "-c", 'echo $$ > "$0"/cgroup.procs && exec "$@"', str(self.cgroup), *argv]
        pid_file = self.folder / f"{name}.pid"
        self._pid_files.append(pid_file)
        self._commands.append((argv, env))
        processes.start(pid_file, argv, env)
        return pid_file.with_suffix(".log")

    def end(self, seconds: float) -> None:
        """Terminates the processes in reverse order of their start, each within `seconds`."""
        for pid_file in reversed(self._pid_files):
            processes.stop(pid_file, seconds)

    def begin_again(self) -> None:
        """Starts the terminated processes again, with the same stores."""
        for pid_file, (argv, env) in zip(self._pid_files, self._commands, strict=True):
            processes.start(pid_file, argv, env)

    def ready(self, port: int, log: pathlib.Path, seconds: float = 20) -> None:
        """Waits for a port. An error contains the end of the log."""
        wait_with_log(lambda: listens(port), seconds, f"{self.name} on port {port}", log)

    def pids(self) -> list[int]:
        return [int(path.read_text().split()[0]) for path in self._pid_files]

    def stop(self) -> None:
        """Stops all processes, including children that outlive their parent, such as workers of nginx."""
        handles = []
        for pid in memory.family(self.pids()):
            with contextlib.suppress(ProcessLookupError):
                handles.append(os.pidfd_open(pid))
        for pid_file in reversed(self._pid_files):
            processes.stop(pid_file, _STOP_SECONDS)
        for handle in handles:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
            os.close(handle)
        shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def running(name: str, folder: pathlib.Path, cgroup: pathlib.Path | None = None) -> Iterator[Candidate]:
    """Yields a candidate. At the end, stops it and removes its state."""
    folder.mkdir(parents=True)
    candidate = Candidate(name, folder, cgroup=cgroup)
    try:
        yield candidate
    finally:
        candidate.stop()


def htpasswd(path: pathlib.Path, password: str, cost: int) -> pathlib.Path:
    """Writes an htpasswd file with one user and a bcrypt hash of the given cost."""
    path.write_text(f"{USER}:{bcrypt.hashpw(password.encode(), bcrypt.gensalt(cost)).decode()}\n")
    path.chmod(0o600)
    return path


def credential_helper(folder: pathlib.Path, upstream: Upstream) -> pathlib.Path:
    """Writes a credential helper that prints the upstream's credential, like docker-credential-gcr."""
    helper = folder / "docker-credential-bench"
    answer = json.dumps({"ServerURL": upstream.url, "Username": UPSTREAM_USER, "Secret": upstream.secret})
    helper.write_text(f"#!/bin/sh\ncat > /dev/null\necho '{answer}'\n")
    helper.chmod(0o755)
    return helper


def registry_config(store: pathlib.Path, http: Mapping[str, Any], **more: Any) -> str:
    """Returns a registry's configuration as JSON, without a blobdescriptor cache, which causes empty bodies of evicted blobs."""
    config = {
        "version": "0.1",
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(store)}, "delete": {"enabled": True}},
        "http": {"relativeurls": True, "secret": secrets.token_hex(16), **http},
        **more,
    }
    return json.dumps(config)


def distribution() -> str:
    """Returns the path of the unmodified registry in the sandbox's version."""
    return str(tools.build("registry") / "registry")


def _registry(
    candidate: Candidate, binary: str, upstream: Upstream, cost: int, name: str = "registry"
) -> int:
    port = free_ports(1)[0]
    candidate.stores.append(candidate.folder / "store")
    more: dict[str, Any] = {
        "proxy": {"remoteurl": upstream.url, "username": UPSTREAM_USER, "password": upstream.secret, "ttl": "0"}
    }
    if cost:
        path = htpasswd(candidate.folder / "htpasswd", candidate.password, cost)
        more["auth"] = {"htpasswd": {"realm": "registry", "path": str(path)}}
    config = candidate.folder / f"{name}.json"
    config.write_text(registry_config(candidate.folder / "store", {"addr": f"127.0.0.1:{port}"}, **more))
    quiet = {"OTEL_TRACES_EXPORTER": "none"}
    candidate.ready(port, candidate.start(name, [binary, "serve", str(config)], quiet))
    return port


@contextlib.contextmanager
def plain(folder: pathlib.Path, upstream: Upstream, cost: int = 10) -> Iterator[Candidate]:
    """Runs distribution 3 in proxy mode. `cost` 0: without authentication."""
    with running(V3 if cost else BARE, folder) as candidate:
        candidate.serve(_registry(candidate, distribution(), upstream, cost), USER if cost else "")
        yield candidate


@contextlib.contextmanager
def old(folder: pathlib.Path, upstream: Upstream, cost: int = 10) -> Iterator[Candidate]:
    """Runs distribution 2.8 in proxy mode."""
    with running(V2, folder) as candidate:
        candidate.serve(_registry(candidate, packages.command("docker-registry"), upstream, cost))
        yield candidate


def _nginx(candidate: Candidate, main: str, server: str) -> int:
    port, folder = free_ports(1)[0], candidate.folder
    temporary = " ".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config = folder / "nginx.conf"
    config.write_text(
        f"""{'user root;' if os.geteuid() == 0 else ''}
worker_processes auto; daemon off; pid {folder}/nginx-own.pid; error_log {folder}/error.log warn;
events {{ worker_connections 4096; }}
http {{
  access_log off; sendfile on; tcp_nopush on; keepalive_requests 100000; default_type application/octet-stream;
  {temporary} {main}
  server {{ listen 127.0.0.1:{port} backlog=4096; {server} }}
}}
"""
    )
    argv = [packages.command("nginx"), "-p", str(folder), "-c", str(config), "-e", f"{folder}/error.log"]
    candidate.ready(port, candidate.start("nginx", argv, packages.environment()))
    return port


@contextlib.contextmanager
def proxy_cache(folder: pathlib.Path, upstream: Upstream, cost: int = 10) -> Iterator[Candidate]:
    """Runs nginx's proxy_cache in front of distribution 3, with one cached response per credential and proxy_cache_lock."""
    with running(NGINX, folder) as candidate:
        registry = _registry(candidate, distribution(), upstream, cost)
        port = _nginx(
            candidate,
            f"proxy_cache_path {folder}/cache levels=1:2 keys_zone=cache:10m max_size=20g inactive=60d use_temp_path=off;",
            f"""location /v2/ {{
              proxy_pass http://127.0.0.1:{registry}; proxy_http_version 1.1; proxy_set_header Connection "";
              proxy_set_header Host $http_host; proxy_cache cache; proxy_cache_valid 200 60d;
              proxy_cache_key "$http_authorization $request_uri $http_accept";
              proxy_ignore_headers Cache-Control Expires Vary;
              proxy_cache_lock on; proxy_cache_lock_timeout 880s; proxy_cache_lock_age 880s;
              proxy_read_timeout 900s; proxy_max_temp_file_size 0;
            }}""",
        )
        candidate.stores.append(folder / "cache")
        candidate.serve(port)
        yield candidate


@contextlib.contextmanager
def net_http(folder: pathlib.Path, root: pathlib.Path) -> Iterator[Candidate]:
    """Runs a server with Go's net/http that sends a library's blobs from memory, to measure what net/http itself uses."""
    with running(GO, folder) as candidate:
        (port,) = free_ports(1)
        candidate.start("serve", [load_client.binary(), "serve", f"127.0.0.1:{port}", str(root / "blobs")])
        candidate.serve(port, user="")
        wait(lambda: listens(port), 10, "the bare server", every=0.05)
        yield candidate


@contextlib.contextmanager
def files(folder: pathlib.Path, root: pathlib.Path, cgroup: pathlib.Path | None = None) -> Iterator[Candidate]:
    """Runs raw nginx, which sends a library's blobs from disk, to measure the maximum of this machine."""
    with running(RAW, folder, cgroup) as candidate:
        alias = f'location ~ "/blobs/sha256:([0-9a-f]+)$" {{ alias {root}/blobs/$1; }}'
        candidate.serve(_nginx(candidate, "", alias), user="")
        yield candidate
