# SPDX-License-Identifier: GPL-3.0-or-later
"""Service accounts and their impersonation: iam, iamcredentials and oauth2.googleapis.com."""

from __future__ import annotations

import base64
import json
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.unit.sandbox.google.harness import (
    ACCOUNTS,
    AR,
    CLOUD_PLATFORM,
    CRM,
    DOCKER,
    EMAIL,
    IAM_CREDENTIALS,
    MEMBER,
    OAUTH2,
    POOL,
    POOLS,
    PROVIDER,
    READER,
    REPOSITORY,
    USAGE,
    Google,
    refused,
)

URL = f"{ACCOUNTS}/{EMAIL}"
USER = "roles/iam.workloadIdentityUser"
MANIFEST = f"{DOCKER}/v2/demo/private/hello/manifests/1.0"
DENIED = "Permission 'iam.serviceAccounts.getAccessToken' denied on resource (or it may not exist)."


@pytest.fixture
def account(google: Google) -> dict[str, Any]:
    answer = google.create_account(displayName="Cache", description="d")
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.fixture
def impersonated(google: Google, account: dict[str, Any]) -> Google:
    """The cache's service account can impersonate the account, which can read the repository."""
    google.federate()
    google.create_repository()
    google.grant(member=f"serviceAccount:{EMAIL}")
    assert google.set_account_policy({"role": USER, "members": [MEMBER]}).status_code == 200
    return google


def test_an_account_is_created_and_deleted(google: Google, account: dict[str, Any]) -> None:
    assert account["name"] == f"projects/demo/serviceAccounts/{EMAIL}"
    assert (account["displayName"], account["description"]) == ("Cache", "d")
    assert "disabled" not in account
    for name in (EMAIL, account["uniqueId"]):
        assert google.call("GET", f"{ACCOUNTS}/{name}").json() == account
    assert google.call("GET", URL.replace("/demo/", "/-/")).json() == account
    assert google.call("GET", ACCOUNTS).json() == {"accounts": [account]}
    refused(google.create_account(), 409, "ALREADY_EXISTS", "Service account registry-cache already exists within project")
    assert google.call("DELETE", URL).json() == {}
    refused(google.call("GET", URL), 404, "NOT_FOUND", "does not exist")
    assert google.call("GET", ACCOUNTS).json() == {}


@pytest.mark.parametrize("name", ["short", "x" * 31, "1-cache", "Registry", "cache-"])
def test_a_bad_account_id(google: Google, name: str) -> None:
    refused(google.create_account(name), 400, "INVALID_ARGUMENT", f"'{name}'")


def test_a_patch_changes_what_its_mask_names(google: Google, account: dict[str, Any]) -> None:
    def patch(mask: str, **fields: str) -> httpx.Response:
        return google.call("PATCH", URL, json={"serviceAccount": fields, "updateMask": mask})

    changed = patch("displayName", displayName="New", description="ignored").json()
    assert (changed["displayName"], changed["description"]) == ("New", "d")
    assert changed["etag"] != account["etag"]
    assert "description" not in patch("description").json()
    refused(patch(""), 400, "INVALID_ARGUMENT", "update mask must be specified")
    refused(patch("email", email="x"), 400, "INVALID_ARGUMENT", "email")
    refused(patch("displayName", displayName="x" * 101), 400, "INVALID_ARGUMENT", "displayName")
    assert google.call("GET", URL).json()["displayName"] == "New"


def test_undelete_is_by_unique_id_and_brings_the_grants_back(google: Google, account: dict[str, Any]) -> None:
    google.create_repository()
    google.grant(member=f"serviceAccount:{EMAIL}")
    google.call("DELETE", URL)
    policy = google.call("GET", f"{AR}/{REPOSITORY}:getIamPolicy").json()
    assert policy["bindings"][0]["members"] == [f"deleted:serviceAccount:{EMAIL}?uid={account['uniqueId']}"]
    refused(google.call("POST", f"{URL}:undelete", json={}), 404, "NOT_FOUND", "not found")
    restore = f"{ACCOUNTS}/{account['uniqueId']}:undelete"
    assert google.call("POST", restore, json={}).json() == {"restoredAccount": account}
    refused(google.call("POST", restore, json={}), 400, "FAILED_PRECONDITION", "not deleted")
    google.call("DELETE", URL)
    other = google.create_account().json()
    assert other["uniqueId"] != account["uniqueId"]
    refused(google.call("POST", restore, json={}), 400, "FAILED_PRECONDITION", "in use")


