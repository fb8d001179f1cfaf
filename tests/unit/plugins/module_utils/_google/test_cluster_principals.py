# SPDX-License-Identifier: GPL-3.0-or-later
"""Principals of a cluster that no cache uses any more."""

from __future__ import annotations

import pytest
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._google import workload_identity
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._google.cluster_principals import (
    Principal,
    account_name,
    former,
    of_cluster,
    service_account,
)

ONE, TWO, GONE = (f"system:serviceaccount:{namespace}:registry-cache" for namespace in ("one", "two", "gone"))
OWN = Principal("k8s-own", ONE)


@pytest.mark.parametrize(
    ("admitted", "keep_own", "wanted"),
    [
        ({"k8s-own": [ONE]}, True, []),
        ({"k8s-own": [ONE]}, False, [OWN]),
        ({"k8s-own": [ONE, TWO]}, False, [OWN]),
        ({"k8s-own": [GONE, ONE, TWO]}, True, [Principal("k8s-own", GONE)]),
        ({"k8s-old": [ONE, TWO], "k8s-own": [ONE]}, True, [Principal("k8s-old", ONE)]),
        ({"k8s-old": [GONE, ONE], "k8s-own": []}, False, [Principal("k8s-old", GONE), Principal("k8s-old", ONE)]),
        ({}, False, []),
    ],
)
def test_unused_principals(admitted: dict[str, list[str]], keep_own: bool, wanted: list[Principal]) -> None:
    asked = []

    def exists(subject: str) -> bool:
        asked.append(subject)
        return subject != GONE

    assert former(admitted, OWN, keep_own, exists) == wanted
    assert ONE not in asked


def test_the_providers_of_a_cluster() -> None:
    def provider(name: str, cluster: str, state: str = "ACTIVE", condition: str = f"assertion.sub in ['{ONE}']") -> dict[str, str]:
        description = f"Made by pullthrough.registry_cache for cluster {cluster}"
        return {"name": f"p/providers/{name}", "description": description, "state": state, "attributeCondition": condition}

    providers = [
        provider("k8s-own", "uid"),
        provider("k8s-old", "uid", condition=""),
        provider("k8s-deleted", "uid", "DELETED"),
        provider("k8s-by-hand", "uid", condition="assertion.sub == 'x'"),
        provider("k8s-other", "uid9"),
        {"name": "p/providers/foreign", "state": "ACTIVE"},
    ]
    assert of_cluster(providers, "uid", "k8s-own") == {"k8s-own": [ONE], "k8s-old": []}
    assert of_cluster(providers, None, "k8s-own") == {"k8s-own": [ONE]}
    assert of_cluster(providers, None, "foreign") == {}


@pytest.mark.parametrize(
    ("condition", "subjects"),
    [
        (None, []),
        ("", []),
        (f"assertion.sub in ['{ONE}']", [ONE]),
        (f"assertion.sub in ['{ONE}', '{TWO}']", [ONE, TWO]),
        (f"assertion.sub == '{ONE}'", None),
        (f"assertion.sub in ['{ONE}'] || true", None),
        ("assertion.sub in ['a' + 'b']", None),
        ("assertion.sub in []", None),
    ],
)
def test_subjects_of_a_condition(condition: str | None, subjects: list[str] | None) -> None:
    assert workload_identity.subjects_of(condition) == subjects
    if subjects:
        assert workload_identity.condition_of([*reversed(subjects), subjects[0]]) == condition


def test_names() -> None:
    assert service_account(ONE) == ("one", "registry-cache")
    assert service_account("repo:me/mine:ref") is None
    plain, scoped = (f"cache@{part}.iam.gserviceaccount.com" for part in ("my-project", "my-project.example.com"))
    assert account_name(plain) == f"projects/my-project/serviceAccounts/{plain}"
    assert account_name(scoped) == f"projects/example.com:my-project/serviceAccounts/{scoped}"
