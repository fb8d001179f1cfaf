# SPDX-License-Identifier: GPL-3.0-or-later
"""Module gcp_iam_workload_identity_pool_provider against the Google emulator."""

from __future__ import annotations

import functools
import json
from typing import Any

import pytest

from tests.module_runner import NULL
from tests.unit.plugins.google_wire import Wire
from tests.unit.sandbox.google.harness import IAM, ISSUER, POOL, POOLS, PROVIDER, SUBJECT, Keys

PARENT = f"{POOLS}/cache/providers"
URL = f"{PARENT}/kubernetes"
MAPPING = {"google.subject": "assertion.sub", "attribute.cluster": "'one'"}
CONDITION = f"assertion.sub == '{SUBJECT}'"


@pytest.fixture
def wanted(wire: Wire, keys: Keys) -> dict[str, Any]:
    wire.google.done(wire.google.create_pool())
    return {
        "attribute_mapping": MAPPING,
        "attribute_condition": CONDITION,
        "oidc": {"issuer_uri": ISSUER, "jwks": keys.jwks()},
    }


def provider(wire: Wire, **arguments: Any) -> dict[str, Any]:
    names = {"project": "demo", "pool_id": "cache", "provider_id": "kubernetes"}
    return wire.run("gcp_iam_workload_identity_pool_provider", **{**names, **arguments})


def test_story(wire: Wire, wanted: dict[str, Any], keys: Keys) -> None:
    check = provider(wire, check=True, **wanted)
    assert check["changed"] and wire.sent() == [("GET", URL)]

    change = provider(wire, **wanted)
    after = change["provider"]
    assert change["changed"] and after["name"] == PROVIDER and after["attributeMapping"] == MAPPING
    assert {**check["provider"], "name": PROVIDER} == after
    (create,) = wire.writes()
    assert (create.method, create.url) == ("POST", PARENT)
    assert create.query == {"workloadIdentityPoolProviderId": "kubernetes"}
    assert json.loads(create.body["oidc"].pop("jwksJson")) == keys.jwks()
    assert create.body == {
        "attributeMapping": MAPPING,
        "attributeCondition": CONDITION,
        "oidc": {"issuerUri": ISSUER},
    }
    assert {url.rpartition("/")[0] for method, url in wire.sent()[2:-1]} == {f"{IAM}/{PROVIDER}/operations"}

    for check_mode in (False, True):
        repeat = provider(wire, check=check_mode, **wanted)
        assert not repeat["changed"] and repeat["provider"] == after and wire.sent() == [("GET", URL)]


def test_keys_are_compared_by_content(wire: Wire, wanted: dict[str, Any], keys: Keys) -> None:
    provider(wire, **wanted)
    reordered = [dict(reversed(key.items())) for key in reversed(keys.jwks()["keys"])]
    wanted["oidc"]["jwks"] = json.dumps({"keys": reordered}, indent=2)
    assert not provider(wire, **wanted)["changed"]

    wanted["oidc"]["jwks"] = {"keys": reordered[:1]}
    assert provider(wire, **wanted)["changed"]
    (patch,) = wire.writes()
    assert patch.query == {"updateMask": "oidc.jwksJson"} and patch.body["oidc"].keys() == {"jwksJson"}
    assert json.loads(patch.body["oidc"]["jwksJson"]) == {"keys": reordered[:1]}
    assert not provider(wire, **wanted)["changed"]


def test_keys_left_out_are_removed(wire: Wire, wanted: dict[str, Any]) -> None:
    provider(wire, **wanted)
    del wanted["oidc"]["jwks"]
    assert "jwksJson" not in provider(wire, **wanted)["provider"]["oidc"]
    assert not provider(wire, **wanted)["changed"]


def test_mapping_key_left_out_is_removed(wire: Wire, wanted: dict[str, Any]) -> None:
    provider(wire, **wanted)
    wanted["attribute_mapping"] = {"google.subject": "assertion.sub"}
    assert provider(wire, check=True, **wanted)["provider"]["attributeMapping"] == wanted["attribute_mapping"]
    result = provider(wire, **wanted)
    (patch,) = wire.writes()
    assert (patch.method, patch.url, patch.query) == ("PATCH", URL, {"updateMask": "attributeMapping"})
    assert patch.body == {"attributeMapping": {"google.subject": "assertion.sub"}}
    assert result["provider"]["attributeMapping"] == {"google.subject": "assertion.sub"}
    assert result["diff"]["before"]["attributeMapping"] == MAPPING
    assert not provider(wire, **wanted)["changed"]


