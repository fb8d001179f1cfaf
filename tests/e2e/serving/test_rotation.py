# SPDX-License-Identifier: GPL-3.0-or-later
"""rotate.yml during continuous pulls, interrupted after each of its steps and repeated."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from typing import Any

import httpx
import pytest

from sandbox.client import NAMESPACE, USER, Cluster
from sandbox.settings import NODE_PORT, ROOT
from tests.e2e.conftest import Push, Record, Say, Site
from tests.e2e.load import Body, Client, Load, basic
from tests.e2e.replicas import Replicas
from tests.e2e.site.test_site import changed, words

from .conftest import REPLICAS
from .test_users import decoded

# The first task of rotate.yml after each step.
AFTER = {
    "the new credential is in htpasswd": "cache : Check new and revoked credentials at every replica",
    "the new credential is in force": "pull_secret : Write or remove the pull secrets",
    "every pull secret is replaced": "cache : Schedule the revocation of the old credentials",
    "the revocation is scheduled": "cache : Wait for the end of the grace period",
    "the old credential is revoked": "cache : Wait until every replica refuses the old credentials",
}
GRACE = 8


class Rotation:
    """Runs rotate.yml for team-a."""

    def __init__(self, users: list[dict[str, Any]]) -> None:
        settings = {"registry_cache_users": users, "registry_cache_replicas": REPLICAS, "registry_cache_size": "8Gi"}
        self.settings = ("--extra-vars", json.dumps(settings))
        # Molecule's settings for its own ansible-playbook: colours, and failures on standard error.
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}

    def run(self, *arguments: str, until: str | None = None, **variables: object) -> tuple[int, str]:
        """Run it and return the process with its output. It is killed when a task with this name starts."""
        named = {"registry_cache_rotate_users": ["team-a"], "registry_cache_rotate_grace": GRACE, **variables}
        command = ["ansible-playbook", "--inventory", "sandbox/inventory", "playbooks/rotate.yml", *self.settings]
        command += ["--extra-vars", json.dumps(named), *arguments]
        said = []
        with subprocess.Popen(
            command, cwd=ROOT, env=self._environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        ) as process:
            try:
                for line in process.stdout or ():
                    said.append(line)
                    if until and line.startswith("TASK [") and line.removeprefix("TASK [").partition("]")[0].endswith(until):
                        os.killpg(process.pid, signal.SIGKILL)
            except BaseException:  # an interrupted test must not leave a running rotation
                os.killpg(process.pid, signal.SIGKILL)
                raise
        return process.returncode, "".join(said)


class Namespace:
    """A pull secret's credential, up to two seconds old, as in a kubelet."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster, self._read, self.seen = cluster, 0.0, []
        self.authorization = ""

    def refresh(self) -> str:
        if time.monotonic() - self._read > 2:
            self._read = time.monotonic()
            self.authorization = "Basic " + self.entry()["auth"]
            if self.authorization not in self.seen:
                self.seen.append(self.authorization)
        return self.authorization

    def entry(self) -> dict[str, str]:
        (entry, *_same) = json.loads(decoded(self._cluster, "team-a", "demo")[".dockerconfigjson"])["auths"].values()
        return entry


@pytest.fixture
def rotation(users: list[dict[str, Any]]) -> Rotation:
    return Rotation(users)


def held(cluster: Cluster) -> dict[str, Any]:
    """Returns the credentials of team-a: current, next, previous."""
    return json.loads(decoded(cluster, "registry-cache-passwords", NAMESPACE)["users"])["team-a"]


def accepted(replicas: Replicas, authorization: str) -> list[int]:
    """Returns the status of each replica for a credential."""
    found = []
    for ordinal in range(REPLICAS):
        host, port = replicas.endpoint(ordinal)
        for _throttled in range(6):
            answer = httpx.get(f"http://{host}:{port}/v2/", headers={"Authorization": authorization}, trust_env=False, timeout=30)
            if answer.status_code != 429:
                break
            time.sleep(0.7)
        found.append(answer.status_code)
    return found


@pytest.mark.parametrize("steps", [("every pull secret is replaced",), tuple(AFTER)], ids=["once", "after each step"])
def test_interrupted_rotation(
    steps: tuple[str, ...],
    rotation: Rotation,
    site: Site,
    replicas: Replicas,
    cluster: Cluster,
    push: Push,
    say: Say,
    record_property: Record,
) -> None:
    if len(held(cluster)) > 1:  # after an interrupted test
        code, said = rotation.run(registry_cache_rotate_grace=0)
        assert code == 0, said
    namespace, image = Namespace(cluster), push("rotation", [8 << 10] * 2)
    began = namespace.entry()
    _team, _point, generation = began["username"].partition(".g")
    following = f"team-a.g{int(generation or 0) + 1}"
    first = namespace.refresh()
    addresses = [cluster.address(node) for node in cluster.nodes]

    def pull(number: int) -> Sequence[Body]:
        with Client((addresses[number % len(addresses)], NODE_PORT), namespace.refresh()) as client:
            return client.pull(image)

    started, times = time.monotonic(), {}
    with Load(2, pull, pause=0.2) as load:
        for step in steps:
            since = time.monotonic()
            code, said = rotation.run(until=AFTER[step])
            assert code == -signal.SIGKILL, f"{step}: {said}"
            times[step] = time.monotonic() - since
            assert accepted(replicas, basic(namespace.entry()["username"], namespace.entry()["password"])) == [200] * REPLICAS
            if step == "the new credential is in force":
                # The pull secret still has the old credential: this run adds the new one and removes nothing.
                result = site(*rotation.settings)
                assert result.returncode == 0, result.stdout
                assert "Run playbooks/rotate.yml to finish the rotation" in words(result.stdout)
                assert namespace.entry()["username"] == following and accepted(replicas, first) == [200] * REPLICAS
        since = time.monotonic()
        code, said = rotation.run()
        assert code == 0, said
        times["its end"] = time.monotonic() - since
        time.sleep(3)
    took = time.monotonic() - started
    each = ", ".join(f"{step} {seconds:.0f} s" for step, seconds in times.items())
    say(f"rotation interrupted after {len(steps)} steps, {took:.0f} s: {each}")
    say(f"load meanwhile, by the pull secret's credential: {load.summary()}")
    record_property("pulls failed, credential rotated", len(load.failures))
    assert not load.failures, load.failures[:3]
    assert load.pulls > took, "too few pulls"
    assert len(namespace.seen) == 2 and namespace.seen[0] == first

    ended = namespace.entry()
    assert ended["username"] == following and ended["password"] != began["password"]
    assert accepted(replicas, namespace.seen[1]) == [200] * REPLICAS and accepted(replicas, first) == [401] * REPLICAS
    lines = decoded(cluster, "registry-cache-htpasswd", NAMESPACE)["htpasswd"].splitlines()
    assert held(cluster).keys() == {"now"} and {line.partition(":")[0] for line in lines} == {USER, following, "team-b"}
    for secret in (began["password"], ended["password"], "$2b$"):
        assert secret not in said


def test_site_changes_nothing_after_a_rotation(rotation: Rotation, site: Site) -> None:
    result = site(*rotation.settings)
    assert result.returncode == 0 and changed(result.stdout) == 0, result.stdout


def test_check_mode_shows_what_a_rotation_would_do(rotation: Rotation, cluster: Cluster) -> None:
    before = decoded(cluster, "registry-cache-passwords", NAMESPACE)
    code, said = rotation.run("--check")
    assert code == 0 and changed(said) > 0, said
    assert "is next" in said and decoded(cluster, "registry-cache-passwords", NAMESPACE) == before
