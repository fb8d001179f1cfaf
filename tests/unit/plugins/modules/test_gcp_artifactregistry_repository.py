# SPDX-License-Identifier: GPL-3.0-or-later
"""Module gcp_artifactregistry_repository against the Google emulator."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from tests.module_runner import NULL
from tests.unit.plugins.google_wire import Wire
from tests.unit.sandbox.google.harness import AR, REPOSITORY

PARENT, _, ID = f"{AR}/{REPOSITORY}".rpartition("/")
URL = f"{PARENT}/{ID}"
WANTED = {"description": "Our images", "labels": {"team": "platform", "stage": "test"}}
HUB = {"upstream": "docker_hub"}
FIX = "Example: repository_id: "


def repository(wire: Wire, **arguments: Any) -> dict[str, Any]:
    names = {"project": "demo", "location": "us-central1", "repository_id": ID}
    return wire.run("gcp_artifactregistry_repository", **{**names, **arguments})


def policy(name: str, priority: int) -> dict[str, Any]:
    return {"id": name, "repository": f"{REPOSITORY.rpartition('/')[0]}/{name}", "priority": priority}


def now(wire: Wire) -> dict[str, Any]:
    return wire.google.call("GET", URL).json()


def test_story(wire: Wire) -> None:
    fields = {"format": "DOCKER", "mode": "STANDARD_REPOSITORY", **WANTED}
    check = repository(wire, check=True, **WANTED)
    assert check["changed"] and check["repository"] == {"name": REPOSITORY, **fields} and wire.sent() == [("GET", URL)]

    change = repository(wire, **WANTED)
    after = change["repository"]
    assert change["changed"] and after == {**now(wire), "name": REPOSITORY, **fields}
    assert change["diff"] == {"before": {}, "after": after}
    (create,) = wire.writes()
    assert (create.method, create.url, create.query) == ("POST", PARENT, {"repositoryId": ID}) and create.body == fields
    polls = wire.sent()[2:-1]
    assert polls and all(url.startswith(f"{AR}/projects/demo/locations/us-central1/operations/") for _method, url in polls)

    for check_mode in (False, True):
        repeat = repository(wire, check=check_mode, **WANTED)
        assert not repeat["changed"] and repeat["repository"] == after and wire.sent() == [("GET", URL)]


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("description", ["Others", ""]),
        ("labels", [{"team": "platform"}, {"team": "other"}, {"new": "1"}, {}]),
    ],
)
def test_each_field_is_set_and_cleared_separately(wire: Wire, option: str, values: list[Any]) -> None:
    repository(wire, **WANTED)
    for value in values:
        check = repository(wire, check=True, **{option: value})
        assert check["changed"] and check["repository"].get(option) == (value or None) and not wire.writes()
        result = repository(wire, **{option: value})
        assert wire.sent() == [("GET", URL), ("PATCH", URL)]
        (patch,) = wire.writes()
        assert (patch.query, patch.body) == ({"updateMask": option}, {option: value})
        assert result["changed"] and result["repository"] == now(wire) and now(wire).get(option) == (value or None)
        assert not repository(wire, **{option: value})["changed"]
    other = "labels" if option == "description" else "description"
    assert now(wire)[other] == WANTED[other], "what was not named stays"


def test_a_label_may_have_an_empty_value(wire: Wire) -> None:
    current = {"name": REPOSITORY, "format": "DOCKER", "labels": {"team": "", "stage": "test"}}
    for labels, changed in (({"team": "", "stage": "test"}, False), ({"stage": "test"}, True), ({"team": ""}, True)):
        wire.answer("GET", URL, 200, current)
        result = repository(wire, check=True, labels=labels)
        assert result["changed"] == changed and result["repository"]["labels"] == labels
    repository(wire)
    repository(wire, labels={"team": ""})
    assert wire.writes()[0].body == {"labels": {"team": ""}}


def test_absent(wire: Wire) -> None:
    assert not repository(wire, state="absent")["changed"]
    wire.removal(functools.partial(repository, wire), "repository", repository(wire, **WANTED)["repository"], URL)
    assert wire.google.call("GET", URL).status_code == 404


@pytest.mark.parametrize(
    ("upstream", "config"),
    [
        ("docker_hub", {"dockerRepository": {"publicRepository": "DOCKER_HUB"}}),
        ("https://registry-1.docker.io/", {"dockerRepository": {"publicRepository": "DOCKER_HUB"}}),
        ("https://quay.io/", {"commonRepository": {"uri": "https://quay.io"}}),
        (f"{REPOSITORY}-other", {"commonRepository": {"uri": f"{REPOSITORY}-other"}}),
    ],
)
def test_remote(wire: Wire, upstream: str, config: dict[str, Any]) -> None:
    remote = {"upstream": upstream}
    assert repository(wire, check=True, remote=remote)["repository"]["mode"] == "REMOTE_REPOSITORY"
    made = repository(wire, remote=remote)["repository"]
    assert made["mode"] == "REMOTE_REPOSITORY" and made["remoteRepositoryConfig"] == config
    for options in ({"remote": remote}, {"mode": "remote", "remote": remote}, {"mode": "remote"}, {}):
        assert not repository(wire, **options)["changed"]
    check = repository(wire, check=True, remote=remote, description="New")
    assert check["changed"] and check["repository"] == {**made, "description": "New"}
    assert repository(wire, remote=remote, description="New")["repository"]["remoteRepositoryConfig"] == config
    assert wire.writes()[0].query == {"updateMask": "description"}


@pytest.mark.parametrize(
    "config",
    [
        {"dockerRepository": {"customRepository": {"uri": "https://quay.io"}}},
        {"commonRepository": {"uri": "https://quay.io/"}},
    ],
)
def test_an_upstream_in_another_field_is_the_same(wire: Wire, config: dict[str, Any]) -> None:
    body = {"format": "DOCKER", "mode": "REMOTE_REPOSITORY", "remoteRepositoryConfig": {**config, "description": "Theirs"}}
    wire.google.done(wire.google.call("POST", PARENT, params={"repositoryId": ID}, json=body))
    assert not repository(wire, remote={"upstream": "https://quay.io"})["changed"]


@pytest.mark.parametrize("project", ["demo", "example.com:demo"])
@pytest.mark.parametrize(
    "answered",
    [
        "projects/{project}/locations/europe/repositories/up",
        "projects/42/locations/europe/repositories/up",
        "//artifactregistry.googleapis.com/projects/{project}/locations/europe/repositories/up",
        "https://artifactregistry.googleapis.com/v1/projects/42/locations/europe/repositories/up",
        "https://europe-docker.pkg.dev/{path}/up",
    ],
)
@pytest.mark.parametrize("place", ["commonRepository", "customRepository"])
def test_an_artifact_registry_upstream_by_url_and_by_full_name(
    wire: Wire, project: str, answered: str, place: str
) -> None:
    path = project.replace(":", "/")
    uri = {"uri": answered.format(project=project, path=path)}
    config = {"commonRepository": uri} if place == "commonRepository" else {"dockerRepository": {"customRepository": uri}}
    current = {"name": REPOSITORY, "format": "DOCKER", "mode": "REMOTE_REPOSITORY", "remoteRepositoryConfig": config}
    for given in (f"https://europe-docker.pkg.dev/{path}/up/", f"projects/{project}/locations/europe/repositories/up"):
        wire.answer("GET", URL, 200, current)
        assert not repository(wire, remote={"upstream": given})["changed"]
    for other in (f"https://europe-docker.pkg.dev/{path}/other", f"https://us-docker.pkg.dev/{path}/up", "https://quay.io"):
        wire.answer("GET", URL, 200, current)
        assert "remote.upstream: Google cannot change" in repository(wire, remote={"upstream": other})["msg"]
    if "42" not in answered:
        wire.answer("GET", URL, 200, current)
        message = repository(wire, remote={"upstream": "https://europe-docker.pkg.dev/else/up"})["msg"]
        assert "remote.upstream: Google cannot change" in message


@pytest.mark.parametrize(
    ("name", "location"), [("gcr.io", "us"), ("us.gcr.io", "us"), ("eu.gcr.io", "europe"), ("asia.gcr.io", "asia")]
)
def test_repositories_of_container_registry_hosts(wire: Wire, name: str, location: str) -> None:
    for project, path in (("demo", "demo"), ("example.com:demo", "example.com/demo")):
        options = {"project": project, "repository_id": name, "location": location}
        made = repository(wire, **options)
        assert made["changed"] and made["repository"]["registryUri"] == f"{location}-docker.pkg.dev/{path}/{name}"
        assert not repository(wire, **options)["changed"]
        found = wire.run("gcp_artifactregistry_repository_info", **options)["repositories"]
        assert found == [made["repository"]]
    message = repository(wire, repository_id=name, location="us-central1")["msg"]
    assert message.startswith("location: ") and "'us-central1'" in message and f"Example: location: {location}" in message
    assert not wire.requests
    info = {"project": "demo", "repository_id": name, "location": "us-central1"}
    assert wire.run("gcp_artifactregistry_repository_info", **info)["msg"] == message


def test_a_virtual_repository_in_front_of_a_migrated_one(wire: Wire) -> None:
    repository(wire, repository_id="gcr.io", location="us")
    entry = {"id": "old", "repository": "projects/demo/locations/us/repositories/gcr.io", "priority": 1}
    assert repository(wire, location="us", virtual={"policies": [entry]})["changed"]


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
@pytest.mark.parametrize("method", ["POST", "GET"])
def test_an_outage_is_retried(wire: Wire, status: int, method: str) -> None:
    wire.outage(method, PARENT, status, times=7)
    assert repository(wire, **WANTED)["changed"] and now(wire)["description"] == "Our images"


@pytest.mark.parametrize("status", [500, 503])
def test_created_although_the_answer_was_lost(wire: Wire, status: int) -> None:
    def lost() -> tuple[int, dict[str, Any]]:
        body = {"format": "DOCKER", **WANTED}
        wire.google.call("POST", PARENT, params={"repositoryId": ID}, json=body)
        return status, {"error": {"code": status, "message": "Internal error encountered."}}

    wire._faults.append(("POST", PARENT, lost))
    made = repository(wire, **WANTED)
    assert made["changed"] and made["diff"] == {"before": {}, "after": now(wire)}


def test_virtual(wire: Wire) -> None:
    for name in ("one", "two"):
        repository(wire, repository_id=name)
    both = [policy("one", 10), policy("two", 20)]
    assert repository(wire, check=True, virtual={"policies": both})["changed"] and not wire.writes()
    made = repository(wire, virtual={"policies": both})["repository"]
    assert made["mode"] == "VIRTUAL_REPOSITORY" and made["virtualRepositoryConfig"] == {"upstreamPolicies": both}
    assert not repository(wire, virtual={"policies": both[::-1]})["changed"] and not repository(wire)["changed"]
    for policies in ([policy("one", 10), policy("two", 5)], [policy("two", 5)], []):
        assert repository(wire, check=True, virtual={"policies": policies})["changed"] and not wire.writes()
        result = repository(wire, virtual={"policies": policies})
        (patch,) = wire.writes()
        assert (patch.method, patch.query) == ("PATCH", {"updateMask": "virtualRepositoryConfig"})
        assert result["repository"].get("virtualRepositoryConfig", {}).get("upstreamPolicies", []) == policies
        assert not repository(wire, virtual={"policies": policies})["changed"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mode": "standard"}, ("mode: ", "from remote to standard. ")),
        ({"virtual": {"policies": []}}, ("mode: ", "from remote to virtual. ")),
        (
            {"remote": {"upstream": "https://quay.io"}},
            ("remote.upstream: ", "from docker_hub to https://quay.io. "),
        ),
    ],
)
@pytest.mark.parametrize("check", [True, False])
def test_changes_that_google_does_not_allow(wire: Wire, change: dict[str, Any], words: tuple[str, str], check: bool) -> None:
    before = repository(wire, remote=HUB)["repository"]
    message = repository(wire, check=check, description="New", **change)["msg"]
    assert message.startswith(words[0]) and all(part in message for part in (*words, REPOSITORY, FIX)) and not wire.writes()
    assert now(wire) == before


@pytest.mark.parametrize("check", [True, False])
def test_a_repository_of_another_format_is_refused(wire: Wire, check: bool) -> None:
    wire.answer("GET", URL, 200, {"name": REPOSITORY, "format": "MAVEN", "mode": "STANDARD_REPOSITORY"})
    message = repository(wire, check=check, **WANTED)["msg"]
    assert message.startswith(f"repository_id: {REPOSITORY} must have format DOCKER (got MAVEN). ") and FIX in message and not wire.writes()


@pytest.mark.parametrize("check", [True, False])
def test_a_new_remote_repository_needs_its_upstream(wire: Wire, check: bool) -> None:
    message = repository(wire, check=check, mode="remote")["msg"]
    assert message.startswith("remote.upstream: ") and REPOSITORY in message and "Example: remote: {" in message and not wire.writes()


def test_concurrent_creation(wire: Wire) -> None:
    # The other operation is not done when this create is refused. The object appears a moment later.
    body = {"format": "DOCKER"}
    wire.before("POST", PARENT, lambda: wire.google.call("POST", PARENT, params={"repositoryId": ID}, json=body))
    result = repository(wire, **WANTED)
    assert result["changed"] and result["repository"] == {**now(wire), **WANTED}
    assert [request.method for request in wire.writes()] == ["POST", "PATCH"]


def test_concurrent_creation_in_another_mode(wire: Wire) -> None:
    body = {"format": "DOCKER"}
    wire.before("POST", PARENT, lambda: wire.google.call("POST", PARENT, params={"repositoryId": ID}, json=body))
    assert "from standard to remote. " in repository(wire, remote=HUB)["msg"]


def test_an_upstream_policy_for_a_missing_repository(wire: Wire) -> None:
    message = repository(wire, virtual={"policies": [policy("never", 1)]})["msg"]
    assert message.startswith(f"{REPOSITORY}: HTTP 400: ") and "never' does not exist" in message
    assert wire.google.call("GET", URL).status_code == 404


def test_a_missing_permission(wire: Wire) -> None:
    before = repository(wire, **WANTED)["repository"]
    denied = "Permission 'artifactregistry.repositories.update' denied on resource (or it may not exist)."
    wire.answer("PATCH", URL, 403, {"error": {"code": 403, "message": denied}})
    assert repository(wire, labels={})["msg"].startswith(f"{REPOSITORY}: HTTP 403: {denied}") and now(wire) == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"project": None}, "project: "),
        ({"location": "US"}, "location: "),
        ({"location": "us/x"}, "location: "),
        ({"repository_id": "My-images"}, "repository_id: "),
        ({"repository_id": "images-"}, "repository_id: "),
        ({"repository_id": "a" * 64}, "repository_id: "),
        ({"repository_id": "other.gcr.io"}, "repository_id: "),
        ({"labels": {"Team": "x"}}, "labels.Team: the key must"),
        ({"labels": {"teAm": "x"}}, "labels.teAm: the key must"),
        ({"labels": {"1": "x"}}, "labels.1: the key must"),
        ({"labels": {"team": "X"}}, "labels.team: must be"),
        ({"labels": {"team": 1}}, "labels.team: must be"),
        ({"labels": {"team": True}}, "labels.team: must be"),
        ({"labels": {f"a{n}": "" for n in range(65)}}, "labels: at most 64 are allowed (got 65). "),
        ({"mode": "standard", "remote": HUB}, "remote: it needs mode remote (got standard). "),
        ({"mode": "remote", "virtual": {"policies": []}}, "virtual: it needs mode virtual (got remote). "),
        ({"remote": {"upstream": "quay.io"}}, "remote.upstream: must be docker_hub or the URL of a registry (got 'quay.io'). "),
        ({"remote": {"upstream": None}}, "remote.upstream: must be docker_hub or the URL of a registry (got ''). "),
        ({"virtual": {"policies": [{"id": "a", "repository": "b", "priority": 1}]}}, "virtual.policies: repository must be"),
        ({"virtual": {"policies": [policy("a", 1), policy("a", 2)]}}, "virtual.policies: each id must be unique and not empty (got 'a'). "),
        ({"remote": HUB, "virtual": {"policies": []}}, "parameters are mutually exclusive: remote|virtual"),
        ({"mode": "other"}, "value of mode must be one of: standard, remote, virtual"),
    ],
)
def test_bad_input_is_refused_before_any_request(wire: Wire, options: dict[str, Any], words: str) -> None:
    result = repository(wire, **options)
    null = NULL in result["msg"] and None in options.get("remote", {}).values()
    assert result["failed"] and (result["msg"].startswith(words) or null) and not wire.requests
    if words.endswith(": "):
        (given,) = options.values()
        assert f"(got '{given or ''}')" in result["msg"] and "Example: " in result["msg"]


@pytest.mark.parametrize("name", ["a", "a" * 63, "a-1"])
def test_ids_at_the_limits_are_accepted(wire: Wire, name: str) -> None:
    assert repository(wire, repository_id=name)["repository"]["name"].endswith(f"/{name}")