@pytest.mark.parametrize(
    ("option", "field", "value", "cleared"),
    [
        ("display_name", "displayName", "One", ""),
        ("description", "description", "One", ""),
        ("disabled", "disabled", True, False),
        ("attribute_condition", "attributeCondition", "assertion.sub != ''", ""),
    ],
)
def test_each_field_is_set_and_cleared_separately(
    wire: Wire, wanted: dict[str, Any], option: str, field: str, value: Any, cleared: Any
) -> None:
    provider(wire, **wanted)
    for new in (value, cleared):
        wanted[option] = new
        assert provider(wire, check=True, **wanted)["changed"] and not wire.writes()
        result = provider(wire, **wanted)
        (patch,) = wire.writes()
        assert (patch.query, patch.body) == ({"updateMask": field}, {field: new})
        assert result["provider"].get(field) == (new or None)
        assert not provider(wire, **wanted)["changed"]


def test_issuer_and_audiences(wire: Wire, wanted: dict[str, Any]) -> None:
    provider(wire, **wanted)
    wanted["oidc"] |= {"issuer_uri": "https://issuer.example.com", "allowed_audiences": ["one", "two"]}
    oidc = provider(wire, **wanted)["provider"]["oidc"]
    assert oidc["issuerUri"] == "https://issuer.example.com" and oidc["allowedAudiences"] == ["one", "two"]
    wanted["oidc"]["allowed_audiences"] = ["two", "one"]
    assert not provider(wire, **wanted)["changed"]
    del wanted["oidc"]["allowed_audiences"]
    assert "allowedAudiences" not in provider(wire, **wanted)["provider"]["oidc"]


def test_absent_and_undelete(wire: Wire, wanted: dict[str, Any]) -> None:
    assert not provider(wire, state="absent")["changed"]
    before = provider(wire, **wanted)["provider"]
    assert before["name"] == PROVIDER
    wire.removal(functools.partial(provider, wire), "provider", before, URL)

    wanted["attribute_mapping"] = {"google.subject": "assertion.sub"}
    back = provider(wire, **wanted)
    undelete, patch = wire.writes()
    assert (undelete.method, undelete.url) == ("POST", f"{URL}:undelete")
    assert patch.query == {"updateMask": "attributeMapping"}
    assert back["provider"]["state"] == "ACTIVE" and back["provider"]["attributeMapping"] == wanted["attribute_mapping"]
    assert not provider(wire, **wanted)["changed"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"pool_id": "x"}, "pool_id: "),
        ({"provider_id": "gcp-x"}, "provider_id: "),
        ({"attribute_mapping": {"attribute.a": "'b'"}}, "attribute_mapping: it must contain google.subject"),
        ({"attribute_mapping": {"google.subject": ""}}, "attribute_mapping.google.subject"),
        ({"attribute_mapping": {**MAPPING, "attribute.a": True}}, "attribute_mapping.attribute.a"),
        ({"oidc": {"issuer_uri": "http://issuer"}}, "(got 'http://issuer')"),
        ({"oidc": {"issuer_uri": ISSUER, "jwks": {}}}, "oidc.jwks: it must contain keys"),
        ({"oidc": {"issuer_uri": ISSUER, "jwks": {"keys": []}}}, "oidc.jwks: it must contain keys"),
        ({"oidc": {"issuer_uri": ISSUER, "jwks": {"keys": [{"kty": "RSA", "d": "secret-d"}]}}}, "oidc.jwks: it contains a private or symm"),
        ({"oidc": {"issuer_uri": ISSUER, "jwks": {"keys": [{"kty": "oct", "k": "secret-k"}]}}}, "oidc.jwks: it contains a private or symm"),
        ({"attribute_mapping": None}, "attribute_mapping"),
        ({"oidc": None}, "oidc"),
        ({"oidc": {}}, "issuer_uri"),
    ],
)
def test_bad_input_is_refused_before_any_request(
    wire: Wire, wanted: dict[str, Any], change: dict[str, Any], words: str
) -> None:
    result = provider(wire, **{**wanted, **change})
    assert result["failed"] and words in result["msg"] and not wire.requests
    assert "secret" not in result["msg"]