def test_a_deleted_account_is_forgotten_after_30_days(google: Google, account: dict[str, Any]) -> None:
    google.call("DELETE", URL)
    google.now += 30 * 24 * 3600 + 1
    refused(google.call("POST", f"{ACCOUNTS}/{account['uniqueId']}:undelete", json={}), 404, "NOT_FOUND", "not found")


def test_the_policy_is_read_with_post(google: Google, account: dict[str, Any]) -> None:
    google.federate()
    empty = google.call("POST", f"{URL}:getIamPolicy").json()
    assert empty.keys() == {"etag"}
    binding = {"role": USER, "members": [MEMBER]}
    first = google.set_account_policy(binding, etag=empty["etag"]).json()
    assert first["bindings"] == [binding]
    refused(google.set_account_policy(etag=empty["etag"]), 409, "ABORTED", "There were concurrent policy changes.")
    assert google.call("POST", f"{URL}:getIamPolicy").json() == first
    answer = google.set_account_policy({"role": READER, "members": [MEMBER]})
    refused(answer, 400, "INVALID_ARGUMENT", f"Role {READER} is not supported for this resource.")


@pytest.mark.parametrize(
    ("member", "text"),
    [
        (f"serviceAccount:{EMAIL.replace('registry', 'other')}", "does not exist."),
        (MEMBER.replace("/cache/", "/other/"), "Identity Pool does not exist ("),
    ],
)
def test_an_unknown_member(google: Google, account: dict[str, Any], member: str, text: str) -> None:
    google.federate()
    refused(google.set_account_policy({"role": USER, "members": [member]}), 400, "INVALID_ARGUMENT", text)


def test_addresses_are_in_lower_case(google: Google, account: dict[str, Any]) -> None:
    answer = google.set_account_policy({"role": USER, "members": ["user:Some.One@Example.com"]})
    assert answer.json()["bindings"][0]["members"] == ["user:some.one@example.com"]


def test_the_federated_identity_impersonates_the_account(impersonated: Google) -> None:
    federated = impersonated.access_token()
    assert impersonated.call("GET", MANIFEST, token=federated).status_code == 403
    answer = impersonated.impersonate(federated, lifetime="600s").json()
    assert answer["expireTime"] == "2027-01-15T08:10:00Z"
    token = answer["accessToken"]
    assert impersonated.call("GET", MANIFEST, token=token).status_code == 200
    realm = f"{DOCKER}/v2/token?scope=repository:demo/private/hello:pull"
    derived = impersonated.call("GET", realm, token=token).json()["token"]
    assert impersonated.call("GET", MANIFEST, token=derived).status_code == 200
    impersonated.now += 601
    assert impersonated.call("GET", MANIFEST, token=token).status_code == 401


def test_the_accounts_token_outlives_the_federated_one(impersonated: Google) -> None:
    federated = impersonated.access_token(exp=int(impersonated.now) + 300)
    token = impersonated.impersonate(federated).json()["accessToken"]
    impersonated.now += 3000
    assert impersonated.call("GET", MANIFEST, token=federated).status_code == 401
    assert impersonated.call("GET", MANIFEST, token=token).status_code == 200


def test_callers_that_may_not_impersonate(impersonated: Google) -> None:
    federated = impersonated.access_token()
    refused(impersonated.impersonate(federated, "other@demo.iam.gserviceaccount.com"), 403, "PERMISSION_DENIED", DENIED)
    impersonated.set_account_policy()
    answer = impersonated.impersonate(federated)
    refused(answer, 403, "PERMISSION_DENIED", DENIED)
    assert answer.json()["error"]["details"][0]["reason"] == "IAM_PERMISSION_DENIED"
    refused(impersonated.impersonate(None), 401, "UNAUTHENTICATED", "missing required authentication credential")
    creator = {"role": "roles/iam.serviceAccountTokenCreator", "members": [MEMBER]}
    impersonated.set_account_policy(creator)
    assert impersonated.impersonate(federated).status_code == 200


