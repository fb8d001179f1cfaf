# SPDX-License-Identifier: GPL-3.0-or-later
"""The Secrets that reflector copies."""

from __future__ import annotations

import re
from typing import Any

import pytest
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._credentials import reflector
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._credentials.pull_secrets import PullSecretError
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.owner import Owner

REFLECTOR = "reflector.v1.k8s.emberstack.com/reflection-"


def secret(**where: Any) -> dict[str, Any]:
    return {"name": "pull", "hosts": ["localhost:30026"], "username": "nodes.g1", "password": "the-cache-password", **where}


def objects(*secrets: dict[str, Any]) -> list[dict[str, Any]]:
    return reflector.objects(list(secrets), Owner("registry-cache", "cache"))


@pytest.mark.parametrize(
    ("where", "patterns", "selector", "matching"),
    [
        ({"namespaces": ["b", "a"]}, "a,b", None, {"a", "b"}),
        ({"exclude_namespaces": ["a", "registry-cache"]}, r"(?!(?:a|registry\-cache)$).*", None, {"b", "ab", "registry"}),
        ({"namespace_selector": "team in (a)"}, "-", "team in (a)", set()),
    ],
)
def test_reflector(where: dict[str, Any], patterns: str, selector: str | None, matching: set[str]) -> None:
    (made,) = objects(secret(**where))
    assert (made["metadata"]["name"], made["metadata"]["namespace"]) == ("pull", "registry-cache")
    assert made["type"] == "kubernetes.io/dockerconfigjson"
    annotations = {key.removeprefix(REFLECTOR): value for key, value in made["metadata"]["annotations"].items()}
    assert annotations["allowed"] == annotations["auto-enabled"] == "true"
    for kind in ("allowed", "auto"):
        assert annotations[f"{kind}-namespaces"] == patterns
        assert annotations.get(f"{kind}-namespaces-selector") == selector
    # For reflector, each part is a regular expression for the whole name.
    names = {"a", "b", "ab", "registry", "registry-cache"}
    assert {name for name in names if any(re.fullmatch(part, name) for part in patterns.split(","))} == matching


def test_settings_that_reflector_does_not_support() -> None:
    with pytest.raises(PullSecretError, match="several users have a pull secret named pull.*Example: pull_secret"):
        objects(secret(), secret())
    expected = r"exclude_namespaces: .*Example: exclude_namespaces: \['kube-system', 'registry-cache'\]"
    with pytest.raises(PullSecretError, match=expected):
        objects(secret(exclude_namespaces=["kube-system"]))