def test_an_invalid_condition_changes_nothing(wire: Wire, wanted: dict[str, Any]) -> None:
    before = provider(wire, **wanted)["provider"]
    message = provider(wire, **{**wanted, "attribute_condition": "assertion.sub =="})["msg"]
    refusal = wire.google.patch(PROVIDER, "attributeCondition", attributeCondition="assertion.sub ==")
    assert f"kubernetes: HTTP 400: {refusal.json()['error']['message']}" in message
    repeat = provider(wire, **wanted)
    assert not repeat["changed"] and repeat["provider"] == before


def test_missing_pool(wire: Wire, keys: Keys) -> None:
    oidc = {"issuer_uri": ISSUER, "jwks": keys.jwks()}
    message = provider(wire, attribute_mapping=MAPPING, oidc=oidc)["msg"]
    assert f"{POOL.replace('42', 'demo')}/providers/kubernetes: HTTP 404" in message


@pytest.mark.parametrize("member", ["d", "p", "q", "dp", "dq", "qi", "oth", "k"])
def test_no_member_of_a_private_key_leaves_the_cluster(
    wire: Wire, wanted: dict[str, Any], keys: Keys, member: str
) -> None:
    public = keys.jwks()["keys"]
    wanted["oidc"]["jwks"] = {"keys": [*public, {**public[0], member: "secret"}]}
    result = provider(wire, **wanted)
    assert "oidc.jwks: it contains a private or symmetric key" in result["msg"] and "Example: jwks: " in result["msg"]
    assert "secret" not in result["msg"] and not wire.requests


@pytest.mark.parametrize("keys_", ["x", {"kty": "RSA"}, ["x"], None])
def test_jwks_of_another_form(wire: Wire, wanted: dict[str, Any], keys_: Any) -> None:
    wanted["oidc"]["jwks"] = {"keys": keys_}
    message = provider(wire, **wanted)["msg"]
    assert "oidc.jwks: it must contain keys. " in message and "Example: jwks: " in message and not wire.requests


@pytest.mark.parametrize(
    ("change", "example"),
    [
        ({"project": None}, "Example: project: my-project"),
        ({"pool_id": "x"}, "Example: pool_id: "),
        ({"provider_id": "x"}, "Example: provider_id: "),
        ({"attribute_mapping": {"attribute.a": "'b'"}}, "Example: attribute_mapping: {google.subject: assertion.sub}"),
        ({"attribute_mapping": {**MAPPING, "attribute.a": ""}}, "Example: attribute.a: assertion.sub"),
        ({"oidc": None}, "Example: oidc: {issuer_uri: https://"),
        ({"oidc": {"issuer_uri": "http://issuer"}}, "Example: --service-account-issuer=https://"),
    ],
)
def test_errors_contain_an_example(
    wire: Wire, wanted: dict[str, Any], change: dict[str, Any], example: str
) -> None:
    assert example in provider(wire, **{**wanted, **change})["msg"] and not wire.requests


def test_unset_options_are_kept(wire: Wire, wanted: dict[str, Any]) -> None:
    before = provider(wire, display_name="One", description="Two", disabled=True, **wanted)["provider"]
    del wanted["attribute_condition"]
    assert not provider(wire, **wanted)["changed"]
    wanted["attribute_mapping"] = {"google.subject": "assertion.sub"}
    after = provider(wire, **wanted)["provider"]
    assert after == {**before, "attributeMapping": wanted["attribute_mapping"]}
    assert after["attributeCondition"] == CONDITION


def test_a_changed_expression_of_the_mapping(wire: Wire, wanted: dict[str, Any]) -> None:
    provider(wire, **wanted)
    wanted["attribute_mapping"] = {**MAPPING, "attribute.cluster": "'two'"}
    assert provider(wire, **wanted)["provider"]["attributeMapping"]["attribute.cluster"] == "'two'"
    assert not provider(wire, **wanted)["changed"]


def test_a_cleared_condition_admits_every_token(wire: Wire, wanted: dict[str, Any]) -> None:
    provider(wire, **wanted)
    stranger = {"aud": [f"https://iam.googleapis.com/{PROVIDER}"], "sub": "system:serviceaccount:other:other"}
    assert wire.google.exchange(wire.google.jwt(**stranger)).status_code == 400
    provider(wire, **{**wanted, "attribute_condition": ""})
    assert wire.google.exchange(wire.google.jwt(**stranger)).status_code == 200


