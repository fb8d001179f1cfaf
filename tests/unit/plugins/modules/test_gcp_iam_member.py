# SPDX-License-Identifier: GPL-3.0-or-later
"""Module gcp_iam_member against the stand-in for Google."""

from __future__ import annotations

from typing import Any

import pytest
from google_harness import AR, MEMBER, READER, REPOSITORY
from google_wire import Wire

GET, SET = f"{AR}/{REPOSITORY}:getIamPolicy", f"{AR}/{REPOSITORY}:setIamPolicy"
WRITER = "roles/artifactregistry.writer"
OTHER = "user:other@example.com"
CONDITION = {"title": "Until 2030", "expression": "request.time < timestamp('2030-01-01T00:00:00Z')"}
CONFLICT = {"error": {"code": 409, "status": "ABORTED", "message": "There were concurrent policy changes."}}


@pytest.fixture(autouse=True)
def _repository(wire: Wire) -> None:
    wire.google.federate()
    wire.google.create_repository()


def member(wire: Wire, **arguments: Any) -> dict[str, Any]:
    return wire.run("gcp_iam_member", **{"resource": REPOSITORY, "role": READER, "member": MEMBER, **arguments})


def bindings(wire: Wire) -> list[dict[str, Any]]:
    policy = wire.google.call("GET", GET, params={"options.requestedPolicyVersion": 3}).json()
    # Their order says nothing.
    return sorted(policy.get("bindings", []), key=lambda binding: (binding["role"], "condition" not in binding))


def test_story(wire: Wire) -> None:
    binding = {"role": READER, "members": [MEMBER]}
    check = member(wire, check=True)
    assert check["changed"] and check["binding"] == binding and wire.sent() == [("GET", GET)]
    assert bindings(wire) == []

    change = member(wire)
    assert change["changed"] and change["binding"] == binding
    assert change["diff"] == {"before": {}, "after": binding}
    read, write = wire.requests
    assert (read.method, read.url, read.query) == ("GET", GET, {"options.requestedPolicyVersion": "3"})
    assert (write.method, write.url, write.query) == ("POST", SET, {})
    assert write.body["policy"].pop("etag")
    assert write.body["policy"]["bindings"] == [binding]

    for check_mode in (False, True):
        repeat = member(wire, check=check_mode)
        assert not repeat["changed"] and repeat["binding"] == binding and wire.sent() == [("GET", GET)]
    assert bindings(wire) == [binding]


def test_absent(wire: Wire) -> None:
    assert not member(wire, state="absent")["changed"]
    member(wire)
    member(wire, member=OTHER)
    assert member(wire, state="absent", check=True)["binding"] == {"role": READER, "members": [OTHER]}
    assert not wire.writes()

    assert member(wire, state="absent")["binding"] == {"role": READER, "members": [OTHER]}
    assert not member(wire, state="absent")["changed"] and not wire.writes()

    last = member(wire, state="absent", member=OTHER)
    assert last["changed"] and last["binding"] == {} and last["diff"]["after"] == {}
    assert bindings(wire) == []


def test_other_bindings_are_left_alone(wire: Wire) -> None:
    conditional = {"role": READER, "members": [OTHER], "condition": CONDITION}
    writers = {"role": WRITER, "members": [OTHER]}
    assert wire.google.set_policy(writers, conditional, version=3).status_code == 200
    member(wire)
    assert bindings(wire) == [conditional, {"role": READER, "members": [MEMBER]}, writers]
    member(wire, state="absent")
    assert bindings(wire) == [conditional, writers]


def test_a_condition_makes_another_grant(wire: Wire) -> None:
    member(wire)
    conditional = member(wire, condition=CONDITION)
    assert conditional["changed"] and conditional["binding"]["condition"] == CONDITION
    assert wire.writes()[0].body["policy"]["version"] == 3
    assert not member(wire, condition={**CONDITION, "description": ""})["changed"]
    assert member(wire, condition={**CONDITION, "title": "Another"}, check=True)["changed"]
    assert not member(wire, condition={**CONDITION, "title": "Another"}, state="absent")["changed"]

    assert member(wire, condition=CONDITION, state="absent")["changed"]
    assert bindings(wire) == [{"role": READER, "members": [MEMBER]}]


