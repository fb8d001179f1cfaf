# SPDX-License-Identifier: GPL-3.0-or-later
"""Module gcp_iam_service_account against the Google emulator."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from tests.unit.plugins.google_wire import Wire
from tests.unit.sandbox.google.harness import IAM

PARENT = f"{IAM}/projects/demo/serviceAccounts"
EMAIL = "reader@demo.iam.gserviceaccount.com"
URL = f"{PARENT}/{EMAIL}"
WANTED = {"display_name": "Reads images", "description": "Of all clusters"}
FIELDS = {"displayName": "Reads images", "description": "Of all clusters"}
GONE = {"error": {"code": 404, "message": f"Service account {EMAIL} does not exist."}}


def account(wire: Wire, **arguments: Any) -> dict[str, Any]:
    return wire.run("gcp_iam_service_account", **{"project": "demo", "account_id": "reader", **arguments})


def now(wire: Wire) -> dict[str, Any]:
    return wire.google.call("GET", URL).json()


def test_story(wire: Wire) -> None:
    check = account(wire, check=True, **WANTED)
    known = {"name": f"projects/demo/serviceAccounts/{EMAIL}", "projectId": "demo", "email": EMAIL, **FIELDS}
    assert check["changed"] and check["service_account"] == known and wire.sent() == [("GET", URL)]

    change = account(wire, **WANTED)
    after = change["service_account"]
    assert change["changed"] and after == now(wire) and after.items() >= known.items()
    assert change["diff"] == {"before": {}, "after": after}
    assert wire.sent() == [("GET", URL), ("POST", PARENT), ("GET", URL)]
    assert wire.writes()[0].body == {"accountId": "reader", "serviceAccount": FIELDS}

    for check_mode in (False, True):
        repeat = account(wire, check=check_mode, **WANTED)
        assert not repeat["changed"] and repeat["service_account"] == after and wire.sent() == [("GET", URL)]


@pytest.mark.parametrize(("option", "field"), [("display_name", "displayName"), ("description", "description")])
def test_each_text_is_set_and_cleared_separately(wire: Wire, option: str, field: str) -> None:
    account(wire, **WANTED)
    for value in ("Others", ""):
        assert account(wire, check=True, **{option: value})["changed"] and not wire.writes()
        result = account(wire, **{option: value})
        assert [(request.method, request.url) for request in wire.requests] == [("GET", URL), ("PATCH", URL)]
        assert wire.requests[1].body == {"serviceAccount": {field: value}, "updateMask": field}
        assert result["changed"] and result["service_account"] == now(wire)
        assert result["service_account"].get(field) == (value or None)
        assert not account(wire, **{option: value})["changed"]
    assert set(FIELDS) - {field} <= set(now(wire)), "what was not named stays"


def test_disabled_and_enabled(wire: Wire) -> None:
    account(wire, **WANTED)
    for disabled, verb in ((True, "disable"), (False, "enable")):
        check = account(wire, check=True, disabled=disabled)
        assert check["changed"] and check["service_account"].get("disabled", False) == disabled and not wire.writes()
        result = account(wire, disabled=disabled)
        assert [(write.url, write.body) for write in wire.writes()] == [(f"{URL}:{verb}", {})]
        assert result["changed"] and result["service_account"] == now(wire)
        assert now(wire).get("disabled", False) == disabled
        assert not account(wire, disabled=disabled)["changed"] and not account(wire)["changed"]


def test_all_at_once(wire: Wire) -> None:
    account(wire, **WANTED)
    result = account(wire, display_name="Others", description="", disabled=True)
    patch, disable = wire.writes()
    assert patch.body == {"serviceAccount": {"description": "", "displayName": "Others"}, "updateMask": "description,displayName"}
    assert disable.url == f"{URL}:disable"
    assert {**result["service_account"], "etag": ""} == {**now(wire), "etag": ""}


def test_created_disabled(wire: Wire) -> None:
    result = account(wire, disabled=True)
    assert result["service_account"]["disabled"] and now(wire)["disabled"]
    assert wire.writes()[0].body == {"accountId": "reader", "serviceAccount": {}}
    assert not account(wire, disabled=True)["changed"]
    assert not account(wire, account_id="writer", disabled=False)["service_account"].get("disabled")


def test_absent_and_created_again(wire: Wire) -> None:
    assert not account(wire, state="absent")["changed"]
    first = account(wire, **WANTED)["service_account"]
    wire.removal(functools.partial(account, wire), "service_account", first, URL)
    again = account(wire, **WANTED)
    assert again["changed"] and again["service_account"]["uniqueId"] != first["uniqueId"]


def test_a_new_account_is_retried(wire: Wire) -> None:
    def hidden_once() -> None:
        wire.answer("GET", "/serviceAccounts/", 404, GONE)
        wire.answer("POST", ":disable", 404, GONE)

    wire.before("POST", "/serviceAccounts", hidden_once)
    result = account(wire, disabled=True)
    assert result["changed"] and now(wire)["disabled"]
    assert wire.clock.pauses == [0.2, 0.2]


def test_a_new_account_that_is_not_shown_in_time(wire: Wire) -> None:
    wire.before("POST", "/serviceAccounts", lambda: [wire.answer("GET", "/serviceAccounts/", 404, GONE) for _ in range(99)])
    message = account(wire, wait_timeout=4)["msg"]
    assert message.startswith(f"projects/demo/serviceAccounts/{EMAIL}: HTTP 404: Service account")
    assert sum(wire.clock.pauses) == pytest.approx(4)


def test_concurrent_creation_before_the_create(wire: Wire) -> None:
    body = {"accountId": "reader", "serviceAccount": {"displayName": "Theirs"}}
    wire.before("POST", "/serviceAccounts", lambda: wire.google.call("POST", PARENT, json=body))
    result = account(wire, **WANTED)
    assert "failed" not in result and result["service_account"].items() >= FIELDS.items()
    assert [request.method for request in wire.writes()] == ["POST", "PATCH"]


def test_concurrent_deletion(wire: Wire) -> None:
    account(wire)
    wire.before("DELETE", "/serviceAccounts/", lambda: wire.google.call("DELETE", URL))
    assert account(wire, state="absent")["changed"] and now(wire)["error"]["code"] == 404


@pytest.mark.parametrize("verb", ["PATCH", "DELETE"])
def test_a_missing_permission_changes_nothing(wire: Wire, verb: str) -> None:
    before = account(wire, **WANTED)["service_account"]
    denied = "Permission 'iam.serviceAccounts.update' denied on resource (or it may not exist)."
    wire.answer(verb, URL, 403, {"error": {"code": 403, "message": denied}})
    message = account(wire, description="New", state="absent" if verb == "DELETE" else "present")["msg"]
    assert f"HTTP 403: {denied}" in message and "grant the permission" in message and now(wire) == before


def test_texts_at_the_limits_are_accepted(wire: Wire) -> None:
    assert account(wire, display_name="é" * 50, description="日" * 85 + "x")["changed"]


def test_an_account_of_a_domain_scoped_project(wire: Wire) -> None:
    email = "reader@demo.example.com.iam.gserviceaccount.com"
    made = account(wire, project="example.com:demo", **WANTED)
    assert made["changed"] and made["service_account"]["email"] == email
    assert wire.sent()[0][1].endswith(f"/projects/example.com:demo/serviceAccounts/{email}")
    assert not account(wire, project="example.com:demo", **WANTED)["changed"]
    assert account(wire, project="example.com:demo", state="absent")["changed"]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_an_outage_while_disabling_is_retried(wire: Wire, status: int) -> None:
    account(wire)
    wire.outage("POST", ":disable", status, times=8)
    assert account(wire, disabled=True)["changed"] and now(wire)["disabled"]


def test_created_although_the_answer_was_lost(wire: Wire) -> None:
    def lost() -> tuple[int, dict[str, Any]]:
        wire.google.call("POST", PARENT, json={"accountId": "reader", "serviceAccount": FIELDS})
        return 500, {"error": {"code": 500, "message": "Internal error encountered."}}

    wire._faults.append(("POST", "/serviceAccounts", lost))
    made = account(wire, **WANTED)
    assert made["changed"] and made["diff"] == {"before": {}, "after": now(wire)}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"account_id": "short"}, "account_id: "),
        ({"account_id": "a" * 31}, "account_id"),
        ({"account_id": "Reader"}, "account_id: "),
        ({"account_id": "1reader"}, "account_id: "),
        ({"account_id": "reader-"}, "account_id: "),
        ({"account_id": EMAIL}, "account_id: "),
        ({"project": "42"}, "project: "),
        ({"project": None}, "project: "),
        ({"display_name": "x" * 101}, "display_name: at most 100 bytes in UTF-8 are allowed (got 101)"),
        ({"display_name": "é" * 51}, "display_name: at most 100 bytes in UTF-8 are allowed (got 102)"),
        ({"description": "x" * 257}, "description: at most 256 bytes in UTF-8 are allowed (got 257)"),
        ({"description": "日" * 86}, "description: at most 256 bytes in UTF-8 are allowed (got 258)"),
    ],
)
def test_bad_input_is_refused_before_any_request(wire: Wire, options: dict[str, Any], words: str) -> None:
    message = account(wire, **options)["msg"]
    assert message.startswith(words) and ("Example: " in message or "are allowed (got " in message) and not wire.requests
    assert all(str(value or "") in message for option, value in options.items() if option in ("account_id", "project"))
