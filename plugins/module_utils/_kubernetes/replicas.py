# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The pods of a cache, reached through the API server alone.

Private to this collection.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
import time
import traceback
import typing as t
from base64 import b64encode

from .._image import upstream

try:
    from kubernetes.client import CoreV1Api
    from kubernetes.client.exceptions import ApiException
    from kubernetes.stream import portforward, stream
    from kubernetes.stream.ws_client import ERROR_CHANNEL
    from websocket import WebSocketException
except ImportError:
    IMPORT_ERROR: str | None = traceback.format_exc()

    class ApiException(Exception):  # type: ignore[no-redef]
        pass

else:
    IMPORT_ERROR = None

PAUSE_SECONDS = 2
TOUCHED = "registry-cache.pullthrough/touched"
_EXEC_SECONDS = 60
_HELLO_SECONDS = 5
# What makes containerd, as every client by Go, go on without TLS.
_HTTP = b"HTTP/"


class Refused(Exception):
    """A step that did not succeed, and may after a while."""


class Hopeless(Exception):
    """A step that waiting does not mend."""


def api_words(error: t.Any) -> str:
    """The API server's own message; where it refuses a stream, the client keeps that at the end of the reason."""
    try:
        return json.loads(error.body or error.reason.rpartition(" -+-+- ")[2])["message"]
    except (ValueError, LookupError, TypeError, AttributeError):
        return error.reason


def client_hello() -> bytes:
    """What a client sends first that tries HTTPS."""
    outgoing = ssl.MemoryBIO()
    session = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        session.do_handshake()
    return outgoing.read()


def _answer(connection: t.Any, question: bytes) -> tuple[bytes, bool]:
    """The first bytes of the answer, as many as tell whether it is HTTP, and whether the other side has closed the connection."""
    deadline, answer = time.monotonic() + _HELLO_SECONDS, b""
    try:
        connection.settimeout(_HELLO_SECONDS)
        connection.sendall(question)
        # They may come one by one.
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


