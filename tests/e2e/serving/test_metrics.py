# SPDX-License-Identifier: GPL-3.0-or-later
"""Metrics, as Prometheus scrapes them: each request of a client is counted once, whichever replicas it passes."""

from __future__ import annotations

from collections import Counter
from typing import Any

from sandbox.client import Cache, Cluster, Google
from sandbox.metrics import total
from sandbox.settings import UPSTREAM_HOST
from tests.e2e.conftest import Push, Record, Say
from tests.e2e.replicas import Replicas, wait

from .conftest import REPLICAS

_LAYER = 1 << 20
_LIMIT = 8 << 30  # registry_cache_size of converge.yml
_REQUESTS = "registry_cache_requests_total"
_UPSTREAM = {"upstream": UPSTREAM_HOST}


def _scrape(cluster: Cluster) -> list[str]:
    """Returns the metrics of each replica, requested from a node at the pod's address."""
    found = []
    for ordinal in range(REPLICAS):
        address = cluster.get("pod", Replicas.name(ordinal), "--namespace", "registry-cache")["status"]["podIP"]
        found.append(cluster.on_node("curl", "--fail", "--silent", "--show-error", f"http://{address}:5006/metrics"))
    return found


def _sum(texts: list[str], name: str, **labels: str) -> float:
    """Returns the sum of a metric over all replicas, for samples with these labels."""
    return sum(total(text, name, **labels) for text in texts)


def test_requests_are_counted_once(
    replicas: Replicas,
    cluster: Cluster,
    cache: Cache,
    google: Google,
    push: Push,
    users: list[dict[str, Any]],
    say: Say,
    record_property: Record,
) -> None:
    image = push("metrics", [_LAYER])
    before = _scrape(cluster)

    def grown(name: str, **labels: str) -> float:
        return _sum(_scrape(cluster), name, **labels) - _sum(before, name, **labels)

    asked: Counter[str] = Counter()
    for entry in range(REPLICAS):
        with replicas.entry(entry) as client:
            client.pull(image)
            client.pull(image)
        asked.update({"tag": 2, "blob": 2 * len(image.blobs)})
    wait(lambda: all(grown(_REQUESTS, kind=kind) >= count for kind, count in asked.items()), 20, "every request in the metrics")
    for kind, count in asked.items():
        assert grown(_REQUESTS, kind=kind, **_UPSTREAM) == count, kind

    # The owner of each blob fetches it once. busybox may be cached from another image.
    counted = [google.blob_counters(blob.digest) for blob in image.blobs]
    fetched = sum(one["blob_get"] for one in counted)
    assert fetched in (2, 3)
    assert grown(_REQUESTS, kind="blob", result="miss") == fetched
    # Clients that come while a blob is being stored share its fetch.
    assert sum(grown(_REQUESTS, kind="blob", result=result) for result in ("hit", "shared")) == asked["blob"] - fetched
    assert grown("registry_cache_upstream_requests_total", status="200", **_UPSTREAM) > 0
    received = grown("registry_cache_upstream_received_bytes_total", kind="blob", **_UPSTREAM)
    assert received == sum(one["blob_bytes"] for one in counted)
    sent = grown("registry_cache_sent_bytes_total", kind="blob", **_UPSTREAM)
    assert sent > 2 * REPLICAS * _LAYER
    # Other replicas get it from the owner, once.
    assert grown("registry_cache_relayed_bytes_total", **_UPSTREAM) >= (REPLICAS - 1) * _LAYER

    texts = _scrape(cluster)
    assert _sum(texts, "registry_cache_htpasswd_users") == len(users) * REPLICAS
    for text in texts:
        assert total(text, "registry_cache_disk_limit_bytes") == _LIMIT
        assert 0 < total(text, "registry_cache_disk_used_bytes") <= _LIMIT
        assert total(text, "registry_cache_peers", state="in") == REPLICAS
        assert f'registry_cache_credential_failures_total{{upstream="{UPSTREAM_HOST}"}} 0\n' in text

    wrong = 3
    for _ in range(wrong):
        assert cache.manifest(image.name, image.tag, ("nobody", "wrong-password-of-the-test")).status_code in (401, 429)
    bad = lambda: sum(grown(_REQUESTS, result=result) for result in ("denied", "throttled"))  # noqa: E731
    wait(lambda: bad() >= wrong, 20, "wrong credentials in the metrics")
    say(f"metrics: {sum(asked.values())} requests over {REPLICAS} replicas counted once each, {sent / _LAYER:.1f} MiB sent")
    record_property("requests in the metrics, of those made", sum(asked.values()))

    everything = "".join(_scrape(cluster))
    for secret in (cache.password, "nobody", "wrong-password-of-the-test", image.name):
        assert secret not in everything


def test_no_other_path_or_port_answers(replicas: Replicas, cluster: Cluster) -> None:
    address = cluster.get("pod", Replicas.name(0), "--namespace", "registry-cache")["status"]["podIP"]
    for path, expected in {"/ready": "200", "/debug/pprof/": "404", "/debug/vars": "404", "/metrics/": "404", "/v2/": "404"}.items():
        status = cluster.on_node("curl", "--silent", "--output", "/dev/null", "--write-out", "%{http_code}", f"http://{address}:5006{path}")
        assert status == expected, path
    for port in (5001, 5002, 5003, 5004):
        tried = cluster.on_node("sh", "-c", f"curl --silent --max-time 2 http://{address}:{port}/ > /dev/null; echo $?")
        assert tried.strip() == "7", f"something listens on port {port}"  # 7: connection refused
