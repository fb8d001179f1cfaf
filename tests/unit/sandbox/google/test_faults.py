# SPDX-License-Identifier: GPL-3.0-or-later
"""Faults: slow, refused, interrupted and corrupt blobs, failing hosts, and conditions."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest

from tests.unit.sandbox.google.harness import DOCKER, EMAIL, FAULTS, LAYER, LAYER_DIGEST, POOLS, Google

BLOB = f"{DOCKER}/v2/demo/private/hello/blobs/{LAYER_DIGEST}"


def fault(docker: Google, match: str = LAYER_DIGEST, count: int = 1, **effects: Any) -> None:
    answer = docker.call("POST", FAULTS, json={"match": match, "count": count, **effects})
    assert answer.status_code == 204, answer.text


def download(docker: Google, token: str | None = None, **headers: str) -> httpx.Response:
    location = docker.call("GET", BLOB, token=token or docker.access_token()).headers["location"]
    return docker.call("GET", f"{DOCKER}{location}", token=None, headers=headers)


def test_a_fault_ends_with_its_count(docker: Google) -> None:
    fault(docker, count=2, status=500)
    assert docker.call("GET", FAULTS).json()[0]["count"] == 2
    assert [download(docker).status_code for _ in range(3)] == [500, 500, 200]
    assert docker.call("GET", FAULTS).json() == []


def test_a_reset_removes_all_faults(docker: Google) -> None:
    fault(docker, count=100, status=500)
    fault(docker, count=100, corrupt=True)
    assert docker.call("POST", f"{FAULTS}/reset").status_code == 204
    assert download(docker).content == LAYER


@pytest.mark.parametrize(("match", "status"), [("demo/private/hello/", 503), ("demo/private/other/", 200), ("", 503)])
def test_a_fault_matches_any_part_of_the_path(docker: Google, match: str, status: int) -> None:
    fault(docker, match, status=503)
    assert download(docker).status_code == status


def test_the_first_matching_fault_applies(docker: Google) -> None:
    fault(docker, "sha256:other", status=501)
    fault(docker, status=502)
    fault(docker, status=503)
    assert [download(docker).status_code for _ in range(3)] == [502, 503, 200]


def test_the_operator_is_not_affected(docker: Google) -> None:
    fault(docker, status=500)
    assert download(docker, docker.operator).content == LAYER
    assert download(docker).status_code == 500


def test_an_answer_is_delayed_and_its_body_slow(docker: Google) -> None:
    fault(docker, seconds=0.2)
    fault(docker, bytes_per_second=len(LAYER) * 5)
    for _ in range(2):
        started = time.monotonic()
        assert download(docker).content == LAYER
        assert 0.2 <= time.monotonic() - started < 2


def test_one_byte_is_corrupt(docker: Google) -> None:
    fault(docker, count=2, corrupt=True, bytes_per_second=1_000_000)
    for body, whole in ((download(docker).content, LAYER), (download(docker, Range="bytes=6-11").content, LAYER[6:12])):
        different = [at for at, (one, other) in enumerate(zip(body, whole, strict=True)) if one != other]
        assert different == [len(whole) // 2]


def test_an_interrupted_body_closes_the_connection(docker: Google) -> None:
    """With a real server, to test what a client gets."""
    fault(docker, cut=True)
    location = docker.call("GET", BLOB, token=docker.access_token()).headers["location"]

    async def fetch(url: str) -> tuple[int, bytes]:
        async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
            received = 0
            with pytest.raises(httpx.RemoteProtocolError):
                async with client.stream("GET", location) as answer:
                    assert answer.headers["content-length"] == str(len(LAYER))
                    async for chunk in answer.aiter_bytes():
                        received += len(chunk)
            return received, (await client.get(location)).content

    assert docker.serve(fetch) == (len(LAYER) // 2, LAYER)
    assert docker.counters()["blobs"][LAYER_DIGEST]["blob_bytes"] == len(LAYER) // 2 + len(LAYER)
    assert docker.registry.unclosed == 0


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ([], "an object is expected"),
        ({"match": "a"}, "missing: count"),
        ({"match": "a", "count": 0}, "count is 1 to 100000"),
        ({"match": "a", "count": True}, "count is of the wrong type"),
        ({"match": "a", "count": 1, "seconds": -1}, "seconds 0 to 3600"),
        ({"match": "a", "count": 1, "status": 200}, "status is an error"),
        ({"match": "a", "count": 1, "speed": 1}, "unknown: speed"),
    ],
)
def test_an_invalid_fault_is_refused(google: Google, body: object, text: str) -> None:
    answer = google.call("POST", FAULTS, json=body)
    assert answer.status_code == 400 and text in answer.json()["error"]["message"]


def test_faults_are_for_the_operator_on_this_machine(docker: Google) -> None:
    for method, url in (("GET", FAULTS), ("POST", FAULTS), ("POST", f"{FAULTS}/reset")):
        assert docker.call(method, url, token=docker.access_token()).status_code == 401
    assert docker.call("GET", f"{DOCKER}/emulator/faults").status_code == 404


def test_no_connection_to_the_registry_is_kept(docker: Google) -> None:
    fault(docker, status=500)
    fault(docker, corrupt=True)
    for _ in range(3):
        download(docker)
    assert docker.registry.unclosed == 0


MANIFEST = f"{DOCKER}/v2/demo/private/hello/manifests/1.0"


@pytest.mark.parametrize(
    ("host", "url", "status", "text"),
    [
        ("iam.googleapis.com", POOLS, 503, '"UNAVAILABLE"'),
        ("iam.googleapis.com", POOLS, 500, '"INTERNAL"'),
        ("iam.googleapis.com", POOLS, 429, '"RESOURCE_EXHAUSTED"'),
        ("iam.googleapis.com", POOLS, 502, "<title>Error 502 (Server Error)!!1</title>"),
        ("us-central1-docker.pkg.dev", f"{DOCKER}/v2/token", 429, '"TOOMANYREQUESTS"'),
        ("us-central1-docker.pkg.dev", MANIFEST, 500, '"UNKNOWN"'),
    ],
)
def test_a_host_fails_with_its_message(docker: Google, host: str, url: str, status: int, text: str) -> None:
    docker.fault(host=host, path=url.partition(host)[2], count=2, status=status)
    for _ in range(2):
        answer = docker.call("GET", url)
        assert answer.status_code == status and text in answer.text
    assert docker.call("GET", url).status_code == 200


def test_the_exchange_fails_with_an_oauth_error(docker: Google) -> None:
    docker.fault(host="sts.googleapis.com", count=1, status=503)
    assert docker.exchange().json().keys() == {"error", "error_description"}
    assert docker.exchange().status_code == 200


def test_other_paths_and_hosts_are_not_affected(google: Google) -> None:
    google.fault(host="iam.googleapis.com", path="/other", count=1, status=503)
    google.fault(host="sts.googleapis.com", count=1, status=503)
    assert google.call("GET", POOLS).status_code == 200
    assert [left["count"] for left in google.call("GET", FAULTS).json()] == [1, 1]


def test_a_host_is_slow_or_silent(google: Google) -> None:
    google.fault(host="iam.googleapis.com", count=1, seconds=0.2)
    google.fault(host="iam.googleapis.com", count=1, hang=0.2)
    for status in (200, 504):
        started = time.monotonic()
        assert google.call("GET", POOLS).status_code == status
        assert time.monotonic() - started >= 0.2


def test_an_answer_is_interrupted(google: Google) -> None:
    whole = google.create_account().content
    google.fault(host="iam.googleapis.com", count=1, truncate=True)

    async def fetch(url: str) -> bytes:
        headers = {"Host": "iam.googleapis.com", "Authorization": f"Bearer {google.operator}"}
        async with httpx.AsyncClient(base_url=url, trust_env=False, headers=headers) as client:
            path = f"/v1/projects/demo/serviceAccounts/{EMAIL}"
            with pytest.raises(httpx.RemoteProtocolError):
                await client.get(path)
            return (await client.get(path)).content

    assert google.serve(fetch) == whole


def test_tokens_that_are_issued_expired(docker: Google) -> None:
    docker.fault(expired=True)
    answer = docker.exchange().json()
    assert answer["expires_in"] > 3000
    assert docker.call("GET", MANIFEST, token=answer["access_token"]).status_code == 401
    docker.call("POST", f"{FAULTS}/reset")
    assert docker.call("GET", MANIFEST, token=docker.access_token()).status_code == 200


def test_another_clock(docker: Google) -> None:
    token = docker.access_token()
    docker.fault(clock_shift=-120)
    assert "is stale to sign-in" in docker.exchange().json()["error_description"]
    docker.fault(clock_shift=7200)
    assert "is stale to sign-in" in docker.exchange().json()["error_description"]
    assert docker.call("GET", MANIFEST, token=token).status_code == 401
    docker.call("POST", f"{FAULTS}/reset")
    assert docker.exchange().status_code == 200


def test_conditions_are_merged_and_shown_last(google: Google) -> None:
    google.fault(grant_lag=5)
    google.fault(match="a", count=1, status=500)
    google.fault(clock_shift=1.5)
    shown = google.call("GET", FAULTS).json()
    assert shown[0]["match"] == "a"
    assert shown[1:] == [{"expired": False, "grant_lag": 5, "enable_lag": 0, "clock_shift": 1.5}]
    google.call("POST", f"{FAULTS}/reset")
    assert google.call("GET", FAULTS).json() == []


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"host": "example.com", "count": 1, "status": 503}, "host is a name of"),
        ({"host": "iam.googleapis.com", "status": 503}, "missing: count"),
        ({"host": "iam.googleapis.com", "count": 1}, "exactly one of"),
        ({"host": "iam.googleapis.com", "count": 1, "status": 503, "hang": 1}, "exactly one of"),
        ({"host": "iam.googleapis.com", "count": 1, "status": 404}, "status is one of 429"),
        ({"host": "iam.googleapis.com", "count": 1, "hang": -1}, "not negative"),
        ({"host": "iam.googleapis.com", "count": 1, "match": "a"}, "unknown: match"),
        ({"grant_lag": -1}, "not negative"),
        ({"grant_lag": "1"}, "grant_lag is of the wrong type"),
        ({"expired": True, "count": 1}, "unknown: count"),
    ],
)
def test_an_invalid_general_fault_is_refused(google: Google, body: object, text: str) -> None:
    answer = google.call("POST", FAULTS, json=body)
    assert answer.status_code == 400 and text in answer.json()["error"]["message"]
    assert google.call("GET", FAULTS).json() == []
