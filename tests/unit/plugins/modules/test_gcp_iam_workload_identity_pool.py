# SPDX-License-Identifier: GPL-3.0-or-later
"""Module gcp_iam_workload_identity_pool against the stand-in for Google."""

from __future__ import annotations

import functools
from typing import Any

import pytest
from google_harness import IAM, POOL, POOLS
from google_wire import Wire

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
def test_each_field_is_set_and_cleared_alone(wire: Wire, option: str, field: str, value: Any, cleared: Any) -> None:
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
    pool(wire, **WANTED)

    assert pool(wire, state="absent", check=True)["changed"] and not wire.writes()
    gone = pool(wire, state="absent")
    assert gone["changed"] and gone["pool"] == {} and gone["diff"]["after"] == {}
    assert [(request.method, request.url, request.body) for request in wire.writes()] == [("DELETE", URL, None)]
    assert not pool(wire, state="absent")["changed"] and wire.sent() == [("GET", URL)]

    check = pool(wire, check=True, **{**WANTED, "description": "Back"})
    assert check["changed"] and not wire.writes()
    back = pool(wire, **{**WANTED, "description": "Back"})
    undelete, patch = wire.writes()
    assert (undelete.method, undelete.url, undelete.body) == ("POST", f"{URL}:undelete", {})
    assert (patch.query, patch.body) == ({"updateMask": "description"}, {"description": "Back"})
    assert back["changed"] and back["pool"] == {"name": POOL, "state": "ACTIVE", **FIELDS, "description": "Back"}
    assert {**check["pool"], "name": POOL} == back["pool"]
    assert not pool(wire, **{**WANTED, "description": "Back"})["changed"]


def test_made_by_somebody_else_in_between(wire: Wire) -> None:
    wire.before("POST", "workloadIdentityPoolId=cache", lambda: wire.google.done(wire.google.create_pool()))
    result = pool(wire, **WANTED)
    assert "failed" not in result and result["pool"] == {"name": POOL, "state": "ACTIVE", **FIELDS}
    assert [request.method for request in wire.writes()] == ["POST", "PATCH"]


def test_a_conflict_without_an_object_is_told(wire: Wire) -> None:
    refusal = {"error": {"code": 409, "status": "ALREADY_EXISTS", "message": "Requested entity already exists"}}
    wire.answer("POST", "workloadIdentityPoolId=cache", 409, refusal)
    message = pool(wire)["msg"]
    assert "workloadIdentityPools/cache: HTTP 409: Requested entity already exists" in message and "run again" in message


def test_operation_that_does_not_end(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    start = wire.google.steady
    monkeypatch.setattr(type(wire.clock), "monotonic", lambda self: start + sum(self.pauses))
    monkeypatch.setattr(type(wire.clock), "sleep", lambda self, seconds: self.pauses.append(seconds))
    message = pool(wire, wait_timeout=7)["msg"]
    assert "/operations/" in message and "within 7 s" in message and "wait_timeout" in message
    assert 7 < sum(wire.clock.pauses) < 13


def test_operation_that_fails(wire: Wire) -> None:
    error = {"code": 8, "message": "Quota of pools is used up"}
    operation = {"name": f"{POOL}/operations/x", "done": True, "error": error}
    wire.answer("POST", "workloadIdentityPoolId", 200, operation)
    message = pool(wire)["msg"]
    assert message.endswith("workloadIdentityPools/cache: the operation failed: Quota of pools is used up")


def test_refusal_names_object_status_and_googles_words(wire: Wire) -> None:
    words = "Permission 'iam.workloadIdentityPools.create' denied on resource '//iam.googleapis.com/x' (or it may not exist)."
    wire.answer("POST", "workloadIdentityPoolId", 403, {"error": {"code": 403, "message": words}})
    message = pool(wire)["msg"]
    assert message.startswith(f"{POOL.replace('42', 'demo')}: HTTP 403: {words}") and "Grant the permission" in message


@pytest.mark.parametrize("pool_id", ["abc", "a" * 33, "Cache", "gcp-cache", "a_cache", "cache\n"])
def test_bad_id_is_refused_before_any_request(wire: Wire, pool_id: str) -> None:
    message = pool(wire, pool_id=pool_id)["msg"]
    assert message.startswith(f"pool_id '{pool_id}'") and "Example: pool_id:" in message and not wire.requests


@pytest.mark.parametrize("project", [None, "", "a/b", "my project"])
def test_bad_project_is_refused_before_any_request(wire: Wire, project: str | None) -> None:
    assert "Example: project: my-project" in pool(wire, project=project)["msg"] and not wire.requests


def test_project_comes_from_the_environment(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    run = functools.partial(wire.run, "gcp_iam_workload_identity_pool", pool_id="cache")
    monkeypatch.setenv("GCE_PROJECT", "demo")
    assert run()["pool"]["name"] == POOL
    monkeypatch.setenv("GCP_PROJECT", "other")
    assert run(check=True)["failed"] and "/projects/other/" in wire.sent()[0][1]
