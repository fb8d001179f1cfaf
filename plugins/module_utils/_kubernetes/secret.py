# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A Secret of a cache that concurrent runs may write. No run overwrites content that it has not read.

Private to this collection.
"""

from __future__ import annotations

from base64 import b64decode, b64encode

from . import cache_objects
from .client import PATCH, Client
from .errors import ClusterError, ConflictError, NotFoundError
from .owner import Owner

# How many times a run retries after a concurrent change.
TRIES = 10


class BusyError(ClusterError):
    """Concurrent runs keep changing the Secret. The text is a message for the user."""


class Secret:
    """A Secret with one key, as it was read. Raises ClusterError."""

    def __init__(self, api: Client, owner: Owner, suffix: str, key: str, example: str = "name: registry-cache-2") -> None:
        """:param example: another cache, as in an option of the module.
        :raises ObjectsError: if the Secret does not belong to the cache, or its content is not text.
        """
        self.name = f"{owner.name}-{suffix}"
        self.where = f"Secret {self.name} in namespace {owner.namespace}"
        self._api, self._key = api, key
        self._labels = owner.labels
        self._path = f"/api/v1/namespaces/{owner.namespace}/secrets"
        found = api.get(f"{self._path}/{self.name}")
        if found and "metadata" not in found:
            raise api.unusable(f"{self.where} is not an object")
        if found and not owner.owns(found["metadata"]):
            raise cache_objects.ObjectsError(
                f"{self.where} does not belong to this cache ({cache_objects.describe(found)}). Choose another name for the cache, or"
                f" rename that Secret. Example: {example}"
            )
        self._version = found["metadata"]["resourceVersion"] if found else None
        try:
            self.text = b64decode(((found or {}).get("data") or {}).get(key, "")).decode()
        except ValueError:
            raise cache_objects.ObjectsError(
                f"{self.where}: the content of its key '{key}' must be UTF-8 text. Restore it, or delete the Secret and run site.yml"
            ) from None

    def write(self, text: str) -> bool:
        """Write the text; return False if the Secret was created, changed or removed by someone else since it was read."""
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
            if self._version is None:  # the namespace does not exist
                raise
            return False
        return True
