# SPDX-License-Identifier: GPL-3.0-or-later
"""Module gcp_iam_cluster_principals against the Google emulator and an API server."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.unit.plugins.google_wire import Wire
from tests.unit.plugins.kubernetes_api import ApiServer, Refusal
from tests.unit.sandbox.google.harness import (
    ACCOUNTS,
    AR,
    EMAIL,
    ISSUER,
    POOL,
    POOLS,
    READER,
    REPOSITORY,
    SUBJECT,
)

UID = "0b1f7a3e"
OWNER = f"Made by pullthrough.registry_cache for cluster {UID}"
POOL_OWNER = "Made by pullthrough.registry_cache"
OTHER = "system:serviceaccount:other:registry-cache"
LABELS = {"app.kubernetes.io/managed-by": "pullthrough.registry_cache"}
IMPERSONATOR = "roles/iam.workloadIdentityUser"
PROVIDERS = f"{POOLS}/cache/providers"


@pytest.fixture
def cluster(server: ApiServer) -> ApiServer:
    server.namespace("kube-system")
    server.objects["namespaces", "", "kube-system"]["metadata"]["uid"] = UID
    for namespace in ("registry-cache", "other"):
        server.namespace(namespace)
        server.add("serviceaccounts", namespace, "registry-cache", metadata={"labels": LABELS})
    return server


@pytest.fixture
def google(google: Any) -> Any:
    """A pool that this collection created, and a repository."""
    google.done(google.create_pool(description=POOL_OWNER))
    google.create_repository()
    return google


def admit(wire: Wire, name: str, *subjects: str, description: str = OWNER, condition: str | None = None) -> None:
    body = {
        "description": description,
        "attributeMapping": {"google.subject": f"'{name}:' + assertion.sub"},
        "attributeCondition": condition or f"assertion.sub in [{', '.join(map(repr, subjects))}]",
        "oidc": {"issuerUri": ISSUER, "jwksJson": json.dumps(wire.google.keys.jwks())},
    }
    parameters = {"workloadIdentityPoolProviderId": name}
    wire.google.done(wire.google.call("POST", PROVIDERS, params=parameters, json=body))


def member(provider: str, subject: str) -> str:
    return f"principal://iam.googleapis.com/{POOL}/subject/{provider}:{subject}"


def readers(wire: Wire) -> list[str]:
    policy = wire.google.call("GET", f"{AR}/{REPOSITORY}:getIamPolicy").json()
    return [one for binding in policy.get("bindings", []) if binding["role"] == READER for one in binding["members"]]


def impersonators(wire: Wire) -> list[str]:
    policy = wire.google.call("POST", f"{ACCOUNTS}/{EMAIL}:getIamPolicy").json()
    return [one for binding in policy.get("bindings", []) for one in binding["members"]]


def providers(wire: Wire) -> dict[str, str]:
    """Return the conditions of active providers."""
    found = wire.google.call("GET", PROVIDERS).json().get("workloadIdentityPoolProviders", [])
    return {item["name"].rpartition("/")[2]: item["attributeCondition"] for item in found}


def grant(wire: Wire, *members: str) -> None:
    assert wire.google.set_policy({"role": READER, "members": [*members]}).status_code == 200


def prune(wire: Wire, cluster: ApiServer | None, **arguments: Any) -> dict[str, Any]:
    connection = {"host": cluster.url, "api_key": "token"} if cluster else {"kubeconfig": "/nowhere"}
    names = {"project": "demo", "pool_id": "cache", "provider_id": "k8s-one", "subject": SUBJECT}
    return wire.run(
        "gcp_iam_cluster_principals", **{**names, **connection, "cluster_uid": UID, "repositories": [REPOSITORY], **arguments}
    )


def warned(result: dict[str, Any], capfd: pytest.CaptureFixture[str]) -> str:
    """Return the warnings of the module. If controller plugins are loaded, warnings are displayed instead of returned."""
    return str(result.get("warnings")) + " ".join(capfd.readouterr().err.split())


def test_one_request_if_there_is_nothing_to_do(wire: Wire, cluster: ApiServer) -> None:
    admit(wire, "k8s-one", SUBJECT)
    grant(wire, member("k8s-one", SUBJECT), "user:admin@example.com")
    result = prune(wire, cluster)
    assert not result["changed"] and result["removed"] == [] and result["providers"] == {"k8s-one": [SUBJECT]}
    assert wire.sent() == [("GET", PROVIDERS)] and cluster.seen == []
    assert len(readers(wire)) == 2


def test_before_the_first_run_there_is_nothing(wire: Wire, cluster: ApiServer) -> None:
    assert not prune(wire, cluster, check=True)["changed"]


def test_a_renamed_cache(wire: Wire, cluster: ApiServer) -> None:
    """The old service account no longer exists, but the other cache of the cluster does."""
    former = "system:serviceaccount:before:registry-cache"
    admit(wire, "k8s-one", SUBJECT, OTHER, former)
    grant(wire, *(member("k8s-one", subject) for subject in (SUBJECT, OTHER, former)), "user:admin@example.com")
    check = prune(wire, cluster, check=True)
    assert check["changed"] and not wire.writes()
    result = prune(wire, cluster)
    assert result["removed"] == check["removed"] == [
        {"resource": REPOSITORY, "role": READER, "member": member("k8s-one", former)}
    ]
    assert result["diff"]["after"] == check["diff"]["after"]
    assert sorted(readers(wire)) == sorted([member("k8s-one", SUBJECT), member("k8s-one", OTHER), "user:admin@example.com"])
    assert providers(wire) == {"k8s-one": f"assertion.sub in ['{OTHER}', '{SUBJECT}']"}
    assert not prune(wire, cluster)["changed"]


def test_the_grant_is_removed_before_the_subject(wire: Wire, cluster: ApiServer) -> None:
    """If a run is interrupted in between, the next one finds the subject, and so the grant, again."""
    former = "system:serviceaccount:before:registry-cache"
    admit(wire, "k8s-one", SUBJECT, former)
    grant(wire, member("k8s-one", former))
    prune(wire, cluster)
    assert [request.method for request in wire.writes()] == ["POST", "PATCH"]


def test_a_concurrent_change_is_retried(wire: Wire, cluster: ApiServer) -> None:
    """The subject that was added concurrently is kept."""
    former, added = "system:serviceaccount:before:registry-cache", "system:serviceaccount:third:registry-cache"
    admit(wire, "k8s-one", SUBJECT, former)

    def add() -> None:
        condition = f"assertion.sub in ['{former}', '{SUBJECT}', '{added}']"
        name = f"{POOL}/providers/k8s-one"
        wire.google.done(wire.google.patch(name, "attributeCondition", attributeCondition=condition))

    # The second read follows the conflict.
    wire.before("GET", "providers/k8s-one", lambda: wire.before("GET", "providers/k8s-one", add))
    wire.answer("PATCH", "providers/k8s-one", 409, {"error": {"code": 409, "message": "Concurrent change."}})
    assert prune(wire, cluster)["changed"]
    assert providers(wire) == {"k8s-one": f"assertion.sub in ['{SUBJECT}', '{added}']"}


def test_a_renamed_provider(wire: Wire, cluster: ApiServer) -> None:
    """The cache's subject in another provider of the cluster is removed. An existing cache there is kept."""
    admit(wire, "k8s-one", SUBJECT)
    admit(wire, "k8s-old", SUBJECT)
    admit(wire, "k8s-shared", SUBJECT, OTHER)
    grant(wire, *(member(name, SUBJECT) for name in ("k8s-one", "k8s-old", "k8s-shared")), member("k8s-shared", OTHER))
    result = prune(wire, cluster)
    assert result["providers"] == {"k8s-one": [SUBJECT], "k8s-shared": [OTHER]}
    assert sorted(readers(wire)) == [member("k8s-one", SUBJECT), member("k8s-shared", OTHER)]
    assert providers(wire).keys() == {"k8s-one", "k8s-shared"}
    assert not prune(wire, cluster)["changed"]


