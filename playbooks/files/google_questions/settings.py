# SPDX-License-Identifier: GPL-3.0-or-later
"""What the playbook says."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the playbook says. issuer, jwks: the cluster's; made: what there is to remove. An empty text is as good as none."""

    project: str
    location: str
    name: str
    kubeconfig: str
    context: str
    auth_kind: str
    service_account_file: str
    access_token: str
    impersonate_service_account: str = ""
    quota_project: str = ""
    issuer: str = ""
    jwks: dict[str, Any] = dataclasses.field(default_factory=dict)
    made: tuple[str, ...] = ("account", "repository", "pool")
