# SPDX-License-Identifier: GPL-3.0-or-later
"""Module gcp_artifactregistry_repository_info against the Google emulator."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.plugins.google_wire import Wire, names
from tests.unit.sandbox.google.harness import AR, REPOSITORY

PARENT = f"{AR}/{REPOSITORY}".rpartition("/")[0]


@pytest.fixture(autouse=True)
def _repositories(wire: Wire) -> None:
    wire.google.create_repository()
    body = {"format": "DOCKER"}
    wire.google.done(wire.google.call("POST", PARENT, params={"repositoryId": "other"}, json=body))


def info(wire: Wire, **arguments: Any) -> dict[str, Any]:
    return wire.run("gcp_artifactregistry_repository_info", **{"project": "demo", "location": "us-central1", **arguments})


@pytest.mark.parametrize("check", [False, True])
def test_one(wire: Wire, check: bool) -> None:
    (repository,) = info(wire, check=check, repository_id="private")["repositories"]
    assert repository["name"] == REPOSITORY and repository["mode"] == "STANDARD_REPOSITORY"
    assert wire.sent() == [("GET", f"{PARENT}/private")]


def test_none(wire: Wire) -> None:
    assert info(wire, repository_id="never")["repositories"] == [] and len(wire.requests) == 1
    assert info(wire, location="europe")["repositories"] == []


def test_all(wire: Wire) -> None:
    assert names(info(wire), "repositories") == ["other", "private"]
    assert wire.sent() == [("GET", PARENT)] and wire.requests[0].query == {"pageSize": "1000"}


def test_pages(wire: Wire) -> None:
    wire.answer("GET", "pageToken=2", 200, {"repositories": [{"name": "x/two"}]})
    wire.answer("GET", "/repositories", 200, {"repositories": [{"name": "x/one"}], "nextPageToken": "2"})
    assert names(info(wire), "repositories") == ["one", "two"] and len(wire.requests) == 2


def test_bad_input(wire: Wire) -> None:
    assert info(wire, location="US")["msg"].startswith("location: must be a region or multi-region (got 'US')")
    assert info(wire, repository_id="-")["msg"].startswith("repository_id: must have")
    assert "Example: project" in info(wire, project="")["msg"] and not wire.requests
