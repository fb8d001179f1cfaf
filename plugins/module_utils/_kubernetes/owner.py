# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The cache that an object belongs to, as the object's labels say.

Private to this collection.
"""

from __future__ import annotations

import hashlib
import re
import typing as t

from .errors import ClusterError

# Labels and annotations of ours.
PREFIX = "registry-cache.pullthrough/"
OWNER_NAMESPACE = PREFIX + "namespace"
MANAGED_BY, INSTANCE, COMPONENT = (f"app.kubernetes.io/{name}" for name in ("managed-by", "instance", "component"))
MANAGER = "pullthrough.registry_cache"
# A name of Kubernetes that is also the value of a label.
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")


class Owner(t.NamedTuple):
    """The cache that an object belongs to."""

    namespace: str
    name: str

    @classmethod
    def parse(cls, text: str) -> Owner:
        """:raises ClusterError: for what names no cache."""
        namespace, slash, name = text.partition("/")
        if not slash or "." in namespace or any(len(part) > 63 or not NAME.fullmatch(part) for part in (namespace, name)):
            raise ClusterError(
                f"owner: '{text}' must be the namespace and the name of the cache. Example: owner: registry-cache/registry-cache"
            )
        return cls(namespace, name)

    @property
    def labels(self) -> dict[str, str]:
        """The labels of every object of the cache."""
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
        """A name that no other cache of the cluster has, of at most 63 characters."""
        return shortened(self.name if self.name == self.namespace else f"{self.name}.{self.namespace}")

    def owns(self, metadata: dict[str, t.Any]) -> bool:
        """Whether an object has the labels of this owner's."""
        wanted = {MANAGED_BY: MANAGER, INSTANCE: self.name, OWNER_NAMESPACE: self.namespace}
        return wanted.items() <= (metadata.get("labels") or {}).items()


def shortened(text: str, limit: int = 63) -> str:
    """The text, or its beginning with a hash of all of it where it is longer than the limit."""
    if len(text) <= limit:
        return text
    return f"{text[: limit - 9].rstrip('.-')}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def manager(metadata: dict[str, t.Any]) -> str:
    """Who manages an object, in parentheses, as far as its labels say it."""
    found = metadata.get("labels") or {}
    if found.get(MANAGED_BY) == MANAGER:
        component = f"{found[COMPONENT]} " if found.get(COMPONENT) else ""
        return f" ({component}of cache {found.get(OWNER_NAMESPACE, '?')}/{found.get(INSTANCE, '?')})"
    return f" (managed by {found[MANAGED_BY]})" if found.get(MANAGED_BY) else ""