def test_providers_of_others_are_kept(wire: Wire, cluster: ApiServer) -> None:
    former = "system:serviceaccount:before:registry-cache"
    admit(wire, "k8s-one", SUBJECT)
    admit(wire, "k8s-two", former, description=f"{OWNER}9")
    admit(wire, "terraform", former, description="Made by Terraform")
    admit(wire, "by-hand", condition=f"assertion.sub == '{former}'")
    names = ("k8s-two", "terraform", "by-hand")
    grant(wire, *(member(name, former) for name in names))
    assert not prune(wire, cluster)["changed"] and len(readers(wire)) == 3 and len(providers(wire)) == 4


def test_a_service_account_without_the_label_is_not_a_cache(wire: Wire, cluster: ApiServer) -> None:
    cluster.objects["serviceaccounts", "other", "registry-cache"]["metadata"]["labels"] = {}
    admit(wire, "k8s-one", SUBJECT, OTHER)
    assert prune(wire, cluster)["providers"] == {"k8s-one": [SUBJECT]}


def test_a_service_account_that_cannot_be_read_is_kept(wire: Wire, cluster: ApiServer, capfd: pytest.CaptureFixture[str]) -> None:
    admit(wire, "k8s-one", SUBJECT, OTHER)

    def forbid(_method: str, path: str) -> None:
        if "serviceaccounts" in path:
            raise Refusal(403, "forbidden")

    cluster.hook = forbid
    result = prune(wire, cluster)
    assert not result["changed"] and "get on serviceaccounts in namespace other" in warned(result, capfd)


