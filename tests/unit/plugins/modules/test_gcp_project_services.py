# SPDX-License-Identifier: GPL-3.0-or-later
"""Module gcp_project_services against the Google emulator."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.plugins.google_wire import Wire

API = "https://serviceusage.googleapis.com/v1"
URL = f"{API}/projects/demo/services"
STS, AR, COMPUTE = "sts.googleapis.com", "artifactregistry.googleapis.com", "compute.googleapis.com"


@pytest.fixture(autouse=True)
def _disabled(wire: Wire) -> None:
    for service in (STS, AR):
        wire.google.done(wire.google.call("POST", f"{URL}/{service}:disable", json={}))


def services(wire: Wire, *names: str, **arguments: Any) -> dict[str, Any]:
    return wire.run("gcp_project_services", **{"project": "demo", "services": list(names), **arguments})


def test_story(wire: Wire) -> None:
    before = {AR: "DISABLED", COMPUTE: "ENABLED", STS: "DISABLED"}
    after = dict.fromkeys(before, "ENABLED")
    check = services(wire, STS, COMPUTE, AR, check=True)
    assert check["changed"] and check["services"] == after and check["diff"] == {"before": before, "after": after}
    assert wire.sent() == [("GET", f"{URL}:batchGet")]

    change = services(wire, STS, COMPUTE, AR)
    assert change["changed"] and change["services"] == after and change["diff"] == {"before": before, "after": after}
    (write,) = wire.writes()
    assert (write.method, write.url, write.body) == ("POST", f"{URL}:batchEnable", {"serviceIds": [AR, STS]})
    polls = wire.sent()[2:]
    assert polls and all(url.startswith(f"{API}/operations/acf.p2-42-") for _method, url in polls)

    for check_mode in (False, True):
        repeat = services(wire, STS, COMPUTE, AR, check=check_mode)
        assert not repeat["changed"] and repeat["services"] == after and wire.sent() == [("GET", f"{URL}:batchGet")]


def test_duplicate_services_are_requested_once(wire: Wire) -> None:
    assert services(wire, STS, STS)["services"] == {STS: "ENABLED"}
    assert wire.writes()[0].body == {"serviceIds": [STS]}


def test_a_noop_operation_is_not_polled(wire: Wire) -> None:
    # The API was enabled concurrently.
    wire.before(
        "POST", ":batchEnable", lambda: wire.google.done(wire.google.call("POST", f"{URL}/{STS}:enable", json={}))
    )
    assert services(wire, STS)["changed"] and len(wire.requests) == 2
    wire.answer("GET", ":batchGet", 200, {"services": [{"name": f"projects/42/services/{STS}"}]})
    wire.answer("POST", ":batchEnable", 200, {"name": "operations/noop.DONE_OPERATION"})
    assert services(wire, STS)["changed"] and len(wire.requests) == 2


def test_an_operation_that_fails_or_does_not_end(wire: Wire) -> None:
    wire.answer("POST", ":batchEnable", 200, {"name": "operations/acf.x", "done": True, "error": {"message": "No billing"}})
    assert services(wire, STS, AR)["msg"] == f"{AR}, {STS} in project demo: the operation failed: No billing"
    wire.answer("POST", ":batchEnable", 200, {"name": "operations/acf.x"})
    for _poll in range(50):
        wire.answer("GET", "/operations/", 200, {"name": "operations/acf.x"})
    assert "operations/acf.x did not end within 5 s." in services(wire, STS, wait_timeout=5)["msg"]


def test_an_api_that_does_not_exist_changes_nothing(wire: Wire) -> None:
    message = services(wire, STS, "nothing.googleapis.com")["msg"]
    assert message.startswith("services: Not found or permission denied for service(s): nothing.googleapis.com.")
    assert "Check the names of the APIs" in message and "Example: services: " in message and not wire.writes()


def test_a_missing_permission(wire: Wire) -> None:
    denied = "Permission 'serviceusage.services.enable' denied on resource (or it may not exist)."
    wire.answer("POST", ":batchEnable", 403, {"error": {"code": 403, "message": denied}})
    message = services(wire, STS)["msg"]
    assert message.startswith(f"{STS} in project demo: HTTP 403: {denied}") and "grant the permission" in message
    assert "project other: HTTP 403" in services(wire, STS, project="other")["msg"] and not wire.writes()


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["iam"], "services: 'iam' must be the full name of an API. Example: services: [iam.googleapis.com]"),
        (["https://iam.googleapis.com"], "services: 'https://iam.googleapis.com' must be the full name"),
        ([f"a{n}.googleapis.com" for n in range(21)], "services: 1 to 20 are allowed (got 21)"),
        ([], "services: 1 to 20 are allowed (got 0)"),
    ],
)
def test_bad_input_is_refused_before_any_request(wire: Wire, names: list[str], words: str) -> None:
    assert services(wire, *names)["msg"].startswith(words) and not wire.requests


def test_a_missing_project(wire: Wire) -> None:
    assert "Example: project: my-project" in services(wire, STS, project=None)["msg"] and not wire.requests


@pytest.mark.parametrize("status", [429, 500, 503])
@pytest.mark.parametrize(("method", "part"), [("GET", ":batchGet"), ("POST", ":batchEnable"), ("GET", "/operations/")])
def test_an_outage_is_retried(wire: Wire, status: int, method: str, part: str) -> None:
    wire.outage(method, part, status, times=8)
    assert services(wire, STS)["services"] == {STS: "ENABLED"}


def test_services_of_a_domain_scoped_project(wire: Wire) -> None:
    url = f"{API}/projects/example.com:demo/services/{STS}:disable"
    wire.google.done(wire.google.call("POST", url, json={}))
    assert services(wire, STS, project="example.com:demo")["changed"]
    assert not services(wire, STS, project="example.com:demo")["changed"]
