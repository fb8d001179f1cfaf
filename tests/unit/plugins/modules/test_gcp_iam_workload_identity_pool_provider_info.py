# SPDX-License-Identifier: GPL-3.0-or-later
"""Module gcp_iam_workload_identity_pool_provider_info against the Google emulator."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.plugins.google_wire import Wire, names
from tests.unit.sandbox.google.harness import ISSUER, POOLS, PROVIDER, PROVIDERS

URL = f"{POOLS}/cache/providers"


@pytest.fixture(autouse=True)
def _providers(wire: Wire) -> None:
    wire.google.federate()
    body = {"attributeMapping": {"google.subject": "assertion.sub"}, "oidc": {"issuerUri": ISSUER}}
    wire.google.done(
        wire.google.call("POST", PROVIDERS, params={"workloadIdentityPoolProviderId": "gone"}, json=body)
    )
    wire.google.done(wire.google.call("DELETE", f"{PROVIDERS}/gone"))


def info(wire: Wire, **arguments: Any) -> dict[str, Any]:
    return wire.run("gcp_iam_workload_identity_pool_provider_info", **{"project": "demo", "pool_id": "cache", **arguments})


@pytest.mark.parametrize("check", [False, True])
def test_one(wire: Wire, check: bool) -> None:
    (provider,) = info(wire, check=check, provider_id="kubernetes")["providers"]
    assert provider["name"] == PROVIDER and provider["oidc"]["issuerUri"] == ISSUER
    assert wire.sent() == [("GET", f"{URL}/kubernetes")]


def test_a_deleted_one_has_state_deleted(wire: Wire) -> None:
    (provider,) = info(wire, provider_id="gone")["providers"]
    assert provider["state"] == "DELETED"


@pytest.mark.parametrize("options", [{"provider_id": "never"}, {"pool_id": "never"}])
def test_none(wire: Wire, options: dict[str, str]) -> None:
    assert info(wire, **options)["providers"] == [] and len(wire.requests) == 1


def test_all(wire: Wire) -> None:
    assert names(info(wire), "providers") == ["kubernetes"]
    assert wire.sent() == [("GET", URL)] and wire.requests[0].query == {"pageSize": "100"}
    assert names(info(wire, show_deleted=True), "providers") == ["gone", "kubernetes"]


def test_pages(wire: Wire) -> None:
    first = {"workloadIdentityPoolProviders": [{"name": "x/one"}], "nextPageToken": "2"}
    wire.answer("GET", "pageToken=2", 200, {"workloadIdentityPoolProviders": [{"name": "x/two"}]})
    wire.answer("GET", "/providers", 200, first)
    assert names(info(wire), "providers") == ["one", "two"] and len(wire.requests) == 2


def test_bad_input(wire: Wire) -> None:
    assert info(wire, pool_id="X")["msg"].startswith("pool_id: must have")
    assert info(wire, provider_id="X")["msg"].startswith("provider_id: must have")
    assert "Example: project" in info(wire, project=None)["msg"] and not wire.requests
