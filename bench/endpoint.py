# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a registry or a cache listens, and as whom it is asked."""

from __future__ import annotations

import base64
import http.client
from dataclasses import dataclass


@dataclass(frozen=True)
class Endpoint:
    """Where to pull from and as whom; no user, no credential."""

    port: int
    user: str = ""
    password: str = ""
    host: str = "127.0.0.1"
    timeout: float = 120.0  # seconds without a byte

    @property
    def authorization(self) -> str:
        """The value of the header of that name."""
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()

    def status(self, path: str) -> int:
        """The status of a GET without a credential; 0 without an answer."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=self.timeout)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return 0
        finally:
            connection.close()