@pytest.mark.parametrize("answer", [None, {}, [], {"metadata": None}])
def test_an_unusable_answer_removes_nothing(wire: Wire, cluster: ApiServer, answer: Any) -> None:
    """Some proxies return such answers."""
    admit(wire, "k8s-one", SUBJECT, OTHER)
    cluster.plain["/api/v1/namespaces/other/serviceaccounts/registry-cache"] = answer
    assert not prune(wire, cluster)["changed"]


def test_the_cluster_is_asked_for_its_identity(wire: Wire, cluster: ApiServer) -> None:
    admit(wire, "k8s-one", SUBJECT, "system:serviceaccount:before:registry-cache")
    assert prune(wire, cluster, cluster_uid=None)["providers"] == {"k8s-one": [SUBJECT]}


def test_a_cluster_that_does_not_answer(wire: Wire) -> None:
    admit(wire, "k8s-one", SUBJECT)
    message = prune(wire, None, cluster_uid=None)["msg"]
    assert "The cluster does not return its identity" in message and "Set kubeconfig" in message


# With a Google service account


@pytest.fixture
def account(wire: Wire) -> dict[str, str]:
    assert wire.google.create_account().status_code == 200
    return {"service_account": EMAIL}


def test_the_switch_to_a_service_account(wire: Wire, cluster: ApiServer, account: dict[str, str]) -> None:
    admit(wire, "k8s-one", SUBJECT, OTHER)
    grant(wire, member("k8s-one", SUBJECT), member("k8s-one", OTHER), f"serviceAccount:{EMAIL}")
    wire.google.set_account_policy({"role": IMPERSONATOR, "members": [member("k8s-one", SUBJECT)]})
    result = prune(wire, cluster, **account)
    assert [one["member"] for one in result["removed"]] == [member("k8s-one", SUBJECT)]
    assert sorted(readers(wire)) == [member("k8s-one", OTHER), f"serviceAccount:{EMAIL}"]
    assert impersonators(wire) == [member("k8s-one", SUBJECT)] and not prune(wire, cluster, **account)["changed"]


def test_unused_principals_cannot_impersonate_the_account(wire: Wire, cluster: ApiServer, account: dict[str, str]) -> None:
    admit(wire, "k8s-one", SUBJECT)
    admit(wire, "k8s-old", SUBJECT)
    wire.google.set_account_policy(
        {"role": IMPERSONATOR, "members": [member("k8s-one", SUBJECT), member("k8s-old", SUBJECT)]},
    )
    result = prune(wire, cluster, **account)
    assert impersonators(wire) == [member("k8s-one", SUBJECT)]
    assert result["removed"] == [
        {"resource": f"projects/demo/serviceAccounts/{EMAIL}", "role": IMPERSONATOR, "member": member("k8s-old", SUBJECT)}
    ]


# Removal of a cache


def test_the_last_cache_removes_all(wire: Wire, cluster: ApiServer, account: dict[str, str]) -> None:
    admit(wire, "k8s-one", SUBJECT)
    admit(wire, "k8s-old", SUBJECT)
    grant(wire, member("k8s-one", SUBJECT), member("k8s-old", SUBJECT), f"serviceAccount:{EMAIL}")
    wire.google.set_account_policy({"role": IMPERSONATOR, "members": [member("k8s-one", SUBJECT)]})
    check = prune(wire, cluster, check=True, state="absent", cluster_uid=None, **account)
    # The policy of a service account is read with POST.
    assert check["changed"] and all(request.url.endswith(":getIamPolicy") for request in wire.writes())
    result = prune(wire, cluster, state="absent", cluster_uid=None, **account)
    assert result["providers"] == {} and result["diff"]["after"] == check["diff"]["after"]
    assert readers(wire) == [f"serviceAccount:{EMAIL}"] and impersonators(wire) == [] and providers(wire) == {}
    assert wire.google.call("GET", f"{POOLS}/cache").json()["state"] == "DELETED"
    for _ in range(2):
        assert not prune(wire, cluster, state="absent", cluster_uid=None, **account)["changed"]