def test_case_of_an_address_is_no_difference_but_that_of_a_principal_is(wire: Wire) -> None:
    member(wire, member=OTHER)
    assert not member(wire, member="user:Other@Example.com")["changed"]
    assert member(wire, member=MEMBER.upper().replace("PRINCIPAL:", "principal:"), check=True)["changed"]
    assert member(wire, member="user:Other@Example.com", state="absent")["changed"]
    assert bindings(wire) == []


def test_concurrent_change_is_kept(wire: Wire) -> None:
    wire.before("POST", ":setIamPolicy", lambda: wire.google.set_policy({"role": WRITER, "members": [OTHER]}))
    result = member(wire)
    assert result["changed"] and wire.sent() == [("GET", GET), ("POST", SET)] * 2
    assert bindings(wire) == [{"role": READER, "members": [MEMBER]}, {"role": WRITER, "members": [OTHER]}]


def test_granted_by_somebody_else_in_between(wire: Wire) -> None:
    wire.before("POST", ":setIamPolicy", wire.google.grant)
    result = member(wire)
    assert not result["changed"] and wire.sent() == [("GET", GET), ("POST", SET), ("GET", GET)]


def test_tries_again_a_bounded_number_of_times(wire: Wire) -> None:
    for _attempt in range(20):
        wire.answer("POST", ":setIamPolicy", 409, CONFLICT)
    result = member(wire)
    assert result["failed"] and len(wire.writes()) == 6 and len(wire.clock.pauses) == 5
    assert sum(wire.clock.pauses) <= 15.5
    assert f"{REPOSITORY}: HTTP 409: There were concurrent policy changes." in result["msg"]
    assert bindings(wire) == []


def test_missing_repository(wire: Wire) -> None:
    message = member(wire, resource=REPOSITORY + "-other")["msg"]
    assert message.startswith(f"IAM policy of {REPOSITORY}-other: HTTP 40") and not wire.writes()


def test_unknown_pool_leaves_all_as_it_was(wire: Wire) -> None:
    member(wire, member=OTHER)
    result = member(wire, member=MEMBER.replace("/cache/", "/other/"))
    assert "HTTP 400: Identity Pool does not exist" in result["msg"]
    assert bindings(wire) == [{"role": READER, "members": [OTHER]}]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("resource", "projects/demo"),
        ("resource", "projects/demo/serviceAccounts/a@demo.iam.gserviceaccount.com"),
        ("resource", f"{REPOSITORY}/packages/hello"),
        ("resource", f"{REPOSITORY}?x="),
        ("resource", "projects//locations/us/repositories/r"),
        ("role", "artifactregistry.reader"),
        ("role", "roles/"),
        ("member", "other@example.com"),
        ("member", "user:"),
        ("member", "principal:subject"),
        ("member", "allUsers"),
        ("member", "user:a b@example.com"),
    ],
)
def test_bad_input_is_refused_before_any_request(wire: Wire, option: str, value: str) -> None:
    message = member(wire, **{option: value})["msg"]
    assert message.startswith(f"{option} '{value}' is not") and f"Example: {option}: " in message
    assert not wire.requests


def test_condition_needs_title_and_expression(wire: Wire) -> None:
    assert "expression" in member(wire, condition={"title": "x"})["msg"] and not wire.requests


@pytest.mark.parametrize("title", ["x", "", None])
@pytest.mark.parametrize("expression", ["", None])
@pytest.mark.parametrize("state", ["present", "absent"])
def test_an_empty_condition_never_becomes_none(
    wire: Wire, title: str | None, expression: str | None, state: str
) -> None:
    message = member(wire, state=state, condition={"title": title, "expression": expression})["msg"]
    assert message.startswith("condition has no title or no expression") and "Example: condition: {" in message
    assert not wire.requests


def test_a_condition_without_title_is_refused(wire: Wire) -> None:
    assert member(wire, condition={**CONDITION, "title": ""})["msg"].startswith("condition has no title")
    assert not wire.requests


