# SPDX-License-Identifier: GPL-3.0-or-later
"""The resources that survive a restart."""

from __future__ import annotations

import json
import pathlib
from typing import Any

from .config import write_private

Resource = dict[str, Any]


class Store:
    """Resources by full name, in a JSON file, or only in memory without a path."""

    def __init__(self, path: pathlib.Path | None = None) -> None:
        self._path = path
        self.pools: dict[str, Resource] = {}
        self.providers: dict[str, Resource] = {}
        self.repositories: dict[str, Resource] = {}
        self.policies: dict[str, Resource] = {}
        self.services: dict[str, Resource] = {}
        self.accounts: dict[str, Resource] = {}
        self.keys: dict[str, Resource] = {}
        if path is not None and path.exists():
            for name, resources in json.loads(path.read_text()).items():
                getattr(self, name).update(resources)

    def save(self) -> None:
        if self._path is not None:
            content = {name: resources for name, resources in vars(self).items() if name != "_path"}
            write_private(self._path, json.dumps(content, indent=1).encode())

    def expire(self, now: str) -> None:
        """Remove resources that were deleted 30 days ago, which frees their ids.

        now: RFC 3339 in UTC with whole seconds, which sorts as text.
        """
        gone = [pool for pool in self.pools if self.pools[pool].get("expireTime", now) < now]
        gone += [name for name in self.providers if self.providers[name].get("expireTime", now) < now]
        gone += [name for name in self.accounts if self.accounts[name].get("expireTime", now) < now]
        for name in gone:
            self.pools.pop(name, None)
            self.accounts.pop(name, None)
            for provider in [key for key in self.providers if f"{key}/".startswith(f"{name}/")]:
                del self.providers[provider]
        if gone:
            self.save()

    def live_pool(self, name: str) -> bool:
        """Returns whether a pool exists and is neither deleted nor disabled."""
        return _live(self.pools.get(name))

    def live_provider(self, name: str) -> Resource | None:
        """Returns a provider if it and its pool are neither deleted nor disabled."""
        provider = self.providers.get(name)
        return provider if _live(provider) and self.live_pool(name.rpartition("/providers/")[0]) else None

    def account(self, key: str) -> str | None:
        """Returns the full name of a service account that is not deleted. key: its e-mail address or unique id."""
        for name, account in self.accounts.items():
            if "expireTime" not in account and key in (account["email"], account["uniqueId"]):
                return name
        return None

    def live_account(self, name: str) -> bool:
        """Returns whether a service account exists and is neither deleted nor disabled."""
        account = self.accounts.get(name)
        return account is not None and "expireTime" not in account and not account.get("disabled", False)


def _live(resource: Resource | None) -> bool:
    return resource is not None and resource["state"] == "ACTIVE" and not resource.get("disabled", False)
