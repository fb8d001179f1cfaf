# SPDX-License-Identifier: GPL-3.0-or-later
"""The token exchange: refusals have the messages of STS and a body with two keys."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from tests.unit.sandbox.google.harness import DOCKER, ISSUER, POOL, PROVIDER, STS, SUBJECT, TYPE, Google

UNREACHABLE = "Error connecting to the given credential's issuer."
INVALID_TARGET = (
    'The target service indicated by the "audience" parameters is invalid. This might either be because the pool or '
    "provider is disabled or deleted or because it doesn't exist."
)


def refused(answer: Any, error: str, description: str) -> None:
    assert (answer.status_code, answer.json()) == (400, {"error": error, "error_description": description})


def works(google: Google, token: str) -> bool:
    return google.call("GET", f"{DOCKER}/v2/", token=token).status_code == 200


@pytest.fixture
def federated(google: Google) -> Google:
    google.federate()
    return google


def test_a_good_token_is_exchanged(federated: Google) -> None:
    answer = federated.exchange()
    body = answer.json()
    assert body.pop("access_token").startswith("ya29.")
    assert body == {"issued_token_type": f"{TYPE}access_token", "token_type": "Bearer", "expires_in": 3598}


def test_ec_keys_and_camel_case_json_work(federated: Google) -> None:
    assert federated.exchange(federated.jwt(federated.keys.ec, "ec", "ES256")).status_code == 200
    body = {
        "audience": f"//iam.googleapis.com/{PROVIDER}",
        "grantType": "urn:ietf:params:oauth:grant-type:token-exchange",
        "requestedTokenType": f"{TYPE}access_token",
        "subjectTokenType": f"{TYPE}jwt",
        "subjectToken": federated.jwt(),
        "scope": "https://www.googleapis.com/auth/cloud-platform",
    }
    assert federated.call("POST", STS, token=None, json=body).status_code == 200


@pytest.mark.parametrize("field", ["grant_type", "requested_token_type", "subject_token_type", "scope"])
def test_a_missing_parameter(federated: Google, field: str) -> None:
    refused(federated.exchange(**{field: ""}), "invalid_request", f'Invalid value for "{field}".')


@pytest.mark.parametrize(
    "audience", ["", PROVIDER, f"https://iam.googleapis.com/{PROVIDER}", f"//iam.googleapis.com/{POOL}"]
)
def test_a_malformed_audience(federated: Google, audience: str) -> None:
    answer = federated.exchange(audience=audience)
    assert answer.status_code == 400 and answer.json()["error"] == "invalid_request"
    assert answer.json()["error_description"].startswith(
        'Invalid value for "audience". This value should be the full resource name of the Identity Provider. See '
    )


@pytest.mark.parametrize("name", [f"{POOL}/providers/nothing", PROVIDER.replace("/cache/", "/other/")])
def test_an_unknown_pool_or_provider(federated: Google, name: str) -> None:
    refused(federated.exchange(audience=f"//iam.googleapis.com/{name}"), "invalid_target", INVALID_TARGET)


@pytest.mark.parametrize("name", [POOL, PROVIDER])
def test_a_disabled_or_deleted_pool_or_provider(federated: Google, name: str) -> None:
    federated.done(federated.patch(name, "disabled", disabled=True))
    refused(federated.exchange(), "invalid_target", INVALID_TARGET)
    federated.done(federated.patch(name, "disabled"))
    assert federated.exchange().status_code == 200
    federated.done(federated.call("DELETE", f"https://iam.googleapis.com/v1/{name}"))
    refused(federated.exchange(), "invalid_target", INVALID_TARGET)


def test_another_audience(federated: Google) -> None:
    refused(
        federated.exchange(federated.jwt(aud=["kubernetes"])),
        "invalid_grant",
        "The audience in ID Token [kubernetes] does not match the expected audience.",
    )


def test_both_default_audiences_until_a_list_is_set(federated: Google) -> None:
    default = federated.jwt(aud=f"//iam.googleapis.com/{PROVIDER}")
    assert federated.exchange(default).status_code == 200
    federated.done(federated.patch(PROVIDER, "oidc.allowedAudiences", oidc={"allowedAudiences": ["mine"]}))
    assert federated.exchange(federated.jwt(aud=["mine"])).status_code == 200
    assert "does not match the expected audience" in federated.exchange(default).json()["error_description"]


def test_another_issuer(federated: Google) -> None:
    answer = federated.exchange(federated.jwt(iss="https://elsewhere"))
    assert answer.json()["error"] == "invalid_grant"
    assert answer.json()["error_description"].startswith(
        "The issuer in ID Token https://elsewhere does not match the expected one"
    )


@pytest.mark.parametrize(
    ("issued", "expires", "stale"),
    [
        (-3600, -60, True),
        (-3600, 30, False),
        (61, 3600, True),
        (59, 3600, False),
        (-24 * 3600 - 1, 3600, True),
        (-24 * 3600 + 1, 365 * 24 * 3600, False),
    ],
)
def test_expired_future_or_old(federated: Google, issued: int, expires: int, stale: bool) -> None:
    now = int(federated.now)
    answer = federated.exchange(federated.jwt(iat=now + issued, exp=now + expires))
    if stale:
        refused(answer, "invalid_grant", f"ID Token issued at {now + issued} is stale to sign-in.")
    else:
        assert answer.status_code == 200


def test_a_forged_signature(federated: Google) -> None:
    forged = federated.jwt(federated.keys.foreign)
    refused(federated.exchange(forged), "invalid_grant", "Unable to verify the ID Token signature.")
    _header, payload, _signature = federated.jwt().split(".")
    header = base64.urlsafe_b64encode(b'{"alg":"none","kid":"rsa"}').decode().rstrip("=")
    unsigned = f"{header}.{payload}."
    refused(federated.exchange(unsigned), "invalid_grant", "Unable to verify the ID Token signature.")
    # The right key with the id of the other kind.
    confused = federated.jwt(federated.keys.ec, "rsa", "ES256")
    refused(federated.exchange(confused), "invalid_grant", "Unable to verify the ID Token signature.")


def test_an_unknown_key_or_no_uploaded_keys(federated: Google) -> None:
    refused(federated.exchange(federated.jwt(kid="rotated")), "invalid_grant", UNREACHABLE)
    federated.done(federated.patch(PROVIDER, "oidc.jwks_json"))
    refused(federated.exchange(), "invalid_grant", UNREACHABLE)


@pytest.mark.parametrize("claim", ["iss", "sub", "aud", "iat", "exp"])
def test_a_missing_claim(federated: Google, claim: str) -> None:
    answer = federated.exchange(federated.jwt(**{claim: None}))
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


def test_an_invalid_token(federated: Google) -> None:
    assert federated.exchange("not.a.token").json()["error"] == "invalid_request"
    assert federated.exchange(federated.jwt(kid=None)).json()["error"] == "invalid_request"


def test_another_service_account(federated: Google) -> None:
    other = federated.jwt(sub="system:serviceaccount:registry-cache:other")
    refused(
        federated.exchange(other),
        "unauthorized_client",
        "The given credential is rejected by the attribute condition.",
    )


def test_a_condition_over_mapped_attributes(google: Google) -> None:
    google.federate(
        attributeMapping={
            "google.subject": "assertion.sub",
            "google.groups": "assertion.groups",
            "attribute.namespace": "assertion['kubernetes.io'].namespace",
        },
        attributeCondition="attribute.namespace == 'a' && 'g' in google.groups && google.subject.startsWith('system:')",
    )
    claims: dict[str, Any] = {"groups": ["g"], "kubernetes.io": {"namespace": "a"}}
    assert google.exchange(google.jwt(**claims)).status_code == 200
    refused(
        google.exchange(google.jwt(**{**claims, "groups": ["h"]})),
        "unauthorized_client",
        "The given credential is rejected by the attribute condition.",
    )
    assert google.exchange(google.jwt()).json()["error"] == "invalid_request"


def test_a_condition_without_a_value_is_false(google: Google) -> None:
    google.federate(attributeCondition="assertion.missing == 'x'")
    assert google.exchange().json()["error"] == "unauthorized_client"


def test_a_subject_of_more_than_127_bytes(google: Google) -> None:
    google.federate(attributeCondition="")
    assert google.exchange(google.jwt(sub="é" * 63)).status_code == 200
    answer = google.exchange(google.jwt(sub="é" * 64))
    assert answer.json()["error"] == "invalid_request"
    assert answer.json()["error_description"].startswith(
        "The size of mapped attribute google.subject exceeds the 127 bytes limit."
    )


def test_a_subject_that_is_not_a_string(google: Google) -> None:
    google.federate(attributeMapping={"google.subject": "assertion.iat"})
    refused(
        google.exchange(), "unauthorized_client", "The mapped attribute 'google.subject' must be of type STRING."
    )


@pytest.mark.parametrize(("life", "expires_in"), [(7200, 3598), (300, 298), (3, 1), (2, None)])
def test_the_lifetime_is_limited_by_the_subject_token(federated: Google, life: int, expires_in: int | None) -> None:
    answer = federated.exchange(federated.jwt(exp=int(federated.now) + life))
    assert answer.json().get("expires_in") == expires_in
    token = answer.json()["access_token"]
    if expires_in:
        federated.now += expires_in - 0.5
        assert works(federated, token)
        federated.now += 0.5
    assert not works(federated, token)


def test_one_second_of_lifetime_is_an_internal_error(federated: Google) -> None:
    assert federated.exchange(federated.jwt(exp=int(federated.now) + 1)).status_code == 500


def test_exchanges_are_counted(federated: Google) -> None:
    federated.exchange()
    federated.exchange(federated.jwt(iss=f"{ISSUER}.other"))
    federated.exchange(federated.jwt(sub=f"{SUBJECT}-other"))
    assert (federated.counters()["sts_exchange"], federated.counters()["sts_refused"]) == (1, 2)
