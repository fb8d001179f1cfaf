# SPDX-License-Identifier: GPL-3.0-or-later
"""Projects and their APIs: cloudresourcemanager and serviceusage.googleapis.com."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.unit.sandbox.google.harness import ACCOUNTS, AR, CRM, DOCKER, EMAIL, POOLS, READER, USAGE, Google, refused

SERVICES = f"{USAGE}/projects/demo/services"
APIS = ["artifactregistry.googleapis.com", "iam.googleapis.com"]


def disable(google: Google, api: str) -> None:
    google.done(google.call("POST", f"{SERVICES}/{api}:disable", json={}))


def reason(answer: httpx.Response) -> str:
    return answer.json()["error"]["details"][0]["reason"]


@pytest.mark.parametrize("name", ["demo", "42"])
def test_a_project_by_id_and_by_number(google: Google, name: str) -> None:
    v1 = google.call("GET", f"{CRM}/v1/projects/{name}").json()
    assert (v1["projectNumber"], v1["projectId"], v1["lifecycleState"]) == ("42", "demo", "ACTIVE")
    v3 = google.call("GET", f"{CRM}/v3/projects/{name}").json()
    assert (v3["name"], v3["projectId"], v3["state"]) == ("projects/42", "demo", "ACTIVE")


@pytest.mark.parametrize("version", ["v1", "v3"])
def test_an_unknown_project_is_denied(google: Google, version: str) -> None:
    answer = google.call("GET", f"{CRM}/{version}/projects/other")
    refused(answer, 403, "PERMISSION_DENIED", "Permission 'resourcemanager.projects.get' denied on resource")


def test_the_policy_of_a_project(google: Google) -> None:
    url = f"{CRM}/v1/projects/demo"
    empty = google.call("POST", f"{url}:getIamPolicy", json={}).json()
    binding = {"role": READER, "members": ["user:a@example.com"]}
    first = google.set_project_policy(binding, etag=empty["etag"]).json()
    assert first["bindings"] == [binding]
    refused(google.set_project_policy(etag=empty["etag"]), 409, "ABORTED", "There were concurrent policy changes.")
    options = {"options": {"requestedPolicyVersion": 3}}
    assert google.call("POST", f"{url}:getIamPolicy", json=options).json() == first
    answer = google.call("POST", f"{url}:getIamPolicy", json={"options": {"requestedPolicyVersion": 2}})
    refused(answer, 400, "INVALID_ARGUMENT", "must be 0, 1 or 3")


def test_without_version_3_a_condition_is_not_shown(google: Google) -> None:
    condition = {"title": "t", "expression": "true"}
    binding = {"role": READER, "members": ["user:a@example.com"], "condition": condition}
    refused(google.set_project_policy(binding), 400, "INVALID_ARGUMENT", "must have version 3")
    assert google.set_project_policy(binding, version=3).json()["bindings"] == [binding]
    (shown,) = google.call("POST", f"{CRM}/v1/projects/demo:getIamPolicy", json={}).json()["bindings"]
    assert "condition" not in shown and shown["role"].startswith(f"{READER}_withcond_")
    # A policy that was read without version 3 cannot be written back.
    refused(google.set_project_policy(shown), 400, "INVALID_ARGUMENT", "is not supported")


def test_enabling_an_enabled_api_is_done_at_once(google: Google) -> None:
    names = [f"projects/demo/services/{api}" for api in APIS]
    states = google.call("GET", f"{SERVICES}:batchGet", params={"names": names}).json()["services"]
    assert [(state["name"], state["state"]) for state in states] == [
        (f"projects/42/services/{api}", "ENABLED") for api in APIS
    ]
    for answer in (
        google.call("POST", f"{SERVICES}:batchEnable", json={"serviceIds": APIS}),
        google.call("POST", f"{SERVICES}/{APIS[0]}:enable", json={}),
    ):
        assert (answer.json()["name"], answer.json()["done"]) == ("operations/noop.DONE_OPERATION", True)
    refused(google.call("GET", f"{USAGE}/operations/noop.DONE_OPERATION"), 400, "INVALID_ARGUMENT", "noop")


def test_enabling_takes_time(google: Google) -> None:
    for api in APIS:
        disable(google, api)
    operation = google.call("POST", f"{SERVICES}:batchEnable", json={"serviceIds": APIS})
    assert operation.json()["name"].startswith("operations/acf.p2-42-") and "done" not in operation.json()
    assert google.call("GET", f"{SERVICES}/{APIS[0]}").json()["state"] == "DISABLED"
    states = google.done(operation)["services"]
    assert [state["state"] for state in states] == ["ENABLED", "ENABLED"]
    assert google.call("GET", SERVICES, params={"filter": "state:DISABLED"}).json() == {}


def test_one_service(google: Google) -> None:
    disable(google, APIS[0])
    assert google.call("GET", SERVICES, params={"filter": "state:DISABLED"}).json()["services"][0]["config"]["name"] == APIS[0]
    enabled = google.done(google.call("POST", f"{SERVICES}/{APIS[0]}:enable", json={}))
    assert enabled["service"] == google.call("GET", f"{SERVICES}/{APIS[0]}").json()
    assert enabled["service"]["state"] == "ENABLED"


def test_iam_also_enables_its_credentials_api(google: Google) -> None:
    disable(google, "iamcredentials.googleapis.com")
    disable(google, "iam.googleapis.com")
    google.done(google.call("POST", f"{SERVICES}/iam.googleapis.com:enable", json={}))
    assert google.call("GET", f"{SERVICES}/iamcredentials.googleapis.com").json()["state"] == "ENABLED"


def test_batches_are_bounded_and_atomic(google: Google) -> None:
    for body in ({}, {"serviceIds": APIS * 11}):
        refused(google.call("POST", f"{SERVICES}:batchEnable", json=body), 400, "INVALID_ARGUMENT", "1 to 20 services")
    disable(google, APIS[0])
    answer = google.call("POST", f"{SERVICES}:batchEnable", json={"serviceIds": [APIS[0], "no.googleapis.com"]})
    refused(answer, 403, "PERMISSION_DENIED", "Not found or permission denied for service(s): no.googleapis.com.")
    google.steady += 1
    assert google.call("GET", f"{SERVICES}/{APIS[0]}").json()["state"] == "DISABLED"
    for names in ([], [f"projects/other/services/{APIS[0]}"]):
        answer = google.call("GET", f"{SERVICES}:batchGet", params={"names": names})
        refused(answer, 400, "INVALID_ARGUMENT", "names must be 1 to 30")


@pytest.mark.parametrize(
    ("api", "title", "url"),
    [
        ("iam.googleapis.com", "Identity and Access Management (IAM) API", POOLS),
        ("iam.googleapis.com", "Identity and Access Management (IAM) API", ACCOUNTS),
        ("artifactregistry.googleapis.com", "Artifact Registry API", f"{AR}/projects/demo/locations/l/repositories"),
        ("cloudresourcemanager.googleapis.com", "Cloud Resource Manager API", f"{CRM}/v1/projects/demo"),
    ],
)
def test_an_api_that_is_disabled(google: Google, api: str, title: str, url: str) -> None:
    assert google.call("GET", url).status_code == 200
    disable(google, api)
    answer = google.call("GET", url)
    refused(answer, 403, "PERMISSION_DENIED", f"{title} has not been used in project 42 before or it is disabled.")
    assert answer.json()["error"]["details"][0]["metadata"]["service"] == api
    assert reason(answer) == "SERVICE_DISABLED"


def test_other_disabled_apis(docker: Google) -> None:
    token = docker.access_token()
    assert docker.create_account().status_code == 200
    disable(docker, "sts.googleapis.com")
    assert reason(docker.exchange()) == "SERVICE_DISABLED"
    disable(docker, "iamcredentials.googleapis.com")
    assert reason(docker.impersonate("operator", EMAIL)) == "SERVICE_DISABLED"
    manifest = f"{DOCKER}/v2/demo/private/hello/manifests/1.0"
    assert docker.call("GET", manifest, token=token).status_code == 200
    disable(docker, "artifactregistry.googleapis.com")
    answer = docker.call("GET", manifest, token=token)
    assert answer.status_code == 403
    assert "Artifact Registry API has not been used in project 42" in answer.json()["errors"][0]["message"]
    docker.fault(enable_lag=60)
    docker.done(docker.call("POST", f"{SERVICES}/artifactregistry.googleapis.com:enable", json={}))
    docker.steady += 31
    answer = docker.call("GET", manifest, token=token)
    assert answer.json()["errors"][0]["message"].startswith('Permission "artifactregistry.repositories.downloadArtifacts" denied')
    docker.steady += 30
    assert docker.call("GET", manifest, token=token).status_code == 200


def test_a_new_api_is_delayed(google: Google) -> None:
    disable(google, "iam.googleapis.com")
    google.fault(enable_lag=60)
    google.done(google.call("POST", f"{SERVICES}/iam.googleapis.com:enable", json={}))
    assert google.call("GET", f"{SERVICES}/iam.googleapis.com").json()["state"] == "ENABLED"
    assert reason(google.call("GET", POOLS)) == "SERVICE_DISABLED"
    google.steady += 31
    answer = google.call("GET", POOLS)
    refused(answer, 403, "PERMISSION_DENIED", "Permission 'iam.workloadIdentityPools.list' denied on resource")
    google.steady += 30
    assert google.call("GET", POOLS).status_code == 200


def test_an_api_may_be_disabled_at_the_start(google: Google) -> None:
    google.config.disabled_services["demo"] = ["iam.googleapis.com"]
    assert reason(google.call("GET", POOLS)) == "SERVICE_DISABLED"
    google.done(google.call("POST", f"{SERVICES}/iam.googleapis.com:enable", json={}))
    assert google.call("GET", POOLS).status_code == 200


def test_who_may_enable_apis(google: Google) -> None:
    disable(google, APIS[0])
    consumer = google.account_token("roles/serviceusage.serviceUsageConsumer")
    url = f"{SERVICES}/{APIS[0]}"
    assert google.call("GET", url, token=consumer).status_code == 200
    text = "Permission 'serviceusage.services.enable' denied on resource"
    refused(google.call("POST", f"{url}:enable", token=consumer, json={}), 403, "PERMISSION_DENIED", text)


def test_pages(google: Google) -> None:
    found: list[Any] = []
    token = ""
    while True:
        page = google.call("GET", SERVICES, params={"pageSize": "4", **({"pageToken": token} if token else {})}).json()
        found += page["services"]
        token = page.get("nextPageToken", "")
        if not token:
            break
    assert len(found) == len({service["name"] for service in found}) == 9