def test_absent_needs_nothing_but_the_names(wire: Wire, wanted: dict[str, Any]) -> None:
    assert not provider(wire, state="absent", check=True)["changed"]
    provider(wire, **wanted)
    provider(wire, state="absent")
    assert not provider(wire, state="absent", check=True)["changed"] and wire.sent() == [("GET", URL)]
    assert "provider_id: must have" in provider(wire, state="absent", provider_id="x")["msg"] and not wire.requests


def test_undelete_alone(wire: Wire, wanted: dict[str, Any]) -> None:
    before = provider(wire, **wanted)["provider"]
    provider(wire, state="absent")
    back = provider(wire, **wanted)
    assert back["changed"] and back["provider"] == before
    assert [(request.method, request.url) for request in wire.writes()] == [("POST", f"{URL}:undelete")]


def test_a_deleted_pool_is_reported(wire: Wire, wanted: dict[str, Any]) -> None:
    wire.google.done(wire.google.call("DELETE", f"{POOLS}/cache"))
    message = provider(wire, **wanted)["msg"]
    assert f"{POOL.replace('42', 'demo')}/providers/kubernetes: HTTP 400: " in message and "DELETED" in message


def test_operation_that_does_not_end(wire: Wire, wanted: dict[str, Any]) -> None:
    for _poll in range(50):
        wire.answer("GET", "/operations/", 200, {"name": f"{PROVIDER}/operations/x"})
    message = provider(wire, wait_timeout=3, **wanted)["msg"]
    assert message.endswith(
        f"/providers/kubernetes: the operation {PROVIDER}/operations/x did not end within 3 s."
        " Run again to continue, or wait longer. Example: wait_timeout: 6"
    )
    assert sum(wire.clock.pauses) == pytest.approx(3)


@pytest.mark.parametrize(
    ("words", "option"),
    [
        ("Invalid mapped attribute key: x.", "attribute_mapping"),
        ("Error compiling the CEL expression of the attribute condition: Syntax error", "attribute_condition"),
        ("The attribute condition must reference one of the provider's claims.", "attribute_condition"),
        ("Invalid JWKS: no key.", "oidc.jwks"),
        ("Invalid OIDC issuer URI.", "oidc.issuer_uri"),
        ("At most 10 allowed audiences", "oidc.allowed_audiences"),
    ],
)
def test_errors_contain_the_object_the_status_googles_message_and_the_option(
    wire: Wire, wanted: dict[str, Any], words: str, option: str
) -> None:
    wire.answer("POST", "workloadIdentityPoolProviderId", 400, {"error": {"code": 400, "message": words}})
    name = f"{POOL.replace('42', 'demo')}/providers/kubernetes"
    assert provider(wire, **wanted)["msg"] == f"{name}: HTTP 400: {words} (Check {option}.)"


def test_the_name_of_an_object_does_not_select_the_option(wire: Wire, wanted: dict[str, Any]) -> None:
    wire.answer("GET", "/my-mapping", 400, {"error": {"code": 400, "message": "No."}})
    assert provider(wire, provider_id="my-mapping", **wanted)["msg"].endswith("/providers/my-mapping: HTTP 400: No.")


def test_issuer_alone(wire: Wire, wanted: dict[str, Any], keys: Keys) -> None:
    provider(wire, **wanted)
    wanted["oidc"] |= {"issuer_uri": "https://issuer.example.com"}
    assert provider(wire, **wanted)["provider"]["oidc"]["issuerUri"] == "https://issuer.example.com"
    (patch,) = wire.writes()
    assert patch.query == {"updateMask": "oidc.issuerUri"}
    assert patch.body == {"oidc": {"issuerUri": "https://issuer.example.com"}}
    assert json.loads(provider(wire, **wanted)["provider"]["oidc"]["jwksJson"]) == keys.jwks()
    assert not provider(wire, **wanted)["changed"]


