# SPDX-License-Identifier: GPL-3.0-or-later
"""The comparison of all objects before and after: which differences count, and which stay after an uninstall."""

from __future__ import annotations

import json
from typing import Any, cast

import pytest

from sandbox import client
from tests.e2e import objects
from tests.unit.sandbox.google import harness

Item = dict[str, Any]


def item(kind: str = "ConfigMap", name: str = "one", api_version: str = "v1", **fields: Any) -> Item:
    """Returns an object like `kubectl get --output json`. `metadata`: more fields of its metadata."""
    metadata = {"name": name, "uid": f"uid-of-{name}", "resourceVersion": "1", **fields.pop("metadata", {})}
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **fields}


class Cluster:
    """A fake of kubectl with these objects."""

    def __init__(self, *items: Item) -> None:
        self.items, self.asked = list(items), ""

    def kubectl(self, *words: str) -> str:
        assert words == ("api-resources", "--verbs=list", "--output=name")
        return "configmaps\nevents\npods\nleases.coordination.k8s.io\nclustersecretstores.external-secrets.io\n"

    def get(self, *words: str) -> Any:
        self.asked = words[0]
        items = [one for one in self.items if words[0] != "serviceaccounts" or one["kind"] == "ServiceAccount"]
        if "--selector" in words:
            key, _, value = words[-1].partition("=")
            items = [one for one in items if one["metadata"].get("labels", {}).get(key) == value]
        return {"items": items}


def of(*items: Item) -> objects.Objects:
    return objects.of_cluster(cast(client.Cluster, Cluster(*items)))


def test_everything_is_listed_except_temporary_objects() -> None:
    cluster = Cluster(item())
    objects.of_cluster(cast(client.Cluster, cluster))
    assert cluster.asked == "configmaps,pods,clustersecretstores.external-secrets.io"


def test_a_name_says_kind_group_and_namespace() -> None:
    store = item("ClusterSecretStore", "store", "external-secrets.io/v1")
    names = list(of(item(metadata={"namespace": "demo"}), store))
    assert names == ["ConfigMap demo/one", "ClusterSecretStore.external-secrets.io store"]


def test_owned_and_expiring_objects_are_omitted() -> None:
    owned = item("Pod", metadata={"ownerReferences": [{"name": "set"}]})
    token = item("Secret", "bootstrap-token-abc", type="bootstrap.kubernetes.io/token")
    signed = item(name="cluster-info", metadata={"namespace": "kube-public"})
    assert list(of(owned, token, signed, item("Pod", "alone"))) == ["Pod alone"]


@pytest.mark.parametrize(
    "change",
    [
        {"data": {"key": "other"}},
        {"metadata": {"labels": {"a": "c"}}},
        {"metadata": {"annotations": {"a": "b"}}},
        {"metadata": {"finalizers": ["example.com/stays"]}},
        {"metadata": {"uid": "made anew"}},
        {"imagePullSecrets": [{"name": "registry-cache"}]},
    ],
    ids=lambda change: next(iter(change.get("metadata", change))),
)
def test_a_change_is_a_difference(change: Item) -> None:
    before = item(data={"key": "value"})
    (line,) = objects.differences(of(before), of(item(**{"data": {"key": "value"}, **change})))
    assert line.startswith("changed: ConfigMap one: ")


def test_changes_of_status_and_of_each_write_do_not_count() -> None:
    after = item(metadata={"resourceVersion": "2", "generation": 3, "managedFields": []}, status={"ready": True})
    assert objects.differences(of(item()), of(after)) == []


def test_no_content_of_a_secret_is_shown() -> None:
    applied = {"kubectl.kubernetes.io/last-applied-configuration": "c2VjcmV0"}
    secrets = [item("Secret", data={"password": value}, metadata={"annotations": applied}) for value in ("c2VjcmV0", "b3RoZXI=")]
    (line,) = objects.differences(*map(of, secrets))
    assert "c2VjcmV0" not in line + json.dumps(of(secrets[0])) and "b3RoZXI=" not in line


def test_new_and_removed_objects() -> None:
    assert objects.differences(of(item(name="a")), of(item(name="b"))) == ["gone: ConfigMap a", "new: ConfigMap b"]


def test_ours_are_labelled_objects_and_service_accounts_with_a_pull_secret() -> None:
    marked = item(metadata={"labels": {"app.kubernetes.io/managed-by": "pullthrough.registry_cache"}})
    helm = item(name="two", metadata={"labels": {"app.kubernetes.io/managed-by": "Helm"}})
    account = item("ServiceAccount", "default", imagePullSecrets=[{"name": "theirs"}, {"name": "registry-cache"}])
    other = item("ServiceAccount", "other", imagePullSecrets=[{"name": "theirs"}])
    cluster = cast(client.Cluster, Cluster(marked, helm, account, other))
    assert list(objects.ours(cluster)) == ["ConfigMap one", "ServiceAccount default"]


