# SPDX-License-Identifier: GPL-3.0-or-later
"""A registry for the image of the cache: private until it is made public, and reachable by the same name from nodes and this machine."""

from __future__ import annotations

import contextlib
import json
import pathlib
import socket
import threading
from collections.abc import Iterator

import bcrypt

from sandbox import direct, processes
from sandbox.client import Cluster
from sandbox.from_source import tools
from sandbox.steps import wait

USER, PASSWORD = "ada", "of-her-account"
PORT = 31500
HOST = f"localhost:{PORT}"
_NAME = "image-registry"
_TLS_HANDSHAKE = b"\x16"


class Registry:
    """A real registry on loopback, which requires a login until `make_public`."""

    def __init__(self, folder: pathlib.Path) -> None:
        folder.mkdir()
        self._folder, self._pid = folder, folder / "registry.pid"
        hashed = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
        (folder / "htpasswd").write_text(f"{USER}:{hashed}\n")
        self._start({"auth": {"htpasswd": {"realm": "test", "path": str(folder / "htpasswd")}}}, 401)

    def make_public(self) -> None:
        """Let everybody pull, as the settings of a package on ghcr.io do."""
        self.stop()
        self._start({}, 200)

    def stop(self) -> None:
        processes.stop(self._pid)

    def _start(self, auth: dict[str, object], status: int) -> None:
        config = {
            "version": "0.1",
            "log": {"level": "error", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(self._folder / "store")}},
            "http": {"addr": f"127.0.0.1:{PORT}", "relativeurls": True},
            **auth,
        }
        file = self._folder / "config.json"
        file.write_text(json.dumps(config))
        processes.start(self._pid, [str(tools.build("registry") / "registry"), "serve", str(file)])
        wait(lambda: direct.status(f"http://127.0.0.1:{PORT}/v2/", timeout=2) == status, 20, f"the registry at {HOST}")


class Forwarder:
    """Forwards connections to a port of this machine's loopback. Refuses TLS at once, so that containerd uses HTTP."""

    def __init__(self, address: str, port: int = PORT) -> None:
        self._port = port
        self._listener = socket.create_server((address, 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _address = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            if client.recv(1, socket.MSG_PEEK) == _TLS_HANDSHAKE:
                client.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\nThis port speaks HTTP.\n")
                client.shutdown(socket.SHUT_WR)
                while client.recv(65536):  # otherwise the kernel would reset the connection, and the answer could be lost
                    pass
                return
            with socket.create_connection(("127.0.0.1", self._port)) as server:
                back = threading.Thread(target=_copy, args=(server, client), daemon=True)
                back.start()
                _copy(client, server)
                back.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def on_nodes(cluster: Cluster, address: str) -> Iterator[None]:
    """Make localhost:PORT of every node lead to the registry, by a NodePort. `address`: one of this machine that nodes reach."""
    forwarder = Forwarder(address)
    metadata = {"name": _NAME, "namespace": "kube-system", "labels": {"kubernetes.io/service-name": _NAME}}
    ports = [{"port": PORT, "nodePort": PORT, "targetPort": forwarder.port}]
    service = {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"type": "NodePort", "ports": ports}}
    endpoints = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": metadata,
        "addressType": "IPv4",
        "ports": [{"port": forwarder.port, "protocol": "TCP"}],
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}}],
    }
    try:
        items = {"apiVersion": "v1", "kind": "List", "items": [service, endpoints]}
        cluster.kubectl("apply", "--filename=-", stdin=json.dumps(items))
        yield
    finally:
        cluster.kubectl("delete", "service,endpointslice", _NAME, "--namespace", "kube-system", "--ignore-not-found")
        forwarder.close()