def test_other_errors_name_no_option(wire: Wire, wanted: dict[str, Any]) -> None:
    wire.answer("GET", "/kubernetes", 403, {"error": {"code": 403, "message": "Denied by a condition"}})
    assert "Check attribute_condition" not in provider(wire, **wanted)["msg"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kty": "EC", "crv": "P-384"}, "EC P-384"),
        ({"kty": "OKP", "crv": "Ed25519"}, "OKP Ed25519"),
        ({"kty": "oct"}, "oct"),
        ({"kty": None}, "none"),
    ],
)
def test_a_key_that_google_cannot_verify_with(
    wire: Wire, wanted: dict[str, Any], keys: Keys, change: dict[str, Any], words: str
) -> None:
    one, other = keys.jwks()["keys"]
    wanted["oidc"]["jwks"] = {"keys": [one, {**other, "crv": None, **change}]}
    message = provider(wire, **wanted)["msg"]
    assert message.startswith(f"oidc.jwks: key 2 must be RSA or EC P-256 (got {words}).") and "Example: " in message
    assert not wire.requests


@pytest.mark.parametrize(("number", "member"), [(0, "n"), (0, "e"), (0, "kid"), (1, "x"), (1, "y"), (1, "kid")])
def test_an_incomplete_key(wire: Wire, wanted: dict[str, Any], keys: Keys, number: int, member: str) -> None:
    jwks = keys.jwks()
    del jwks["keys"][number][member]
    wanted["oidc"]["jwks"] = jwks
    message = provider(wire, **wanted)["msg"]
    assert message.startswith(f"oidc.jwks: key {number + 1} must contain {member}. ") and "Example: " in message
    assert not wire.requests


def test_an_issuer_that_is_null(wire: Wire, wanted: dict[str, Any]) -> None:
    wanted["oidc"]["issuer_uri"] = None
    said = provider(wire, **wanted)["msg"]
    assert ("oidc.issuer_uri: must begin with https:// (got '')" in said or NULL in said) and not wire.requests


def test_a_text_that_is_too_long(wire: Wire, wanted: dict[str, Any]) -> None:
    message = provider(wire, display_name="x" * 33, **wanted)["msg"]
    assert message.startswith("display_name: at most 32 characters are allowed (got 33)") and not wire.requests


def test_a_bad_condition_after_an_undelete_leaves_it_deleted(wire: Wire, wanted: dict[str, Any]) -> None:
    provider(wire, **wanted)
    provider(wire, state="absent")
    message = provider(wire, **{**wanted, "attribute_condition": "assertion.sub =="})["msg"]
    assert "HTTP 400" in message and message.endswith("(Check attribute_condition.)")
    assert wire.google.call("GET", URL).json()["state"] == "DELETED"
    assert provider(wire, **wanted)["provider"]["attributeCondition"] == CONDITION


def test_explicit_fields_are_not_a_difference(wire: Wire, wanted: dict[str, Any]) -> None:
    current = provider(wire, **wanted)["provider"]
    current["oidc"] |= {"allowedAudiences": [], "discoveryUri": ""}
    wire.answer("GET", "/kubernetes", 200, {**current, "disabled": False, "description": ""})
    assert not provider(wire, description="", disabled=False, **wanted)["changed"]


def test_other_fields_at_google_are_kept(wire: Wire, wanted: dict[str, Any]) -> None:
    provider(wire, **wanted)
    uri = f"{ISSUER}/.well-known/openid-configuration"
    wire.google.done(wire.google.patch(PROVIDER, "oidc.discoveryUri", oidc={"discoveryUri": uri}))
    assert not provider(wire, **wanted)["changed"]
    wanted["oidc"]["allowed_audiences"] = ["one"]
    check = provider(wire, check=True, **wanted)
    after = provider(wire, **wanted)["provider"]
    assert after["oidc"]["discoveryUri"] == uri and after["oidc"]["allowedAudiences"] == ["one"]
    assert check["provider"] == after


@pytest.mark.parametrize(
    "kind",
    [
        {"aws": {"accountId": "123456789012"}},
        {"saml": {"idpMetadataXml": "<xml/>"}},
        {"x509": {"trustStore": {"trustAnchors": [{"pemCertificate": "pem"}]}}},
    ],
    ids=lambda kind: next(iter(kind)),
)
@pytest.mark.parametrize("check", [False, True])
def test_a_provider_of_another_kind_is_refused(
    wire: Wire, wanted: dict[str, Any], kind: dict[str, Any], check: bool
) -> None:
    body = {"attributeMapping": {"google.subject": "assertion.arn"}, **kind}
    parameters = {"workloadIdentityPoolProviderId": "kubernetes"}
    wire.google.done(wire.google.call("POST", PARENT, params=parameters, json=body))
    message = provider(wire, check=check, **wanted)["msg"]
    assert message.startswith("provider_id: ") and f"kind {next(iter(kind))}" in message and "Example: provider_id:" in message
    assert not wire.writes()


