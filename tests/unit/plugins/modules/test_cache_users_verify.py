# SPDX-License-Identifier: GPL-3.0-or-later
"""Module cache_users_verify with stand-ins for the replicas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.errors import Hopeless, Refused
from ansible_collections.pullthrough.registry_cache.plugins.modules import cache_users_verify

from tests.module_runner import run

OLD, NEW = {"name": "team", "password": "the-old-password"}, {"name": "team.g1", "password": "the-new-password"}
PARAMS = {"label_selector": "app=cache", "accepted": [NEW], "refused": [OLD], "timeout": 60}


class Replicas:
    """Pods by name with their uid, and the second at which each has the new file; time passes in sleep only."""

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

    def wait(self, **params: Any) -> list[str]:
        return cache_users_verify.wait(self, {**PARAMS, **params}, lambda: self.now, self.sleep)


def test_at_once() -> None:
    replicas = Replicas(b=0, a=0)
    assert replicas.wait() == ["a", "b"] and replicas.now == 0 and replicas.touched == []
    assert sorted(replicas.asked) == [("a", "team"), ("a", "team.g1"), ("b", "team"), ("b", "team.g1")]


def test_until_the_last_replica_has_it() -> None:
    replicas = Replicas(a=0, b=7, c=30)
    replicas.wait()
    assert replicas.now == 30
    # Each is touched once, and not asked again for what it has shown.
    assert replicas.touched == ["b", "c"] and replicas.asked.count(("a", "team")) == 1


def test_not_within_the_time() -> None:
    replicas = Replicas(a=0, b=61)
    with pytest.raises(Refused, match=r"^b does not take user 'team.g1' \(HTTP 401\)$"):
        replicas.wait()
    assert replicas.now == 60
    with pytest.raises(Refused, match=r"^b still takes user 'team' \(HTTP 200\)$"):
        Replicas(a=0, b=61).wait(accepted=[])


@pytest.mark.parametrize("status", [429, 503])
def test_an_answer_that_proves_nothing(status: int) -> None:
    replicas = Replicas(a=0)
    replicas.answer = lambda _pod, name: status if name == "team" and replicas.now < 4 else None
    replicas.wait()
    assert replicas.now == 4
    replicas.answer = lambda _pod, name: status if name == "team" else None
    with pytest.raises(Refused, match=f"does not refuse user 'team' \\(HTTP {status}\\)"):
        replicas.wait()


def test_a_replica_that_is_not_ready_and_one_that_takes_anothers_place() -> None:
    replicas = Replicas(a=0, b=0)
    replicas.unready = {"b"}

    def sleep(seconds: float) -> None:
        Replicas.sleep(replicas, seconds)
        if replicas.now == 4:
            replicas.unready, replicas.uids["a"], replicas.there["a"] = set(), "another", 10

    assert cache_users_verify.wait(replicas, PARAMS, lambda: replicas.now, sleep) == ["a", "b"]
    assert replicas.now == 10 and replicas.touched == ["a"]
    replicas.unready = {"b"}
    with pytest.raises(Refused, match="b is not ready"):
        replicas.wait()


def test_a_stream_that_breaks_and_one_that_is_refused() -> None:
    replicas = Replicas(a=0)
    replicas.answer = lambda _pod, _name: Refused("no answer from its registry (cut)") if replicas.now < 4 else None
    replicas.wait()
    assert replicas.now == 4
    # A pod may go between the two requests; what is refused again stays refused.
    replicas = Replicas(a=0)
    replicas.answer = lambda _pod, _name: Hopeless("the API server opens no stream to it: forbidden")
    with pytest.raises(Hopeless, match="opens no stream"):
        replicas.wait()
    assert replicas.now == 2


def test_of_many_ten_are_asked() -> None:
    replicas = Replicas(a=0)
    many = [{"name": f"user-{number}", "password": "the-new-password"} for number in range(50)]
    replicas.answer = lambda _pod, _name: 200
    replicas.wait(accepted=many, refused=[])
    assert len(replicas.asked) == 10


def test_no_cluster(tmp_path: Any) -> None:
    options = {"kubeconfig": str(tmp_path / "none"), "namespace": "x", "label_selector": "y", "accepted": [NEW]}
    result = run("cache_users_verify", with_secrets=True, **options)
    assert result["failed"] and NEW["password"] not in result["msg"]
