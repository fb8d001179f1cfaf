# SPDX-License-Identifier: GPL-3.0-or-later
"""The server as a process that a benchmark starts and controls."""

from __future__ import annotations

import http.client
import http.server
import json
import pathlib
import secrets
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from sandbox import processes
from sandbox.steps import wait

from ..content import Library
from .state import Fault, Settings


class Upstream:
    """A running upstream process."""

    def __init__(self, folder: pathlib.Path, library: Library, port: int) -> None:
        self.port, self.secret = port, secrets.token_hex(16)
        self.url = f"http://127.0.0.1:{port}"
        self._pid_file = folder / "upstream.pid"
        config = folder / "upstream.json"
        config.write_text(json.dumps({"library": str(library.folder), "port": port, "secret": self.secret}))
        processes.start(self._pid_file, [sys.executable, "-m", "bench.paced_upstream", str(config)])
        wait(self._answers, 20, "the upstream", every=0.05)

    def _answers(self) -> bool:
        try:
            return self.counts() == {}
        except OSError:
            return False

    def _call(self, what: str, body: Any = None) -> dict[str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.request("POST" if body is not None else "GET", f"/control/{what}", json.dumps(body) if body else None)
        answer = json.loads(connection.getresponse().read())
        connection.close()
        return answer

    def set(self, latency: float = 0.0, rate: int = 0, faults: Mapping[str, Fault] | None = None) -> None:
        """Sets latency in seconds, bytes/s per connection and faults by digest, and resets the counters."""
        self._call("settings", asdict(Settings(latency, rate, dict(faults or {}))))

    def counts(self) -> dict[str, int]:
        """Returns the number of requests since `set`, by `METHOD KIND DIGEST` (kinds: token, manifest, blob, content)."""
        return self._call("counts")["counts"]

    def sent(self) -> int:
        """Returns the bytes of blobs sent since `set`."""
        return self._call("counts")["bytes"]

    def stop(self) -> None:
        processes.stop(self._pid_file)
