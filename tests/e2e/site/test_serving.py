# SPDX-License-Identifier: GPL-3.0-or-later
"""A cache that site.yml installed: who can pull, from where, and which objects it has."""

from __future__ import annotations

import base64
import json
import re
from concurrent.futures import ThreadPoolExecutor

from sandbox.client import NAMESPACE, USER, Cache, Cluster, Google
from sandbox.settings import NODE_PORT, PROJECT, REPOSITORY, Sandbox
from tests.e2e.conftest import Push, Say


def test_credentials(cache: Cache) -> None:
    assert cache.status(None) == 401
    assert cache.status((USER, "wrong")) == 401
    assert cache.status((USER, cache.password)) == 200


def containerd(cluster: Cluster, node: str) -> tuple[int, ...]:
    """Returns the version of a node's containerd."""
    found = re.match(r"containerd://v?(\d+)\.(\d+)\.(\d+)", cluster.runtime(node))
    assert found, cluster.runtime(node)
    return tuple(map(int, found.groups()))


def test_kubelets_pull_from_localhost(cluster: Cluster, cache: Cache, google: Google, push: Push, say: Say) -> None:
    """Every version of containerd pulls with the pull secret, only from the cache, without settings on the node."""
    oldest, middle, newest = sorted(containerd(cluster, node) for node in cluster.nodes)
    assert oldest[:2] == (1, 6) and (1, 7, 24) <= middle < (1, 8) and newest >= (2, 3)
    image = push("kubelet", [1 << 20])
    reference = f"localhost:{NODE_PORT}/{PROJECT}/{REPOSITORY}/{image.name}:{image.tag}"
    cluster.warm(cache.password, image.name, image.tag)
    google.reset_counters()

    def run(node: str) -> float:
        # With config_path containerd tries HTTPS first, since without a hosts.toml it cannot know that this is HTTP.
        folders = re.findall(r"""(?m)^\s*config_path = ['"](/[^'"]+)""", cluster.on_node("containerd", "config", "dump", node=node))
        if containerd(cluster, node) >= (2, 2):  # has a default if the configuration has none
            folders = folders or ["/etc/containerd/certs.d:/etc/docker/certs.d"]
        assert folders
        for folder in ":".join(folders).split(":"):
            assert cluster.on_node("sh", "-c", f"find {folder} -name hosts.toml 2> /dev/null || true", node=node) == ""
        pod = f"kubelet-{cluster.nodes.index(node)}"
        try:
            seconds = cluster.run_pod(pod, reference, node=node)
            assert cluster.pulled(pod, reference)
            return seconds
        finally:
            cluster.delete_pod(pod)
            if reference in cluster.images(node):
                cluster.forget_image(reference, node)

    with ThreadPoolExecutor(len(cluster.nodes)) as executor:
        seconds = dict(zip(cluster.nodes, executor.map(run, cluster.nodes), strict=True))
    say("pods from localhost: " + ", ".join(f"{cluster.runtime(node)} {took:.1f} s" for node, took in seconds.items()))
    assert google.counters()["blob_get"] == 0


def test_unknown_tag_is_not_served(cache: Cache) -> None:
    assert cache.manifest("hello", "no-such-tag").status_code == 404


def test_pods_meet_pod_security_restricted(cluster: Cluster) -> None:
    labels = cluster.get("namespace", NAMESPACE)["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    assert len(cluster.replicas()) == 2


def test_secrets_are_only_in_secrets(cluster: Cluster, sandbox: Sandbox, cache: Cache) -> None:
    kinds = "configmaps,statefulsets,services,serviceaccounts,pods,poddisruptionbudgets,events"
    everything = json.dumps(cluster.get(kinds, "--namespace", NAMESPACE))
    assert "external_account" in everything  # the search covers the objects of the cache
    peer = cluster.get("secret", "registry-cache-peers", "--namespace", NAMESPACE)["data"]["peer"]
    known = [cache.password, base64.b64decode(peer).decode()]
    for secret in (*known, sandbox.operator_token.read_text().strip(), "$2"):
        assert secret not in everything
    cache.status((USER, cache.password))
    selector = ("--selector", "app.kubernetes.io/name=registry-cache")
    logs = cluster.kubectl("logs", "--namespace", NAMESPACE, *selector, "--all-containers", "--prefix", "--tail=-1")
    authorization = base64.b64encode(f"{USER}:{cache.password}".encode()).decode()
    assert "Listening" in logs
    for secret in (*known, authorization, "ya29."):
        assert secret not in logs


def test_every_node_answers_on_loopback(cluster: Cluster) -> None:
    url = f"http://127.0.0.1:{NODE_PORT}/v2/"
    for node in cluster.nodes:
        assert cluster.on_node("curl", "--silent", "--output", "/dev/null", "--write-out", "%{http_code}", url, node=node) == "401"