@pytest.mark.parametrize(
    "value",
    [
        MEMBER.replace("principal:", "principalSet:").rpartition("/subject/")[0] + "/*",
        "serviceAccount:cache@demo.iam.gserviceaccount.com",
        "user:other@example.com",
        "group:all@example.com",
        "domain:example.com",
    ],
)
def test_every_form_of_a_member_is_granted(wire: Wire, value: str) -> None:
    assert member(wire, member=value)["binding"] == {"role": READER, "members": [value]}
    assert not member(wire, member=value)["changed"]


@pytest.mark.parametrize("role", ["projects/demo/roles/puller_1.x", "organizations/1/roles/puller"])
def test_a_role_of_ones_own_is_asked_for(wire: Wire, role: str) -> None:
    assert member(wire, role=role, check=True)["binding"] == {"role": role, "members": [MEMBER]}


def test_five_conflicts_are_outlived(wire: Wire) -> None:
    for _attempt in range(5):
        wire.answer("POST", ":setIamPolicy", 409, CONFLICT)
    assert member(wire)["changed"] and wire.sent() == [("GET", GET), ("POST", SET)] * 6
    assert all(0 <= pause <= 0.5 * 2**attempt for attempt, pause in enumerate(wire.clock.pauses))
    assert bindings(wire) == [{"role": READER, "members": [MEMBER]}]


@pytest.mark.parametrize("status", [400, 403, 412, 500])
def test_another_refusal_is_told_at_once(wire: Wire, status: int) -> None:
    words = 'Permission "artifactregistry.repositories.setIamPolicy" denied'
    wire.answer("POST", ":setIamPolicy", status, {"error": {"code": status, "message": words}})
    message = member(wire)["msg"]
    assert message.startswith(f"IAM policy of {REPOSITORY}: HTTP {status}: {words}")
    assert len(wire.writes()) == 1 and not wire.clock.pauses


def test_no_pause_without_a_conflict(wire: Wire) -> None:
    member(wire)
    member(wire)
    assert not wire.clock.pauses


def test_a_policy_with_conditions_stays_of_version_3(wire: Wire) -> None:
    assert wire.google.set_policy({"role": READER, "members": [OTHER], "condition": CONDITION}, version=3).is_success
    member(wire)
    assert wire.writes()[0].body["policy"]["version"] == 3


@pytest.mark.parametrize("value", [MEMBER, MEMBER.replace("principal:", "principalSet:").replace("/subject/", "/group/")])
def test_case_of_a_principal_counts(wire: Wire, value: str) -> None:
    member(wire, member=value)
    other = value[:-1] + value[-1].upper()
    assert member(wire, member=other, check=True)["changed"]
    assert not member(wire, member=other, state="absent")["changed"]


def test_what_is_written_and_told_of_a_role_that_others_have(wire: Wire) -> None:
    wire.google.grant()
    one, both = ({"role": READER, "members": members} for members in ([MEMBER], [MEMBER, OTHER]))
    for state, before, after in (("present", one, both), ("absent", both, one)):
        for check in (True, False):
            assert member(wire, member=OTHER, state=state, check=check)["diff"] == {"before": before, "after": after}
        (write,) = wire.writes()
        # One binding, and the version as it was read: no condition needs version 3.
        assert write.body["policy"].pop("etag")
        assert write.body == {"policy": {"version": 1, "bindings": [after]}}


def test_no_empty_binding_is_written(wire: Wire) -> None:
    member(wire)
    member(wire, state="absent")
    assert wire.writes()[0].body["policy"]["bindings"] == []


@pytest.mark.parametrize("option", ["resource", "role", "member"])
def test_a_missing_option_is_named(wire: Wire, option: str) -> None:
    options = {"resource": REPOSITORY, "role": READER, "member": MEMBER}
    del options[option]
    assert wire.run("gcp_iam_member", **options)["msg"] == f"missing required arguments: {option}"


def test_another_state_is_refused(wire: Wire) -> None:
    assert "state must be one of: present, absent" in member(wire, state="gone")["msg"] and not wire.requests
