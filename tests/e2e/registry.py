# SPDX-License-Identifier: GPL-3.0-or-later
"""Single requests to a registry, without retries."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass

from bench.content import MANIFEST
from bench.endpoint import Endpoint

INDEX = "application/vnd.oci.image.index.v1+json"


@dataclass
class Answer:
    """A complete answer of a registry. Header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> str:
        """The code of the only error in the body."""
        (error,) = json.loads(self.body)["errors"]
        assert error["message"]
        return error["code"]


def authorization(endpoint: Endpoint) -> dict[str, str]:
    """Returns the header with an endpoint's credential, if it has one."""
    return {"Authorization": endpoint.authorization} if endpoint.user else {}


def ask(endpoint: Endpoint, path: str, method: str = "GET", body: bytes | None = None, **headers: str) -> Answer:
    """Send a request once. The default Accept is image manifests and indexes. Empty headers are not sent."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    sent = {"Accept": f"{MANIFEST}, {INDEX}", **authorization(endpoint), **named}
    connection = http.client.HTTPConnection(endpoint.host, endpoint.port, timeout=min(endpoint.timeout, 40))
    try:
        connection.request(method, path, body, {name: value for name, value in sent.items() if value})
        answer = connection.getresponse()
        return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
    finally:
        connection.close()
