# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A Secret of a cache that several runs may write at once: no run overwrites what it has not read.

Private to this collection.
"""

from __future__ import annotations

from base64 import b64decode, b64encode

from . import cache_objects
from .client import PATCH, Client
from .errors import ClusterError, ConflictError, NotFoundError
from .owner import Owner

# How often a run reads again what another one has written meanwhile.
TRIES = 10


class BusyError(ClusterError):
    """Other runs write all the time; the message is a sentence for the user."""


class Secret:
    """A Secret of one text, as it was when it was read. Raises ClusterError."""

    def __init__(self, api: Client, owner: Owner, suffix: str, key: str, example: str = "name: registry-cache-2") -> None:
        """:param example: another cache, as the module's option names it.
        :raises ObjectsError: if there is one of that name that belongs to somebody else, or that holds no text.
        """
        self.name = f"{owner.name}-{suffix}"
        self.where = f"Secret {self.name} in namespace {owner.namespace}"
        self._api, self._key = api, key
        self._labels = owner.labels
        self._path = f"/api/v1/namespaces/{owner.namespace}/secrets"
        found = api.get(f"{self._path}/{self.name}")
        if found and "metadata" not in found:
            raise api.unusable(f"{self.where} is no object")
        if found and not owner.owns(found["metadata"]):
            raise cache_objects.ObjectsError(
                f"{self.where} is not of this cache ({cache_objects.describe(found)}). Choose another name for the cache, or move"
                f" that Secret away. Example: {example}"
            )
        self._version = found["metadata"]["resourceVersion"] if found else None
        try:
            self.text = b64decode(((found or {}).get("data") or {}).get(key, "")).decode()
        except ValueError:
            raise cache_objects.ObjectsError(
                f"{self.where}: its key '{key}' is no text in UTF-8. Restore it, or remove the Secret, and run site.yml"
            ) from None

    def write(self, text: str) -> bool:
        """Whether it was written. It was not if somebody else has created, changed or removed it since it was read."""
        data = {self._key: b64encode(text.encode()).decode()}
        try:
            if self._version is None:
                metadata = {"name": self.name, "labels": self._labels}
                body = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data}
                self._api.request("post", self._path, body, field_manager="registry-cache")
            else:
                body = {"metadata": {"resourceVersion": self._version, "labels": self._labels}, "data": data}
                self._api.request("patch", f"{self._path}/{self.name}", body, **PATCH)
        except ConflictError:
            return False
        except NotFoundError:
            if self._version is None:  # there is no such namespace
                raise
            return False
        return True