@pytest.mark.parametrize(("count", "accepted"), [(50, True), (51, False)])
def test_fifty_custom_attributes_in_addition_to_the_subject(
    wire: Wire, wanted: dict[str, Any], count: int, accepted: bool
) -> None:
    wanted["attribute_mapping"] = {"google.subject": "assertion.sub", "google.groups": "[assertion.sub]"}
    wanted["attribute_mapping"] |= {f"attribute.a{number}": "'x'" for number in range(count)}
    result = provider(wire, **wanted)
    if accepted:
        assert result["provider"]["attributeMapping"] == wanted["attribute_mapping"]
    else:
        assert result["msg"].startswith("attribute_mapping: at most 50 custom attributes are allowed (got 51).")
        assert "Example: attribute_mapping:" in result["msg"] and not wire.requests


@pytest.mark.parametrize(("option", "field", "limit"), [("display_name", "displayName", 32), ("description", "description", 256)])
def test_texts_are_counted_in_characters_as_google_does(
    wire: Wire, wanted: dict[str, Any], option: str, field: str, limit: int
) -> None:
    text = "\u00fc" * limit
    assert provider(wire, **{option: text}, **wanted)["provider"][field] == text
    assert provider(wire, **{option: f"{text}x"}, **wanted)["failed"] and not wire.requests


def test_key_members_that_google_does_not_accept_are_left_out(wire: Wire, wanted: dict[str, Any], keys: Keys) -> None:
    public = keys.jwks()["keys"]
    certified = [{**key, "x5c": ["MIIB"], "x5t": "abc", "x5t#S256": "def", "key_ops": ["verify"]} for key in public]
    wanted["oidc"]["jwks"] = {"keys": certified}
    uploaded = provider(wire, **wanted)["provider"]["oidc"]["jwksJson"]
    assert json.loads(uploaded) == {"keys": public}
    for jwks in (certified, public):
        wanted["oidc"]["jwks"] = {"keys": jwks}
        assert not provider(wire, **wanted)["changed"]


# Several subjects


OWNER = "Made by pullthrough.registry_cache for cluster 0b1f"
OTHER = "system:serviceaccount:other:registry-cache"


@pytest.fixture
def shared(wanted: dict[str, Any]) -> dict[str, Any]:
    del wanted["attribute_condition"]
    return {**wanted, "description": OWNER, "subject": SUBJECT}


def condition(*subjects: str) -> str:
    return f"assertion.sub in [{', '.join(map(repr, subjects))}]"


def test_a_subject_is_added_to_those_already_admitted(wire: Wire, shared: dict[str, Any]) -> None:
    first = provider(wire, **shared)["provider"]
    assert (first["attributeCondition"], first["description"]) == (condition(SUBJECT), OWNER)
    other = {**shared, "subject": OTHER}
    check = provider(wire, check=True, **other)
    both = provider(wire, **other)
    assert check["changed"] and check["provider"] == both["provider"]
    assert both["provider"]["attributeCondition"] == condition(OTHER, SUBJECT)
    (patch,) = wire.writes()
    assert patch.query == {"updateMask": "attributeCondition"}
    for one in (shared, other):
        assert not provider(wire, **one)["changed"] and wire.sent() == [("GET", URL)]
    for subject, status in ((SUBJECT, 200), (OTHER, 200), ("system:serviceaccount:third:registry-cache", 400)):
        assert wire.google.exchange(wire.google.jwt(sub=subject)).status_code == status


def test_a_provider_of_another_owner_is_refused(wire: Wire, shared: dict[str, Any]) -> None:
    before = provider(wire, **shared)["provider"]
    for check in (True, False):
        message = provider(wire, check=check, **{**shared, "description": f"{OWNER}9"})["msg"]
        assert message.startswith("provider_id: ") and OWNER in message and "Example: provider_id: " in message
        assert not wire.writes()
    assert provider(wire, **shared)["provider"] == before


