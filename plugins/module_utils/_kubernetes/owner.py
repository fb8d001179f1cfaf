# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The cache that an object belongs to, according to the object's labels.

Private to this collection.
"""

from __future__ import annotations

import hashlib
import re
import typing as t

from .errors import ClusterError

# Prefix of our labels and annotations.
PREFIX = "registry-cache.pullthrough/"
OWNER_NAMESPACE = PREFIX + "namespace"
MANAGED_BY, INSTANCE, COMPONENT = (f"app.kubernetes.io/{name}" for name in ("managed-by", "instance", "component"))
MANAGER = "pullthrough.registry_cache"
# A Kubernetes name that can also be the value of a label.
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")


class Owner(t.NamedTuple):
    """The cache that an object belongs to."""

    namespace: str
    name: str

    @classmethod
    def parse(cls, text: str) -> Owner:
        """Return the owner in a text NAMESPACE/NAME. Raise ClusterError for any other text."""
        namespace, slash, name = text.partition("/")
        if not slash or "." in namespace or any(len(part) > 63 or not NAME.fullmatch(part) for part in (namespace, name)):
            raise ClusterError(
                f"owner: must be NAMESPACE/NAME of a cache (got '{text}'). Example: owner: registry-cache/registry-cache"
            )
        return cls(namespace, name)

    @property
    def labels(self) -> dict[str, str]:
        """The labels of all objects of the cache."""
        return {
            "app.kubernetes.io/name": "registry-cache",
            INSTANCE: self.name,
            "app.kubernetes.io/part-of": "registry-cache",
            MANAGED_BY: MANAGER,
            OWNER_NAMESPACE: self.namespace,
        }

    @property
    def selector(self) -> str:
        return f"{MANAGED_BY}={MANAGER},{INSTANCE}={self.name},{OWNER_NAMESPACE}={self.namespace}"

    @property
    def short(self) -> str:
        """A name of at most 63 characters that no other cache of the cluster has."""
        return shortened(self.name if self.name == self.namespace else f"{self.name}.{self.namespace}")

    def owns(self, metadata: dict[str, t.Any]) -> bool:
        """Return whether an object has the labels of this owner."""
        wanted = {MANAGED_BY: MANAGER, INSTANCE: self.name, OWNER_NAMESPACE: self.namespace}
        return wanted.items() <= (metadata.get("labels") or {}).items()


def shortened(text: str, limit: int = 63) -> str:
    """Return the text. If it is longer than the limit, return its beginning with a hash of the whole text."""
    if len(text) <= limit:
        return text
    return f"{text[: limit - 9].rstrip('.-')}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def manager(metadata: dict[str, t.Any]) -> str:
    """Return who manages an object according to its labels, in parentheses; an empty string if unknown."""
    found = metadata.get("labels") or {}
    if found.get(MANAGED_BY) == MANAGER:
        component = f"{found[COMPONENT]} " if found.get(COMPONENT) else ""
        return f" ({component}of cache {found.get(OWNER_NAMESPACE, '?')}/{found.get(INSTANCE, '?')})"
    return f" (managed by {found[MANAGED_BY]})" if found.get(MANAGED_BY) else ""
