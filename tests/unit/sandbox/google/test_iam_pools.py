# SPDX-License-Identifier: GPL-3.0-or-later
"""Workload identity pools and providers of iam.googleapis.com."""

from __future__ import annotations

import pytest

from tests.unit.sandbox.google.harness import IAM, ISSUER, POOL, POOLS, PROVIDER, PROVIDERS, Google, refused


def test_a_change_takes_effect_when_its_operation_is_done(google: Google) -> None:
    operation = google.create_pool(displayName="Cache", description="", disabled=False).json()
    assert operation["name"].startswith(f"{POOL}/operations/") and "done" not in operation
    assert "done" not in google.call("GET", f"{IAM}/{operation['name']}").json()
    assert google.call("GET", f"{POOLS}/cache").status_code == 404
    google.steady += 1
    assert google.call("GET", f"{IAM}/{operation['name']}").json()["done"] is True
    # With the project's number instead of its id, and without empty and false fields.
    assert google.call("GET", f"{POOLS}/cache").json() == {"name": POOL, "state": "ACTIVE", "displayName": "Cache"}


@pytest.mark.parametrize("name", ["abc", "a" * 33, "Cache", "gcp-cache", "a_cache", ""])
def test_a_bad_id_is_refused(google: Google, name: str) -> None:
    refused(google.create_pool(name), 400, "INVALID_ARGUMENT", "workloadIdentityPoolId")


def test_a_long_display_name_is_refused(google: Google) -> None:
    refused(google.create_pool(displayName="x" * 33), 400, "INVALID_ARGUMENT", "displayName")
    refused(google.create_pool(description="x" * 257), 400, "INVALID_ARGUMENT", "description")


def test_an_unknown_field_is_refused(google: Google) -> None:
    refused(google.create_pool(display_name_="x"), 400, "INVALID_ARGUMENT", 'Unknown name "display_name_"')
    refused(google.create_pool(displayName=1), 400, "INVALID_ARGUMENT", "Invalid value at 'displayName'")


def test_null_means_omitted(google: Google) -> None:
    assert google.done(google.create_pool(displayName=None))["name"] == POOL
    answer = google.create_provider(attributeMapping={"google.subject": "assertion.sub", "attribute.a": None})
    refused(answer, 400, "INVALID_ARGUMENT", "Invalid value at 'attributeMapping.attribute.a'")


def test_an_id_is_in_use_until_30_days_after_deletion(google: Google) -> None:
    first = google.create_pool()
    refused(google.create_pool(), 409, "ALREADY_EXISTS", "Requested entity already exists")
    google.done(first)
    refused(google.create_pool(), 409, "ALREADY_EXISTS", "Requested entity already exists")
    google.done(google.call("DELETE", f"{POOLS}/cache"))
    assert google.call("GET", f"{POOLS}/cache").json()["state"] == "DELETED"
    refused(google.create_pool(), 409, "ALREADY_EXISTS", "Requested entity already exists")
    refused(google.patch(POOL, "displayName", displayName="x"), 400, "FAILED_PRECONDITION", "DELETED")
    google.now += 30 * 24 * 3600 + 1
    assert google.call("GET", f"{POOLS}/cache").status_code == 404
    google.done(google.create_pool())


def test_undelete_revives(google: Google) -> None:
    google.federate()
    before = google.call("GET", f"{PROVIDERS}/kubernetes").json()
    refused(google.call("POST", f"{PROVIDERS}/kubernetes:undelete"), 400, "FAILED_PRECONDITION", "ACTIVE")
    deleted = google.done(google.call("DELETE", f"{PROVIDERS}/kubernetes"))
    assert deleted["state"] == "DELETED" and deleted["expireTime"] == "2027-02-14T08:00:00Z"
    google.done(google.call("POST", f"{PROVIDERS}/kubernetes:undelete"))
    assert google.call("GET", f"{PROVIDERS}/kubernetes").json() == before


def test_lists_are_paged_and_omit_deleted_resources(google: Google) -> None:
    for name in ("pool-a", "pool-b", "pool-c"):
        google.done(google.create_pool(name))
    google.done(google.call("DELETE", f"{POOLS}/pool-b"))
    page = google.call("GET", POOLS, params={"pageSize": 1}).json()
    rest = google.call("GET", POOLS, params={"pageToken": page["nextPageToken"]}).json()
    assert [pool["name"][-1] for pool in (*page["workloadIdentityPools"], *rest["workloadIdentityPools"])] == ["a", "c"]
    everything = google.call("GET", POOLS, params={"showDeleted": "true"}).json()
    assert len(everything["workloadIdentityPools"]) == 3 and "nextPageToken" not in everything
    assert google.call("GET", f"{POOLS}/pool-a/providers").json() == {}


def test_a_mask_replaces_a_mapping_completely(google: Google) -> None:
    google.federate(attributeMapping={"google.subject": "assertion.sub", "attribute.iss": "assertion.iss"})
    change = {"attributeMapping": {"google.subject": "assertion.sub"}, "displayName": "not in the mask"}
    google.done(google.patch(PROVIDER, "attributeMapping", **change))
    provider = google.call("GET", f"{PROVIDERS}/kubernetes").json()
    assert provider["attributeMapping"] == {"google.subject": "assertion.sub"}
    assert "displayName" not in provider


