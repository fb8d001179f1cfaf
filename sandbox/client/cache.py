# SPDX-License-Identifier: GPL-3.0-or-later
"""A client of a cache on its NodePort."""

from __future__ import annotations

import hashlib
import time

import httpx

from .. import cluster
from ..settings import NODE_PORT, PROJECT, REPOSITORY, Sandbox

ACCEPT = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)
NAMESPACE, USER = "registry-cache", "nodes"


class Cache:
    """A cache on its NodePort, called from this machine."""

    def __init__(self, sandbox: Sandbox, port: int = NODE_PORT) -> None:
        self.password = sandbox.password.read_text()
        self._client = httpx.Client(base_url=cluster.endpoint(sandbox, port=port), trust_env=False, timeout=30)

    def manifest(self, name: str, reference: str, auth: tuple[str, str] | None = None) -> httpx.Response:
        """GET a manifest. `auth`: user and password; default: the cache's."""
        path = f"/v2/{PROJECT}/{REPOSITORY}/{name}/manifests/{reference}"
        return self._client.get(path, headers={"Accept": ACCEPT}, auth=auth or (USER, self.password))

    def pull(self, name: str, reference: str) -> tuple[int, int, float]:
        """GET a manifest and its blobs. Returns the number of blobs, their bytes, and the seconds to the slowest first byte.

        :raises ValueError: a body does not match its digest.
        """
        manifest = self.manifest(name, reference)
        manifest.raise_for_status()
        blobs = [manifest.json()["config"], *manifest.json()["layers"]]
        size, first = 0, 0.0
        for blob in blobs:
            url, started = f"/v2/{PROJECT}/{REPOSITORY}/{name}/blobs/{blob['digest']}", time.monotonic()
            hashed, came = hashlib.sha256(), 0
            with self._client.stream("GET", url, auth=(USER, self.password)) as answer:
                answer.raise_for_status()
                for chunk in answer.iter_raw():
                    first = max(first, time.monotonic() - started) if not came else first
                    came += len(chunk)
                    hashed.update(chunk)
            if f"sha256:{hashed.hexdigest()}" != blob["digest"]:
                raise ValueError(f"{url}: {came} bytes that do not match the digest")
            size += came
        return len(blobs), size, first

    def status(self, auth: tuple[str, str] | None) -> int:
        """Returns the status of `GET /v2/` with a credential, or without one."""
        return self._client.get("/v2/", auth=auth).status_code