def test_another_cache_of_the_cluster_is_kept(wire: Wire, cluster: ApiServer) -> None:
    """Its tokens are still exchanged, and it can still read."""
    admit(wire, "k8s-one", SUBJECT, OTHER)
    grant(wire, member("k8s-one", SUBJECT), member("k8s-one", OTHER))
    assert prune(wire, cluster, state="absent", cluster_uid=None)["providers"] == {"k8s-one": [OTHER]}
    assert readers(wire) == [member("k8s-one", OTHER)]
    assert wire.google.call("GET", f"{POOLS}/cache").json()["state"] == "ACTIVE"
    audience = f"//iam.googleapis.com/{POOL}/providers/k8s-one"
    for subject, status in ((OTHER, 200), (SUBJECT, 400)):
        token = wire.google.jwt(sub=subject, aud=[audience])
        assert wire.google.exchange(token, audience=audience).status_code == status


def test_a_pool_of_others_is_kept(wire: Wire, cluster: ApiServer) -> None:
    wire.google.done(wire.google.patch(POOL, "description", description="Of everybody"))
    admit(wire, "k8s-one", SUBJECT)
    assert prune(wire, cluster, state="absent", cluster_uid=None)["changed"] and providers(wire) == {}
    assert wire.google.call("GET", f"{POOLS}/cache").json()["state"] == "ACTIVE"


def test_a_pool_with_another_provider_is_kept(wire: Wire, cluster: ApiServer) -> None:
    admit(wire, "k8s-one", SUBJECT)
    admit(wire, "k8s-two", SUBJECT, description=f"{OWNER}9")
    assert prune(wire, cluster, state="absent", cluster_uid=None)["changed"] and providers(wire).keys() == {"k8s-two"}
    assert wire.google.call("GET", f"{POOLS}/cache").json()["state"] == "ACTIVE"


def test_the_cluster_is_gone(wire: Wire, capfd: pytest.CaptureFixture[str]) -> None:
    """Only the principal that the variables name is removed."""
    admit(wire, "k8s-one", SUBJECT, OTHER)
    admit(wire, "k8s-old", SUBJECT)
    grant(wire, member("k8s-one", SUBJECT), member("k8s-one", OTHER))
    result = prune(wire, None, state="absent", cluster_uid=None)
    assert result["providers"] == {"k8s-one": [OTHER]} and "does not return its identity" in warned(result, capfd)
    assert readers(wire) == [member("k8s-one", OTHER)] and "k8s-old" in providers(wire)


def test_the_provider_is_gone_already(wire: Wire, cluster: ApiServer) -> None:
    grant(wire, member("k8s-one", SUBJECT))
    assert prune(wire, cluster, state="absent", cluster_uid=None)["changed"] and readers(wire) == []
    assert wire.google.call("GET", f"{POOLS}/cache").json()["state"] == "DELETED"


def test_the_pool_is_gone_already(wire: Wire, cluster: ApiServer) -> None:
    grant(wire, member("k8s-one", SUBJECT))
    wire.google.done(wire.google.call("DELETE", f"{POOLS}/cache"))
    assert prune(wire, cluster, state="absent", cluster_uid=None)["changed"] and readers(wire) == []
    assert not prune(wire, cluster, state="absent", cluster_uid=None, pool_id="never")["changed"]


def test_a_provider_of_another_cluster_keeps_its_principal(wire: Wire, cluster: ApiServer, capfd: pytest.CaptureFixture[str]) -> None:
    admit(wire, "k8s-one", SUBJECT, description=f"{OWNER}9")
    grant(wire, member("k8s-one", SUBJECT))
    result = prune(wire, cluster, state="absent", cluster_uid=None)
    assert not result["changed"] and f"{OWNER}9" in warned(result, capfd)
    assert readers(wire) == [member("k8s-one", SUBJECT)] and providers(wire).keys() == {"k8s-one"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"project": None}, "Example: project: my-project"),
        ({"pool_id": "x"}, "pool_id: must have"),
        ({"provider_id": "x"}, "provider_id: must have"),
        ({"subject": "a'b"}, "Example: subject:"),
        ({"repositories": ["mine"], "state": "absent"}, "repositories: 'mine'"),
    ],
)
def test_bad_input_changes_nothing(wire: Wire, cluster: ApiServer, change: dict[str, Any], words: str) -> None:
    admit(wire, "k8s-one", SUBJECT)
    assert words in prune(wire, cluster, **change)["msg"] and not wire.writes()


def test_permission_is_missing(wire: Wire, cluster: ApiServer) -> None:
    wire.answer("GET", "/providers", 403, {"error": {"code": 403, "message": "Permission denied"}})
    assert "HTTP 403: Permission denied" in prune(wire, cluster)["msg"]