def test_a_deleted_provider_has_no_owner_and_no_subjects(wire: Wire, shared: dict[str, Any]) -> None:
    provider(wire, **shared)
    provider(wire, state="absent")
    back = provider(wire, **{**shared, "description": f"{OWNER}9", "subject": OTHER})["provider"]
    assert (back["description"], back["attributeCondition"]) == (f"{OWNER}9", condition(OTHER))


def test_a_condition_of_another_form_is_refused(wire: Wire, shared: dict[str, Any]) -> None:
    provider(wire, **shared)
    wire.google.done(wire.google.patch(PROVIDER, "attributeCondition", attributeCondition="assertion.sub != 'x'"))
    message = provider(wire, **shared)["msg"]
    assert message.startswith("subject: ") and "assertion.sub != 'x'" in message and condition(SUBJECT) in message
    assert not wire.writes()


def test_a_cleared_condition_is_restored(wire: Wire, shared: dict[str, Any]) -> None:
    provider(wire, **shared)
    wire.google.done(wire.google.patch(PROVIDER, "attributeCondition"))
    assert provider(wire, **shared)["provider"]["attributeCondition"] == condition(SUBJECT)


def test_more_subjects_than_a_condition_holds(wire: Wire, shared: dict[str, Any]) -> None:
    many = [f"system:serviceaccount:{'n' * 61}{number}:registry-cache" for number in range(10, 49)]
    provider(wire, **shared)
    wire.google.done(wire.google.patch(PROVIDER, "attributeCondition", attributeCondition=condition(*many)))
    message = provider(wire, **shared)["msg"]
    assert message.startswith("attribute_condition: at most 4096 characters are allowed (got ") and "provider_id" in message
    assert not wire.writes()


def test_a_condition_that_is_too_long(wire: Wire, wanted: dict[str, Any]) -> None:
    message = provider(wire, **{**wanted, "attribute_condition": "true || " * 512 + "true"})["msg"]
    assert message.startswith("attribute_condition: at most 4096 characters are allowed (got 4100).") and not wire.requests


def test_two_caches_create_the_provider_concurrently(wire: Wire, shared: dict[str, Any]) -> None:
    def faster() -> None:
        wire.google.done(wire.google.create_provider(description=OWNER, attributeCondition=condition(OTHER)))

    wire.before("POST", "workloadIdentityPoolProviderId", faster)
    assert provider(wire, **shared)["provider"]["attributeCondition"] == condition(OTHER, SUBJECT)


def test_a_concurrent_change_is_retried(wire: Wire, shared: dict[str, Any]) -> None:
    provider(wire, **shared)
    wire.answer("PATCH", "updateMask=attributeCondition", 409, {"error": {"code": 409, "message": "Concurrent change."}})
    assert provider(wire, **{**shared, "subject": OTHER})["provider"]["attributeCondition"] == condition(OTHER, SUBJECT)


def test_a_subject_that_a_concurrent_run_removed_is_added_again(wire: Wire, shared: dict[str, Any]) -> None:
    provider(wire, **shared)

    def overwrite() -> None:
        wire.google.done(wire.google.patch(PROVIDER, "attributeCondition", attributeCondition=condition(SUBJECT)))

    # During the operation of its change.
    wire.before("GET", "/operations/", lambda: wire.before("GET", "/operations/", overwrite))
    result = provider(wire, **{**shared, "subject": OTHER})
    assert result["changed"] and result["diff"]["before"]["attributeCondition"] == condition(SUBJECT)
    assert result["provider"]["attributeCondition"] == condition(OTHER, SUBJECT)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"description": None}, "description"),
        ({"attribute_condition": "true"}, "mutually exclusive"),
        ({"subject": "a'b"}, "Example: subject: system:serviceaccount:"),
        ({"subject": "a b"}, "subject: must be"),
        ({"subject": ""}, "subject: must be"),
        ({"state": "absent"}, "subject: it must not be set with state: absent"),
    ],
)
def test_options_with_a_subject(wire: Wire, shared: dict[str, Any], change: dict[str, Any], words: str) -> None:
    result = provider(wire, **{**shared, **change})
    assert result["failed"] and words in result["msg"] and not wire.requests