def test_what_generate_access_token_refuses(impersonated: Google) -> None:
    federated = impersonated.access_token()
    url = f"{IAM_CREDENTIALS}/projects/demo/serviceAccounts/{EMAIL}:generateAccessToken"
    answer = impersonated.call("POST", url, token=federated, json={"scope": [CLOUD_PLATFORM]})
    refused(answer, 400, "INVALID_ARGUMENT", "wildcard")
    for lifetime in ("3601s", "3600.5s", "0s", "1h", "-1s"):
        refused(impersonated.impersonate(federated, lifetime=lifetime), 400, "INVALID_ARGUMENT", "at most 3600s")
    refused(impersonated.impersonate(federated, scope=[]), 400, "INVALID_ARGUMENT", "scope is required")
    narrow = impersonated.exchange(scope="https://www.googleapis.com/auth/devstorage.read_write").json()["access_token"]
    refused(impersonated.impersonate(narrow), 403, "PERMISSION_DENIED", "insufficient authentication scopes")


def test_a_disabled_account_can_neither_be_impersonated_nor_read(impersonated: Google) -> None:
    federated = impersonated.access_token()
    token = impersonated.impersonate(federated).json()["accessToken"]
    assert impersonated.call("POST", f"{URL}:disable", json={}).json() == {}
    assert impersonated.call("GET", URL).json()["disabled"] is True
    refused(impersonated.impersonate(federated), 400, "FAILED_PRECONDITION", "disabled")
    assert impersonated.call("GET", MANIFEST, token=token).status_code == 403
    assert impersonated.call("POST", f"{URL}:enable", json={}).json() == {}
    assert "disabled" not in impersonated.call("GET", URL).json()
    assert impersonated.call("GET", MANIFEST, token=token).status_code == 200
    impersonated.call("DELETE", URL)
    assert impersonated.call("GET", MANIFEST, token=token).status_code == 403


@pytest.mark.parametrize(
    ("scope", "status"),
    [
        ("https://www.googleapis.com/auth/devstorage.read_only", 200),
        ("https://www.googleapis.com/auth/cloud-platform.read-only", 200),
        ("https://www.googleapis.com/auth/userinfo.email", 403),
    ],
)
def test_the_docker_endpoint_takes_its_scopes(impersonated: Google, scope: str, status: int) -> None:
    token = impersonated.impersonate(impersonated.access_token(), scope=[scope]).json()["accessToken"]
    assert impersonated.call("GET", MANIFEST, token=token).status_code == status
    refused(impersonated.call("GET", URL, token=token), 403, "PERMISSION_DENIED", "insufficient authentication scopes")


READS = {
    "pools": POOLS,
    "accounts": ACCOUNTS,
    "repositories": f"{AR}/{REPOSITORY.rpartition('/')[0]}",
    "services": f"{USAGE}/projects/demo/services",
    "project": f"{CRM}/v1/projects/demo",
}


@pytest.mark.parametrize(
    ("role", "allowed"),
    [
        ("roles/artifactregistry.admin", {"repositories"}),
        ("roles/iam.workloadIdentityPoolAdmin", {"pools", "project"}),
        ("roles/iam.serviceAccountAdmin", {"accounts", "project"}),
        ("roles/serviceusage.serviceUsageAdmin", {"services"}),
        ("roles/resourcemanager.projectIamAdmin", {"project"}),
        ("roles/viewer", set(READS)),
    ],
)
def test_a_role_in_the_project_grants_its_permissions(google: Google, role: str, allowed: set[str]) -> None:
    token = google.account_token(role)
    answers = {name: google.call("GET", url, token=token).status_code for name, url in READS.items()}
    assert answers == {name: 200 if name in allowed else 403 for name in READS}


@pytest.mark.parametrize(("role", "status"), [("roles/owner", 200), ("roles/editor", 403), ("roles/viewer", 403)])
def test_only_an_owner_makes_pools(google: Google, role: str, status: int) -> None:
    token = google.account_token(role)
    answer = google.call("POST", POOLS, token=token, params={"workloadIdentityPoolId": "other"}, json={})
    assert answer.status_code == status
    # Owners cannot impersonate an account without a further role.
    assert google.create_account().status_code == 200
    refused(google.impersonate(token), 403, "PERMISSION_DENIED", DENIED)


@pytest.fixture
def key(google: Google, account: dict[str, Any]) -> dict[str, str]:
    answer = google.call("POST", f"{URL}/keys", json={}).json()
    assert answer["name"].startswith(f"{account['name']}/keys/")
    return json.loads(base64.b64decode(answer["privateKeyData"]))


