# SPDX-License-Identifier: GPL-3.0-or-later
"""The docker endpoint: challenge, token, permission check of each request, redirect of blobs, push, counters."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from tests.unit.sandbox.google.harness import (
    AR,
    DOCKER,
    IAM,
    LAYER,
    LAYER_DIGEST,
    MEMBER,
    POOL,
    PROVIDER,
    READER,
    REPOSITORY,
    SUBJECT,
    Google,
)

IMAGE = f"{DOCKER}/v2/demo/private/hello"
MANIFEST = f"{IMAGE}/manifests/1.0"
BLOB = f"{IMAGE}/blobs/{LAYER_DIGEST}"
PULL = "repository:demo/private/hello:pull"
DOWNLOAD = "artifactregistry.repositories.downloadArtifacts"
DENIED = f'Permission "{DOWNLOAD}" denied on resource "{REPOSITORY}" (or it may not exist)'


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"}


def docker_token(google: Google, token: str, user: str = "_dcgcr_2_1_32_token", **params: str) -> Any:
    return google.call("GET", f"{DOCKER}/v2/token", token=None, headers=basic(user, token), params=params)


def refused(answer: Any, status: int, code: str, message: str) -> None:
    assert (answer.status_code, answer.json()) == (status, {"errors": [{"code": code, "message": message}]})


def test_the_challenge_of_the_root_names_no_service(docker: Google) -> None:
    answer = docker.call("GET", f"{DOCKER}/v2/", token=None)
    refused(answer, 401, "UNAUTHORIZED", "not authenticated: No credential was supplied.")
    assert answer.headers["www-authenticate"] == f'Bearer realm="{DOCKER}/v2/token"'


def test_the_realm_is_on_the_host_and_port_of_the_request(docker: Google) -> None:
    answer = docker.call("GET", "https://127.0.0.1:10443/v2/", token=None)
    assert answer.headers["www-authenticate"] == 'Bearer realm="https://127.0.0.1:10443/v2/token"'


def test_the_challenge_of_a_repository_names_service_and_scope(docker: Google) -> None:
    answer = docker.call("GET", MANIFEST, token=None)
    refused(answer, 401, "UNAUTHORIZED", "not authenticated: No valid credential was supplied.")
    assert answer.headers["www-authenticate"] == (
        f'Bearer realm="{DOCKER}/v2/token",service="us-central1-docker.pkg.dev",scope="{PULL}"'
    )


@pytest.mark.parametrize("url", [f"{DOCKER}/v2/", MANIFEST])
def test_a_bad_credential_gets_no_challenge(docker: Google, url: str) -> None:
    answer = docker.call("GET", url, token="ya29.nobody")
    refused(answer, 401, "UNAUTHORIZED", "not authenticated: No valid credential was supplied.")
    assert "www-authenticate" not in answer.headers


def test_a_bad_credential_at_the_token_endpoint(docker: Google) -> None:
    for answer in (
        docker_token(docker, "ya29.nobody", scope=PULL),
        docker_token(docker, docker.access_token(), user="somebody", scope=PULL),
        docker.call("GET", f"{DOCKER}/v2/token", token=None, headers={"Authorization": "Basic !"}),
    ):
        refused(answer, 401, "UNAUTHORIZED", "authentication failed")
        assert "www-authenticate" not in answer.headers


def test_the_token_endpoint_accepts_only_get(docker: Google) -> None:
    assert docker.call("POST", f"{DOCKER}/v2/token").status_code == 405


@pytest.mark.parametrize("user", ["oauth2accesstoken", "_dcgcr_2_1_32_token"])
def test_a_docker_token_pulls_and_claims_twelve_hours(docker: Google, user: str) -> None:
    answer = docker_token(docker, docker.access_token(), user, scope=PULL).json()
    assert answer["expires_in"] == 43200
    assert docker.call("GET", MANIFEST, token=answer["token"]).headers["docker-content-digest"] == "sha256:abc"


def test_a_docker_token_lives_as_long_as_the_access_token(docker: Google) -> None:
    access = docker.access_token(exp=int(docker.now) + 300)
    token = docker_token(docker, access, scope=PULL).json()["token"]
    docker.now += 297
    assert docker.call("GET", MANIFEST, token=token).status_code == 200
    docker.now += 1
    assert docker.call("GET", MANIFEST, token=token).status_code == 401
    refused(docker_token(docker, access, scope=PULL), 401, "UNAUTHORIZED", "authentication failed")


def test_the_scope_is_checked_at_the_token_endpoint(docker: Google) -> None:
    token = docker.access_token()
    push = docker_token(docker, token, scope="repository:demo/private/hello:pull,push")
    assert push.status_code == 403 and "uploadArtifacts" in push.json()["errors"][0]["message"]
    docker.set_policy()
    refused(docker_token(docker, token, scope=PULL), 403, "DENIED", DENIED)
    assert docker_token(docker, token).status_code == 200


def test_anonymous(docker: Google) -> None:
    answer = docker.call("GET", f"{DOCKER}/v2/token", token=None, params={"scope": PULL})
    message = (
        f'Unauthenticated request. Unauthenticated requests do not have permission "{DOWNLOAD}" '
        f'on resource "{REPOSITORY}" (or it may not exist)'
    )
    refused(answer, 403, "DENIED", message)
    token = docker.call("GET", f"{DOCKER}/v2/token", token=None).json()["token"]
    refused(docker.call("GET", MANIFEST, token=token), 403, "DENIED", message)
    docker.grant(member="allUsers")
    assert docker.call("GET", MANIFEST, token=token).status_code == 200


def test_the_permission_is_checked_for_each_request(docker: Google) -> None:
    token = docker_token(docker, docker.access_token(), scope=PULL).json()["token"]
    assert docker.call("GET", MANIFEST, token=token).status_code == 200
    docker.set_policy()
    for url in (MANIFEST, BLOB):
        refused(docker.call("GET", url, token=token), 403, "DENIED", DENIED)
    docker.grant()
    assert docker.call("GET", MANIFEST, token=token).status_code == 200


@pytest.mark.parametrize(
    ("member", "admitted"),
    [
        (MEMBER, True),
        (f"{MEMBER}-other", False),
        (f"principalSet://iam.googleapis.com/{POOL}/*", True),
        (f"principalSet://iam.googleapis.com/{POOL}/attribute.team/a%2Fb", True),
        (f"principalSet://iam.googleapis.com/{POOL}/attribute.team/a", False),
        (f"principalSet://iam.googleapis.com/{POOL}/group/g", True),
        (f"principalSet://iam.googleapis.com/{POOL}/group/h", False),
        ("user:somebody@example.com", False),
        ("allAuthenticatedUsers", True),
    ],
)
def test_members(google: Google, member: str, admitted: bool) -> None:
    mapping = {"google.subject": "assertion.sub", "google.groups": "['g']", "attribute.team": "'a/b'"}
    google.federate(attributeMapping=mapping)
    google.create_repository()
    google.grant(member=member)
    status = google.call("GET", MANIFEST, token=google.access_token()).status_code
    assert status == (200 if admitted else 403)


@pytest.mark.parametrize("stop", ["disable", "delete"])
def test_issued_tokens_stay_valid_without_the_provider_but_not_without_the_pool(docker: Google, stop: str) -> None:
    def stopped(name: str) -> None:
        if stop == "disable":
            docker.done(docker.patch(name, "disabled", disabled=True))
        else:
            docker.done(docker.call("DELETE", f"{IAM}/{name}"))

    token = docker.access_token()
    stopped(PROVIDER)
    assert docker.exchange().json()["error"] == "invalid_target"
    assert docker.call("GET", MANIFEST, token=token).status_code == 200
    stopped(POOL)
    refused(docker.call("GET", MANIFEST, token=token), 403, "DENIED", DENIED)


def test_names(docker: Google) -> None:
    token = docker.access_token()
    short = docker.call("GET", f"{DOCKER}/v2/demo/manifests/1.0", token=token)
    refused(short, 400, "NAME_INVALID", "invalid number of path components: 1")
    missing = f"{DOCKER}/v2/demo/other/hello/manifests/1.0"
    refused(docker.call("GET", missing, token=token), 403, "DENIED", DENIED.replace("/private", "/other"))
    refused(docker.call("GET", missing), 404, "NAME_UNKNOWN", 'Repository "other" not found')
    at_token = docker_token(docker, docker.operator, scope="repository:demo/other/hello:pull")
    refused(at_token, 404, "NAME_UNKNOWN", 'Repository "other" not found')
    refused(docker.call("GET", f"{IMAGE}/manifests/2.0", token=token), 404, "MANIFEST_UNKNOWN", 'Failed to fetch "2.0"')
    # The same name in another location is another repository.
    elsewhere = docker.call("GET", MANIFEST.replace("us-central1", "europe-west1"), token=token)
    assert elsewhere.status_code == 403 and "/locations/europe-west1/" in elsewhere.text


def test_a_path_has_one_reading(docker: Google) -> None:
    for name in ("demo/private/../other/hello", "demo/private/%2e%2e/other/hello", "demo/private/hello%3Fx"):
        answer = docker.call("GET", f"{DOCKER}/v2/{name}/manifests/1.0", token=docker.access_token())
        assert answer.status_code in (403, 404)


def test_a_blob_is_behind_a_relative_redirect_that_needs_no_credential(docker: Google) -> None:
    redirect = docker.call("GET", BLOB, token=docker.access_token())
    location = redirect.headers["location"]
    assert redirect.status_code == 302
    assert location.startswith("/artifacts-downloads/namespaces/demo/repositories/private/downloads/")
    assert docker.call("GET", f"{DOCKER}{location}", token=None).content == LAYER
    part = docker.call("GET", f"{DOCKER}{location}", token=None, headers={"Range": "bytes=6-11"})
    assert (part.status_code, part.content) == (206, b"layer ")
    assert docker.call("GET", f"{DOCKER}{location}x", token=None).status_code == 403
    docker.now += 300
    assert docker.call("GET", f"{DOCKER}{location}", token=None).status_code == 403


def test_a_missing_blob_is_not_redirected(docker: Google) -> None:
    assert docker.call("GET", f"{IMAGE}/blobs/sha256:{'0' * 64}", token=docker.access_token()).status_code == 404


def test_a_blob_head_is_answered_with_its_length(docker: Google) -> None:
    answer = docker.call("HEAD", BLOB, token=docker.access_token())
    assert (answer.status_code, answer.headers["content-length"]) == (200, str(len(LAYER)))


@pytest.mark.parametrize(
    ("role", "uploads", "deletes"),
    [(READER, 403, 403), ("roles/artifactregistry.writer", 202, 403), ("roles/artifactregistry.repoAdmin", 202, 405)],
)
def test_who_may_push(docker: Google, role: str, uploads: int, deletes: int) -> None:
    docker.grant(role)
    token = docker.access_token()
    assert docker.call("POST", f"{IMAGE}/blobs/uploads/", token=token).status_code == uploads
    # 405 is from the fake registry, so the request was forwarded.
    assert docker.call("DELETE", MANIFEST, token=token).status_code == deletes


def test_an_upload_stays_on_this_host(docker: Google) -> None:
    upload = docker.call("POST", "https://127.0.0.1/v2/demo/private/hello/blobs/uploads/")
    assert upload.headers["location"] == "/v2/demo/private/hello/blobs/uploads/id"
    url = f"https://127.0.0.1{upload.headers['location']}"
    assert docker.call("PUT", url, params={"digest": LAYER_DIGEST}, content=LAYER).status_code == 201


def test_a_mount_from_an_unreadable_repository_is_an_ordinary_upload(docker: Google) -> None:
    docker.grant("roles/artifactregistry.writer")
    uploads = f"{IMAGE}/blobs/uploads/"
    token = docker.access_token()

    def mount(source: str) -> str:
        params = {"mount": LAYER_DIGEST, "from": source}
        return docker.call("POST", uploads, token=token, params=params).headers["location"]

    assert "mount=" in mount("demo/private/base")
    assert "mount=" not in mount("demo/secret/base")


def test_the_operator_is_not_counted(docker: Google) -> None:
    for method, url in (("GET", f"{DOCKER}/v2/"), ("HEAD", MANIFEST), ("POST", f"{IMAGE}/blobs/uploads/")):
        docker.call(method, url)
    location = docker.call("GET", BLOB).headers["location"]
    docker.call("GET", f"{DOCKER}{location}", token=None)
    assert {kind: count for kind, count in docker.counters().items() if count and kind != "apis"} == {}


def test_requests_are_counted_by_kind_and_repository_until_a_reset(docker: Google) -> None:
    access = docker.access_token()
    docker.call("GET", f"{DOCKER}/v2/", token=None)
    token = docker_token(docker, access, scope=PULL).json()["token"]
    for method, url in (("HEAD", MANIFEST), ("GET", MANIFEST), ("HEAD", BLOB), ("GET", BLOB)):
        answer = docker.call(method, url, token=token)
    docker.call("GET", f"{DOCKER}{answer.headers['location']}", token=None)
    docker.call("GET", MANIFEST, token=docker.access_token(sub=SUBJECT, nbf=0))
    docker.set_policy()
    docker.call("GET", BLOB, token=token)
    image = {"manifest_head": 1, "manifest_get": 2, "blob_head": 1, "blob_get": 1, "blob_download": 1, "denied": 1}
    image["blob_bytes"] = len(LAYER)
    counted = docker.counters()
    assert counted.pop("apis")["POST sts.googleapis.com"] == 2
    blob = {"blob_head": 1, "blob_get": 1, "blob_download": 1, "blob_bytes": len(LAYER)}
    assert (counted.pop("repositories"), counted.pop("blobs")) == ({"demo/private/hello": image}, {LAYER_DIGEST: blob})
    assert counted == {**image, "ping": 1, "token": 1, "upload": 0, "sts_exchange": 2, "sts_refused": 0}
    assert docker.call("POST", "https://localhost/emulator/counters/reset").status_code == 204
    assert not any(docker.counters().values())


def test_the_admin_api_is_for_the_operator_on_this_machine(docker: Google) -> None:
    assert docker.call("GET", "https://127.0.0.1/emulator/health", token=None).status_code == 200
    for token in (None, docker.access_token()):
        assert docker.call("GET", "https://127.0.0.1/emulator/counters", token=token).status_code == 401
    assert docker.call("GET", f"{DOCKER}/emulator/counters").status_code == 404
    assert docker.call("GET", "https://example.com/emulator/health").status_code == 404


def test_the_log_contains_no_credential(docker: Google, capfd: pytest.CaptureFixture[str]) -> None:
    token = docker.access_token()
    location = docker.call("GET", BLOB, token=token).headers["location"]
    docker.call("GET", f"{DOCKER}{location}", token=None)
    docker.call("GET", MANIFEST, token=token, params={"access_token": token})
    log = capfd.readouterr().err
    assert "GET us-central1-docker.pkg.dev /v2/demo/private/hello/manifests/1.0 200" in log
    assert token not in log and location.rpartition("/")[2] not in log


def test_all_connections_to_the_registry_are_released(docker: Google) -> None:
    for method, url in (("GET", MANIFEST), ("HEAD", BLOB), ("GET", BLOB), ("GET", f"{IMAGE}/manifests/2.0")):
        docker.call(method, url)
        assert docker.registry.unclosed == 0


def test_an_unreachable_registry_is_reported(docker: Google) -> None:
    docker.registry.down = True
    refused(docker.call("GET", MANIFEST), 502, "UNAVAILABLE", "The registry behind the emulator: ConnectError")


def _serve(google: Google, location: str, name: str, project: str = "demo") -> None:
    """A repository that the cache's service account can read."""
    parent = f"{AR}/projects/{project}/locations/{location}/repositories"
    google.done(google.call("POST", parent, params={"repositoryId": name}, json={"format": "DOCKER"}))
    policy = {"bindings": [{"role": READER, "members": [MEMBER]}]}
    assert google.call("POST", f"{parent}/{name}:setIamPolicy", json={"policy": policy}).status_code == 200


