# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The pods of a cache, reached through the API server only.

Private to this collection.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
import time
import typing as t
from base64 import b64encode

from .._image import upstream
from .client import PATCH, Client
from .errors import ClusterError, PermanentError, TransientError
from .exec import Streams

PAUSE_SECONDS = 2
TOUCHED = "registry-cache.pullthrough/touched"
_HELLO_SECONDS, _ANSWER_SECONDS = 5, 60
# After an answer with this beginning, containerd and other Go clients continue without TLS.
_HTTP = b"HTTP/"


def client_hello() -> bytes:
    """Return the first bytes that a client sends when it tries HTTPS."""
    outgoing = ssl.MemoryBIO()
    session = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        session.do_handshake()
    return outgoing.read()


def _answer(connection: t.Any, question: bytes) -> tuple[bytes, bool]:
    """Return enough bytes of the answer to know whether it is HTTP, and whether the other side has closed the connection."""
    deadline, answer = time.monotonic() + _HELLO_SECONDS, b""
    try:
        connection.settimeout(_HELLO_SECONDS)
        connection.sendall(question)
        # They may arrive one by one.
        while len(answer) < len(_HTTP):
            connection.settimeout(max(deadline - time.monotonic(), 0.001))
            more = connection.recv(len(_HTTP) - len(answer))
            if not more:
                return answer, True
            answer += more
    except TimeoutError:
        return answer, False
    except OSError:
        return answer, True
    return answer, False


def _is_ready(pod: dict[str, t.Any]) -> bool:
    conditions = pod.get("status", {}).get("conditions") or ()
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


class Replicas:
    """The pods of a cache, reached through the API server only."""

    def __init__(self, client: Client, namespace: str, container: str, port: int) -> None:
        self._client, self._namespace, self._container, self._port = client, namespace, container, port
        self._streams = Streams(client, namespace)

    def look(self, label_selector: str) -> dict[str, tuple[str, bool]]:
        """Return the UID and readiness of each pod that is not being deleted, by name. Raise PermanentError if there is none."""
        pods = self._client.list_all("pods", namespace=self._namespace, label_selector=label_selector)
        found = {
            pod["metadata"]["name"]: (pod["metadata"]["uid"], _is_ready(pod))
            for pod in pods
            if "deletionTimestamp" not in pod["metadata"]
        }
        if not found:
            raise PermanentError(f"no pod in namespace {self._namespace} has the labels {label_selector}")
        return found

    def ready(self, label_selector: str) -> list[str]:
        """Return the names of the pods. Raise PermanentError if there are none or not all are ready."""
        found = self.look(label_selector)
        if waiting := sorted(name for name, (_uid, ready) in found.items() if not ready):
            raise PermanentError(f"not ready in namespace {self._namespace}: {', '.join(waiting)}")
        return sorted(found)

    def touch(self, pod: str, mark: str) -> None:
        """Annotate a pod, so that its kubelet updates the pod's Secrets at once instead of within two minutes."""
        # This only saves time, so errors do not matter.
        with contextlib.suppress(ClusterError):
            path = f"/api/v1/namespaces/{self._namespace}/pods/{pod}"
            self._client.request("patch", path, {"metadata": {"annotations": {TOUCHED: mark}}}, **PATCH)

    def run_helper(self, pod: str, helper: str, host: str) -> tuple[str, str]:
        """Return the user name and secret that the helper returns for a host. Raise PermanentError and TransientError."""
        # The helper reads its input to the end, which an exec stream cannot signal. A pipe inside the pod can.
        command = ["sh", "-c", 'printf %s "$1" | exec "$2" get', "sh", host, helper]
        code, message, output, errors = self._streams.run(pod, self._container, command)
        if code in (None, 126, 127):
            raise PermanentError(f"{helper} cannot be run in container {self._container}: {message or errors.strip()}")
        if code:
            raise TransientError((output + errors).strip())
        try:
            credential = json.loads(output)
            return credential["Username"], credential["Secret"]
        except (ValueError, LookupError, TypeError):
            raise TransientError(f"{helper} returned no credential") from None

    def require_http(self, pod: str) -> None:
        """Send a TLS ClientHello to a pod as containerd does. Raise TransientError or PermanentError if the answer is not HTTP."""
        forward = self._streams.forward(pod, self._port)
        with contextlib.closing(forward.socket(self._port)) as connection:
            answer, closed = _answer(connection, client_hello())
        if answer == _HTTP:
            return
        if not answer and (error := forward.error(self._port)):
            raise TransientError(f"no answer from its registry ({error})")
        # The beginning of a TLS 1.x alert or handshake.
        if answer[:2] in (b"\x15\x03", b"\x16\x03"):
            raise PermanentError(
                f"port {self._port} uses TLS, but clients use HTTP. Remove whatever adds TLS in front of the registry, for example a"
                " sidecar, or give the clients an https address"
            )
        what = repr(answer) if answer else f"nothing {'and closes the connection' if closed else f'for {_HELLO_SECONDS} s'}"
        message = (
            f"port {self._port} answers a TLS ClientHello with {what} instead of {_HTTP!r}. containerd 1.6.28, 1.7.7 or later with"
            " config_path tries HTTPS first, and then cannot pull. Remove whatever answers in front of the registry, for example a"
            " proxy or a sidecar, use the cache's own image, or serve TLS at the address"
        )
        # A busy node may cause silence.
        raise PermanentError(message) if answer else TransientError(message)

    def fetch(self, pod: str, path: str, username: str | None, password: str | None) -> tuple[int, bytes]:
        """Send a GET request to the registry of a pod; return the status and body. Raise PermanentError and TransientError."""
        forward = self._streams.forward(pod, self._port)
        connection = http.client.HTTPConnection("localhost", self._port)
        connection.sock = forward.socket(self._port)
        connection.sock.settimeout(_ANSWER_SECONDS)
        headers = {"Accept": upstream.ACCEPT, "Connection": "close"}
        if username:
            headers["Authorization"] = "Basic " + b64encode(f"{username}:{password}".encode()).decode()
        try:
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (http.client.HTTPException, OSError) as error:
            # The kubelet's error at the port arrives beside the stream.
            raise TransientError(f"no answer from its registry ({forward.error(self._port) or error})") from error
        finally:
            connection.close()
