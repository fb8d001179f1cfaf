# SPDX-License-Identifier: GPL-3.0-or-later
"""Metrics as Prometheus scrapes them: each request of a client once, whichever replicas it went through."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from sandbox.client import Cache, Cluster, Google
from tests.e2e.conftest import Push, Record, Say
from tests.e2e.replicas import Replicas, wait

from .conftest import REPLICAS

_SAMPLE = re.compile(r"(?m)^(\w+)(?:\{(.*)\})? (\S+)$")
_LAYER = 1 << 20
_FRONT = "registry_cache_front_requests_total"


def _scrape(cluster: Cluster, what: str) -> list[str]:
    """The metrics of every replica, each asked from its node."""
    found = []
    for ordinal in range(REPLICAS):
        address = cluster.get("pod", Replicas.name(ordinal), "--namespace", "registry-cache")["status"]["podIP"]
        found.append(cluster.on_node("curl", "--fail", "--silent", "--show-error", f"http://{address}:5006/metrics/{what}"))
    return found


def _sum(texts: list[str], name: str, **labels: str) -> float:
    """A metric over all replicas and all labels but those given."""
    wanted = {f'{label}="{value}"' for label, value in labels.items()}
    samples = (match for text in texts for match in _SAMPLE.finditer(text))
    found = (sample.groups() for sample in samples)
    return sum(float(value) for of, has, value in found if of == name and wanted <= set((has or "").split(",")))


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
    before = {what: _scrape(cluster, what) for what in ("front", "registry", "credentials")}

    def grown(what: str, name: str, **labels: str) -> float:
        return _sum(_scrape(cluster, what), name, **labels) - _sum(before[what], name, **labels)

    asked: Counter[str] = Counter()
    for entry in range(REPLICAS):
        with replicas.entry(entry) as client:
            client.pull(image)
            client.pull(image)
        asked.update({"tag": 2, "blob": 2 * len(image.blobs)})
    wait(lambda: all(grown("front", _FRONT, kind=kind) >= count for kind, count in asked.items()), 20, "every request in the metrics")
    for kind, count in asked.items():
        assert grown("front", _FRONT, kind=kind) == count, kind

    # One replica is the owner of each blob, and fetches it once; busybox may have come with another image.
    counted = [google.blob_counters(blob.digest) for blob in image.blobs]
    fetched = sum(one["blob_get"] for one in counted)
    assert fetched in (2, 3)
    assert grown("front", _FRONT, kind="blob", result="miss") == fetched
    assert grown("front", _FRONT, kind="blob", result="hit") == asked["blob"] - fetched
    assert grown("registry", "registry_cache_upstream_received_bytes_total", kind="blob") == sum(one["blob_bytes"] for one in counted)
    sent = grown("front", "registry_cache_front_sent_bytes_total", kind="blob")
    assert sent > 2 * REPLICAS * _LAYER

    assert _sum(_scrape(cluster, "credentials"), "registry_cache_htpasswd_users") == len(users) * REPLICAS
    for text in _scrape(cluster, "registry"):
        limit, used = (_sum([text], f"registry_cache_disk_{name}_bytes") for name in ("limit", "used"))
        assert 0 < used <= limit
    assert _sum(_scrape(cluster, "registry"), "registry_cache_credential_failures_total") == 0

    wrong = 3
    for _ in range(wrong):
        assert cache.manifest(image.name, image.tag, ("nobody", "wrong-password-of-the-test")).status_code in (401, 429)
    bad = lambda: sum(grown("front", _FRONT, result=result) for result in ("denied", "throttled"))  # noqa: E731
    wait(lambda: bad() >= wrong, 20, "wrong credentials in the metrics")
    say(f"metrics: {sum(asked.values())} requests over {REPLICAS} replicas counted once each, {sent / _LAYER:.1f} MiB sent")
    record_property("requests in the metrics, of those made", sum(asked.values()))

    everything = "".join(text for what in before for text in _scrape(cluster, what))
    for secret in (cache.password, "nobody", "wrong-password-of-the-test", image.name):
        assert secret not in everything


def test_nothing_else_is_there(replicas: Replicas, cluster: Cluster) -> None:
    address = cluster.get("pod", Replicas.name(0), "--namespace", "registry-cache")["status"]["podIP"]
    for path in ("/debug/pprof/", "/debug/vars", "/metrics", "/v2/"):
        status = cluster.on_node("curl", "--silent", "--output", "/dev/null", "--write-out", "%{http_code}", f"http://{address}:5006{path}")
        assert status == "404", path
    for port in (5001, 5002, 5003, 5004):
        tried = cluster.on_node("sh", "-c", f"curl --silent --max-time 2 http://{address}:{port}/ > /dev/null; echo $?")
        assert tried.strip() == "7", f"something listens on port {port}"  # 7: connection refused
