# SPDX-License-Identifier: GPL-3.0-or-later
"""The checker accepts what Google's documents describe, and names anything else."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.sandbox.google import contract

IAM = "https://iam.googleapis.com/v1"
AR = "https://artifactregistry.googleapis.com/v1"
CRM = "https://cloudresourcemanager.googleapis.com"
USAGE = "https://serviceusage.googleapis.com/v1"
STS = "https://sts.googleapis.com/v1/token"
LOCATION = "projects/demo/locations/global"
POOLS = f"{IAM}/{LOCATION}/workloadIdentityPools"
REPOSITORIES = f"{AR}/projects/demo/locations/us-central1/repositories"
ACCOUNT = f"{IAM}/projects/demo/serviceAccounts/cache@demo.iam.gserviceaccount.com"
POOL_ID = [("workloadIdentityPoolId", "cache")]
PROVIDER = {"attributeMapping": {"google.subject": "assertion.sub"}, "oidc": {"issuerUri": "https://example.com"}}


@pytest.mark.parametrize(
    ("method", "url", "query", "body", "identifier"),
    [
        ("POST", POOLS, POOL_ID, {"displayName": "x"}, "iam.projects.locations.workloadIdentityPools.create"),
        ("POST", POOLS, POOL_ID, {"displayName": None}, "iam.projects.locations.workloadIdentityPools.create"),
        ("GET", f"{POOLS}/cache", [], None, "iam.projects.locations.workloadIdentityPools.get"),
        (
            "POST",
            f"{POOLS}/cache:undelete",
            [],
            {},
            "iam.projects.locations.workloadIdentityPools.undelete",
        ),
        (
            "PATCH",
            f"{POOLS}/cache/providers/kubernetes",
            [("updateMask", "disabled")],
            {"disabled": True},
            "iam.projects.locations.workloadIdentityPools.providers.patch",
        ),
        (
            "GET",
            f"{POOLS}/cache/operations/abc",
            [],
            None,
            "iam.projects.locations.workloadIdentityPools.operations.get",
        ),
        (
            "GET",
            f"{REPOSITORIES}/private:getIamPolicy",
            [("options.requestedPolicyVersion", "3")],
            None,
            "artifactregistry.projects.locations.repositories.getIamPolicy",
        ),
        ("POST", f"{ACCOUNT}:getIamPolicy", [], None, "iam.projects.serviceAccounts.getIamPolicy"),
        ("GET", f"{CRM}/v1/projects/demo", [], None, "cloudresourcemanager.projects.get"),
        ("GET", f"{CRM}/v3/projects/42", [], None, "cloudresourcemanager.projects.get"),
        (
            "GET",
            f"{USAGE}/projects/42/services:batchGet",
            [("names", "projects/42/services/a"), ("names", "projects/42/services/b")],
            None,
            "serviceusage.services.batchGet",
        ),
        ("GET", f"{USAGE}/operations/acf.p2-42-abc", [], None, "serviceusage.operations.get"),
    ],
)
def test_a_good_request(method: str, url: str, query: list[tuple[str, str]], body: Any, identifier: str) -> None:
    found = contract.find(method, url)
    assert found is not None and found.description["id"] == identifier
    contract.check_request(method, url, query, body)


@pytest.mark.parametrize(
    ("method", "url", "query", "body", "text"),
    [
        ("PUT", POOLS, [], None, "no such method"),
        ("GET", f"{IAM}/{LOCATION}/pools", [], None, "no such method"),
        ("GET", "https://example.googleapis.com/v1/x", [], None, "no such method"),
        # Other services use POST.
        ("POST", f"{REPOSITORIES}/private:getIamPolicy", [], None, "no such method"),
        ("POST", POOLS, [], {}, "query parameter workloadIdentityPoolId is missing"),
        ("POST", POOLS, [*POOL_ID, ("poolId", "x")], {}, "unknown query parameter poolId"),
        ("POST", POOLS, [*POOL_ID, *POOL_ID], {}, "is not repeated"),
        ("POST", POOLS, POOL_ID, {"display_name": "x"}, "unknown field display_name"),
        ("POST", POOLS, POOL_ID, {"displayName": 1}, "displayName: 1 is no string"),
        ("POST", POOLS, POOL_ID, {"disabled": "no"}, "disabled: 'no' is no boolean"),
        ("POST", POOLS, POOL_ID, {"mode": "SOME"}, "'SOME' is none of"),
        ("POST", POOLS, POOL_ID, [], "is no object"),
        ("GET", POOLS, [("showDeleted", "yes")], None, "'yes' is no boolean"),
        ("GET", POOLS, [("pageSize", "all")], None, "'all' is no number"),
        ("GET", POOLS, [], {"displayName": "x"}, "takes no body"),
        ("PATCH", f"{POOLS}/cache", [], {}, "query parameter updateMask is missing"),
        (
            "POST",
            f"{POOLS}/cache/providers",
            [("workloadIdentityPoolProviderId", "kubernetes")],
            {**PROVIDER, "oidc": {"allowedAudiences": []}},
            "oidc: field issuerUri is missing",
        ),
        (
            "POST",
            f"{POOLS}/cache/providers",
            [("workloadIdentityPoolProviderId", "kubernetes")],
            {**PROVIDER, "attributeMapping": {"google.subject": 1}},
            "attributeMapping.google.subject: 1 is no string",
        ),
        ("POST", f"{IAM}/projects/demo/serviceAccounts", [], {"serviceAccount": {}}, "field accountId is missing"),
        ("POST", f"{IAM}/projects/demo/serviceAccounts", [], {"accountId": None}, "field accountId is missing"),
        ("POST", POOLS, POOL_ID, {"display_name": None}, "unknown field display_name"),
        (
            "PATCH",
            f"{POOLS}/cache/providers/kubernetes",
            [("updateMask", "attributeMapping")],
            {"attributeMapping": {"google.subject": None}},
            "None is no string",
        ),
        ("POST", f"{ACCOUNT}:setIamPolicy", [], {}, "field policy is missing"),
        ("POST", f"{ACCOUNT}:setIamPolicy", [], {"policy": {"bindings": [{"rolle": "x"}]}}, "bindings[0]: unknown field"),
        ("POST", f"{ACCOUNT}:setIamPolicy", [], {"policy": {"etag": "$"}}, "is no base64"),
        ("POST", f"{ACCOUNT}:setIamPolicy", [], {"policy": {"version": "3"}}, "version: '3' is no integer"),
        ("POST", f"{ACCOUNT}:setIamPolicy", [], {"policy": {"version": True}}, "version: True is no integer"),
        ("POST", STS, [], {"audience": "x"}, "field grantType is missing"),
    ],
)
def test_a_bad_request_is_named(method: str, url: str, query: list[tuple[str, str]], body: Any, text: str) -> None:
    with pytest.raises(AssertionError) as caught:
        contract.check_request(method, url, query, body)
    assert text in str(caught.value)


ERROR = {"code": 404, "message": "m", "status": "NOT_FOUND"}
POOL = {"@type": "type.googleapis.com/google.iam.v1.WorkloadIdentityPool", "name": "n", "state": "ACTIVE"}


@pytest.mark.parametrize(
    ("method", "url", "status", "body"),
    [
        ("GET", f"{POOLS}/cache", 200, {"name": "n", "state": "ACTIVE", "expireTime": "2026-01-01T00:00:00Z"}),
        ("POST", POOLS, 200, {"name": "n", "done": True, "response": POOL}),
        ("GET", f"{POOLS}/cache", 404, {"error": ERROR}),
        ("GET", f"{POOLS}/cache", 404, {"error": {**ERROR, "details": [{"@type": "x", "reason": "y"}]}}),
        ("POST", STS, 400, {"error": "invalid_grant", "error_description": "d"}),
        ("POST", STS, 200, {"access_token": "t", "issued_token_type": "i", "token_type": "Bearer", "expires_in": 1}),
    ],
)
def test_a_good_answer(method: str, url: str, status: int, body: Any) -> None:
    contract.check_answer(method, url, status, body)


@pytest.mark.parametrize(
    ("method", "url", "status", "body", "text"),
    [
        ("GET", f"{POOLS}/cache", 200, None, "is no object"),
        ("GET", f"{POOLS}/cache", 200, {"uid": "x"}, "unknown field uid"),
        ("GET", f"{POOLS}/cache", 200, {"expireTime": "tomorrow"}, "is no timestamp"),
        ("GET", f"{POOLS}/cache", 200, {"state": "GONE"}, "is none of"),
        ("GET", POOLS, 200, {"workloadIdentityPools": {}}, "is no array"),
        ("POST", POOLS, 200, {"name": "n", "done": True, "response": {**POOL, "uid": "x"}}, "unknown field uid"),
        ("GET", f"{CRM}/v1/projects/demo", 200, {"projectNumber": 42}, "is no string"),
        ("GET", f"{CRM}/v1/projects/demo", 200, {"projectNumber": "x"}, "is no int64"),
        ("GET", f"{POOLS}/cache", 404, "not JSON", "no error object"),
        ("GET", f"{POOLS}/cache", 403, {"error": ERROR}, "HTTP 403 says code 404"),
        ("GET", f"{POOLS}/cache", 404, {"error": {"code": 404, "message": "m"}}, "answer of"),
        ("GET", f"{POOLS}/cache", 404, {"error": "not_found", "error_description": "d"}, "no error object"),
        ("POST", STS, 400, {"error": "x", "error_description": "d", "error_uri": "u"}, "not an OAuth error"),
    ],
)
def test_a_bad_answer_is_named(method: str, url: str, status: int, body: Any, text: str) -> None:
    with pytest.raises(AssertionError) as caught:
        contract.check_answer(method, url, status, body)
    assert text in str(caught.value)


def test_both_halves_are_checked() -> None:
    good = {"name": "n", "state": "ACTIVE"}
    contract.check("GET", f"{POOLS}/cache", [], None, 200, good)
    with pytest.raises(AssertionError, match="unknown query parameter x"):
        contract.check("GET", f"{POOLS}/cache", [("x", "y")], None, 200, good)
    with pytest.raises(AssertionError, match="unknown field uid"):
        contract.check("GET", f"{POOLS}/cache", [], None, 200, {**good, "uid": "x"})
