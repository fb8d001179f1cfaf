# SPDX-License-Identifier: GPL-3.0-or-later
"""Several users: with a given password, with a generated one, and with only a hash."""

from __future__ import annotations

import base64
import json
import time

import httpx

from sandbox.client import NAMESPACE, USER, Cache, Cluster
from tests.e2e.replicas import Replicas, wait


def decoded(cluster: Cluster, name: str, namespace: str) -> dict[str, str]:
    data = cluster.get("secret", name, "--namespace", namespace)["data"]
    return {key: base64.b64decode(value).decode() for key, value in data.items()}


def answered(client: httpx.Client, credential: tuple[str, str] | None) -> int:
    """Returns the status. Retries 429, since new credentials are checked one after the other."""
    while (status := client.get("/v2/", auth=credential).status_code) == 429:
        time.sleep(0.5)
    return status


def test_every_user_pulls_with_their_password(replicas: Replicas, cluster: Cluster, cache: Cache) -> None:
    made = json.loads(decoded(cluster, "registry-cache-passwords", NAMESPACE)["users"])
    entries = json.loads(decoded(cluster, "team-a", "demo")[".dockerconfigjson"])["auths"]
    # There may have been a rotation.
    team, password = made["team-a"]["now"]["name"], made["team-a"]["now"]["password"]
    assert made.keys() == {USER, "team-a"} and len(password) >= 22
    for entry in entries.values():
        assert base64.b64decode(entry["auth"]).decode() == f"{team}:{password}"
    passwords = {USER: cache.password, team: password, "team-b": "of-team-b"}
    for ordinal in range(3):
        host, port = replicas.endpoint(ordinal)
        with httpx.Client(base_url=f"http://{host}:{port}", trust_env=False, timeout=30) as client:
            for user, password in passwords.items():
                # The kubelet needs time to update a Secret in running pods.
                wait(lambda who=(user, password): answered(client, who) == 200, 150, f"access for {user}")
                assert answered(client, (user, passwords[USER] + "x")) == 401
            assert answered(client, (team, "of-team-b")) == 401
            assert answered(client, None) == 401


def test_each_user_has_the_configured_pull_secret(cluster: Cluster) -> None:
    names = {item["metadata"]["name"] for item in cluster.get("secrets", "--namespace", "demo")["items"]}
    assert {"registry-cache", "team-a"} <= names and "team-b" not in names
    users = {
        entry["username"]
        for entry in json.loads(decoded(cluster, "registry-cache", "demo")[".dockerconfigjson"])["auths"].values()
    }
    assert users == {USER}