def assertion(google: Google, key: dict[str, str], signed_by: Any = None, **claims: Any) -> httpx.Response:
    payload = {
        "iss": key["client_email"],
        "scope": CLOUD_PLATFORM,
        "aud": key["token_uri"],
        "iat": int(google.now),
        "exp": int(google.now) + 3600,
        **claims,
    }
    headers = {"kid": key["private_key_id"]} if "private_key_id" in key else None
    signed = jwt.encode(payload, signed_by or key["private_key"], "RS256", headers=headers)
    form = {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": signed}
    return google.call("POST", OAUTH2, token=None, data=form)


def test_a_key_gives_the_account_s_token(google: Google, key: dict[str, str]) -> None:
    answer = assertion(google, key).json()
    assert (answer["token_type"], answer["expires_in"]) == ("Bearer", 3599)
    token = answer["access_token"]
    assert google.call("GET", READS["project"], token=token).status_code == 403
    google.set_project_policy({"role": "roles/viewer", "members": [f"serviceAccount:{EMAIL}"]})
    assert google.call("GET", READS["project"], token=token).status_code == 200
    google.now += 3601
    assert google.call("GET", READS["project"], token=token).status_code == 401


def test_a_key_need_not_be_named(google: Google, key: dict[str, str]) -> None:
    """AWX writes a file with only the account's address and the key."""
    nameless = {name: value for name, value in key.items() if name != "private_key_id"}
    assert assertion(google, nameless).status_code == 200
    foreign = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    assert assertion(google, nameless, foreign).json()["error_description"] == "Invalid JWT Signature."


def test_the_private_key_stays_with_its_owner(google: Google, key: dict[str, str]) -> None:
    assert "PRIVATE KEY" not in (google.config.state_dir / "resources.json").read_text()


def test_a_deleted_key_signs_nothing(google: Google, key: dict[str, str]) -> None:
    assert google.call("DELETE", f"{URL}/keys/{key['private_key_id']}").json() == {}
    refused(google.call("DELETE", f"{URL}/keys/{key['private_key_id']}"), 404, "NOT_FOUND", "not found")
    assert assertion(google, key).json()["error_description"] == "Invalid JWT Signature."


@pytest.mark.parametrize(
    ("claims", "error", "text"),
    [
        ({"iss": "other@demo.iam.gserviceaccount.com"}, "invalid_grant", "account not found"),
        ({"aud": "https://example.com"}, "invalid_grant", "Failed audience check"),
        ({"exp": 1_800_003_601}, "invalid_grant", "short-lived token (60 minutes)"),
        ({"exp": 1_799_990_000, "iat": 1_799_989_000}, "invalid_grant", "short-lived token"),
        ({"iat": 1_800_001_000}, "invalid_grant", "short-lived token"),
        ({"scope": ""}, "invalid_scope", "Invalid OAuth scope"),
    ],
)
def test_a_bad_assertion(google: Google, key: dict[str, str], claims: dict[str, Any], error: str, text: str) -> None:
    answer = assertion(google, key, **claims)
    assert (answer.status_code, answer.json()["error"]) == (400, error)
    assert text in answer.json()["error_description"]


def test_a_forged_assertion(google: Google, key: dict[str, str]) -> None:
    foreign = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    answer = assertion(google, key, foreign)
    assert answer.json() == {"error": "invalid_grant", "error_description": "Invalid JWT Signature."}
    form = {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": "nonsense"}
    assert google.call("POST", OAUTH2, token=None, data=form).json()["error"] == "invalid_grant"
    answer = google.call("POST", OAUTH2, token=None, data={"grant_type": "password"})
    assert answer.json()["error"] == "unsupported_grant_type"


def test_accounts_and_keys_outlive_a_restart(google: Google, key: dict[str, str]) -> None:
    restarted = Google(google.config.state_dir, google.keys)
    try:
        assert restarted.call("GET", URL).json() == google.call("GET", URL).json()
        assert assertion(restarted, key).status_code == 200
    finally:
        restarted.close()


def test_a_disabled_pool_cannot_impersonate(impersonated: Google) -> None:
    federated = impersonated.access_token()
    impersonated.done(impersonated.patch(PROVIDER, "disabled", disabled=True))
    assert impersonated.impersonate(federated).status_code == 200
    impersonated.done(impersonated.patch(POOL, "disabled", disabled=True))
    refused(impersonated.impersonate(federated), 403, "PERMISSION_DENIED", DENIED)
