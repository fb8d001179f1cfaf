# SPDX-License-Identifier: GPL-3.0-or-later
"""The objects for a controller."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._credentials import controllers
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.owner import Owner


def secret(user: str, **where: Any) -> dict[str, Any]:
    credential = {"user": user, "username": user, "password": "the-cache-password"}
    return {"name": user, "hosts": ["localhost:30026"], "labels": {}, "annotations": {}, "service_accounts": [], **credential, **where}


@pytest.mark.parametrize(
    ("controller", "kinds"),
    [
        ("none", []),
        ("external_secrets", ["Secret", "ServiceAccount", "Role", "RoleBinding", "ClusterSecretStore", "ClusterExternalSecret"]),
        ("reflector", ["Secret"]),
    ],
)
def test_each_user_with_namespaces_has_objects(controller: str, kinds: list[str]) -> None:
    secrets = [secret("a", namespaces=["a"]), secret("none", namespaces=[]), secret("b", namespaces=["b"])]
    made = controllers.objects(secrets, controller, Owner("registry-cache", "cache"))
    assert [item["kind"] for item in made] == kinds * 2
