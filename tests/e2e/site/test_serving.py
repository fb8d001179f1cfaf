# SPDX-License-Identifier: GPL-3.0-or-later
"""A cache that site.yml made: who may pull, from where, and what lies in the cluster."""

from __future__ import annotations

import base64
import json

from sandbox.client import NAMESPACE, USER, Cache, Cluster, Google
from sandbox.settings import NODE_PORT, PROJECT, REPOSITORY, Sandbox
from tests.e2e.replicas import PROGRAM

IMAGE = f"localhost:{NODE_PORT}/{PROJECT}/{REPOSITORY}/hello:1.0"


def test_credentials(cache: Cache) -> None:
    assert cache.status(None) == 401
    assert cache.status((USER, "wrong")) == 401
    assert cache.status((USER, cache.password)) == 200


def test_containerd_pulls_with_the_pull_secret(cluster: Cluster, cache: Cache, google: Google) -> None:
    cluster.delete_pod("hello")
    cluster.run_pod("hello", IMAGE)
    cluster.warm(cache.password, "hello", "1.0")
    cluster.delete_pod("hello")
    cluster.forget_image(IMAGE)
    google.reset_counters()
    cluster.run_pod("hello", IMAGE)
    assert cluster.pulled("hello", IMAGE)
    assert google.counters()["blob_get"] == 0
    cluster.delete_pod("hello")


def test_unknown_tag_is_not_served(cache: Cache) -> None:
    assert cache.manifest("hello", "no-such-tag").status_code == 404


def test_pods_fit_pod_security_restricted(cluster: Cluster) -> None:
    labels = cluster.get("namespace", NAMESPACE)["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    assert len(cluster.replicas()) == 2


def test_secrets_lie_in_secrets_only(cluster: Cluster, sandbox: Sandbox, cache: Cache) -> None:
    kinds = "configmaps,statefulsets,services,serviceaccounts,pods,poddisruptionbudgets,events"
    everything = json.dumps(cluster.get(kinds, "--namespace", NAMESPACE))
    assert "external_account" in everything  # the test looks at what it means to
    peer = cluster.get("secret", "registry-cache-peers", "--namespace", NAMESPACE)["data"]["peer"]
    known = [cache.password, base64.b64decode(peer).decode()]
    for secret in (*known, sandbox.operator_token.read_text().strip(), "$2"):
        assert secret not in everything
    cache.status((USER, cache.password))
    selector = ("--selector", "app.kubernetes.io/name=registry-cache")
    logs = cluster.kubectl("logs", "--namespace", NAMESPACE, *selector, "--all-containers", "--prefix", "--tail=-1")
    authorization = base64.b64encode(f"{USER}:{cache.password}".encode()).decode()
    for pod in [] if PROGRAM else cluster.replicas():
        inside = ("exec", "--namespace", NAMESPACE, pod, "--container", "front", "--")
        logs += cluster.kubectl(*inside, "varnishlog", "-n", "/run/registry-cache/front", "-d", "-g", "raw")
    assert ("Listening" if PROGRAM else "/alive") in logs
    for secret in (*known, authorization, "ya29."):
        assert secret not in logs


def test_every_node_answers_on_loopback(cluster: Cluster) -> None:
    url = f"http://127.0.0.1:{NODE_PORT}/v2/"
    assert cluster.on_node("curl", "--silent", "--output", "/dev/null", "--write-out", "%{http_code}", url) == "401"
