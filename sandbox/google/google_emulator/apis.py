# SPDX-License-Identifier: GPL-3.0-or-later
"""Which of Google's APIs a project has enabled."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from .faults import Conditions
from .store import Store

TITLES = {
    "artifactregistry.googleapis.com": "Artifact Registry API",
    "cloudresourcemanager.googleapis.com": "Cloud Resource Manager API",
    "compute.googleapis.com": "Compute Engine API",
    "container.googleapis.com": "Kubernetes Engine API",
    "iam.googleapis.com": "Identity and Access Management (IAM) API",
    "iamcredentials.googleapis.com": "IAM Service Account Credentials API",
    "serviceusage.googleapis.com": "Service Usage API",
    "storage.googleapis.com": "Cloud Storage API",
    "sts.googleapis.com": "Security Token Service API",
}
# Enabled with it (the discovery document of iam.googleapis.com).
_BRINGS = {"iam.googleapis.com": ("iamcredentials.googleapis.com",)}
READY, DISABLED, DENIED = "ready", "disabled", "denied"


class Apis:
    """States by project id and API. By default, all APIs are enabled."""

    def __init__(
        self,
        store: Store,
        disabled: Mapping[str, Sequence[str]],
        conditions: Conditions,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """disabled: APIs that are disabled at the start, by project id."""
        self._store, self._disabled, self._conditions, self._clock = store, disabled, conditions, clock
        self._enabled_at: dict[str, float] = {}

    def enabled(self, project: str, api: str) -> bool:
        """Returns whether Service Usage reports the API as enabled."""
        stored = self._store.services.get(f"projects/{project}/services/{api}")
        return stored["state"] == "ENABLED" if stored else api not in self._disabled.get(project, ())

    def change(self, project: str, api: str, enabled: bool) -> None:
        for one in (api, *(_BRINGS.get(api, ()) if enabled else ())):
            name = f"projects/{project}/services/{one}"
            if enabled and not self.enabled(project, one):
                self._enabled_at[name] = self._clock()
            self._store.services[name] = {"state": "ENABLED" if enabled else "DISABLED"}
        self._store.save()

    def answers(self, project: str, api: str) -> str:
        """Returns READY, DISABLED or DENIED. A new API refuses requests for a while, first as disabled, then as denied."""
        if not self.enabled(project, api):
            return DISABLED
        age = self._clock() - self._enabled_at.get(f"projects/{project}/services/{api}", float("-inf"))
        lag = self._conditions.enable_lag
        return READY if age >= lag else DISABLED if age < lag / 2 else DENIED
