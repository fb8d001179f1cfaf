# SPDX-License-Identifier: GPL-3.0-or-later
"""Module cache_users_verify with stand-ins for the replicas."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.errors import PermanentError, TransientError
from ansible_collections.pullthrough.registry_cache.plugins.modules import cache_users_verify

from tests.module_runner import run
from tests.unit.plugins.kubernetes_api import ApiServer

pytestmark = pytest.mark.usefixtures("cache_namespace")
OLD, NEW = {"name": "team", "password": "the-old-password"}, {"name": "team.g1", "password": "the-new-password"}
PARAMS = {"label_selector": "app=cache", "timeout": 60}
ASKED = [cache_users_verify.Question(NEW, 200), cache_users_verify.Question(OLD, 401)]


class Replicas:
    """Pods by name, each with its UID and the second at which it gets the new file. The clock advances only during sleep."""

    def __init__(self, **ready: float) -> None:
        self.uids = {pod: f"uid-{pod}" for pod in ready}
        self.there, self.now = ready, 0.0
        self.asked: list[tuple[str, str]] = []
        self.touched: list[str] = []
        self.unready: set[str] = set()
        self.answer: Callable[[str, str], int | Exception | None] = lambda pod, name: None

    def look(self, label_selector: str) -> dict[str, tuple[str, bool]]:
        assert label_selector == "app=cache"
        return {pod: (uid, pod not in self.unready) for pod, uid in self.uids.items()}

    def touch(self, pod: str, mark: str) -> None:
        assert mark.isdigit()
        self.touched.append(pod)

    def fetch(self, pod: str, path: str, username: str, password: str) -> tuple[int, bytes]:
        assert path == "/v2/" and password == (OLD if username == "team" else NEW)["password"]
        self.asked.append((pod, username))
        answer = self.answer(pod, username)
        if isinstance(answer, Exception):
            raise answer
        new = self.now >= self.there[pod]
        return answer or (200 if new == (username == "team.g1") else 401), b""

    def sleep(self, seconds: float) -> None:
        assert seconds == 2
        self.now += seconds

    def wait(self, asked: list[cache_users_verify.Question] = ASKED) -> list[str]:
        return cache_users_verify.wait(self, asked, PARAMS, lambda: self.now, self.sleep)


def test_at_once() -> None:
    replicas = Replicas(b=0, a=0)
    assert replicas.wait() == ["a", "b"] and replicas.now == 0 and replicas.touched == []
    assert sorted(replicas.asked) == [("a", "team"), ("a", "team.g1"), ("b", "team"), ("b", "team.g1")]


def test_until_the_last_replica_is_correct() -> None:
    replicas = Replicas(a=0, b=7, c=30)
    replicas.wait()
    assert replicas.now == 30
    # Each pod is touched once. A credential that was correct is not tested again.
    assert replicas.touched == ["b", "c"] and replicas.asked.count(("a", "team")) == 1


def test_timeout() -> None:
    replicas = Replicas(a=0, b=61)
    with pytest.raises(TransientError, match=r"^b does not accept user 'team.g1' \(HTTP 401\)$"):
        replicas.wait()
    assert replicas.now == 60
    with pytest.raises(TransientError, match=r"^b still accepts user 'team' \(HTTP 200\)$"):
        Replicas(a=0, b=61).wait(ASKED[1:])


@pytest.mark.parametrize("status", [429, 503])
def test_an_inconclusive_answer(status: int) -> None:
    replicas = Replicas(a=0)
    replicas.answer = lambda _pod, name: status if name == "team" and replicas.now < 4 else None
    replicas.wait()
    assert replicas.now == 4
    replicas.answer = lambda _pod, name: status if name == "team" else None
    with pytest.raises(TransientError, match=f"does not refuse user 'team' \\(HTTP {status}\\)"):
        replicas.wait()


def test_a_replica_that_is_not_ready_and_one_that_is_replaced() -> None:
    replicas = Replicas(a=0, b=0)
    replicas.unready = {"b"}

    def sleep(seconds: float) -> None:
        Replicas.sleep(replicas, seconds)
        if replicas.now == 4:
            replicas.unready, replicas.uids["a"], replicas.there["a"] = set(), "another", 10

    assert cache_users_verify.wait(replicas, ASKED, PARAMS, lambda: replicas.now, sleep) == ["a", "b"]
    assert replicas.now == 10 and replicas.touched == ["a"]
    replicas.unready = {"b"}
    with pytest.raises(TransientError, match="b is not ready"):
        replicas.wait()


def test_a_broken_stream_and_a_refused_one() -> None:
    replicas = Replicas(a=0)
    replicas.answer = lambda _pod, _name: TransientError("no answer from its registry (cut)") if replicas.now < 4 else None
    replicas.wait()
    assert replicas.now == 4
    # A pod may be deleted between two requests. A second refusal is final.
    replicas = Replicas(a=0)
    replicas.answer = lambda _pod, _name: PermanentError("the API server refuses the stream to it: forbidden")
    with pytest.raises(PermanentError, match="refuses the stream"):
        replicas.wait()
    assert replicas.now == 2


def asked(server: ApiServer, *added: str) -> list[tuple[str, int]]:
    params = {"name": "registry-cache", "namespace": "registry-cache", "added": added}
    return [(one["name"], status) for one, status in cache_users_verify.questions(server.client(), params)]


def verify(server: ApiServer) -> dict[str, Any]:
    return run("cache_users_verify", host=server.url, api_key="cluster-token", label_selector="app=cache")


def credential(name: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "password": f"of-{name}", **fields}


def test_tested_credentials(server: ApiServer) -> None:
    assert asked(server, "a") == []
    state = {
        "settled": {"now": credential("settled")},
        "added": {"now": credential("added")},
        "issued": {"now": credential("issued"), "next": credential("issued.g1")},
        "active": {"now": credential("active.g1"), "old": credential("active", until="2026-01-01T00:00:00Z")},
        "revoked": {"now": credential("revoked.g1"), "old": credential("revoked", dropped=True)},
        "hashed": {"now": {"name": "hashed", "hash": "x"}, "old": {"name": "hashed.g1", "hash": "x", "dropped": True}},
    }
    server.hold(json.dumps(state))
    assert asked(server) == [("issued.g1", 200), ("active.g1", 200), ("revoked.g1", 200), ("revoked", 401)]
    assert ("added", 200) in asked(server, "added", "nobody")


def test_at_most_ten_credentials_are_tested(server: ApiServer) -> None:
    server.hold(json.dumps({f"user-{number}": {"now": credential(f"user-{number}")} for number in range(50)}))
    assert len(asked(server, *(f"user-{number}" for number in range(50)))) == 10


def test_nothing_to_test(server: ApiServer) -> None:
    """No request is sent, and no pod needs to exist."""
    server.hold(json.dumps({"nodes": {"now": credential("nodes")}}))
    result = verify(server)
    assert not result.get("failed") and result["replicas"] == [] and not result["changed"]


def test_a_secret_of_others(server: ApiServer) -> None:
    server.add("secrets", "registry-cache", "registry-cache-passwords", data={})
    message = verify(server)["msg"]
    assert "Secret registry-cache-passwords in namespace registry-cache" in message and "Example: name: " in message


def test_no_cluster(tmp_path: Any) -> None:
    options = {"kubeconfig": str(tmp_path / "none"), "namespace": "x", "label_selector": "y", "added": ["team"]}
    result = run("cache_users_verify", **options)
    assert result["failed"] and "KUBECONFIG" in result["msg"]
