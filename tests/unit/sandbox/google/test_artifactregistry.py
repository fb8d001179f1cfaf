# SPDX-License-Identifier: GPL-3.0-or-later
"""Repositories and their IAM policies: artifactregistry.googleapis.com."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.sandbox.google.harness import AR, DOCKER, IAM, MEMBER, POOL, READER, REPOSITORY, Google, refused

URL = f"{AR}/{REPOSITORY}"
PARENT = URL.rpartition("/")[0]
BINDING = {"role": READER, "members": [MEMBER]}


@pytest.fixture
def registry(google: Google) -> Google:
    google.federate()
    google.create_repository()
    return google


def test_a_repository_exists_after_its_operation_and_is_deleted(google: Google) -> None:
    create = google.call("POST", PARENT, params={"repositoryId": "private"}, json={"format": "DOCKER"})
    assert create.json()["name"].startswith("projects/demo/locations/us-central1/operations/")
    refused(google.call("GET", URL), 404, "NOT_FOUND", "Requested entity was not found.")
    again = google.call("POST", PARENT, params={"repositoryId": "private"}, json={"format": "DOCKER"})
    refused(again, 409, "ALREADY_EXISTS", "already exists")
    google.done(create)
    repository = google.call("GET", URL).json()
    assert (repository["name"], repository["mode"]) == (REPOSITORY, "STANDARD_REPOSITORY")
    assert repository["registryUri"] == "us-central1-docker.pkg.dev/demo/private"
    assert google.call("GET", PARENT).json() == {"repositories": [repository]}
    # The project's number leads to the same repository.
    assert google.call("GET", URL.replace("/demo/", "/42/")).json() == repository
    google.done(google.call("DELETE", URL))
    assert google.call("GET", PARENT).json() == {}


@pytest.mark.parametrize(
    ("name", "body"), [("Private", {"format": "DOCKER"}), ("private", {"format": "DOCKER", "nothing": 1})]
)
def test_a_bad_repository_is_refused(google: Google, name: str, body: dict[str, Any]) -> None:
    refused(google.call("POST", PARENT, params={"repositoryId": name}, json=body), 400, "INVALID_ARGUMENT", "nvalid")


def test_the_policy_is_read_with_get_and_has_only_an_etag(registry: Google) -> None:
    assert registry.call("GET", f"{URL}:getIamPolicy").json() == {"etag": "ACAB"}
    assert registry.call("POST", f"{URL}:getIamPolicy", json={}).status_code == 405
    missing = registry.call("GET", f"{URL}-other:getIamPolicy")
    refused(missing, 404, "NOT_FOUND", "Requested entity was not found.")


def test_a_stale_etag_is_a_conflict_and_none_overwrites(registry: Google) -> None:
    stale = registry.call("GET", f"{URL}:getIamPolicy").json()["etag"]
    first = registry.set_policy(BINDING, etag=stale).json()
    assert first["version"] == 1 and first["bindings"] == [BINDING]
    refused(registry.set_policy(etag=stale), 409, "ABORTED", "There were concurrent policy changes. Please retry")
    assert registry.call("GET", f"{URL}:getIamPolicy").json() == first
    assert "bindings" not in registry.set_policy().json()


def test_bindings_of_one_role_are_merged(registry: Google) -> None:
    answer = registry.set_policy(BINDING, {"role": READER, "members": ["user:a@example.com", MEMBER]}, {"role": READER})
    assert answer.json()["bindings"] == [{"role": READER, "members": [MEMBER, "user:a@example.com"]}]
    assert "bindings" not in registry.set_policy({"role": READER, "members": []}).json()


@pytest.mark.parametrize(
    "member",
    [
        MEMBER.replace("/cache/", "/other/"),
        # The project's id instead of its number.
        MEMBER.replace("/42/", "/demo/"),
        f"principal://iam.googleapis.com/{POOL}",
    ],
)
def test_a_member_of_no_pool(registry: Google, member: str) -> None:
    answer = registry.set_policy({"role": READER, "members": [member]})
    refused(answer, 400, "INVALID_ARGUMENT", "Identity Pool does not exist (")


def test_a_member_of_a_deleted_pool_may_stay(registry: Google) -> None:
    registry.done(registry.call("DELETE", f"{IAM}/{POOL}"))
    assert registry.set_policy(BINDING).status_code == 200


@pytest.mark.parametrize(
    ("binding", "text"),
    [
        ({"role": READER, "members": ["admin@example.com"]}, "is of an unknown type"),
        ({"role": "roles/nothing", "members": [MEMBER]}, "Role roles/nothing is not supported"),
        ({**BINDING, "condition": {"title": "t", "expression": "true"}}, "must have version 3"),
    ],
)
def test_a_binding_that_google_refuses(registry: Google, binding: dict[str, Any], text: str) -> None:
    refused(registry.set_policy(binding), 400, "INVALID_ARGUMENT", text)


def test_a_condition_is_compiled_and_evaluated(registry: Google) -> None:
    def conditional(expression: str) -> Any:
        return registry.set_policy({**BINDING, "condition": {"title": "t", "expression": expression}}, version=3)

    refused(conditional("request.time <"), 400, "INVALID_ARGUMENT", "Condition expression compilation failed")
    refused(conditional("nothing == 1"), 400, "INVALID_ARGUMENT", "undeclared reference to 'nothing'")
    token = registry.access_token()
    manifest = f"{DOCKER}/v2/demo/private/hello/manifests/1.0"
    assert conditional("request.time < timestamp('2027-01-16T00:00:00Z')").json()["version"] == 3
    assert registry.call("GET", manifest, token=token).status_code == 200
    assert conditional("resource.name.endsWith('/other')").status_code == 200
    assert registry.call("GET", manifest, token=token).status_code == 403


def test_a_reader_may_not_edit_the_policy_and_an_admin_may(registry: Google) -> None:
    token = registry.access_token()
    registry.grant()
    assert registry.call("GET", URL, token=token).status_code == 200
    denied = registry.call("GET", f"{URL}:getIamPolicy", token=token)
    refused(
        denied,
        403,
        "PERMISSION_DENIED",
        "Permission 'artifactregistry.repositories.getIamPolicy' denied on resource "
        f"'//artifactregistry.googleapis.com/{REPOSITORY}' (or it may not exist).",
    )
    registry.grant("roles/artifactregistry.admin")
    assert registry.call("GET", f"{URL}:getIamPolicy", token=token).status_code == 200


def create(google: Google, name: str, **body: Any) -> Any:
    return google.call("POST", PARENT, params={"repositoryId": name}, json={"format": "DOCKER", **body})


def patch(google: Google, mask: str, name: str = "private", **body: Any) -> Any:
    return google.call("PATCH", f"{PARENT}/{name}", params={"updateMask": mask}, json=body)


def upstream(name: str, priority: int) -> dict[str, Any]:
    return {"id": name, "repository": f"{REPOSITORY.rpartition('/')[0]}/{name}", "priority": priority}


def test_a_patch_answers_with_the_repository(registry: Google) -> None:
    registry.now += 60
    changed = patch(registry, "description,labels", description="d", labels={"a": "1", "b": "2"}, mode="REMOTE_REPOSITORY").json()
    assert (changed["description"], changed["labels"]) == ("d", {"a": "1", "b": "2"})
    assert changed["mode"] == "STANDARD_REPOSITORY" and changed["updateTime"] > changed["createTime"]
    # A map is replaced completely, an absent field is cleared.
    assert patch(registry, "labels", labels={"b": "2"}).json()["labels"] == {"b": "2"}
    assert patch(registry, "labels", labels={"empty": ""}).json()["labels"] == {"empty": ""}
    assert "labels" not in patch(registry, "labels").json()
    assert registry.call("GET", URL).json()["description"] == "d"
    assert patch(registry, "dockerConfig.immutableTags", dockerConfig={"immutableTags": True}).json()["dockerConfig"]


@pytest.mark.parametrize(
    ("mask", "body", "text"),
    [
        ("", {"description": "d"}, "update mask must be specified"),
        ("mode", {"mode": "REMOTE_REPOSITORY"}, "mode is immutable"),
        ("description,format", {"format": "MAVEN"}, "format is immutable"),
        ("kmsKeyName", {"kmsKeyName": "k"}, "kmsKeyName is immutable"),
        ("labels", {"labels": {"A": "1"}}, "Invalid labels"),
        ("nothing", {}, "Invalid update mask path: nothing"),
        ("virtualRepositoryConfig", {"virtualRepositoryConfig": {"upstreamPolicies": [upstream("x", 1)]}}, "VIRTUAL"),
    ],
)
def test_a_patch_that_google_refuses(registry: Google, mask: str, body: dict[str, Any], text: str) -> None:
    before = registry.call("GET", URL).json()
    refused(patch(registry, mask, **body), 400, "INVALID_ARGUMENT", text)
    assert registry.call("GET", URL).json() == before


def test_a_mask_may_name_what_stays(registry: Google) -> None:
    answer = patch(registry, "description,mode", description="d", mode="STANDARD_REPOSITORY")
    assert answer.json()["description"] == "d"


def test_a_remote_repository_keeps_its_upstream(google: Google) -> None:
    config = {"dockerRepository": {"publicRepository": "DOCKER_HUB"}, "description": "hub"}
    made = google.done(create(google, "hub", mode="REMOTE_REPOSITORY", remoteRepositoryConfig=config))
    assert (made["mode"], made["remoteRepositoryConfig"]) == ("REMOTE_REPOSITORY", config)
    other = {"dockerRepository": {"customRepository": {"uri": "https://example.com"}}}
    answer = patch(google, "remoteRepositoryConfig.dockerRepository", "hub", remoteRepositoryConfig=other)
    refused(answer, 400, "INVALID_ARGUMENT", "immutable")
    answer = patch(google, "remoteRepositoryConfig", "hub", remoteRepositoryConfig=other)
    refused(answer, 400, "INVALID_ARGUMENT", "immutable")
    new = {"description": "new", "dockerRepository": config["dockerRepository"]}
    changed = patch(google, "remoteRepositoryConfig", "hub", remoteRepositoryConfig=new).json()
    assert changed["remoteRepositoryConfig"] == new
    unchecked = {"disableUpstreamValidation": True}
    path = "remoteRepositoryConfig.disableUpstreamValidation"
    changed = patch(google, path, "hub", remoteRepositoryConfig=unchecked).json()
    assert changed["remoteRepositoryConfig"] == {**new, **unchecked}


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"mode": "REMOTE_REPOSITORY"}, "needs an upstream"),
        ({"mode": "NONE"}, "repository.mode"),
        ({"remoteRepositoryConfig": {"description": "x"}}, "REMOTE_REPOSITORY only"),
        (
            {"mode": "VIRTUAL_REPOSITORY", "virtualRepositoryConfig": {"upstreamPolicies": [upstream("none", 1)]}},
            "does not exist",
        ),
    ],
)
def test_a_configuration_of_another_mode(google: Google, body: dict[str, Any], text: str) -> None:
    refused(create(google, "other", **body), 400, "INVALID_ARGUMENT", text)


def test_a_virtual_repository_has_the_content_of_its_upstreams(registry: Google) -> None:
    """The fake registry has the same image under any name, so the counters show which repository was asked."""
    registry.done(create(registry, "other"))
    policies = [upstream("other", 10), upstream("private", 20)]
    config = {"upstreamPolicies": policies}
    made = registry.done(create(registry, "all", mode="VIRTUAL_REPOSITORY", virtualRepositoryConfig=config))
    assert made["virtualRepositoryConfig"] == config
    token = registry.access_token()
    manifest = f"{DOCKER}/v2/demo/all/hello/manifests/1.0"
    assert registry.call("GET", manifest, token=token).status_code == 403
    body = {"policy": {"bindings": [BINDING]}}
    assert registry.call("POST", f"{PARENT}/all:setIamPolicy", json=body).status_code == 200
    assert registry.call("GET", manifest, token=token).status_code == 200
    assert registry.registry.paths[-1] == "/v2/demo/private/hello/manifests/1.0"
    policies[0]["priority"] = 30
    assert patch(registry, "virtualRepositoryConfig", "all", virtualRepositoryConfig=config).status_code == 200
    assert registry.call("GET", manifest, token=token).status_code == 200
    assert registry.registry.paths[-1] == "/v2/demo/other/hello/manifests/1.0"
    upload = registry.call("POST", f"{DOCKER}/v2/demo/all/hello/blobs/uploads/")
    assert upload.status_code == 400 and "takes no images" in upload.text


def test_a_new_grant_is_delayed_and_a_removed_one_is_not(registry: Google) -> None:
    registry.fault(grant_lag=60)
    token = registry.access_token()
    manifest = f"{DOCKER}/v2/demo/private/hello/manifests/1.0"
    registry.grant()
    assert registry.call("GET", manifest, token=token).status_code == 403
    registry.steady += 59
    # Writing it again is not a new grant.
    registry.grant()
    assert registry.call("GET", manifest, token=token).status_code == 403
    registry.steady += 1
    assert registry.call("GET", manifest, token=token).status_code == 200
    registry.set_policy()
    assert registry.call("GET", manifest, token=token).status_code == 403


def test_a_grant_in_the_project_applies_to_its_repositories(registry: Google) -> None:
    token = registry.access_token()
    manifest = f"{DOCKER}/v2/demo/private/hello/manifests/1.0"
    assert registry.call("GET", manifest, token=token).status_code == 403
    registry.set_project_policy(BINDING)
    assert registry.call("GET", manifest, token=token).status_code == 200
    late = {"title": "t", "expression": "resource.type == 'artifactregistry.googleapis.com/Repository' && false"}
    registry.set_project_policy({**BINDING, "condition": late}, version=3)
    assert registry.call("GET", manifest, token=token).status_code == 403
