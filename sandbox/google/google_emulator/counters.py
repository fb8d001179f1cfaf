# SPDX-License-Identifier: GPL-3.0-or-later
"""Counts requests to the upstream by kind, repository and blob, and to Google's APIs by method and host."""

from __future__ import annotations

from collections import Counter

KINDS = (
    "ping",
    "token",
    "manifest_get",
    "manifest_head",
    "blob_get",
    "blob_head",
    "blob_download",
    "blob_bytes",
    "upload",
    "denied",
    "sts_exchange",
    "sts_refused",
)


class Counters:
    """Counts since the last reset. The operator's requests to the upstream are not counted."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._total: Counter[str] = Counter()
        self._repositories: dict[str, Counter[str]] = {}
        self._blobs: dict[str, Counter[str]] = {}
        self._apis: Counter[str] = Counter()

    def asked(self, method: str, host: str) -> None:
        """Count a request to a googleapis host, also the operator's."""
        self._apis[f"{method} {host}"] += 1

    def add(self, kind: str, repository: str | None = None, digest: str | None = None, amount: int = 1) -> None:
        assert kind in KINDS, kind
        self._total[kind] += amount
        if repository is not None:
            self._repositories.setdefault(repository, Counter())[kind] += amount
        if digest is not None:
            self._blobs.setdefault(digest, Counter())[kind] += amount

    def read(self) -> dict[str, object]:
        """Returns all counts by kind; `repositories`: by image repository; `blobs`: by digest; `apis`: by method and host."""
        repositories = {name: dict(counts) for name, counts in sorted(self._repositories.items())}
        blobs = {digest: dict(counts) for digest, counts in sorted(self._blobs.items())}
        return {**{kind: self._total[kind] for kind in KINDS}, "repositories": repositories, "blobs": blobs, "apis": dict(self._apis)}
