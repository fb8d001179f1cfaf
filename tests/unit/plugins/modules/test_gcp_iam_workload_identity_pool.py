# SPDX-License-Identifier: GPL-3.0-or-later
"""Module gcp_iam_workload_identity_pool against the Google emulator."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from tests.unit.plugins.google_wire import Wire
from tests.unit.sandbox.google.harness import IAM, POOL, POOLS

URL = f"{POOLS}/cache"
WANTED = {"display_name": "Image caches", "description": "Of all clusters"}
FIELDS = {"displayName": "Image caches", "description": "Of all clusters"}


def pool(wire: Wire, **arguments: Any) -> dict[str, Any]:
    return wire.run("gcp_iam_workload_identity_pool", **{"project": "demo", "pool_id": "cache", **arguments})


def test_story(wire: Wire) -> None:
    check = pool(wire, check=True, **WANTED)
    assert check["changed"] and wire.sent() == [("GET", URL)]
    assert check["pool"] == {"name": POOL.replace("42", "demo"), "state": "ACTIVE", **FIELDS}

    change = pool(wire, **WANTED)
    assert change["changed"] and change["pool"] == {"name": POOL, "state": "ACTIVE", **FIELDS}
    assert change["diff"] == {"before": {}, "after": change["pool"]}
    operation = wire.sent()[2]
    assert operation[0] == "GET" and operation[1].startswith(f"{IAM}/{POOL}/operations/")
    assert wire.sent() == [("GET", URL), ("POST", POOLS), operation, operation, ("GET", URL)]
    (create,) = wire.writes()
    assert (create.query, create.body) == ({"workloadIdentityPoolId": "cache"}, FIELDS)

    for check_mode in (False, True):
        repeat = pool(wire, check=check_mode, **WANTED)
        assert not repeat["changed"] and repeat["pool"] == change["pool"]
        assert repeat["diff"]["before"] == repeat["diff"]["after"]
        assert wire.sent() == [("GET", URL)]


@pytest.mark.parametrize(
    ("option", "field", "value", "cleared"),
    [
        ("display_name", "displayName", "Others", ""),
        ("description", "description", "Others", ""),
        ("disabled", "disabled", True, False),
    ],
)
def test_each_field_is_set_and_cleared_separately(wire: Wire, option: str, field: str, value: Any, cleared: Any) -> None:
    pool(wire, **WANTED)
    for wanted in (value, cleared):
        assert pool(wire, check=True, **{option: wanted})["changed"] and not wire.writes()
        result = pool(wire, **{option: wanted})
        (patch,) = wire.writes()
        assert (patch.method, patch.url) == ("PATCH", URL)
        assert (patch.query, patch.body) == ({"updateMask": field}, {field: wanted})
        assert result["changed"] and result["pool"].get(field) == (wanted or None)
        assert not pool(wire, **{option: wanted})["changed"]
    assert set(FIELDS) - {field} <= set(result["pool"]), "what was not named stays"


def test_absent_and_undelete(wire: Wire) -> None:
    assert not pool(wire, state="absent")["changed"]
    wire.removal(functools.partial(pool, wire), "pool", pool(wire, **WANTED)["pool"], URL)

    check = pool(wire, check=True, **{**WANTED, "description": "Back"})
    assert check["changed"] and not wire.writes()
    back = pool(wire, **{**WANTED, "description": "Back"})
    undelete, patch = wire.writes()
    assert (undelete.method, undelete.url, undelete.body) == ("POST", f"{URL}:undelete", {})
    assert (patch.query, patch.body) == ({"updateMask": "description"}, {"description": "Back"})
    assert back["changed"] and back["pool"] == {"name": POOL, "state": "ACTIVE", **FIELDS, "description": "Back"}
    assert {**check["pool"], "name": POOL} == back["pool"]
    assert not pool(wire, **{**WANTED, "description": "Back"})["changed"]


def test_concurrent_creation_before_the_create(wire: Wire) -> None:
    wire.before("POST", "workloadIdentityPoolId=cache", lambda: wire.google.done(wire.google.create_pool()))
    result = pool(wire, **WANTED)
    assert "failed" not in result and result["pool"] == {"name": POOL, "state": "ACTIVE", **FIELDS}
    assert [request.method for request in wire.writes()] == ["POST", "PATCH"]


def test_concurrent_creation(wire: Wire) -> None:
    # The other operation is not done when this create is refused. The object appears a moment later.
    wire.before("POST", "workloadIdentityPoolId=cache", wire.google.create_pool)
    result = pool(wire, **WANTED)
    assert "failed" not in result and result["pool"] == {"name": POOL, "state": "ACTIVE", **FIELDS}
    assert [request.method for request in wire.writes()] == ["POST", "PATCH"]


def test_a_conflict_without_an_object_is_reported(wire: Wire) -> None:
    refusal = {"error": {"code": 409, "status": "ALREADY_EXISTS", "message": "Requested entity already exists"}}
    wire.answer("POST", "workloadIdentityPoolId=cache", 409, refusal)
    message = pool(wire, wait_timeout=9)["msg"]
    assert "workloadIdentityPools/cache: HTTP 409: Requested entity already exists" in message and "run again" in message
    assert sum(wire.clock.pauses) == pytest.approx(9)


def test_operation_that_does_not_end(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    start = wire.google.steady
    monkeypatch.setattr(type(wire.clock), "monotonic", lambda self: start + sum(self.pauses))
    monkeypatch.setattr(type(wire.clock), "sleep", lambda self, seconds: self.pauses.append(seconds))
    message = pool(wire, wait_timeout=7)["msg"]
    assert "/operations/" in message and "within 7 s" in message and "wait_timeout" in message
    assert sum(wire.clock.pauses) == pytest.approx(7)


def test_operation_that_fails(wire: Wire) -> None:
    error = {"code": 8, "message": "Quota of pools is used up"}
    operation = {"name": f"{POOL}/operations/x", "done": True, "error": error}
    wire.answer("POST", "workloadIdentityPoolId", 200, operation)
    message = pool(wire)["msg"]
    assert message.endswith("workloadIdentityPools/cache: the operation failed: Quota of pools is used up")


def test_errors_contain_the_object_the_status_and_googles_message(wire: Wire) -> None:
    words = "Permission 'iam.workloadIdentityPools.create' denied on resource '//iam.googleapis.com/x' (or it may not exist)."
    wire.answer("POST", "workloadIdentityPoolId", 403, {"error": {"code": 403, "message": words}})
    message = pool(wire)["msg"]
    assert message.startswith(f"{POOL.replace('42', 'demo')}: HTTP 403: {words}") and "grant the permission" in message


@pytest.mark.parametrize("pool_id", ["abc", "a" * 33, "Cache", "gcp-cache", "a_cache", "cache\n"])
def test_bad_id_is_refused_before_any_request(wire: Wire, pool_id: str) -> None:
    message = pool(wire, pool_id=pool_id)["msg"]
    assert message.startswith("pool_id: ") and f"(got '{pool_id}')" in message and "Example: pool_id:" in message and not wire.requests


@pytest.mark.parametrize("project", [None, "", "a/b", "my project"])
def test_bad_project_is_refused_before_any_request(wire: Wire, project: str | None) -> None:
    assert "Example: project: my-project" in pool(wire, project=project)["msg"] and not wire.requests


def test_project_comes_from_the_environment(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    run = functools.partial(wire.run, "gcp_iam_workload_identity_pool", pool_id="cache")
    monkeypatch.setenv("GCE_PROJECT", "demo")
    assert run()["pool"]["name"] == POOL
    monkeypatch.setenv("GCP_PROJECT", "other")
    assert run(check=True)["failed"] and "/projects/other/" in wire.sent()[0][1]


def test_undelete_alone(wire: Wire) -> None:
    pool(wire, **WANTED)
    pool(wire, state="absent")
    assert pool(wire, check=True, **WANTED)["changed"] and wire.sent() == [("GET", URL)]
    back = pool(wire, **WANTED)
    assert back["changed"] and back["pool"] == {"name": POOL, "state": "ACTIVE", **FIELDS}
    assert back["diff"]["before"]["state"] == "DELETED"
    assert [(request.method, request.url) for request in wire.writes()] == [("POST", f"{URL}:undelete")]


def test_absent_in_check_mode_for_a_missing_pool(wire: Wire) -> None:
    assert not pool(wire, state="absent", check=True)["changed"]
    pool(wire)
    pool(wire, state="absent")
    assert not pool(wire, state="absent", check=True)["changed"] and wire.sent() == [("GET", URL)]


def test_explicit_empty_and_false_fields_are_not_a_difference(wire: Wire) -> None:
    spelled = {"name": POOL, "state": "ACTIVE", "displayName": "", "description": "", "disabled": False}
    wire.answer("GET", "/cache", 200, spelled)
    assert not pool(wire, display_name="", description="", disabled=False)["changed"] and not wire.writes()


def test_an_operation_that_is_done_at_once_is_not_waited_for(wire: Wire) -> None:
    wire.answer("POST", "workloadIdentityPoolId", 200, {"name": f"{POOL}/operations/x", "done": True, "response": {}})
    assert pool(wire)["changed"] and not wire.clock.pauses
    assert not any("/operations/" in url for _method, url in wire.sent())


def test_polling_ends_soon_after_the_operation(wire: Wire) -> None:
    pool(wire)
    assert 0.5 <= sum(wire.clock.pauses) <= 1  # an operation of the emulator takes 0.5 s


def test_an_operation_that_fails_while_it_is_polled(wire: Wire) -> None:
    wire.answer("GET", "/operations/", 200, {"name": "x", "done": True, "error": {"code": 8, "message": "No quota"}})
    message = pool(wire, state="present")["msg"]
    assert message == f"{POOL.replace('42', 'demo')}: the operation failed: No quota"


@pytest.mark.parametrize("state", ["present", "absent"])
def test_a_read_error_does_not_mean_absent(wire: Wire, state: str) -> None:
    refusal = {"error": {"code": 403, "message": "Permission 'iam.workloadIdentityPools.get' denied"}}
    wire.answer("GET", "/cache", 403, refusal)
    message = pool(wire, state=state)["msg"]
    assert "workloadIdentityPools/cache: HTTP 403: Permission 'iam.workloadIdentityPools.get' denied" in message
    assert not wire.writes()


@pytest.mark.parametrize(("method", "state"), [("PATCH", "present"), ("DELETE", "absent")])
def test_a_refused_change_changes_nothing(wire: Wire, method: str, state: str) -> None:
    before = pool(wire, **WANTED)["pool"]
    wire.answer(method, "/cache", 409, {"error": {"code": 409, "message": "Try again"}})
    assert "workloadIdentityPools/cache: HTTP 409: Try again" in pool(wire, state=state, description="New")["msg"]
    assert pool(wire, **WANTED)["pool"] == before


@pytest.mark.parametrize("pool_id", ["abcd", "a" * 32, "0-9z"])
def test_ids_at_the_limits_are_accepted(wire: Wire, pool_id: str) -> None:
    assert pool(wire, pool_id=pool_id)["pool"]["name"].endswith(f"/{pool_id}")


@pytest.mark.parametrize("project", ["example.com:demo", "42"])
def test_a_project_may_have_a_domain_or_be_a_number(wire: Wire, project: str) -> None:
    pool(wire, project=project)
    assert wire.sent()[0][1] == f"{IAM}/projects/{project}/locations/global/workloadIdentityPools/cache"


@pytest.mark.parametrize(("option", "limit"), [("display_name", 32), ("description", 256)])
def test_a_text_that_is_too_long_is_refused_before_any_request(wire: Wire, option: str, limit: int) -> None:
    message = pool(wire, **{option: "x" * (limit + 1)})["msg"]
    assert message.startswith(f"{option}: at most {limit} characters are allowed (got {limit + 1}).") and not wire.requests
    assert pool(wire, **{option: "x" * limit})["changed"]


def test_a_refused_update_after_an_undelete_deletes_it_again(wire: Wire) -> None:
    pool(wire, **WANTED)
    pool(wire, state="absent")
    wire.answer("PATCH", "/cache", 403, {"error": {"code": 403, "message": "Permission denied"}})
    assert "HTTP 403: Permission denied" in pool(wire, description="New")["msg"]
    assert [(request.method, request.url) for request in wire.writes()] == [
        ("POST", f"{URL}:undelete"),
        ("PATCH", URL),
        ("DELETE", URL),
    ]
    assert wire.google.call("GET", URL).json()["state"] == "DELETED"


def test_an_update_that_is_refused_deletes_nothing(wire: Wire) -> None:
    pool(wire, **WANTED)
    wire.answer("PATCH", "/cache", 403, {"error": {"code": 403, "message": "Permission denied"}})
    assert pool(wire, description="New")["failed"]
    assert wire.google.call("GET", URL).json() == {"name": POOL, "state": "ACTIVE", **FIELDS}


def test_concurrent_undelete(wire: Wire) -> None:
    pool(wire, **WANTED)
    pool(wire, state="absent")
    wire.before("POST", ":undelete", lambda: wire.google.done(wire.google.call("POST", f"{URL}:undelete", json={})))
    back = pool(wire, description="Back")
    assert "failed" not in back and back["pool"] == {"name": POOL, "state": "ACTIVE", **FIELDS, "description": "Back"}


def test_a_concurrently_undeleted_pool_is_not_deleted(wire: Wire) -> None:
    pool(wire, **WANTED)
    pool(wire, state="absent")
    wire.before("POST", ":undelete", lambda: wire.google.done(wire.google.call("POST", f"{URL}:undelete", json={})))
    wire.answer("PATCH", "/cache", 403, {"error": {"code": 403, "message": "Permission denied"}})
    assert "HTTP 403" in pool(wire, description="Back")["msg"]
    assert wire.google.call("GET", URL).json()["state"] == "ACTIVE"


def test_a_refused_undelete_is_reported(wire: Wire) -> None:
    pool(wire)
    pool(wire, state="absent")
    wire.answer("POST", ":undelete", 403, {"error": {"code": 403, "message": "Permission denied"}})
    assert "workloadIdentityPools/cache: HTTP 403: Permission denied" in pool(wire, description="New")["msg"]
    assert [request.method for request in wire.writes()] == ["POST"]


def test_concurrent_deletion(wire: Wire) -> None:
    pool(wire)
    wire.answer("DELETE", "/cache", 404, {"error": {"code": 404, "message": "Requested entity was not found."}})
    gone = pool(wire, state="absent")
    assert gone["changed"] and gone["pool"] == {}


def test_the_pause_between_polls_stays_shorter_than_what_went_before(wire: Wire) -> None:
    for _poll in range(20):
        wire.answer("GET", "/operations/", 200, {"name": f"{POOL}/operations/x"})
    pool(wire, wait_timeout=600)
    first, *rest = wire.clock.pauses
    assert first <= 0.2 and len(rest) >= 20
    assert all(pause <= max(0.31, sum(wire.clock.pauses[:number])) for number, pause in enumerate(rest, 1))
    assert max(rest) == 5


@pytest.mark.parametrize("status", [429, 500, 503])
def test_an_outage_of_the_undelete_is_retried(wire: Wire, status: int) -> None:
    pool(wire)
    pool(wire, state="absent")
    wire.outage("POST", ":undelete", status, times=8)
    assert pool(wire)["pool"] == {"name": POOL, "state": "ACTIVE"}


def test_undeleted_although_the_answer_was_lost(wire: Wire) -> None:
    pool(wire, **WANTED)
    pool(wire, state="absent")

    def lost() -> tuple[int, dict[str, Any]]:
        wire.google.done(wire.google.call("POST", f"{URL}:undelete", json={}))
        return 503, {"error": {"code": 503, "message": "The service is currently unavailable."}}

    wire._faults.append(("POST", ":undelete", lost))
    assert pool(wire, description="Back")["pool"] == {"name": POOL, "state": "ACTIVE", **FIELDS, "description": "Back"}


def test_deleted_although_the_answer_was_lost(wire: Wire) -> None:
    pool(wire)

    def lost() -> tuple[int, dict[str, Any]]:
        wire.google.done(wire.google.call("DELETE", URL))
        return 500, {"error": {"code": 500, "message": "Internal error encountered."}}

    wire._faults.append(("DELETE", URL, lost))
    gone = pool(wire, state="absent")
    assert gone["changed"] and gone["pool"] == {} and wire.google.call("GET", URL).json()["state"] == "DELETED"


def test_a_failed_delete_is_reported(wire: Wire) -> None:
    pool(wire)
    wire.outage("DELETE", URL, 500)
    wire.answer("DELETE", URL, 400, {"error": {"code": 400, "message": "Still in use"}})
    assert "Still in use" in pool(wire, state="absent")["msg"]
    assert wire.google.call("GET", URL).json()["state"] == "ACTIVE"


MAKER = "Made by pullthrough.registry_cache"


def test_a_new_pool_has_the_description_of_its_maker(wire: Wire) -> None:
    check = pool(wire, check=True, made_by=MAKER, disabled=False)
    made = pool(wire, made_by=MAKER, disabled=False)
    assert made["pool"]["description"] == check["pool"]["description"] == MAKER
    assert [request.method for request in wire.writes()] == ["POST"]
    assert not pool(wire, made_by=MAKER, disabled=False)["changed"] and wire.sent() == [("GET", URL)]


def test_the_callers_own_pool_is_restored(wire: Wire) -> None:
    pool(wire, made_by=MAKER, disabled=True)
    assert pool(wire, made_by=MAKER, disabled=False)["changed"]
    assert pool(wire, made_by=MAKER, state="absent")["changed"]
    assert pool(wire, made_by=MAKER, disabled=False)["pool"]["state"] == "ACTIVE"


def test_a_pool_of_others_is_used_unchanged(wire: Wire) -> None:
    before = pool(wire, description="Of everybody")["pool"]
    assert not pool(wire, made_by=MAKER, disabled=False)["changed"]
    assert pool(wire, made_by=MAKER, state="absent") == pool(wire, made_by=MAKER, state="absent", check=True)
    assert pool(wire, made_by=MAKER)["pool"] == before


@pytest.mark.parametrize("state", ["disabled", "deleted"])
@pytest.mark.parametrize("check", [False, True])
def test_a_pool_of_others_is_not_restored(wire: Wire, state: str, check: bool) -> None:
    pool(wire, description="Of everybody", disabled=state == "disabled")
    if state == "deleted":
        pool(wire, state="absent")
    message = pool(wire, made_by=MAKER, disabled=False, check=check)["msg"]
    assert message.startswith("pool_id: ") and f"is {state}" in message and "Example: pool_id: " in message
    assert not wire.writes()


@pytest.mark.parametrize(("option", "field", "limit"), [("display_name", "displayName", 32), ("description", "description", 256)])
def test_texts_are_counted_in_characters_as_google_does(wire: Wire, option: str, field: str, limit: int) -> None:
    text = "ü" * limit
    assert pool(wire, **{option: text})["pool"][field] == text
    assert pool(wire, **{option: f"{text}x"})["failed"] and not wire.requests
