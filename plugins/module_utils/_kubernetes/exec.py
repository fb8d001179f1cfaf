# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Commands in pods and connections to their ports, through the API server only.

Private to this collection.
"""

from __future__ import annotations

import contextlib
import json
import typing as t

from .client import Client
from .errors import PermanentError, TransientError

try:
    from kubernetes.client import CoreV1Api
    from kubernetes.client.exceptions import ApiException
    from kubernetes.stream import portforward, stream
    from kubernetes.stream.ws_client import ERROR_CHANNEL
    from websocket import WebSocketException
except ImportError:  # AnsibleK8SModule reports what is missing

    class ApiException(Exception):  # type: ignore[no-redef]
        pass


_EXEC_SECONDS = 60


class ExecResult(t.NamedTuple):
    """The result of a command.

    :param code: exit code; None if the command was not started.
    :param message: why it was not started.
    """

    code: int | None
    message: str
    output: str
    errors: str


def _words(error: t.Any) -> str:
    """Return the API server's own message. If it refuses a stream, the client has the message at the end of the reason."""
    try:
        return json.loads(error.body or error.reason.rpartition(" -+-+- ")[2])["message"]
    except (ValueError, LookupError, TypeError, AttributeError):
        return error.reason


class Streams:
    """Streams to the pods of a namespace."""

    def __init__(self, client: Client, namespace: str) -> None:
        self._api, self._namespace = CoreV1Api(client.raw.client), namespace

    def _open(self, opener: t.Any, method: t.Any, pod: str, **options: t.Any) -> t.Any:
        """Return a stream to a pod. Raise PermanentError with the API server's own message."""
        try:
            return opener(method, pod, self._namespace, **options)
        except ApiException as error:
            raise PermanentError(f"the API server refuses the stream to it: {_words(error)}") from error

    def run(self, pod: str, container: str, command: list[str]) -> ExecResult:
        """Run a command; return its result. Raise PermanentError without a stream, and TransientError if it breaks or times out."""
        session = self._open(
            stream,
            self._api.connect_get_namespaced_pod_exec,
            pod,
            container=container,
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
            except (WebSocketException, OSError) as error:
                raise TransientError(f"the stream to it broke: {error}") from error
            if session.is_open():
                raise TransientError(f"the command did not end within {_EXEC_SECONDS} s")
            output, errors = session.read_stdout(timeout=0) or "", session.read_stderr(timeout=0) or ""
            status = session.read_channel(ERROR_CHANNEL)
        if not status:
            raise TransientError("the stream to it broke before the command ended")
        # session.returncode interprets every failure as an exit code, so it is not used.
        status = json.loads(status)
        if status["status"] == "Success":
            return ExecResult(0, "", output, errors)
        if status.get("reason") == "NonZeroExitCode":
            return ExecResult(int(status["details"]["causes"][0]["message"]), "", output, errors)
        return ExecResult(None, status["message"], output, errors)

    def forward(self, pod: str, port: int) -> t.Any:
        """Return a connection to a port, with C(socket(port)), and C(error(port)) for the kubelet's error. Raise PermanentError."""
        return self._open(portforward, self._api.connect_get_namespaced_pod_portforward, pod, ports=str(port))