DELETED, ACTIVE = {"state": "DELETED", "description": "d"}, {"state": "ACTIVE", "description": "d"}
READ = "roles/artifactregistry.reader projects/p/locations/l/repositories/r"


@pytest.mark.parametrize(
    ("name", "was", "now"),
    [
        ("pool p", None, DELETED),
        ("provider p", {**DELETED, "description": "other"}, DELETED),
        ("api iam.googleapis.com", {"state": "DISABLED"}, {"state": "ENABLED"}),
        ("repository r", None, {"mode": "STANDARD_REPOSITORY"}),
        ("account a@p.iam.gserviceaccount.com", None, {"uniqueId": "1"}),
        (f"grant serviceAccount:a@p.iam.gserviceaccount.com {READ}", None, {"condition": ""}),
    ],
)
def test_objects_that_stay_do_not_count(name: str, was: Item | None, now: Item | None) -> None:
    before, after = ({name: one} if one else {} for one in (was, now))
    assert objects.differences(before, after) == []
    if was is None:
        assert objects.differences(after, before) == [f"gone: {name}"]


@pytest.mark.parametrize(
    ("name", "was", "now"),
    [
        ("pool p", None, ACTIVE),
        ("pool p", ACTIVE, DELETED),
        ("provider p", ACTIVE, {**ACTIVE, "description": "other"}),
        ("api iam.googleapis.com", {"state": "ENABLED"}, {"state": "DISABLED"}),
        ("repository r", {"mode": "STANDARD_REPOSITORY"}, {"mode": "STANDARD_REPOSITORY", "description": "d"}),
        (f"grant principal://iam.googleapis.com/pool/subject/s {READ}", None, {"condition": ""}),
        ("grant serviceAccount:a@p.iam.gserviceaccount.com roles/owner projects/p", None, {"condition": ""}),
        (f"grant serviceAccount:a@p.iam.gserviceaccount.com {READ}", {"condition": ""}, None),
    ],
)
def test_other_objects_count(name: str, was: Item | None, now: Item | None) -> None:
    before, after = ({name: one} if one else {} for one in (was, now))
    assert len(objects.differences(before, after)) == 1


def test_the_cleanup_is_awaited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects.time, "sleep", lambda seconds: None)
    readings = [of(item(), item(name="two")), of(item())]
    assert objects.left(lambda: readings.pop(0), of(item())) == []
    assert objects.left(lambda: of(), of(item()), seconds=0) == ["gone: ConfigMap one"]


class Google(client.Google):
    """The operator's client, with the emulator in memory."""

    def __init__(self, emulator: harness.Google) -> None:
        self._emulator = emulator

    def call(self, method: str, host: str, path: str, body: Any = None, **params: str) -> Any:
        answer = self._emulator.call(method, f"https://{host}{path}", json=body, params=params)
        assert answer.status_code == 200, answer.text
        return answer.json()


def test_the_google_emulator_is_read_completely(google: harness.Google, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "PROJECT", "demo")
    emulator, operator = google, Google(google)
    before = objects.of_google(operator)
    assert before and all(name.startswith("api ") for name in before)
    emulator.create_repository()
    emulator.federate(description="ours")
    emulator.grant()
    assert emulator.create_account().status_code == 200
    account = f"serviceAccount:{harness.EMAIL}"
    act, own = ({"role": role, "members": [account]} for role in ("roles/iam.workloadIdentityUser", "roles/artifactregistry.reader"))
    assert emulator.set_account_policy(act).status_code == 200 and emulator.set_project_policy(own).status_code == 200
    after = objects.of_google(operator)
    assert after[f"provider {harness.PROVIDER}"]["description"] == "ours"
    assert set(after) - set(before) == {
        f"pool {harness.POOL}",
        f"provider {harness.PROVIDER}",
        f"repository {harness.REPOSITORY}",
        f"account {harness.EMAIL}",
        f"grant {harness.MEMBER} {harness.READER} {harness.REPOSITORY}",
        f"grant {account} roles/iam.workloadIdentityUser {harness.EMAIL}",
        f"grant {account} roles/artifactregistry.reader projects/demo",
    }
    emulator.done(emulator.call("DELETE", f"{harness.IAM}/{harness.PROVIDER}"))
    emulator.done(emulator.call("DELETE", f"{harness.IAM}/{harness.POOL}"))
    deleted = objects.of_google(operator)
    assert deleted[f"provider {harness.PROVIDER}"]["state"] == deleted[f"pool {harness.POOL}"]["state"] == "DELETED"
