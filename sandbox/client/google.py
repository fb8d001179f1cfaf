# SPDX-License-Identifier: GPL-3.0-or-later
"""A client of the Google emulator, as its operator: Google's APIs, counters and faults."""

from __future__ import annotations

import ssl
from typing import Any

import httpx

from ..settings import LOCATION, PROJECT, REPOSITORY, Sandbox

_REPOSITORY_URL = f"/v1/projects/{PROJECT}/locations/{LOCATION}/repositories/{REPOSITORY}"


def operator_client(sandbox: Sandbox) -> httpx.Client:
    """Returns an HTTP client with the credential of the emulator's operator, who may do everything."""
    return httpx.Client(
        base_url=f"https://{sandbox.gateway}",
        headers={"Authorization": f"Bearer {sandbox.operator_token.read_text().strip()}"},
        verify=ssl.create_default_context(cafile=str(sandbox.ca)),
        trust_env=False,
        timeout=30,
    )


class Google:
    """The emulator's APIs, counters and faults, called as its operator."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._client = operator_client(sandbox)

    def call(self, method: str, host: str, path: str, body: Any = None, **params: str) -> Any:
        """Send a request to one of Google's hosts. Raises HTTPStatusError on an error status."""
        answer = self._client.request(method, path, headers={"Host": host}, json=body, params=params)
        answer.raise_for_status()
        return answer.json()

    def exchange(self, audience: str, token: str) -> httpx.Response:
        """Returns the response of STS to a subject token, also an error."""
        form = {
            "audience": audience,
            "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
            "requested_token_type": "urn:ietf:params:oauth:token-type:access_token",
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "scope": "https://www.googleapis.com/auth/cloud-platform",
            "subject_token": token,
        }
        return self._client.post("/v1/token", data=form, headers={"Host": "sts.googleapis.com", "Authorization": ""})

    def counters(self) -> dict[str, int]:
        """Returns the number of requests by kind, without the operator's."""
        return self._client.get("/emulator/counters").json()

    def apis(self) -> dict[str, int]:
        """Returns the number of requests to googleapis hosts by method and host, including this client's."""
        return self._client.get("/emulator/counters").json()["apis"]

    def reset_counters(self) -> None:
        self._client.post("/emulator/counters/reset").raise_for_status()

    def blob_counters(self, digest: str) -> dict[str, int]:
        """Returns the counters of one blob: blob_get, blob_download, blob_head, blob_bytes."""
        counted = self._client.get("/emulator/counters").json()["blobs"].get(digest, {})
        return {kind: counted.get(kind, 0) for kind in ("blob_get", "blob_download", "blob_head", "blob_bytes")}

    def fault(self, match: str, count: int = 1, **effects: float | int | bool) -> None:
        """Inject a fault into the next `count` downloads of blobs whose path contains `match`, such as a digest.

        effects: seconds, bytes_per_second, status, cut, corrupt; see google_emulator/faults.py.
        """
        body = {"match": match, "count": count, **effects}
        self._client.post("/emulator/faults", json=body).raise_for_status()

    def host_fault(self, host: str, path: str = "", count: int = 1, **effect: float | int | bool) -> None:
        """Inject a fault into the next `count` requests to one of Google's hosts whose path contains `path`.

        effect: one of hang (seconds), status, seconds, truncate; see google_emulator/faults.py.
        """
        body = {"host": host, "path": path, "count": count, **effect}
        self._client.post("/emulator/faults", json=body).raise_for_status()

    def condition(self, **conditions: float | bool) -> None:
        """Set conditions until `reset_faults`: expired, grant_lag, enable_lag, clock_shift; see google_emulator/faults.py."""
        self._client.post("/emulator/faults", json=conditions).raise_for_status()

    def faults(self) -> list[dict[str, Any]]:
        """Returns the remaining faults with their counts, then the conditions that are set."""
        return self._client.get("/emulator/faults").json()

    def reset_faults(self) -> None:
        self._client.post("/emulator/faults/reset").raise_for_status()

    def policy(self) -> dict[str, Any]:
        """Returns the IAM policy of the private repository."""
        host = "artifactregistry.googleapis.com"
        return self.call("GET", host, f"{_REPOSITORY_URL}:getIamPolicy", **{"options.requestedPolicyVersion": "3"})

    def set_policy(self, policy: dict[str, Any]) -> None:
        host = "artifactregistry.googleapis.com"
        self.call("POST", host, f"{_REPOSITORY_URL}:setIamPolicy", {"policy": policy})

    def revoke(self) -> dict[str, Any]:
        """Remove all bindings of the repository. Returns the policy from before."""
        before = self.policy()
        self.set_policy({**before, "bindings": []})
        return before