@pytest.mark.parametrize("mask", ["oidc.allowed_audiences", "oidc.allowedAudiences"])
def test_a_mask_is_read_in_both_spellings(google: Google, mask: str) -> None:
    google.federate()
    google.done(google.patch(PROVIDER, mask, oidc={"allowedAudiences": ["mine"]}))
    oidc = google.call("GET", f"{PROVIDERS}/kubernetes").json()["oidc"]
    assert (oidc["allowedAudiences"], oidc["issuerUri"]) == (["mine"], ISSUER)
    google.done(google.patch(PROVIDER, mask))
    assert "allowedAudiences" not in google.call("GET", f"{PROVIDERS}/kubernetes").json()["oidc"]


@pytest.mark.parametrize("mask", ["", "state", "oidc.nothing", "displayName,name"])
def test_a_bad_mask_is_refused(google: Google, mask: str) -> None:
    google.federate()
    refused(google.patch(PROVIDER, mask, displayName="x"), 400, "INVALID_ARGUMENT", "mask")


def test_a_patch_is_checked_like_a_new_provider(google: Google) -> None:
    google.federate()
    refused(google.patch(PROVIDER, "attributeMapping"), 400, "INVALID_ARGUMENT", "google.subject")
    assert google.call("GET", f"{PROVIDERS}/kubernetes").json()["attributeMapping"]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"oidc": {"issuerUri": "http://issuer"}}, "Invalid OIDC issuer URI. The scheme must be https."),
        ({"oidc": {}}, "Invalid OIDC issuer URI"),
        ({"oidc": {"issuerUri": ISSUER, "allowedAudiences": ["a"] * 11}}, "At most 10 allowed audiences"),
        ({"oidc": {"issuerUri": ISSUER, "jwksJson": "no json"}}, "Invalid JWKS"),
        ({"oidc": {"issuerUri": ISSUER, "jwksJson": '{"keys": []}'}}, "Invalid JWKS"),
        ({"oidc": {"issuerUri": ISSUER, "jwksJson": '{"keys": [{"kty": "oct", "k": "eA"}]}'}}, "Only RSA and EC"),
        ({"oidc": {"issuerUri": ISSUER, "jwksJson": '{"keys": [{"kty": "EC", "crv": "P-384"}]}'}}, "P-384"),
        ({"oidc": {"issuerUri": ISSUER, "jwksJson": '{"keys": [{"kty": "RSA", "x5c": []}]}'}}, "unknown field x5c"),
        ({"aws": {"accountId": "1"}}, "exactly one kind"),
        ({"attributeMapping": {"google.subject": "'a'", **{f"attribute.a{n}": "'a'" for n in range(51)}}}, "At most 50 custom"),
        ({"attributeMapping": {}}, "must contain the key google.subject"),
        ({"attributeMapping": {"google.subject": "'a'", "attribute.Bad": "'a'"}}, "key: attribute.Bad."),
        ({"attributeMapping": {"google.subject": "assertion.("}}, "Error compiling the CEL expression"),
        ({"attributeMapping": {"google.subject": "google.subject"}}, "undeclared reference to 'google'"),
        ({"attributeMapping": {"google.subject": "'" + "x" * 2047 + "'"}}, "2048"),
        ({"attributeCondition": "assertion.sub =="}, "Error compiling the CEL expression"),
        ({"attributeCondition": "asertion.sub == 'x'"}, "undeclared reference to 'asertion'"),
        ({"attributeCondition": "true || " * 600 + "true"}, "4096"),
        ({"oidc": {"issuerUri": "https://gitlab.com"}, "attributeCondition": "true"}, "must reference one of"),
    ],
)
def test_a_provider_that_google_refuses(google: Google, fields: dict, text: str) -> None:
    google.done(google.create_pool())
    refused(google.create_provider(**fields), 400, "INVALID_ARGUMENT", text)


def test_a_macro_may_bind_a_variable(google: Google) -> None:
    google.federate(attributeCondition="assertion.aud.exists(a, a.startsWith('https://iam.googleapis.com/'))")
    assert google.exchange().status_code == 200


def test_a_provider_needs_a_live_pool(google: Google) -> None:
    assert google.create_provider().status_code == 404
    google.done(google.create_pool())
    google.done(google.call("DELETE", f"{POOLS}/cache"))
    refused(google.create_provider(), 400, "FAILED_PRECONDITION", "DELETED")


@pytest.mark.parametrize("token", [None, "ya29.nobody"])
def test_no_credential_or_a_wrong_one_is_unauthenticated(google: Google, token: str | None) -> None:
    refused(google.call("GET", POOLS, token=token), 401, "UNAUTHENTICATED", "Expected OAuth 2 access token")


def test_other_callers_are_denied_like_in_an_unknown_project(google: Google) -> None:
    google.federate()
    text = (
        "Permission 'iam.workloadIdentityPools.create' denied on resource "
        "'//iam.googleapis.com/projects/{}/locations/global' (or it may not exist)."
    )
    answer = google.call("POST", POOLS, token=google.access_token(), json={})
    refused(answer, 403, "PERMISSION_DENIED", text.format("demo"))
    assert answer.json()["error"]["details"][0]["reason"] == "IAM_PERMISSION_DENIED"
    refused(google.call("POST", POOLS.replace("/demo/", "/other/")), 403, "PERMISSION_DENIED", text.format("other"))


def test_resources_outlive_a_restart(google: Google, keys) -> None:
    google.federate()
    again = Google(google.config.state_dir, keys)
    try:
        after = again.call("GET", f"{PROVIDERS}/kubernetes").json()
    finally:
        again.close()
    assert after == google.call("GET", f"{PROVIDERS}/kubernetes").json()
    assert (google.config.state_dir / "resources.json").stat().st_mode & 0o777 == 0o600
