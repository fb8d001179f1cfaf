# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Commands in pods and connections to their ports, through the API server alone.

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
except ImportError:  # AnsibleK8SModule says what is missing

    class ApiException(Exception):  # type: ignore[no-redef]
        pass


_EXEC_SECONDS = 60


class ExecResult(t.NamedTuple):
    """A command that has ended.

    :param code: its exit code; None if it was not started.
    :param message: why it was not started.
    """

    code: int | None
    message: str
    output: str
    errors: str


def _words(error: t.Any) -> str:
    """The API server's own message; where it refuses a stream, the client keeps that at the end of the reason."""
    try:
        return json.loads(error.body or error.reason.rpartition(" -+-+- ")[2])["message"]
    except (ValueError, LookupError, TypeError, AttributeError):
        return error.reason


class Streams:
    """Streams to the pods of a namespace."""

    def __init__(self, client: Client, namespace: str) -> None:
        self._api, self._namespace = CoreV1Api(client.raw.client), namespace

    def _open(self, opener: t.Any, method: t.Any, pod: str, **options: t.Any) -> t.Any:
        """A stream to a pod; raises PermanentError in the API server's words."""
        try:
            return opener(method, pod, self._namespace, **options)
        except ApiException as error:
            raise PermanentError(f"the API server opens no stream to it: {_words(error)}") from error

    def run(self, pod: str, container: str, command: list[str]) -> ExecResult:
        """Run a command to its end. Raises PermanentError without a stream, and TransientError if it breaks or takes too long."""
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
                raise TransientError(f"the command gave no answer within {_EXEC_SECONDS} s")
            output, errors = session.read_stdout(timeout=0) or "", session.read_stderr(timeout=0) or ""
            status = session.read_channel(ERROR_CHANNEL)
        if not status:
            raise TransientError("the stream to it broke before the command ended")
        # Not session.returncode, which takes every failure for an exit code.
        status = json.loads(status)
        if status["status"] == "Success":
            return ExecResult(0, "", output, errors)
        if status.get("reason") == "NonZeroExitCode":
            return ExecResult(int(status["details"]["causes"][0]["message"]), "", output, errors)
        return ExecResult(None, status["message"], output, errors)

    def forward(self, pod: str, port: int) -> t.Any:
        """A connection to a port: its C(socket(port)), and C(error(port)) with what the kubelet met there. Raises PermanentError."""
        return self._open(portforward, self._api.connect_get_namespaced_pod_portforward, pod, ports=str(port))
