# SPDX-License-Identifier: GPL-3.0-or-later
"""Module cache_users against an API server in this process: users, and rotations that are interrupted at any point."""

from __future__ import annotations

import base64
import copy
import datetime
import functools
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import bcrypt
import pytest
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._credentials import users as _users
from ansible_collections.pullthrough.registry_cache.plugins.modules import cache_users

from tests.module_runner import run
from tests.unit.plugins.kubernetes_api import ApiServer, Refusal

pytestmark = pytest.mark.usefixtures("cache_namespace")
OLD, NEW = "the-vault-password-1", "the-vault-password-2"
HASH = bcrypt.hashpw(b"of-ci", bcrypt.gensalt(4)).decode()
NODES, TEAM, CI = {"name": "nodes", "password": OLD}, {"name": "team-a"}, {"name": "ci", "hash": HASH}
MOVED = {"name": "nodes", "password": NEW}
HELM = {"app.kubernetes.io/managed-by": "Helm"}
STEPS = ("issue", "activate", "schedule", "revoke", "prune")


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_users, "_COST", 4)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that have passed for the module."""
    passed, began = [0.0], datetime.datetime.now(datetime.timezone.utc)

    class Time(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime.datetime:
            assert tz is datetime.timezone.utc
            return began + datetime.timedelta(seconds=passed[0])

    monkeypatch.setattr(cache_users, "datetime", SimpleNamespace(datetime=Time, timezone=datetime.timezone))
    return passed


def ensure(server: ApiServer, *users: dict[str, Any], check: bool = False, **options: Any) -> dict[str, Any]:
    server.seen.clear()
    result = run("cache_users", check=check, host=server.url, api_key="cluster-token", users=list(users), **options)
    text = json.dumps(result)
    held = [one["password"] for record in state(server).values() for one in record.values() if "password" in one]
    for hidden in (OLD, NEW, "cluster-token", "$2b$", *held):
        assert hidden not in text
    return result


def story(server: ApiServer, *users: dict[str, Any], **options: Any) -> dict[str, Any]:
    return server.story(functools.partial(ensure, server, *users, **options))


def refused(server: ApiServer, *users: dict[str, Any], **options: Any) -> str:
    before = copy.deepcopy(server.objects)
    result = ensure(server, *users, **options)
    assert result.get("failed"), result
    assert server.objects == before and server.writes == []
    assert result["msg"].endswith(". Nothing was changed.")
    return result["msg"]


def data(server: ApiServer, suffix: str, key: str) -> str:
    found = server.secrets().get(f"registry-cache/registry-cache-{suffix}")
    return base64.b64decode(found["data"][key]).decode() if found else ""


def state(server: ApiServer) -> Any:
    return json.loads(data(server, "passwords", "users") or "{}")


def accepted(server: ApiServer, name: str, password: str) -> bool:
    """Return whether the registry accepts a credential."""
    entries = dict(line.split(":", 1) for line in data(server, "htpasswd", "htpasswd").splitlines())
    return name in entries and bcrypt.checkpw(password.encode(), entries[name].encode())


def names(server: ApiServer) -> set[str]:
    return {line.partition(":")[0] for line in data(server, "htpasswd", "htpasswd").splitlines()}


def now(server: ApiServer, user: str) -> tuple[str, str]:
    """Return the user name and password in the pull secret of a user."""
    one = state(server)[user]["now"]
    return one["name"], one["password"]


# Without a rotation


def test_users(server: ApiServer) -> None:
    result = story(server, NODES, TEAM, CI)
    assert result["users"] == ["nodes: nodes", "team-a: team-a"] and result["rotating"] == [] and result["due_in"] == 0
    assert names(server) == {"nodes", "team-a", "ci"} and set(state(server)) == {"nodes", "team-a"}
    assert now(server, "nodes") == ("nodes", OLD) and len(now(server, "team-a")[1]) == 43
    assert all(accepted(server, *now(server, user)) for user in ("nodes", "team-a")) and accepted(server, "ci", "of-ci")
    labels = server.secrets()["registry-cache/registry-cache-passwords"]["metadata"]["labels"]
    assert labels["app.kubernetes.io/managed-by"] == "pullthrough.registry_cache"
    assert labels["registry-cache.pullthrough/namespace"] == labels["app.kubernetes.io/instance"] == "registry-cache"

    made = now(server, "team-a")
    result = story(server, NODES, TEAM, {"name": "team-b"})
    assert now(server, "team-a") == made and names(server) == {"nodes", "team-a", "team-b"}
    assert "ci (removed in htpasswd)\n" in result["diff"]["after"]
    story(server, NODES)
    assert set(state(server)) == names(server) == {"nodes"}


def test_only_hashes(server: ApiServer) -> None:
    story(server, CI)
    assert set(server.secrets()) == {"registry-cache/registry-cache-htpasswd"}
    # It is in no pull secret, so it is replaced in place.
    other = {"name": "ci", "hash": bcrypt.hashpw(b"another", bcrypt.gensalt(4)).decode()}
    story(server, other)
    assert accepted(server, "ci", "another") and not accepted(server, "ci", "of-ci")


def test_a_hash_with_its_password(server: ApiServer) -> None:
    both = {"name": "ci", "hash": HASH, "password": "of-ci"}
    story(server, both)
    assert now(server, "ci") == ("ci", "of-ci") and accepted(server, "ci", "of-ci")
    again = {**both, "hash": bcrypt.hashpw(b"of-ci", bcrypt.gensalt(5)).decode()}
    story(server, again)
    assert again["hash"] in data(server, "htpasswd", "htpasswd")
    moved = {"name": "ci", "password": NEW, "hash": bcrypt.hashpw(NEW.encode(), bcrypt.gensalt(5)).decode()}
    rotate(server, moved)
    assert now(server, "ci") == ("ci.g1", NEW) and moved["hash"] in data(server, "htpasswd", "htpasswd")


def test_a_hash_that_does_not_match_the_password(server: ApiServer) -> None:
    for check in (True, False):
        message = refused(server, {"name": "ci", "hash": HASH, "password": "another"}, check=check)
        assert message.startswith("users: the hash of user 'ci' does not match its password")


@pytest.mark.parametrize("check", [True, False])
def test_a_password_that_differs_from_the_active_one(server: ApiServer, check: bool) -> None:
    ensure(server, NODES, TEAM)
    message = refused(server, MOVED, TEAM, check=check)
    assert "users: the password of user 'nodes' is not the one in force" in message and "playbooks/rotate.yml" in message
    # Removing it from the inventory does not change it either.
    assert not ensure(server, {"name": "nodes"}, TEAM)["changed"]
    assert now(server, "nodes") == ("nodes", OLD)


def test_recovery_from_the_htpasswd_file(server: ApiServer) -> None:
    """The Secret with the passwords was deleted, or an older version of this collection did not create it."""
    ensure(server, NODES, TEAM)
    made = now(server, "team-a")
    del server.objects["secrets", "registry-cache", "registry-cache-passwords"]
    assert "is not the one in force" in refused(server, MOVED, TEAM)
    story(server, NODES, TEAM)
    assert now(server, "nodes") == ("nodes", OLD)
    # The credential in pull secrets is accepted until a rotation ends.
    assert now(server, "team-a")[0] == "team-a.g1" and accepted(server, *now(server, "team-a")) and accepted(server, *made)
    rotate(server, NODES, TEAM, chosen=["team-a"])
    assert now(server, "team-a")[0] == "team-a.g1" and not accepted(server, *made)


def test_recovery_in_the_middle_of_a_rotation(server: ApiServer) -> None:
    ensure(server, NODES)
    ensure(server, MOVED, step="issue")
    del server.objects["secrets", "registry-cache", "registry-cache-passwords"]
    story(server, MOVED)
    assert accepted(server, "nodes", OLD) and accepted(server, "nodes.g1", NEW) and now(server, "nodes") == ("nodes.g1", NEW)


# Rotation


def rotate(server: ApiServer, *users: dict[str, Any], chosen: list[str] | None = None, grace: int = 0) -> None:
    for step in STEPS:
        options = {"rotate": chosen or []} if step == "issue" else {"grace": grace} if step == "schedule" else {}
        result = ensure(server, *users, step=step, **options)
        assert not result.get("failed"), result


def test_steps(server: ApiServer, clock: list[float]) -> None:
    ensure(server, NODES, TEAM, CI)
    old = {user: now(server, user) for user in ("nodes", "team-a")}

    result = story(server, MOVED, TEAM, CI, step="issue", rotate=[])
    assert result["rotating"] == ["nodes", "team-a"] and "nodes: nodes, nodes.g1 is next" in result["users"]
    assert {user: now(server, user) for user in old} == old
    assert all(accepted(server, *one) for one in old.values()) and accepted(server, "nodes.g1", NEW)

    story(server, MOVED, TEAM, CI, step="activate")
    new = {user: now(server, user) for user in old}
    assert new["nodes"] == ("nodes.g1", NEW) and new["team-a"][0] == "team-a.g1" and new["team-a"][1] != old["team-a"][1]
    assert all(accepted(server, *one) for one in (*old.values(), *new.values()))
    # Not before the record that all pull secrets are replaced.
    clock[0] = 1e6
    assert not ensure(server, MOVED, TEAM, CI, step="revoke")["changed"]
    clock[0] = 0

    result = story(server, MOVED, TEAM, CI, step="schedule", grace=100)
    assert 98 <= result["due_in"] <= 101 and "until 20" in result["users"][0]
    assert not ensure(server, MOVED, TEAM, CI, step="revoke")["changed"]
    # A longer grace period in a later run is ignored.
    assert not ensure(server, MOVED, TEAM, CI, step="schedule", grace=500)["changed"]

    clock[0] = 102
    result = story(server, MOVED, TEAM, CI, step="revoke")
    assert result["due_in"] == 0 and result["rotating"] == ["nodes", "team-a"]
    assert not any(accepted(server, *one) for one in old.values()) and all(accepted(server, *one) for one in new.values())
    # Its password is kept until all replicas are known to refuse it.
    assert state(server)["nodes"]["old"]["password"] == OLD

    result = story(server, MOVED, TEAM, CI, step="prune")
    assert result["rotating"] == [] and OLD not in data(server, "passwords", "users")
    assert names(server) == {"nodes.g1", "team-a.g1", "ci"}
    for step in (*STEPS[1:], "ensure"):
        assert not ensure(server, MOVED, TEAM, CI, step=step)["changed"]


def test_a_second_rotation(server: ApiServer) -> None:
    ensure(server, TEAM)
    for generation in range(1, 4):
        rotate(server, TEAM)
        assert names(server) == {now(server, "team-a")[0]} == {f"team-a.g{generation}"}


def test_a_grace_of_zero_expires_all_old_credentials(server: ApiServer) -> None:
    ensure(server, TEAM)
    rotate(server, TEAM, grace=86400)
    assert names(server) == {"team-a", "team-a.g1"}
    rotate(server, TEAM, grace=0)
    assert names(server) == {"team-a.g1"}


def test_ensure_revokes_expired_credentials(server: ApiServer, clock: list[float]) -> None:
    ensure(server, TEAM)
    rotate(server, TEAM, grace=86400)
    assert not ensure(server, TEAM)["changed"]
    clock[0] = 86500
    story(server, TEAM)
    assert names(server) == {"team-a.g1"}


def test_chosen_users(server: ApiServer) -> None:
    ensure(server, NODES, TEAM)
    rotate(server, NODES, TEAM, chosen=["team-a"], grace=600)
    assert names(server) == {"nodes", "team-a", "team-a.g1"}
    # Another user is added. The rotation of team-a continues and does not start again.
    rotate(server, MOVED, TEAM, grace=600)
    assert names(server) == {"nodes", "nodes.g1", "team-a", "team-a.g1"}


@pytest.mark.parametrize("after", STEPS)
def test_ensure_in_the_middle_of_a_rotation(server: ApiServer, after: str) -> None:
    """site.yml changes nothing at any point of a rotation. Both credentials keep their state."""
    ensure(server, NODES, TEAM)
    for step in STEPS[: STEPS.index(after) + 1]:
        ensure(server, MOVED, TEAM, step=step, **({"rotate": []} if step == "issue" else {}))
        before = data(server, "htpasswd", "htpasswd")
        assert not ensure(server, MOVED, TEAM)["changed"] and not ensure(server, MOVED, TEAM, check=True)["changed"]
        assert data(server, "htpasswd", "htpasswd") == before


def writes_of_a_rotation(server: ApiServer) -> int:
    written = 0
    for step in STEPS:
        ensure(server, MOVED, TEAM, step=step, **({"rotate": []} if step == "issue" else {"grace": 0}))
        written += len(server.writes)
    return written


@pytest.mark.parametrize("alive", range(7))
def test_a_run_that_is_killed_after_any_write(server: ApiServer, alive: int) -> None:
    """The active credential is always accepted, and a rerun ends like a run that was not interrupted."""
    ensure(server, NODES, TEAM)
    left = alive

    def die(method: str, _path: str) -> None:
        nonlocal left
        if method == "PATCH":
            left -= 1
            if left < 0:
                raise Refusal(500, "etcd is out")

    def steps(stop: bool) -> bool:
        for step in STEPS:
            options = {"rotate": []} if step == "issue" else {"grace": 0}
            failed = ensure(server, MOVED, TEAM, step=step, **options).get("failed", False)
            # A pull secret has the active credential from before or after the step.
            if "old" in (record := state(server)["nodes"]) and not record["old"].get("dropped"):
                assert accepted(server, record["old"]["name"], record["old"]["password"])
            assert accepted(server, *now(server, "nodes"))
            if failed and stop:
                return True
        return False

    server.hook = die
    assert steps(stop=True), "no write was left to die of"
    server.hook = lambda _method, _path: None
    assert not steps(stop=False)
    assert names(server) == {"nodes.g1", "team-a.g1"} and now(server, "nodes") == ("nodes.g1", NEW)
    assert set(state(server)["team-a"]) == {"now"} and not ensure(server, MOVED, TEAM)["changed"]


def test_all_writes_of_a_rotation_are_tested(server: ApiServer) -> None:
    """Steps issue and revoke write two Secrets, the others one, as many as test_a_run_that_is_killed_after_any_write has rows."""
    ensure(server, NODES, TEAM)
    assert writes_of_a_rotation(server) == 7


def test_a_password_that_changes_again_before_it_is_active(server: ApiServer) -> None:
    ensure(server, NODES)
    ensure(server, MOVED, step="issue", rotate=[])
    third = {"name": "nodes", "password": "the-vault-password-3"}
    rotate(server, third)
    assert now(server, "nodes") == ("nodes.g1", "the-vault-password-3") and names(server) == {"nodes.g1"}


def test_a_rotation_that_is_reverted(server: ApiServer) -> None:
    ensure(server, NODES)
    ensure(server, MOVED, step="issue", rotate=[])
    story(server, NODES)
    assert names(server) == {"nodes"} and not ensure(server, NODES)["changed"]


# Concurrent runs


def beside(server: ApiServer, *users: dict[str, Any], **options: Any) -> dict[str, Any]:
    """Return the result of a run that shares only the cluster with other runs of this process."""
    given = [{"name": user["name"], "password": user.get("password"), "hash": user.get("hash")} for user in users]
    defaults = {"name": "registry-cache", "namespace": "registry-cache", "step": "ensure", "rotate": [], "grace": 300}
    module = SimpleNamespace(params={**defaults, **options, "users": given}, check_mode=False)
    return cache_users.take_step(module, server.client())


def test_two_concurrent_first_runs(server: ApiServer) -> None:
    """Both runs see that there is no Secret before either writes. Both end with the same passwords."""
    both, lock, written = threading.Barrier(2, timeout=60), threading.Lock(), 0

    def wait(method: str, _path: str) -> None:
        nonlocal written
        if method != "GET":
            with lock:
                written += 1
                first = written <= 2
            if first:
                both.wait()

    server.hook = wait
    with ThreadPoolExecutor(2) as executor:
        runs = [executor.submit(beside, server, NODES, TEAM) for _ in range(2)]
        results = [run.result() for run in runs]
    # Pull secrets get the passwords in the file. Otherwise the password of one run would be lost.
    assert all(accepted(server, *now(server, user)) for user in ("nodes", "team-a"))
    # The first run to write wins, and the other one does not write a different password.
    assert [one[0] for one in server.writes].count("PATCH") == 0
    # Each run tests the new users at the replicas.
    assert [result["added"] for result in results] == [["nodes", "team-a"]] * 2
    assert not ensure(server, NODES, TEAM)["changed"]


@pytest.mark.parametrize("write", [1, 2])
@pytest.mark.parametrize("step", ["ensure", "issue"])
def test_a_run_in_the_middle_of_another_run(server: ApiServer, write: int, step: str) -> None:
    """The second run writes everything just before one write of the first run. Its users and its rotation are kept."""
    others: list[dict[str, Any]] = []
    left = write
    if step == "issue":
        ensure(server, TEAM)
    other = {"step": "issue", "rotate": []} if step == "issue" else {}

    def interrupt(method: str, _path: str) -> None:
        nonlocal left
        if method != "GET" and not others:
            left -= 1
            if not left:
                others.append({})
                others[0] = beside(server, TEAM, **other)

    server.hook = interrupt
    users = (TEAM, NODES) if step == "issue" else (TEAM,)
    result = beside(server, *users)
    assert others and result["changed"]
    server.hook = lambda _method, _path: None
    record = state(server)["team-a"]
    assert all(accepted(server, one["name"], one["password"]) for one in record.values())
    assert set(record) == ({"now", "next"} if step == "issue" else {"now"})
    assert not ensure(server, *users)["changed"]


def test_a_concurrent_change_during_a_rotation(server: ApiServer) -> None:
    ensure(server, TEAM)
    once = []

    def other(method: str, path: str) -> None:
        if method == "PATCH" and path.endswith("passwords") and not once:
            once.append(path)
            server._touch(server.objects["secrets", "registry-cache", "registry-cache-passwords"])

    server.hook = other
    assert ensure(server, TEAM, step="issue", rotate=[])["changed"]
    assert once and names(server) == {"team-a", "team-a.g1"}


def test_endless_concurrent_changes(server: ApiServer) -> None:
    ensure(server, TEAM)

    def other(method: str, path: str) -> None:
        if method == "PATCH":
            server._touch(server.objects["secrets", "registry-cache", "registry-cache-passwords"])

    server.hook = other
    message = ensure(server, TEAM, step="issue", rotate=[])["msg"]
    assert "The users were changed by another run" in message and "run again" in message
    assert names(server) == {"team-a"}


@pytest.mark.parametrize("suffix", ["passwords", "htpasswd"])
def test_a_secret_of_others(server: ApiServer, suffix: str) -> None:
    server.add("secrets", "registry-cache", f"registry-cache-{suffix}", metadata={"labels": dict(HELM)}, data={"users": "", "htpasswd": ""})
    for check in (True, False):
        message = refused(server, NODES, check=check)
        assert f"Secret registry-cache-{suffix} in namespace registry-cache" in message and "managed by Helm" in message


# Errors


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("step", ["ensure", "issue"])
@pytest.mark.parametrize(
    ("user", "words"),
    [
        ({"name": "a:b", "password": "x"}, ("'a:b'", "colon", "Choose another one")),
        ({"name": "", "password": "x"}, ("must not be empty",)),
        ({"name": "team.g1", "password": "x"}, ("'team.g1'", ".g and a number", "Choose another one")),
        ({"name": "new", "password": ""}, ("user 'new' has no password", "Set password")),
        ({"name": "new", "password": "é" * 37}, ("'new'", "got 74", "72 bytes", "Choose a shorter one")),
        ({"name": "new", "password": "a\0b"}, ("'new'", "NUL", "Choose one without")),
        ({"name": "new", "password": "a\nb"}, ("'new'", "line break", "Choose one without")),
        ({"name": "new", "hash": "two\nlines"}, ("the hash of user 'new'", "htpasswd -nB")),
        ({"name": "nodes"}, ("'nodes'", "more than once")),
    ],
)
def test_bad_user(server: ApiServer, user: dict[str, str], words: tuple[str, ...], step: str, check: bool) -> None:
    ensure(server, NODES)
    message = refused(server, NODES, user, step=step, check=check)
    assert message.startswith("users: ") and all(part in message for part in words), message


@pytest.mark.parametrize("check", [True, False])
def test_too_many_users_for_a_secret(server: ApiServer, monkeypatch: pytest.MonkeyPatch, check: bool) -> None:
    monkeypatch.setattr(_users, "MAX_BYTES", 2000)
    message = refused(server, *({"name": f"team-{number}"} for number in range(20)), check=check)
    assert "20 users need" in message and "1 MiB" in message and "Example: users: " in message


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize(
    ("rotate", "words"),
    [
        ([], ("users: the password of user nodes is already the one in force", "Set a new password", "Example: rotate: [team-a]")),
        (["nodes"], ("user nodes", "is already the one in force", "Example: rotate: ")),
        (["nobody", "team-a"], ("rotate: user nobody does not exist.", "nodes, team-a, ci")),
        (["ci"], ("rotate: user 'ci' has only a hash", "add a second user")),
    ],
)
def test_what_cannot_be_rotated(server: ApiServer, check: bool, rotate: list[str], words: tuple[str, ...]) -> None:
    ensure(server, NODES, TEAM, CI)
    message = refused(server, NODES, TEAM, CI, step="issue", rotate=rotate, check=check)
    assert all(part in message for part in words), message


def test_a_rotation_with_a_new_user(server: ApiServer) -> None:
    ensure(server, TEAM)
    assert "users: user 'nodes' is not in the cache yet. Run playbooks/site.yml" in refused(server, TEAM, NODES, step="issue", check=True)


def test_check_mode_reports_the_new_credentials(server: ApiServer) -> None:
    ensure(server, NODES, TEAM)
    before = copy.deepcopy(server.objects)
    result = ensure(server, NODES, TEAM, step="issue", rotate=["team-a"], check=True)
    assert result["changed"] and server.objects == before
    assert result["users"] == ["nodes: nodes", "team-a: team-a, team-a.g1 is next"]


def test_check_mode_uses_the_lowest_cost(server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    ensure(server, NODES)
    monkeypatch.setattr(cache_users, "_COST", 31)  # would take forever
    assert ensure(server, NODES, {"name": "new"}, check=True)["changed"]


def test_an_htpasswd_file_that_was_edited_by_hand(server: ApiServer) -> None:
    ensure(server, NODES)
    secret = server.secrets()["registry-cache/registry-cache-htpasswd"]
    secret["data"]["htpasswd"] = base64.b64encode(b"nodes:x\nbroken\n").decode()
    message = refused(server, NODES, check=True)
    assert message.startswith("Secret registry-cache-htpasswd in namespace registry-cache: line 2 must have the form user:hash.")
    secret["data"]["htpasswd"] = base64.b64encode(b"nodes:x\n").decode()
    story(server, NODES)
    assert accepted(server, "nodes", OLD)


@pytest.mark.parametrize(
    "text",
    [
        "no json",
        "[]",
        '{"a": 1}',
        '{"a": {"now": {}}}',
        '{"a": {"now": {"name": 1}}}',
        '{"a": {"now": {"name": ""}}}',
        '{"a": {"now": {"name": "a", "password": 1}}}',
        '{"a": {"now": {"name": "a", "hash": null}}}',
        '{"a": {"now": {"name": "a"}, "old": {"password": "x"}}}',
        '{"a": {"now": {"name": "a"}, "old": {"name": "b", "until": "tomorrow"}}}',
        '{"a": {"now": {"name": "a"}, "next": {"name": "b"}}}',
        '{"a": {"now": {"name": "a"}, "last": {"name": "b"}}}',
        b"\xff\xfe{",
    ],
)
@pytest.mark.parametrize("step", ["ensure", "issue"])
def test_passwords_that_were_edited_by_hand(server: ApiServer, text: str | bytes, step: str) -> None:
    ensure(server, NODES)
    secret = server.secrets()["registry-cache/registry-cache-passwords"]
    secret["data"]["users"] = base64.b64encode(text if isinstance(text, bytes) else text.encode()).decode()
    server.seen.clear()
    result = run("cache_users", host=server.url, api_key="x", users=[NODES], step=step)
    assert result["msg"].startswith("Secret registry-cache-passwords in namespace registry-cache: the content of its key 'users' ")
    assert "Restore it, or delete the Secret" in result["msg"] and not server.writes


def test_an_htpasswd_file_in_another_encoding(server: ApiServer) -> None:
    ensure(server, NODES)
    secret = server.secrets()["registry-cache/registry-cache-htpasswd"]
    secret["data"]["htpasswd"] = base64.b64encode("nöde:x\n".encode("latin-1")).decode()
    message = refused(server, NODES)
    assert message.startswith("Secret registry-cache-htpasswd in namespace registry-cache: ") and "key 'htpasswd' must be" in message


def test_no_namespace(server: ApiServer) -> None:
    assert ensure(server, NODES, check=True, namespace="none")["changed"]
    message = ensure(server, NODES, namespace="none")["msg"]
    assert 'HTTP 404: namespaces "none" not found' in message


def test_no_answer(server: ApiServer) -> None:
    server.close()
    message = run("cache_users", host=server.url, api_key="x", users=[NODES])["msg"]
    assert "refused" in message and "KUBECONFIG" in message