class Replicas:
    """The pods of a cache, through the API server alone."""

    def __init__(self, client: t.Any, namespace: str, container: str, port: int) -> None:
        self._api, self._namespace, self._container, self._port = CoreV1Api(client), namespace, container, port

    def look(self, label_selector: str) -> dict[str, tuple[str, bool]]:
        """The uid of each pod that does not end, and whether it is ready, by name; raises Hopeless if there is none."""
        pods = self._api.list_namespaced_pod(self._namespace, label_selector=label_selector).items
        found = {
            pod.metadata.name: (pod.metadata.uid, any(c.type == "Ready" and c.status == "True" for c in pod.status.conditions or []))
            for pod in pods
            if pod.metadata.deletion_timestamp is None
        }
        if not found:
            raise Hopeless(f"no pod in namespace {self._namespace} has the labels {label_selector}")
        return found

    def ready(self, label_selector: str) -> list[str]:
        """The names of the pods; raises Hopeless unless there are some and all are ready."""
        found = self.look(label_selector)
        if waiting := sorted(name for name, (_uid, ready) in found.items() if not ready):
            raise Hopeless(f"not ready in namespace {self._namespace}: {', '.join(waiting)}")
        return sorted(found)

    def touch(self, pod: str, mark: str) -> None:
        """Annotate a pod, at which its kubelet brings the pod's Secrets at once; else it takes up to two minutes."""
        # It is faster, not needed.
        with contextlib.suppress(ApiException):
            self._api.patch_namespaced_pod(pod, self._namespace, {"metadata": {"annotations": {TOUCHED: mark}}})

    def _open(self, opener: t.Any, method: t.Any, pod: str, **options: t.Any) -> t.Any:
        """A stream to a pod; raises Hopeless in the API server's words."""
        try:
            return opener(method, pod, self._namespace, **options)
        except ApiException as error:
            raise Hopeless(f"the API server opens no stream to it: {api_words(error)}") from error

    def run_helper(self, pod: str, helper: str, host: str) -> tuple[str, str]:
        """The credential that the helper returns for a host: username and secret."""
        # The helper reads to the end of its input, which an exec stream cannot signal: a pipe in the pod does.
        command = ["sh", "-c", 'printf %s "$1" | exec "$2" get', "sh", host, helper]
        session = self._open(
            stream,
            self._api.connect_get_namespaced_pod_exec,
            pod,
            container=self._container,
            command=command,
            stdin=False,
            stdout=True,
            stderr=True,
            tty=False,
            _preload_content=False,
        )
        with contextlib.closing(session):
            try:
                session.run_forever(timeout=_EXEC_SECONDS)
            except WebSocketException as error:
                raise Refused(f"the stream to it broke: {error}") from error
            if session.is_open():
                raise Refused(f"{helper} gave no answer within {_EXEC_SECONDS} s")
            output, errors = session.read_stdout(timeout=0) or "", session.read_stderr(timeout=0) or ""
            status = session.read_channel(ERROR_CHANNEL)
        if not status:
            raise Refused("the stream to it broke before the helper ended")
        # Not session.returncode, which takes every failure for an exit code.
        status = json.loads(status)
        if status["status"] != "Success":
            unstarted = status.get("reason") != "NonZeroExitCode"
            if unstarted or status["details"]["causes"][0]["message"] in ("126", "127"):
                words = status["message"] if unstarted else errors.strip()
                raise Hopeless(f"{helper} cannot be run in container {self._container}: {words}")
            raise Refused((output + errors).strip())
        try:
            credential = json.loads(output)
            return credential["Username"], credential["Secret"]
        except (ValueError, LookupError, TypeError):
            raise Refused(f"{helper} returned no credential") from None

    def require_http(self, pod: str) -> None:
        """Ask the registry of one pod for TLS, as containerd does; raises Refused or Hopeless unless the answer is HTTP."""
        forward = self._open(portforward, self._api.connect_get_namespaced_pod_portforward, pod, ports=str(self._port))
        with contextlib.closing(forward.socket(self._port)) as connection:
            answer, closed = _answer(connection, client_hello())
        if answer == _HTTP:
            return
        if not answer and (error := forward.error(self._port)):
            raise Refused(f"no answer from its registry ({error})")
        # An alert or a handshake of TLS 1.
        if answer[:2] in (b"\x15\x03", b"\x16\x03"):
            raise Hopeless(
                f"port {self._port} speaks TLS, where clients use plain HTTP. Remove what adds TLS in front of the registry, "
                "for example a sidecar, or give clients an address with https"
            )
        what = repr(answer) if answer else f"nothing {'and closes the connection' if closed else f'for {_HELLO_SECONDS} s'}"
        message = (
            f"port {self._port} answers a TLS ClientHello with {what}, in place of {_HTTP!r}. containerd 1.6.28, 1.7.7 or later with "
            "config_path tries HTTPS first, and cannot pull then. Remove what answers in front of the registry, for example a "
            "proxy or a sidecar; use the cache's own image, or serve TLS at the address"
        )
        # Silence may be one of a busy node.
        raise Hopeless(message) if answer else Refused(message)

    def fetch(self, pod: str, path: str, username: str | None, password: str | None) -> tuple[int, bytes]:
        """GET a path of the registry of one pod; returns status and body."""
        method = self._api.connect_get_namespaced_pod_portforward
        forward = self._open(portforward, method, pod, ports=str(self._port))
        connection = http.client.HTTPConnection("localhost", self._port)
        connection.sock = forward.socket(self._port)
        connection.sock.settimeout(_EXEC_SECONDS)
        headers = {"Accept": upstream.ACCEPT, "Connection": "close"}
        if username:
            headers["Authorization"] = "Basic " + b64encode(f"{username}:{password}".encode()).decode()
        try:
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (http.client.HTTPException, OSError) as error:
            # What the kubelet met at the port comes beside the stream.
            raise Refused(f"no answer from its registry ({forward.error(self._port) or error})") from error
        finally:
            connection.close()
