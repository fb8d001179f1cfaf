# SPDX-License-Identifier: GPL-3.0-or-later
"""The address of a registry or cache, and the credential for it."""

from __future__ import annotations

import base64
import http.client
from dataclasses import dataclass


@dataclass(frozen=True)
class Endpoint:
    """Where to pull from, and the credential. Without a user, requests have no credential."""

    port: int
    user: str = ""
    password: str = ""
    host: str = "127.0.0.1"
    timeout: float = 120.0  # maximum seconds without a byte

    @property
    def authorization(self) -> str:
        """The value of the Authorization header."""
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()

    def status(self, path: str) -> int:
        """Returns the status of a GET without a credential, or 0 if there is no response."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=self.timeout)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return 0
        finally:
            connection.close()
