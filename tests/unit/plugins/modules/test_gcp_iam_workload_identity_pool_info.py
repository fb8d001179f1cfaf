# SPDX-License-Identifier: GPL-3.0-or-later
"""Module gcp_iam_workload_identity_pool_info against the Google emulator."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.plugins.google_wire import Wire, names
from tests.unit.sandbox.google.harness import POOL, POOLS


@pytest.fixture(autouse=True)
def _pools(wire: Wire) -> None:
    for name in ("cache", "gone", "other"):
        wire.google.done(wire.google.create_pool(name, displayName=name))
    wire.google.done(wire.google.call("DELETE", f"{POOLS}/gone"))


def info(wire: Wire, **arguments: Any) -> dict[str, Any]:
    return wire.run("gcp_iam_workload_identity_pool_info", **{"project": "demo", **arguments})


@pytest.mark.parametrize("check", [False, True])
def test_one(wire: Wire, check: bool) -> None:
    result = info(wire, check=check, pool_id="cache")
    assert result["pools"] == [{"name": POOL, "state": "ACTIVE", "displayName": "cache"}] and not result["changed"]
    assert wire.sent() == [("GET", f"{POOLS}/cache")]


def test_a_deleted_one_has_state_deleted(wire: Wire) -> None:
    (pool,) = info(wire, pool_id="gone")["pools"]
    assert pool["state"] == "DELETED"


def test_none(wire: Wire) -> None:
    assert info(wire, pool_id="never")["pools"] == [] and len(wire.requests) == 1


def test_all(wire: Wire) -> None:
    assert names(info(wire), "pools") == ["cache", "other"]
    assert wire.sent() == [("GET", POOLS)] and wire.requests[0].query == {"pageSize": "1000"}
    assert names(info(wire, show_deleted=True), "pools") == ["cache", "gone", "other"]
    assert wire.requests[0].query["showDeleted"] == "true"


def test_pages(wire: Wire) -> None:
    # A page may be empty although another one follows (google.aip.dev/158).
    wire.answer("GET", "pageToken=3", 200, {"workloadIdentityPools": [{"name": "x/two"}], "nextPageToken": ""})
    wire.answer("GET", "pageToken=2", 200, {"nextPageToken": "3"})
    wire.answer("GET", "workloadIdentityPools", 200, {"workloadIdentityPools": [{"name": "x/one"}], "nextPageToken": "2"})
    assert names(info(wire, show_deleted=True), "pools") == ["one", "two"] and len(wire.requests) == 3
    assert all(request.query["showDeleted"] == "true" for request in wire.requests)


def test_bad_input_and_refusals(wire: Wire) -> None:
    assert info(wire, pool_id="X")["msg"].startswith("pool_id: must have") and not wire.requests
    assert "Example: project" in info(wire, project="a/b")["msg"] and not wire.requests
    assert "projects/other/locations/global/workloadIdentityPools: HTTP 403: Permission" in info(wire, project="other")["msg"]