@pytest.mark.parametrize(
    ("host", "location"), [("gcr.io", "us"), ("us.gcr.io", "us"), ("eu.gcr.io", "europe"), ("asia.gcr.io", "asia")]
)
def test_a_host_of_container_registry(google: Google, host: str, location: str) -> None:
    google.federate()
    _serve(google, location, host)
    url = f"https://{host}/v2/demo/hello/manifests/1.0"
    assert google.call("GET", url, token=google.access_token()).status_code == 200
    short = google.call("GET", f"https://{host}/v2/demo/manifests/1.0", token=google.access_token())
    refused(short, 400, "NAME_INVALID", "invalid number of path components: 1")
    elsewhere = google.call(
        "POST", f"{AR}/projects/demo/locations/us-central1/repositories", params={"repositoryId": host}, json={"format": "DOCKER"}
    )
    assert elsewhere.status_code == 400


def test_a_project_with_a_domain(google: Google) -> None:
    again = Google(google.config.state_dir, google.keys, {"demo": "42", "example.com:demo": "43"})
    try:
        again.federate()
        _serve(again, "us-central1", "private", "example.com:demo")
        url = f"{DOCKER}/v2/example.com/demo/private/hello/manifests/1.0"
        assert again.call("GET", url, token=again.access_token()).status_code == 200
        missing = again.call("GET", f"{DOCKER}/v2/example.com/demo/private/manifests/1.0", token=again.access_token())
        refused(missing, 400, "NAME_INVALID", "invalid number of path components: 3")
    finally:
        again.close()
